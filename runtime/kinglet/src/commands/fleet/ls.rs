//! `kinglet fleet ls`: the devices that the broker knows.

use serde_json::json;
use time::OffsetDateTime;

use super::broker::Broker;
use super::roster::{self, Device};
use super::text::{columns, length, plain, since};
use crate::cli::Cli;
use crate::failure::Outcome;

/// Characters of a name.
const NAME: usize = 32;

pub(crate) async fn run(cli: &Cli, broker: &mut Broker) -> Outcome {
    let devices = roster::get(broker, "kinglet/+/status").await?;
    let payloads: Vec<_> = devices.values().map(|d| &d.payload).collect();
    let result = json!({ "devices": payloads });
    let head = [
        "DEVICE", "STATE", "GROUPS", "CAMERAS", "MODEL", "VERSION", "HEARD OF",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let now = OffsetDateTime::now_utc();
    rows.extend(devices.iter().map(|(name, device)| row(name, device, now)));
    crate::commands::print(cli.json, &result, &columns(&rows).join("\n"))
}

fn row(name: &str, Device { status, .. }: &Device, now: OffsetDateTime) -> Vec<String> {
    let list = |names: &[String]| match names {
        [] => "-".to_owned(),
        names => plain(&names.join(","), NAME),
    };
    // The will has no time: nobody knows when the broker published it.
    let heard = status.at.as_deref().and_then(|at| since(at, now));
    vec![
        plain(name, 64),
        plain(&status.state, NAME),
        list(&status.groups),
        list(&status.cameras),
        plain(&status.model.name, NAME),
        plain(&status.version, NAME),
        heard.map_or("-".to_owned(), |ago| format!("{} ago", length(ago))),
    ]
}
