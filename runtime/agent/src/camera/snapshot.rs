//! Single pictures, fetched from a URL at the rate asked for.

use std::path::Path;
use std::time::{Duration, Instant};

use super::feed::Feed;
use super::http::{Client, Target, block_on, bytes};
use super::source::{Parsed, Source};
use crate::config::CameraConfig;
use crate::error::Result;

/// The largest file that is fetched, in bytes.
pub(super) const LARGEST_FILE: usize = 16 << 20;
/// How long a picture may take, however steadily its bytes drip.
pub(super) const SLOWEST: Duration = Duration::from_secs(30);

struct Snapshot {
    target: Target,
}

/// Reads `http://...` or `https://...`.
pub(super) fn parse(rest: &str, config: &CameraConfig) -> Result<Parsed> {
    let target = Target::read(rest, config)?;
    Ok(Parsed {
        source: Box::new(Snapshot { target }),
        rate: 1.0,
    })
}

impl Source for Snapshot {
    fn prepare(&mut self, folder: &Path) -> Result<()> {
        self.target.prepare(folder)
    }

    fn session(&mut self, feed: &mut Feed) -> std::result::Result<(), String> {
        let ended = feed.ended();
        block_on(ended, pictures(&self.target, feed))
    }
}

async fn pictures(target: &Target, feed: &mut Feed) -> std::result::Result<(), String> {
    let mut client = Client::new(target);
    loop {
        tokio::time::sleep_until(feed.next_due(Instant::now()).into()).await;
        let file = tokio::time::timeout(SLOWEST, fetch(&mut client, target))
            .await
            .map_err(|_| {
                let seconds = SLOWEST.as_secs();
                format!("{}: a picture takes more than {seconds} s", target.address)
            })??;
        match super::decode(&file) {
            Ok(picture) => feed.put(picture),
            Err(e) => feed.damaged(&format!("{}: {e}", target.address)),
        }
    }
}

async fn fetch(client: &mut Client<'_>, target: &Target) -> std::result::Result<Vec<u8>, String> {
    let mut body = client.get().await?.into_body();
    let mut file = Vec::new();
    while let Some(data) = bytes(&mut body, &target.address).await? {
        if file.len() + data.len() > LARGEST_FILE {
            return Err(format!(
                "{}: a picture has more than {LARGEST_FILE} bytes",
                target.address
            ));
        }
        file.extend_from_slice(&data);
    }
    Ok(file)
}
