//! Back to the model that ran before: a signed order that names what it leaves and what it goes to, so that it
//! does nothing anywhere else, nor a second time.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::manifest::{Keys, Signed, Which, expiry, is_sha256};
use crate::keys::PrivateKey;

/// What stands before the text that is signed: a manifest's signature is none for this.
pub const PURPOSE: &str = "kinglet-rollback-v1\n";

/// What is signed: a model that is to be left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Back {
    /// The model that must be running. It is never installed again under this version.
    pub leaves: Which,
    /// The model that must lie in the other slot. Where nothing lies there, the configuration's own takes its
    /// place, and so it does everywhere if this is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Which>,
    /// After this time, RFC 3339, nothing is left any more.
    pub expires: String,
}

impl Back {
    /// Reads what was signed, if enough of `keys` have signed it. Whether it has expired is not looked at.
    ///
    /// # Errors
    /// The reason in words.
    pub fn open(signed: &Signed, keys: &Keys) -> Result<Self, String> {
        signed.check(PURPOSE, "rollback", keys)?;
        Self::parse(&signed.signed)
    }

    /// Reads and checks an order.
    ///
    /// # Errors
    /// The reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let back: Back = serde_json::from_str(text).map_err(|e| format!("rollback: {e}"))?;
        back.check()?;
        Ok(back)
    }

    /// Checks what cannot be said in types.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check(&self) -> Result<(), String> {
        for which in [Some(&self.leaves), self.to.as_ref()].into_iter().flatten() {
            if !is_sha256(&which.sha256) {
                return Err("rollback: sha256 has 64 digits 0 to 9 and a to f".to_owned());
            }
        }
        if self.to.as_ref() == Some(&self.leaves) {
            return Err("rollback: it leaves the model that it goes to".to_owned());
        }
        self.expiry().map(|_| ())
    }

    /// When it expires.
    ///
    /// # Errors
    /// The reason in words.
    pub fn expiry(&self) -> Result<OffsetDateTime, String> {
        expiry(&self.expires)
    }

    /// This order, signed by these keys.
    ///
    /// # Errors
    /// The reason in words.
    pub fn sign(&self, keys: &[PrivateKey]) -> Result<Signed, String> {
        Signed::new(self, PURPOSE, keys)
    }
}
