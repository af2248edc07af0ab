//! Which version of MQTT is spoken: 5 first, 3.1.1 where a broker knows no better.

use serde::Deserialize;

use super::Broken;

/// A version of MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Version {
    /// MQTT 5.
    #[serde(rename = "5")]
    Five,
    /// MQTT 3.1.1.
    #[serde(rename = "3.1.1")]
    Four,
}

impl Version {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Version::Five => "5",
            Version::Four => "3.1.1",
        }
    }
}

/// Connections that a broker ends before it has accepted them, until the version is taken for the reason: it may
/// just be starting, or stopping.
const ENDED: u32 = 2;

/// Chooses the version of each next connection.
#[derive(Debug, Clone)]
pub struct Negotiation {
    only: Option<Version>,
    next: Version,
    /// Whether a connection with MQTT 3.1.1 was accepted.
    old: bool,
    /// Connections with MQTT 5 in a row that were ended before they were accepted.
    ended: u32,
}

impl Negotiation {
    /// Speaks this version alone, or the best one that the broker knows.
    #[must_use]
    pub fn new(only: Option<Version>) -> Self {
        Negotiation {
            only,
            next: only.unwrap_or(Version::Five),
            old: false,
            ended: 0,
        }
    }

    /// The version of the next connection.
    #[must_use]
    pub fn version(&self) -> Version {
        self.next
    }

    /// The connection was accepted.
    pub fn accepted(&mut self) {
        self.ended = 0;
        self.old = self.next == Version::Four;
    }

    /// The connection has ended. Returns whether the next one should be tried at once, since only its version is
    /// another one.
    pub fn broken(&mut self, accepted: bool, e: &Broken) -> bool {
        if self.only.is_some() {
            return false;
        }
        // It may be another broker, or a newer one: every attempt begins with 5.
        if accepted || self.next == Version::Four {
            self.next = Version::Five;
            return false;
        }
        let unknown = match e {
            Broken::Version => true,
            Broken::Ended(_) => {
                self.ended += 1;
                self.old || self.ended >= ENDED
            }
            Broken::Refused(_) | Broken::Silent | Broken::None(_) => false,
        };
        if unknown {
            self.ended = 0;
            self.next = Version::Four;
        }
        unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended() -> Broken {
        Broken::Ended(String::new())
    }

    #[test]
    fn a_broker_that_says_so_is_spoken_to_in_the_old_version_at_once() {
        let mut n = Negotiation::new(None);
        assert_eq!(n.version(), Version::Five);
        assert!(n.broken(false, &Broken::Version));
        assert_eq!(n.version(), Version::Four);
        n.accepted();
        // When the connection is lost the broker may have become a newer one.
        assert!(!n.broken(true, &ended()));
        assert_eq!(n.version(), Version::Five);
        // But an old one is known again by one sign.
        assert!(n.broken(false, &ended()));
        assert_eq!(n.version(), Version::Four);
    }

    #[test]
    fn a_broker_that_just_hangs_up_is_asked_twice() {
        let mut n = Negotiation::new(None);
        assert!(!n.broken(false, &ended()));
        assert_eq!(n.version(), Version::Five);
        assert!(n.broken(false, &ended()));
        assert_eq!(n.version(), Version::Four);
        // That was not it either.
        assert!(!n.broken(false, &ended()));
        assert_eq!(n.version(), Version::Five);
    }

    #[test]
    fn what_has_other_reasons_changes_nothing() {
        let mut n = Negotiation::new(None);
        for e in [
            Broken::None(String::new()),
            Broken::Silent,
            Broken::Refused(String::new()),
        ] {
            for _ in 0..5 {
                assert!(!n.broken(false, &e));
                assert_eq!(n.version(), Version::Five);
            }
        }
        let mut only = Negotiation::new(Some(Version::Four));
        assert!(!only.broken(false, &Broken::Version));
        assert_eq!(only.version(), Version::Four);
    }
}
