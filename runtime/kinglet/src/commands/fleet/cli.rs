//! The command line of `kinglet fleet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kinglet_agent::config::BrokerConfig;
use kinglet_agent::keys::PublicKey;
use kinglet_agent::period::Period;
use kinglet_agent::topic;

use super::rollback::RollbackArgs;
use super::rollout::RolloutArgs;
use super::sign::SignArgs;

#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,
    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// How to reach the broker. The rules are the agent's: another machine only encrypted.
#[derive(Debug, Args)]
pub(crate) struct BrokerArgs {
    /// mqtts://HOST:PORT, or mqtt://HOST:PORT without encryption.
    #[arg(long, global = true, value_name = "URL", env = "KINGLET_BROKER")]
    pub(crate) broker: Option<String>,
    /// Certificates of the authorities that may vouch for the broker, in PEM; left out: the system's.
    #[arg(long, global = true, value_name = "PEM", env = "KINGLET_BROKER_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// The operator's certificate, in PEM.
    #[arg(
        long,
        global = true,
        value_name = "PEM",
        env = "KINGLET_BROKER_CERTIFICATE"
    )]
    pub(crate) certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, global = true, value_name = "PEM", env = "KINGLET_BROKER_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// The user that the operator is to the broker.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// The file that holds the user's password.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Accept an unencrypted connection to another machine.
    #[arg(long, global = true)]
    pub(crate) allow_insecure: bool,
}

impl BrokerArgs {
    /// As the agent's configuration has it; none without a URL.
    pub(crate) fn config(&self) -> Option<BrokerConfig> {
        Some(BrokerConfig {
            url: self.broker.clone()?,
            also: Vec::new(),
            protocol: None,
            allow_insecure: self.allow_insecure,
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
        })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// List the devices that the broker knows.
    Ls,
    /// Show what the devices do, as it happens: a table on a terminal, else lines.
    Watch(WatchArgs),
    /// Ask a device, or a group, what it sees.
    See(SeeArgs),
    /// Have a device, or each of a group, draw a picture.
    Draw(DrawArgs),
    /// Get the newest frame of a device's camera.
    Snapshot(SnapshotArgs),
    /// Change a part of a device's configuration.
    Set(SetArgs),
    /// Make a device's key, certificate request, configuration and access list.
    Enrol(EnrolArgs),
    /// Make a key that signs commands or models.
    Key(KeyArgs),
    /// Say what a new model is, and sign that.
    Sign(Box<SignArgs>),
    /// Give a new model to devices, a few first.
    Rollout(RolloutArgs),
    /// Send devices back to the model that they ran before.
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// End after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: Option<u64>,
}

/// How a command is sent.
#[derive(Debug, Args)]
pub(crate) struct OrderArgs {
    /// How long an answer may take; the command expires then.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub(crate) within: Period,
    /// Sign the command with this key (kinglet fleet key makes one).
    #[arg(long, value_name = "KEY.pem")]
    pub(crate) sign_with: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SeeArgs {
    /// The device.
    #[arg(value_parser = name, required_unless_present = "group")]
    pub(crate) device: Option<String>,
    /// All devices of this group.
    #[arg(long, value_name = "G", value_parser = name, conflicts_with = "device")]
    pub(crate) group: Option<String>,
    /// The question; left out: what is in the picture.
    #[arg(long, value_name = "QUESTION")]
    pub(crate) ask: Option<String>,
    /// The camera; left out: the only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) camera: Option<String>,
    /// A JSON Schema: the answer is JSON that it accepts.
    #[arg(long, value_name = "S.json")]
    pub(crate) schema: Option<PathBuf>,
    /// Let this watch look now: its question, and an event like its others.
    #[arg(long, value_name = "NAME", value_parser = name, conflicts_with_all = ["ask", "camera", "schema"])]
    pub(crate) watch: Option<String>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct DrawArgs {
    /// The device.
    #[arg(value_parser = name, required_unless_present = "group")]
    pub(crate) device: Option<String>,
    /// What is in the picture.
    #[arg(required = true)]
    pub(crate) prompt: String,
    /// All devices of this group; the pictures' names then end with those of the devices.
    #[arg(long, value_name = "G", value_parser = name, conflicts_with = "device")]
    pub(crate) group: Option<String>,
    /// Where the picture goes.
    #[arg(short, long, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Width and height in pixels.
    #[arg(long, value_name = "WxH", value_parser = kinglet_agent::command::size)]
    pub(crate) size: Option<(usize, usize)>,
    /// Steps.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Guidance scale: how much the prompt counts.
    #[arg(long, value_name = "G")]
    pub(crate) guidance: Option<f32>,
    /// How steps are taken: a name that kinglet draw --help lists.
    #[arg(long, value_name = "NAME")]
    pub(crate) sampler: Option<String>,
    /// Where the noise comes from: the same seed gives the same picture.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// How long the picture may take; the command expires then.
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub(crate) within: Period,
    /// Sign the command with this key (kinglet fleet key makes one).
    #[arg(long, value_name = "KEY.pem")]
    pub(crate) sign_with: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The device.
    #[arg(value_parser = name)]
    pub(crate) device: String,
    /// Where the picture goes.
    #[arg(short, long, value_name = "OUT.jpg")]
    pub(crate) output: PathBuf,
    /// The camera; left out: the only one.
    #[arg(long, value_name = "NAME")]
    pub(crate) camera: Option<String>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct SetArgs {
    /// The device.
    #[arg(value_parser = name, required_unless_present = "group")]
    pub(crate) device: Option<String>,
    /// What is to change: a part of a configuration, as a JSON object.
    #[arg(value_name = "JSON", value_parser = object, required = true)]
    pub(crate) change: Object,
    /// All devices of this group.
    #[arg(long, value_name = "G", value_parser = name, conflicts_with = "device")]
    pub(crate) group: Option<String>,
    #[command(flatten)]
    pub(crate) order: OrderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// 1 to 64 of a-z, 0-9 and -; the broker must know the device by this name.
    #[arg(value_parser = device)]
    pub(crate) name: String,
    /// A group whose commands it follows; may be given several times.
    #[arg(long, value_name = "G", value_parser = name)]
    pub(crate) group: Vec<String>,
    /// A group that it may be put into from afar, later; may be given several times.
    #[arg(long, value_name = "G", value_parser = name)]
    pub(crate) may_join: Vec<String>,
    /// Somebody who may sign commands (kinglet fleet key prints it); may be given several times. Unsigned
    /// ones are then refused.
    #[arg(long, value_name = "ed25519:...")]
    pub(crate) signer: Vec<PublicKey>,
    /// Lets it make itself known to Home Assistant.
    #[arg(long)]
    pub(crate) homeassistant: bool,
    /// Not a device, but somebody who uses kinglet fleet: no configuration, another access list.
    #[arg(long, conflicts_with_all = ["group", "may_join", "signer", "homeassistant"])]
    pub(crate) operator: bool,
    /// The folder to make, with all of it.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// The file to make, which nobody else may read.
    #[arg(short, long, value_name = "KEY.pem")]
    pub(crate) output: PathBuf,
}

/// A JSON object.
pub(crate) type Object = serde_json::Map<String, serde_json::Value>;

fn name(text: &str) -> Result<String, String> {
    match topic::is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("1 to 64 of a-z, 0-9 and - are accepted".to_owned()),
    }
}

fn device(text: &str) -> Result<String, String> {
    match text {
        "fleet" | "group" => Err("topics of the fleet's own have this name".to_owned()),
        _ => name(text),
    }
}

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|e| format!("a JSON object is expected: {e}"))
}
