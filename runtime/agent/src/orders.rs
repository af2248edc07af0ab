//! Who may give orders: what a signed command must be to be obeyed.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::CommandsConfig;
use crate::error::Result;
use crate::keys::PublicKey;
use crate::nonces::Nonces;
use crate::signed::Sealed;
use crate::state::State;

/// Decides which commands are obeyed.
#[derive(Debug)]
pub(crate) struct Orders {
    /// None: everybody whom the broker lets publish is obeyed.
    keys: Option<Vec<PublicKey>>,
    longest: Duration,
    clock: Arc<Clock>,
    nonces: Nonces,
}

impl Orders {
    pub(crate) fn new(
        config: &CommandsConfig,
        state: Arc<State>,
        clock: Arc<Clock>,
    ) -> Result<Self> {
        Ok(Orders {
            keys: config.keys.clone(),
            longest: config.longest.0,
            clock,
            nonces: Nonces::load(state, config.nonces)?,
        })
    }

    /// The clock that expiries are compared with.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Whether a command that came on this topic is obeyed, which may be signed. If it is, its nonce is
    /// on disk.
    ///
    /// # Errors
    /// The reason in words.
    pub(crate) fn admit(
        &self,
        topic: &str,
        sealed: Option<&Sealed>,
    ) -> std::result::Result<(), String> {
        let Some(now) = self.check(topic, sealed)? else {
            return Ok(());
        };
        let Some(sealed) = sealed else {
            return Ok(());
        };
        if sealed.expires - now > self.longest {
            return Err(format!(
                "expires: it is more than {} s ahead; [commands] longest allows more",
                self.longest.as_secs()
            ));
        }
        let expires = sealed.expires.unix_timestamp() + 1;
        self.nonces
            .take(&sealed.order.nonce, now.unix_timestamp(), expires)
    }

    /// Whether a shadow that came on this topic is obeyed: it is signed like a command, but its version is
    /// what counts once, and it may stay on the broker for long.
    ///
    /// # Errors
    /// The reason in words.
    pub(crate) fn check(
        &self,
        topic: &str,
        sealed: Option<&Sealed>,
    ) -> std::result::Result<Option<time::OffsetDateTime>, String> {
        let sealed = match (&self.keys, sealed) {
            (None, None) => return Ok(None),
            // Nobody asked for a signature, and there is no key to check this one with.
            (None, Some(sealed)) => return sealed.is_for(topic).map(|()| None),
            (Some(_), None) => {
                return Err(
                    "it is not signed, and this device obeys signed commands alone".to_owned(),
                );
            }
            (Some(keys), Some(sealed)) => sealed.check(topic, keys).map(|()| sealed)?,
        };
        let now = self.clock.known().ok_or_else(|| self.clock.complaint())?;
        if sealed.expires <= now {
            return Err("it has expired".to_owned());
        }
        Ok(Some(now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use time::OffsetDateTime;

    use super::*;
    use crate::clock::tests::{Fake, fake};
    use crate::keys::PrivateKey;
    use crate::signed::{self, Order};

    const TOPIC: &str = "kinglet/group/doors/command/see";
    const NOW: i64 = 1_800_000_000;

    fn orders(key: Option<&PrivateKey>) -> (tempfile::TempDir, Orders, Fake) {
        let folder = tempfile::tempdir().unwrap();
        let state = Arc::new(State::open(&folder.path().join("state")).unwrap());
        let (clock, source) = fake(&state);
        source.set(NOW, true);
        let config = CommandsConfig {
            keys: key.map(|key| vec![key.public()]),
            ..CommandsConfig::default()
        };
        let orders = Orders::new(&config, state, Arc::new(clock)).unwrap();
        (folder, orders, source)
    }

    fn sealed(key: &PrivateKey, expires: i64) -> Sealed {
        let expires = OffsetDateTime::from_unix_timestamp(expires).unwrap();
        let order = Order::new(TOPIC, Map::new(), expires).unwrap();
        signed::read(&order.sign(key).unwrap()).unwrap()
    }

    #[test]
    fn a_signed_command_is_obeyed_once_in_its_time() {
        let key = PrivateKey::generate().unwrap();
        let (_folder, orders, source) = orders(Some(&key));
        let refused = |sealed: Option<&Sealed>| orders.admit(TOPIC, sealed).unwrap_err();
        let good = sealed(&key, NOW + 60);
        orders.admit(TOPIC, Some(&good)).unwrap();
        assert!(refused(Some(&good)).contains("replayed"));
        assert!(refused(None).contains("not signed"));
        assert!(refused(Some(&sealed(&key, NOW))).contains("expired"));
        assert!(refused(Some(&sealed(&key, NOW + 3601))).contains("longest"));
        orders
            .admit(TOPIC, Some(&sealed(&key, NOW + 3600)))
            .unwrap();
        let other = PrivateKey::generate().unwrap();
        assert!(refused(Some(&sealed(&other, NOW + 60))).contains("is no key"));
        // A shadow may stay for long, and be read again.
        let long = sealed(&key, NOW + 86_400);
        orders.check(TOPIC, Some(&long)).unwrap();
        orders.check(TOPIC, Some(&long)).unwrap();

        source.set(0, true);
        assert!(refused(Some(&sealed(&key, NOW + 60))).contains("unsynchronised"));
        assert!(refused(Some(&sealed(&key, 60))).contains("unsynchronised"));
    }

    #[test]
    fn without_keys_everybody_is_obeyed_and_a_signed_command_still_has_its_topic() {
        let (_folder, orders, source) = orders(None);
        source.set(0, false);
        orders.admit(TOPIC, None).unwrap();
        let key = PrivateKey::generate().unwrap();
        let sealed = sealed(&key, 60);
        orders.admit(TOPIC, Some(&sealed)).unwrap();
        let refused = orders.admit("kinglet/porch/command/see", Some(&sealed));
        assert!(refused.unwrap_err().contains("it is for"));
    }
}
