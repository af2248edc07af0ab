//! One connection to a camera after another, with longer and longer pauses while it fails.

use std::time::Duration;

use super::feed::Feed;
use super::source::Source;

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// Runs until the feed is closed.
pub(super) fn run(source: &mut dyn Source, feed: &mut Feed) {
    let mut pause = FIRST_RETRY;
    while !feed.closed() {
        let before = feed.delivered();
        let end = source.session(feed);
        if feed.closed() {
            return;
        }
        if feed.delivered() > before {
            pause = FIRST_RETRY;
        }
        feed.failed(end.err().as_deref().unwrap_or("the camera has ended"));
        feed.sleep(pause);
        pause = (pause * 2).min(LAST_RETRY);
    }
}
