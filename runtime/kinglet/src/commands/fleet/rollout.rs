//! `kinglet fleet rollout`: a new model for some devices, a few first. What has been done is in the broker: jobs
//! are retained, and a device that gets one again says again what became of it. So a rollout that was
//! interrupted goes on where it was when the same command is given again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use kinglet_agent::period::Period;
use kinglet_agent::update::manifest::{Manifest, Signed};
use kinglet_agent::update::{Job, JobState, Progress};
use kinglet_agent::wire::Delivery;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::broker::Broker;
use super::roster::{self, Roster};
use super::sign;
use super::text::plain;
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub(crate) struct RolloutArgs {
    /// The signed manifest (kinglet fleet sign makes one).
    pub(crate) manifest: PathBuf,
    /// Where devices get the model: https://..., http://... or a folder of their own.
    #[arg(long, value_name = "URL", required_unless_present = "stop")]
    pub(crate) base: Option<String>,
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// The share of the devices that go first. When these have confirmed it, twice as many follow, and so on.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub(crate) canary: f64,
    /// Take the jobs of this manifest back from the devices that have not begun.
    #[arg(long)]
    pub(crate) stop: bool,
}

/// Which devices, and how carefully.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// A device; may be given several times. Left out, with --group too: all that the broker knows.
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Vec<String>,
    /// Only devices of this group.
    #[arg(long, value_name = "G")]
    pub(crate) group: Option<String>,
    /// Devices that may refuse the model or give it back before no more are asked.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) failures: usize,
    /// How long each lot of devices is waited for.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) within: Period,
}

impl Chosen {
    /// The devices of the roster that are meant.
    pub(crate) fn of(&self, roster: &Roster) -> Outcome<Vec<String>> {
        let chosen = |name: &String| self.device.is_empty() || self.device.contains(name);
        let devices = roster.iter().filter(|(name, device)| {
            let of_group = |group| device.status.groups.contains(group);
            chosen(name) && self.group.as_ref().is_none_or(of_group)
        });
        let devices: Vec<String> = devices.map(|(name, _)| name.clone()).collect();
        if let Some(unknown) = self.device.iter().find(|name| !devices.contains(name)) {
            return Err(Failure::new(format_args!(
                "the broker knows no device \"{unknown}\" here"
            )));
        }
        match devices.is_empty() {
            true => Err(Failure::new("there is no such device")),
            false => Ok(devices),
        }
    }
}

/// A job that goes to devices, lot by lot.
pub(crate) struct Lots<'a> {
    pub(crate) id: String,
    pub(crate) payload: Vec<u8>,
    /// What those that have done it run.
    pub(crate) version: Option<u64>,
    /// The share that goes first.
    pub(crate) canary: f64,
    pub(crate) chosen: &'a Chosen,
    /// What to do when it is stopped.
    pub(crate) advice: &'static str,
}

/// How a rollout stands.
#[derive(Default)]
struct Standing {
    /// What became of the job, by device.
    ended: BTreeMap<String, Progress>,
    asked: BTreeSet<String>,
}

pub(crate) async fn run(cli: &Cli, broker: &mut Broker, args: &RolloutArgs) -> Outcome {
    let (signed, manifest) = sign::read(&args.manifest)?;
    let id = id(&signed, &manifest);
    let roster = roster::get(broker, "kinglet/+/status").await?;
    let devices = args.chosen.of(&roster)?;
    if args.stop {
        for device in &devices {
            broker
                .retain(&format!("kinglet/{device}/job"), Vec::new())
                .await?;
        }
        let text = format!("taken back from {} devices", devices.len());
        return crate::commands::print(cli.json, &json!({ "stopped": devices }), &text);
    }
    let Some(base) = &args.base else {
        return Err(Failure::new("--base says where devices get the model"));
    };
    let job = Job {
        id: id.clone(),
        manifest: signed,
        base: base.clone(),
    };
    let lots = Lots {
        id,
        payload: serde_json::to_vec(&job)?,
        version: Some(manifest.version),
        canary: args.canary,
        chosen: &args.chosen,
        advice: "the same command goes on, --stop takes the jobs back",
    };
    deliver(cli, broker, &lots, &roster, devices).await
}

/// Gives a job to devices, lot by lot, and says what became of it.
pub(crate) async fn deliver(
    cli: &Cli,
    broker: &mut Broker,
    lots: &Lots<'_>,
    roster: &Roster,
    devices: Vec<String>,
) -> Outcome {
    let id = &lots.id;
    broker
        .subscribe(&[format!("kinglet/+/job/{id}")], Delivery::AtLeastOnce)
        .await?;
    // Who is there first: a canary that sleeps says nothing.
    let online = |name: &String| roster.get(name).is_some_and(|d| d.status.online());
    let (mut order, absent): (Vec<_>, Vec<_>) = devices.into_iter().partition(online);
    let present = order.len();
    if present == 0 {
        return Err(Failure::new("none of these devices is online"));
    }
    order.extend(absent);
    let all = order.len();
    let share = lots.canary.clamp(0.0, 1.0) * present as f64;
    let mut size = (share.ceil() as usize).clamp(1, present);
    let mut standing = Standing::default();
    while standing.asked.len() < all {
        let from = standing.asked.len();
        let lot = &order[from..(from + size).min(all)];
        eprintln!("{from} of {all} devices, {} more", lot.len());
        for device in lot {
            let topic = format!("kinglet/{device}/job");
            broker.retain(&topic, lots.payload.clone()).await?;
            standing.asked.insert(device.clone());
        }
        let awaited = &order[..present.min(standing.asked.len())];
        wait(broker, id, &mut standing, awaited, lots.chosen).await?;
        let failed = standing.failed();
        // Of the first ones each must answer. Who is silent later, or not there, finds its job when it is.
        let ended = awaited.iter().filter(|d| standing.ended.contains_key(*d));
        let silent = awaited.len() - ended.count();
        if failed > lots.chosen.failures || (from == 0 && silent > 0) {
            return Err(Failure::new(format_args!(
                "stopped after {} of {all} devices: {failed} failed, {silent} did not answer; {}",
                standing.asked.len(),
                lots.advice
            )));
        }
        size *= 2;
    }
    let confirmed = standing
        .ended
        .values()
        .filter(|p| p.state == JobState::Confirmed);
    let (confirmed, silent) = (confirmed.count(), standing.silent());
    let result = json!({
        "job": id,
        "version": lots.version,
        "devices": standing.ended,
        "silent": silent,
    });
    let model = match lots.version {
        Some(version) => format!("version {version}"),
        None => "the models of their configurations".to_owned(),
    };
    let elsewhere = standing.ended.values().filter(|p| elsewhere(p)).count();
    let others = match elsewhere {
        0 => String::new(),
        n => format!(", {n} run another one and stay as they are"),
    };
    let text = format!(
        "{model}: {confirmed} of {all} devices run it{others}, {} failed, {} have not answered",
        standing.failed(),
        silent.len()
    );
    crate::commands::print(cli.json, &result, &text)
}

impl Standing {
    fn failed(&self) -> usize {
        let failed = |p: &&Progress| p.state != JobState::Confirmed && !elsewhere(p);
        self.ended.values().filter(failed).count()
    }

    fn silent(&self) -> Vec<&String> {
        let silent = self.asked.iter().filter(|d| !self.ended.contains_key(*d));
        silent.collect()
    }
}

/// Whether a device runs another model than a rollback leaves: then there was nothing to do.
fn elsewhere(progress: &Progress) -> bool {
    progress.state == JobState::Refused && progress.leaves.is_some() && progress.version.is_none()
}

/// The same manifest is the same job, whoever rolls it out and when.
fn id(signed: &Signed, manifest: &Manifest) -> String {
    let hash = Sha256::digest(signed.signed.as_bytes());
    let digits: String = hash.iter().take(6).map(|b| format!("{b:02x}")).collect();
    format!("v{}-{digits}", manifest.version)
}

/// Waits until these devices have ended, too many have failed, or the time is over.
async fn wait(
    broker: &mut Broker,
    id: &str,
    standing: &mut Standing,
    awaited: &[String],
    chosen: &Chosen,
) -> Outcome {
    let deadline = Instant::now() + chosen.within.0;
    let all = |standing: &Standing| awaited.iter().all(|d| standing.ended.contains_key(d));
    while !all(standing) && standing.failed() <= chosen.failures {
        let Some(publish) = broker.next(deadline).await? else {
            return Ok(());
        };
        let topic = publish.topic;
        let device = topic
            .strip_prefix("kinglet/")
            .and_then(|rest| rest.strip_suffix(&format!("/job/{id}")));
        let progress: Option<Progress> = serde_json::from_slice(&publish.payload).ok();
        let (Some(device), Some(progress)) = (device, progress) else {
            continue;
        };
        let state = serde_json::to_value(progress.state)?;
        let reason = progress.reason.as_deref().unwrap_or_default();
        eprintln!(
            "{}: {} {}",
            plain(device, 64),
            state.as_str().unwrap_or_default(),
            plain(reason, 200)
        );
        if progress.state.is_end() && standing.asked.contains(device) {
            standing.ended.insert(device.to_owned(), progress);
        }
    }
    Ok(())
}
