//! Topics that the broker does not take messages on now. Their messages wait and keep their order; the
//! others go past them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::outbox::TopicKey;

const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LAST_PAUSE: Duration = Duration::from_secs(3600);
/// Connections that end while the same message is on its way, until it is taken for the reason.
const SUSPICIOUS: u32 = 5;
/// Topics that are remembered; one more takes the place of the one that is tried again soonest.
const MOST: usize = 1024;

/// The topics that wait.
#[derive(Debug, Default)]
pub(crate) struct Held {
    topics: HashMap<TopicKey, Pause>,
    /// The message that was on its way when the connection ended, and how many times in a row.
    suspect: Option<(u64, u32)>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
}

impl Held {
    /// A message on this topic was refused. Returns when the next one is tried, and whether this is news.
    pub(crate) fn refused(&mut self, topic: TopicKey, now: Instant) -> (Duration, bool) {
        let old = self.topics.get(&topic).map(|pause| pause.length);
        let length = old.map_or(FIRST_PAUSE, |old| (old * 2).min(LAST_PAUSE));
        let until = now + length;
        if self.topics.len() >= MOST && old.is_none() {
            let soonest = self.topics.iter().min_by_key(|(_, pause)| pause.until);
            if let Some(soonest) = soonest.map(|(topic, _)| *topic) {
                self.topics.remove(&soonest);
            }
        }
        self.topics.insert(topic, Pause { until, length });
        (length, old.is_none())
    }

    /// A message on this topic has arrived.
    pub(crate) fn taken(&mut self, topic: TopicKey) {
        self.topics.remove(&topic);
        self.suspect = None;
    }

    /// The connection ended while this message was on its way. Returns whether that was once too often.
    pub(crate) fn broken(&mut self, key: u64) -> bool {
        let times = match self.suspect {
            Some((suspect, times)) if suspect == key => times + 1,
            _ => 1,
        };
        self.suspect = Some((key, times));
        times.is_multiple_of(SUSPICIOUS)
    }

    /// Whether messages on this topic wait.
    pub(crate) fn waits(&self, topic: TopicKey, now: Instant) -> bool {
        self.topics
            .get(&topic)
            .is_some_and(|pause| now < pause.until)
    }

    /// When the next topic is to be tried again.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        let times = self.topics.values().map(|pause| pause.until);
        times.filter(|until| *until > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_topic_is_tried_again_later_and_later() {
        let (a, b) = (TopicKey::of("a"), TopicKey::of("b"));
        let start = Instant::now();
        let mut held = Held::default();
        assert_eq!(held.refused(a, start), (FIRST_PAUSE, true));
        assert!(held.waits(a, start) && !held.waits(b, start));
        let later = start + FIRST_PAUSE;
        assert_eq!(held.next(start), Some(later));
        assert!(!held.waits(a, later));
        assert_eq!(held.refused(a, later), (FIRST_PAUSE * 2, false));
        for _ in 0..20 {
            held.refused(a, later);
        }
        assert_eq!(held.next(later), Some(later + LAST_PAUSE));
        held.taken(a);
        assert!(!held.waits(a, start));
    }

    #[test]
    fn a_message_that_ends_every_connection_is_suspected() {
        let mut held = Held::default();
        let broken: Vec<bool> = [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]
            .map(|key| held.broken(key))
            .into();
        assert_eq!(broken.iter().position(|b| *b), Some(9));
    }
}
