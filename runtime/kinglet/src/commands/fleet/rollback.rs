//! `kinglet fleet rollback`: devices go back to the model that they ran before. It lies in their other slot, so
//! nothing is fetched.

use std::path::PathBuf;

use clap::Args;
use kinglet_agent::keys::PrivateKey;
use kinglet_agent::period::Period;
use kinglet_agent::update::BackJob;
use kinglet_agent::update::back::{Back, PURPOSE};
use kinglet_agent::update::manifest::Signed;
use serde_json::json;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::broker::Broker;
use super::paper::{self, Reader};
use super::rollout::{Chosen, Lots, deliver};
use super::{roster, sign};
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The manifest of the model that is left.
    #[arg(required_unless_present = "order")]
    pub(crate) manifest: Option<PathBuf>,
    /// The manifest of the model that ran before. Devices that had none go back to their configuration's own;
    /// left out: all do.
    #[arg(long, value_name = "MANIFEST")]
    pub(crate) to: Option<PathBuf>,
    /// A key that signs models; may be given several times.
    #[arg(long, value_name = "KEY.pem", required_unless_present = "order")]
    pub(crate) sign_with: Vec<PathBuf>,
    /// How long devices may obey it, those too that are not there now.
    #[arg(long, value_name = "TIME", default_value = "168h")]
    pub(crate) good_for: Period,
    /// Write the signed order to this file instead of sending it: for others to sign.
    #[arg(short, long, value_name = "ORDER.json")]
    pub(crate) output: Option<PathBuf>,
    /// Send this signed order; keys that are named sign it, too.
    #[arg(long, value_name = "ORDER.json", conflicts_with_all = ["manifest", "to", "good_for"])]
    pub(crate) order: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// The share of the devices that go first; left out: all go at once.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub(crate) canary: f64,
}

impl RollbackArgs {
    /// Signs the order, or writes it: none, if nothing is to be sent.
    pub(crate) fn order(&self, cli: &Cli) -> Outcome<Option<(Signed, Back)>> {
        let keys = self.sign_with.iter().map(|path| paper::read_key(path));
        let keys: Vec<PrivateKey> = keys.collect::<Outcome<_>>()?;
        let (signed, back) = match &self.order {
            Some(path) => {
                let refuse = |e: String| Failure::new(format_args!("{}: {e}", path.display()));
                let bytes = crate::commands::read(path)?;
                let mut signed: Signed = serde_json::from_slice(&bytes)
                    .map_err(|e| refuse(format!("it is no signed order: {e}")))?;
                keys.iter().for_each(|key| signed.add(PURPOSE, key));
                let back = Back::parse(&signed.signed).map_err(refuse)?;
                (signed, back)
            }
            None => {
                let back = self.back()?;
                (back.sign(&keys).map_err(Failure::new)?, back)
            }
        };
        let Some(output) = &self.output else {
            return Ok(Some((signed, back)));
        };
        let text = serde_json::to_string_pretty(&signed)? + "\n";
        paper::write(output, Reader::Anybody, &text)?;
        let result = json!({ "file": output, "signatures": signed.signatures.len() });
        crate::commands::print(cli.json, &result, &output.display().to_string())?;
        Ok(None)
    }

    fn back(&self) -> Outcome<Back> {
        let Some(manifest) = &self.manifest else {
            return Err(Failure::new("which model is left? Its manifest names it"));
        };
        let to = self.to.as_ref().map(|path| sign::read(path)).transpose()?;
        let expires = OffsetDateTime::now_utc() + self.good_for.0;
        let expires = expires.replace_nanosecond(0).map_err(Failure::new)?;
        let back = Back {
            leaves: sign::read(manifest)?.1.which(),
            to: to.map(|(_, manifest)| manifest.which()),
            expires: expires.format(&Rfc3339).map_err(Failure::new)?,
        };
        back.check().map_err(Failure::new)?;
        Ok(back)
    }
}

pub(crate) async fn run(
    cli: &Cli,
    broker: &mut Broker,
    args: &RollbackArgs,
    (signed, back): (Signed, Back),
) -> Outcome {
    let roster = roster::get(broker, "kinglet/+/status").await?;
    // All of them: a status is some seconds old, and who runs another model says so.
    let devices = args.chosen.of(&roster)?;
    let id = id(&back);
    let lots = Lots {
        payload: serde_json::to_vec(&BackJob {
            id: id.clone(),
            rollback: signed,
        })?,
        id,
        version: back.to.as_ref().map(|to| to.version),
        canary: args.canary,
        chosen: &args.chosen,
        advice: "the same command goes on",
    };
    deliver(cli, broker, &lots, &roster, devices).await
}

/// The same order is the same job, whoever gives it. Given anew, it is another one: a device that could not
/// obey the first time tries again.
fn id(back: &Back) -> String {
    let to = back.to.as_ref().map_or("", |to| &to.sha256);
    let text = format!("{} {to} {}", back.leaves.sha256, back.expires);
    let hash = Sha256::digest(text.as_bytes());
    let digits: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("back-v{}-{digits}", back.leaves.version)
}
