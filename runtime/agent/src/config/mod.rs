//! What a user writes. Unknown keys are refused by name; paths are relative to the file.

mod broker;
mod companion;
mod governor;
mod onnx;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::camera::Camera;
use crate::clock::ClockTrust;
use crate::error::{AgentError, Result};
use crate::groups::MOST_GROUPS;
use crate::keys::PublicKey;
use crate::output;
pub use crate::output::OutputConfig;
use crate::period::Period;
use crate::steps::Steps;
use crate::topic;
use crate::trigger::When;
use crate::update::Place;
use crate::update::manifest::Keys;
use crate::watch::MOST_EXAMPLES;
pub use broker::{BrokerAddress, BrokerConfig};
pub use companion::{CompanionConfig, InputConfig, Level, WatchdogConfig};
pub use governor::GovernorConfig;
pub use onnx::{
    Activation, Channels, ClassesConfig, Fit, LONGEST_CLASS, LONGEST_INPUT, Layout, MOST_CLASSES,
    OnnxConfig, OutputLayout,
};
pub use watch::{ExampleConfig, Publish, SchemaConfig, StepsConfig, WatchConfig};

/// A configuration file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This device.
    pub device: DeviceConfig,
    /// The broker.
    pub broker: BrokerConfig,
    /// Who may give commands.
    #[serde(default)]
    pub commands: CommandsConfig,
    /// The model.
    #[serde(default)]
    pub model: ModelConfig,
    /// The outbox.
    #[serde(default)]
    pub outbox: OutboxConfig,
    /// New models; left out: none are taken.
    #[serde(default)]
    pub update: Option<UpdateConfig>,
    /// Numbers and health over HTTP.
    #[serde(default)]
    pub metrics: Option<MetricsConfig>,
    /// Makes the device known to Home Assistant.
    #[serde(default)]
    pub homeassistant: Option<HomeAssistantConfig>,
    /// What is done about heat.
    #[serde(default)]
    pub governor: GovernorConfig,
    /// The microcontroller that wakes the board.
    #[serde(default)]
    pub companion: Option<CompanionConfig>,
    /// The cameras.
    #[serde(default)]
    pub camera: Vec<CameraConfig>,
    /// What to look for.
    #[serde(default)]
    pub watch: Vec<WatchConfig>,
    /// What watches may switch.
    #[serde(default)]
    pub output: Vec<OutputConfig>,
}

/// `[device]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// 1 to 64 of a-z, 0-9 and `-`; it is the MQTT client id too.
    pub name: String,
    /// Groups whose commands it follows.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Where state is kept; by default a folder of the user's state directory.
    #[serde(default)]
    pub state: Option<PathBuf>,
    /// Whom to believe about the time: `auto` (the kernel, battery clocks), or `system`.
    #[serde(default)]
    pub clock: ClockTrust,
}

/// `[commands]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommandsConfig {
    /// Those who may sign commands; left out: everybody whom the broker lets publish them is obeyed.
    pub keys: Option<Vec<PublicKey>>,
    /// How far ahead a signed command may expire.
    pub longest: Period,
    /// Nonces of signed commands that are kept until they expire.
    pub nonces: usize,
}

impl Default for CommandsConfig {
    fn default() -> Self {
        CommandsConfig {
            keys: None,
            longest: Period(Duration::from_secs(3600)),
            nonces: 1024,
        }
    }
}

/// The most nonces: the file of state is written as a whole for every command.
const MOST_NONCES: usize = 65_536;

/// `[model]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The model; left out: the bundled one.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Keeps it in memory, whatever else the board does.
    #[serde(default)]
    pub lock: bool,
    /// Graphs that compute parts of it.
    #[serde(default)]
    pub graphs: GraphsConfig,
}

/// `[model.graphs]`: what an accelerator computes of the configuration's model (not of one that an update brings).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GraphsConfig {
    /// A picture to the tokens that enter the language half.
    #[serde(default)]
    pub vision: Option<PathBuf>,
    /// Latents to a picture.
    #[serde(default)]
    pub vae_decoder: Option<PathBuf>,
}

/// `[outbox]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutboxConfig {
    /// Bytes of messages that are kept while the broker is away.
    pub max_bytes: u64,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        OutboxConfig {
            max_bytes: 64 << 20,
        }
    }
}

/// `[update]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateConfig {
    /// Those who may sign models.
    pub keys: Vec<PublicKey>,
    /// How many of them must have signed one.
    #[serde(default = "one")]
    pub threshold: usize,
    /// The most bytes of a model.
    #[serde(default = "largest_model")]
    pub max_bytes: u64,
    /// Certificates of the authorities that may vouch for servers that models come from, in PEM; left out:
    /// the system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Where models may come from: addresses and folders, with all below them; left out: from anywhere.
    #[serde(default)]
    pub from: Option<Vec<String>>,
}

fn one() -> usize {
    1
}

fn largest_model() -> u64 {
    16 << 30
}

impl UpdateConfig {
    /// Whose signatures count.
    #[must_use]
    pub fn trust(&self) -> Keys {
        Keys {
            keys: self.keys.clone(),
            threshold: self.threshold,
        }
    }
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// An address of this machine alone, `127.0.0.1:9187` say, where `/metrics` and `/health` answer.
    pub listen: String,
}

/// `[homeassistant]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HomeAssistantConfig {
    /// The first level of the topics where Home Assistant looks for devices.
    #[serde(default = "home_assistant")]
    pub prefix: String,
}

fn home_assistant() -> String {
    "homeassistant".to_owned()
}

/// `[[camera]]`
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CameraConfig {
    /// What watches and commands call it.
    pub name: String,
    /// `v4l2:DEVICE`, `rtsp://...`, `mjpeg:URL`, `snapshot:URL` or `folder:DIR`, the latter with `?fps=N`.
    pub source: String,
    /// Frames a second that are looked at; more are left out, undecoded.
    #[serde(default)]
    pub fps: Option<f64>,
    /// Pixels, asked of a `v4l2:` camera.
    #[serde(default)]
    pub width: Option<u32>,
    /// Pixels, asked of a `v4l2:` camera.
    #[serde(default)]
    pub height: Option<u32>,
    /// Rectangles `[x, y, width, height]`, in fractions of the picture, that nobody may see.
    #[serde(default)]
    pub mask: Vec<[f64; 4]>,
    /// Certificates of the authorities that may vouch for an `https:` camera, in PEM; left out: the
    /// system's.
    #[serde(default)]
    pub ca: Option<PathBuf>,
}

// By hand: a source may hold a password.
impl std::fmt::Debug for CameraConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CameraConfig")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl CameraConfig {
    /// A camera with nothing but a name and a source.
    #[must_use]
    pub fn new(name: &str, source: &str) -> Self {
        CameraConfig {
            name: name.to_owned(),
            source: source.to_owned(),
            fps: None,
            width: None,
            height: None,
            mask: Vec::new(),
            ca: None,
        }
    }
}

/// The longest question, in bytes.
pub const LONGEST_QUESTION: usize = 4096;

impl Config {
    /// Reads a file. Errors show its lines, but no password in an address.
    ///
    /// # Errors
    /// The reason in words.
    pub fn read(text: &str) -> std::result::Result<Self, String> {
        toml::from_str(text).map_err(|e| without_passwords(&e.to_string()))
    }

    /// A device without cameras.
    #[must_use]
    pub fn new(device: &str, broker: &str) -> Self {
        Config {
            device: DeviceConfig {
                name: device.to_owned(),
                groups: Vec::new(),
                state: None,
                clock: ClockTrust::default(),
            },
            broker: BrokerConfig {
                url: broker.to_owned(),
                ..BrokerConfig::default()
            },
            commands: CommandsConfig::default(),
            model: ModelConfig::default(),
            outbox: OutboxConfig::default(),
            update: None,
            metrics: None,
            homeassistant: None,
            governor: GovernorConfig::default(),
            companion: None,
            camera: Vec::new(),
            watch: Vec::new(),
            output: Vec::new(),
        }
    }

    /// Makes relative paths relative to `folder`.
    pub fn relative_to(&mut self, folder: &Path) {
        let graphs = &mut self.model.graphs;
        let paths = [
            &mut self.device.state,
            &mut self.model.file,
            &mut graphs.vision,
            &mut graphs.vae_decoder,
        ];
        let outputs = self.output.iter_mut().map(|output| &mut output.file);
        for path in paths.into_iter().chain(outputs).flatten() {
            *path = folder.join(&path);
        }
    }

    /// Checks what cannot be said in types.
    ///
    /// # Errors
    /// [`AgentError::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        if !topic::is_name(&self.device.name) {
            return Err(name_error("device.name", &self.device.name));
        }
        let groups = &self.device.groups;
        if groups.len() > MOST_GROUPS {
            let expected = format!("is one too many; {MOST_GROUPS} are accepted");
            return Err(error("device.groups", &groups[MOST_GROUPS], &expected));
        }
        for (i, group) in groups.iter().enumerate() {
            if !topic::is_name(group) {
                return Err(name_error("device.groups", group));
            }
            if groups[..i].contains(group) {
                return Err(error("device.groups", group, "is there twice"));
            }
        }
        self.broker.addresses()?;
        if let Some(update) = &self.update
            && let Err(reason) = update.trust().check()
        {
            let threshold = update.threshold.to_string();
            return Err(error(
                "update.threshold",
                &threshold,
                &format!("is refused: {reason}"),
            ));
        }
        let from = self.update.iter().filter_map(|update| update.from.as_ref());
        for place in from.flatten() {
            Place::read(place)?;
        }
        let commands = &self.commands;
        if commands.keys.as_ref().is_some_and(Vec::is_empty) {
            let expected = "names none; one is needed, or the key left out";
            return Err(error("commands.keys", "", expected));
        }
        if !(1..=MOST_NONCES).contains(&commands.nonces) {
            let expected = format!("is not accepted; 1 to {MOST_NONCES} are");
            return Err(error(
                "commands.nonces",
                &commands.nonces.to_string(),
                &expected,
            ));
        }
        self.governor.check()?;
        if let Some(companion) = &self.companion {
            companion.settings()?;
        }
        for (i, camera) in self.camera.iter().enumerate() {
            if !topic::is_name(&camera.name) {
                return Err(name_error("camera.name", &camera.name));
            }
            if self.camera[..i].iter().any(|c| c.name == camera.name) {
                return Err(error("camera.name", &camera.name, "is used twice"));
            }
            Camera::read(camera)?;
        }
        for (i, watch) in self.watch.iter().enumerate() {
            if !topic::is_name(&watch.name) {
                return Err(name_error("watch.name", &watch.name));
            }
            if self.watch[..i].iter().any(|w| w.name == watch.name) {
                return Err(error("watch.name", &watch.name, "is used twice"));
            }
            if !self.camera.iter().any(|c| c.name == watch.camera) {
                return Err(error(
                    "watch.camera",
                    &watch.camera,
                    "is no camera of this file",
                ));
            }
            if watch.ask.len() > LONGEST_QUESTION {
                let expected =
                    format!("is too long; at most {LONGEST_QUESTION} bytes are accepted");
                return Err(error("watch.ask", &watch.name, &expected));
            }
            if watch.example.len() > MOST_EXAMPLES {
                let expected = format!("has more than {MOST_EXAMPLES} examples");
                return Err(error("watch.example", &watch.name, &expected));
            }
            if let When::Companion(input) = When::of(watch)? {
                self.check_companion(&watch.when, input.as_deref())?;
            }
            self.check_steps(watch)?;
        }
        output::check(&self.output)
    }

    /// What wakes a watch is there.
    fn check_companion(&self, when: &str, input: Option<&str>) -> Result<()> {
        let Some(companion) = &self.companion else {
            let expected = "needs a [companion] in this device's file";
            return Err(error("watch.when", when, expected));
        };
        let wakes = |i: &&InputConfig| i.wakes && input.is_none_or(|input| input == i.name);
        if companion.input.iter().find(wakes).is_none() {
            let expected = "names no [[companion.input]] that wakes the board";
            return Err(error("watch.when", when, expected));
        }
        Ok(())
    }

    /// What a watch may set is there.
    fn check_steps(&self, watch: &WatchConfig) -> Result<()> {
        let Some(steps) = Steps::of(watch)? else {
            return Ok(());
        };
        for (name, value) in steps.outputs() {
            let output = self.output.iter().find(|o| o.name == name);
            if !output.is_some_and(|o| o.values.contains_key(value)) {
                let value = format!("output:{name}={value}");
                let expected = "is no value of an [[output]] of this file";
                return Err(error("watch.steps.allow", &value, expected));
            }
        }
        Ok(())
    }
}

pub(crate) fn error(field: &str, value: &str, expected: &str) -> AgentError {
    AgentError::Config {
        field: field.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    }
}

/// A text in which `//user:password@host` is `//...@host`, and so is what only looks like that.
fn without_passwords(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("//") {
        shown += before;
        shown += "//";
        // A password may hold anything, so the line's last @ counts.
        let end = after.find('\n').unwrap_or(after.len());
        let (address, behind) = after.split_at(end);
        match address.rsplit_once('@') {
            Some((_, host)) => shown = shown + "...@" + host,
            None => shown += address,
        }
        rest = behind;
    }
    shown + rest
}

pub(crate) fn name_error(field: &str, value: &str) -> AgentError {
    error(
        field,
        value,
        "is no name: 1 to 64 of a-z, 0-9 and - are accepted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_no_password() {
        let rest =
            "[device]\nname = 'a'\n[broker]\nurl = 'mqtt://localhost'\n[[camera]]\nname = 'door'\n";
        for line in [
            "source = \"rtsp://anna:se//cret@porch/1\" fps = 2",
            "source = \"rtsp://anna:se//c@ret@porch/1",
            "source = ['rtsp://anna:se//cret@porch/1']",
            "source = 'mjpeg:http://anna:se\\\"cret@porch/1",
        ] {
            let refused = Config::read(&format!("{rest}{line}\n")).unwrap_err();
            assert!(!refused.contains("cret"), "{line}: {refused}");
            assert!(refused.contains("line 7"), "{refused}");
        }
    }

    #[test]
    fn who_may_sign_is_somebody_and_what_is_kept_is_bounded() {
        let check = |lines: &str| {
            let rest = "[device]\nname = 'a'\n[broker]\nurl = 'mqtt://localhost'\n[commands]\n";
            let config: std::result::Result<Config, _> = toml::from_str(&format!("{rest}{lines}"));
            let config = config.map_err(|e| e.to_string())?;
            config.check().map_err(|e| e.to_string())
        };
        for (lines, words) in [
            ("keys = []", "commands.keys"),
            ("keys = ['ed25519:AAAA']", "public key"),
            ("nonces = 0", "commands.nonces"),
            ("nonces = 1000000", "commands.nonces"),
            ("longest = 'for ever'", "length of time"),
            ("key = 'x'", "key"),
        ] {
            let refused = check(lines).unwrap_err();
            assert!(refused.contains(words), "{lines}: {refused}");
        }
        check("nonces = 1\nlongest = '1m'").unwrap();
    }
}
