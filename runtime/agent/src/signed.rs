//! Commands that carry a signature: the format, for those who sign and those who check.
//!
//! A signed payload is `{"signed": TEXT, "key": "ed25519:...", "signature": BASE64}`. TEXT is JSON, and what
//! is signed are the bytes of [`PURPOSE`] followed by those of TEXT: nobody needs to write JSON the same way.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::keys::{PrivateKey, PublicKey};

/// What stands before the text that is signed: a signature for another purpose is none for this one.
pub const PURPOSE: &str = "kinglet-command-v1\n";
/// The lengths that a nonce may have, in characters.
pub const NONCES: std::ops::RangeInclusive<usize> = 16..=64;

/// What is signed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The topic that it is published on.
    pub to: String,
    /// 16 to 64 characters that no other command has.
    pub nonce: String,
    /// After this time, RFC 3339, it counts no more.
    pub expires: String,
    /// The command's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Where the answer goes, whatever response topic comes beside the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The command's arguments, or a shadow.
    #[serde(default)]
    pub args: Map<String, Value>,
}

impl Order {
    /// An order for this topic with a new nonce.
    ///
    /// # Errors
    /// The reason in words, if the system has no random numbers.
    pub fn new(
        to: &str,
        args: Map<String, Value>,
        expires: OffsetDateTime,
    ) -> Result<Self, String> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers: {e}"))?;
        Ok(Order {
            to: to.to_owned(),
            nonce: format!("{:032x}", u128::from_be_bytes(bytes)),
            expires: expires.format(&Rfc3339).map_err(|e| e.to_string())?,
            id: None,
            response: None,
            args,
        })
    }

    /// The payload: this order, signed.
    ///
    /// # Errors
    /// The reason in words.
    pub fn sign(&self, key: &PrivateKey) -> Result<Vec<u8>, String> {
        let signed = serde_json::to_string(self).map_err(|e| e.to_string())?;
        let payload = Payload {
            signature: key.sign(message(&signed).as_bytes()),
            key: key.public(),
            signed,
        };
        serde_json::to_vec(&payload).map_err(|e| e.to_string())
    }
}

/// A signed payload.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    signed: String,
    key: PublicKey,
    signature: String,
}

/// A signed payload that was read. Nothing of it is true until [`Sealed::check`] says so.
#[derive(Debug)]
pub struct Sealed {
    payload: Payload,
    /// What it says.
    pub order: Order,
    /// When it expires.
    pub expires: OffsetDateTime,
}

/// Whether this is a signed payload, or wants to be one.
pub fn is_signed(payload: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Shape {
        signed: Option<IgnoredAny>,
    }
    serde_json::from_slice(payload).is_ok_and(|shape: Shape| shape.signed.is_some())
}

/// Reads a signed payload.
///
/// # Errors
/// The reason in words.
pub fn read(payload: &[u8]) -> Result<Sealed, String> {
    let payload: Payload = serde_json::from_slice(payload)
        .map_err(|e| format!("the signed command is not understood: {e}"))?;
    let order: Order = serde_json::from_str(&payload.signed).map_err(|e| format!("signed: {e}"))?;
    let nonce = &order.nonce;
    if !NONCES.contains(&nonce.len()) || !nonce.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("nonce: 16 to 64 ASCII characters without spaces are accepted".to_owned());
    }
    let expires = OffsetDateTime::parse(&order.expires, &Rfc3339)
        .map_err(|_| "expires: a time as 2026-01-31T12:00:00Z is expected".to_owned())?;
    Ok(Sealed {
        payload,
        order,
        expires,
    })
}

impl Sealed {
    /// Checks that one of these keys has signed it, for this topic.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check(&self, topic: &str, keys: &[PublicKey]) -> Result<(), String> {
        let Payload {
            signed,
            key,
            signature,
        } = &self.payload;
        if !keys.contains(key) {
            return Err(format!("{key} is no key that this device obeys"));
        }
        if !key.has_signed(message(signed).as_bytes(), signature) {
            return Err("its signature is wrong".to_owned());
        }
        self.is_for(topic)
    }

    /// Checks that it is for this topic.
    ///
    /// # Errors
    /// The reason in words.
    pub fn is_for(&self, topic: &str) -> Result<(), String> {
        if self.order.to != topic {
            return Err(format!(
                "it is for {:?}, and came on {topic:?}",
                self.order.to
            ));
        }
        Ok(())
    }
}

/// What is signed.
fn message(signed: &str) -> String {
    format!("{PURPOSE}{signed}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOPIC: &str = "kinglet/porch/command/draw";

    fn order() -> Order {
        let args = json!({"prompt": "a cat"});
        let Value::Object(args) = args else {
            panic!("an object")
        };
        let order = Order::new(TOPIC, args, OffsetDateTime::UNIX_EPOCH).unwrap();
        Order {
            id: Some("d1".to_owned()),
            ..order
        }
    }

    #[test]
    fn what_was_signed_is_read_and_for_its_topic_and_key_alone() {
        let key = PrivateKey::generate().unwrap();
        let payload = order().sign(&key).unwrap();
        assert!(is_signed(&payload));
        let sealed = read(&payload).unwrap();
        assert_eq!(sealed.expires, OffsetDateTime::UNIX_EPOCH);
        assert_eq!(sealed.order.args["prompt"], "a cat");
        let keys = [PrivateKey::generate().unwrap().public(), key.public()];
        sealed.check(TOPIC, &keys).unwrap();
        for (topic, keys, words) in [
            (TOPIC, &keys[..1], "is no key"),
            ("kinglet/roof/command/draw", &keys, "it is for"),
            ("kinglet/porch/command/see", &keys, "it is for"),
        ] {
            let refused = sealed.check(topic, keys).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        assert_ne!(order().nonce, order().nonce);
    }

    #[test]
    fn every_changed_byte_of_the_text_or_the_signature_is_noticed() {
        let key = PrivateKey::generate().unwrap();
        let payload = order().sign(&key).unwrap();
        let taken = |payload: &[u8]| {
            read(payload).is_ok_and(|sealed| sealed.check(TOPIC, &[key.public()]).is_ok())
        };
        assert!(taken(&payload));
        for at in 0..payload.len() {
            let mut changed = payload.clone();
            changed[at] ^= 1;
            assert!(!taken(&changed), "byte {at}");
        }
        // A signature of the text alone is one for something else.
        let text = serde_json::to_string(&order()).unwrap();
        let other = Payload {
            signature: key.sign(text.as_bytes()),
            key: key.public(),
            signed: text,
        };
        assert!(!taken(&serde_json::to_vec(&other).unwrap()));
    }

    #[test]
    fn what_is_not_understood_is_refused_in_words() {
        let key = PrivateKey::generate().unwrap();
        let with = |order: Order| read(&order.sign(&key).unwrap()).unwrap_err();
        let short = Order {
            nonce: "short".to_owned(),
            ..order()
        };
        assert!(with(short).contains("nonce"));
        let soon = Order {
            expires: "soon".to_owned(),
            ..order()
        };
        assert!(with(soon).contains("expires"));
        for (payload, words) in [
            (r#"{"signed": "{}"}"#, "key"),
            (
                r#"{"signed": "{}", "key": "x", "signature": ""}"#,
                "public key",
            ),
            (r#"{"signed": 1}"#, "signed"),
        ] {
            assert!(is_signed(payload.as_bytes()));
            let refused = read(payload.as_bytes()).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        for payload in ["", "[]", "{}", r#"{"args": {"signed": 1}}"#] {
            assert!(!is_signed(payload.as_bytes()), "{payload}");
        }
    }
}
