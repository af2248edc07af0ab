//! Who may tell a device what to do: ed25519 keys (RFC 8032) and their signatures.
//!
//! A private key is a PKCS#8 file in PEM, as `openssl genpkey -algorithm ed25519` makes it too. A public
//! key is written `ed25519:` and its 32 bytes in base64, a signature as its 64 bytes in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// What a public key begins with.
const KIND: &str = "ed25519:";

/// A key that signatures are checked with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Whether this key has signed this message. `signature` is in base64.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &str) -> bool {
        let bytes = STANDARD.decode(signature).ok();
        let signature = bytes.and_then(|bytes| Signature::from_slice(&bytes).ok());
        // Strictly: one message and key have one signature, and weak keys have none.
        signature.is_some_and(|s| self.0.verify_strict(message, &s).is_ok())
    }
}

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text
            .strip_prefix(KIND)
            .and_then(|rest| STANDARD.decode(rest).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .filter(|key| !key.is_weak());
        key.map(PublicKey).ok_or_else(|| {
            format!("\"{text}\" is no public key; {KIND} and 32 bytes in base64 are expected")
        })
    }
}

impl TryFrom<String> for PublicKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{KIND}{}", STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key that signs. It is wiped from memory when it goes.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// The reason in words, if the system has no random numbers.
    pub fn generate() -> Result<Self, String> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers: {e}"))?;
        let key = SigningKey::from_bytes(&bytes);
        bytes.fill(0);
        Ok(PrivateKey(key))
    }

    /// Reads PKCS#8 in PEM.
    ///
    /// # Errors
    /// The reason in words, which holds nothing of the key.
    pub fn from_pem(text: &str) -> Result<Self, String> {
        SigningKey::from_pkcs8_pem(text)
            .map(PrivateKey)
            .map_err(|_| "it is no ed25519 key in PEM (PKCS#8)".to_owned())
    }

    /// Writes PKCS#8 in PEM.
    ///
    /// # Errors
    /// The reason in words.
    pub fn to_pem(&self) -> Result<String, String> {
        let pem = self.0.to_pkcs8_pem(LineEnding::LF);
        pem.map(|pem| pem.to_string()).map_err(|e| e.to_string())
    }

    /// The key that its signatures are checked with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The signature of a message, in base64.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> String {
        STANDARD.encode(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_signs_for_its_public_half_alone() {
        let key = PrivateKey::generate().unwrap();
        let same = PrivateKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(key.public(), same.public());
        let public: PublicKey = key.public().to_string().parse().unwrap();
        let signature = same.sign(b"draw");
        assert!(public.has_signed(b"draw", &signature));
        assert!(!public.has_signed(b"drew", &signature));
        for wrong in ["", "AAAA", &signature[1..], &STANDARD.encode([0; 64])] {
            assert!(!public.has_signed(b"draw", wrong), "{wrong}");
        }
        let other = PrivateKey::generate().unwrap().public();
        assert!(!other.has_signed(b"draw", &signature));
    }

    /// Test 1 of RFC 8032, section 7.1.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let hex = |text: &str| -> Vec<u8> {
            let digits = text.as_bytes().chunks(2);
            let byte = |d: &[u8]| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap();
            digits.map(byte).collect()
        };
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let signature = hex(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        );
        let key: PublicKey = format!("{KIND}{}", STANDARD.encode(public))
            .parse()
            .unwrap();
        assert!(key.has_signed(b"", &STANDARD.encode(signature)));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let weak = format!("{KIND}{}", STANDARD.encode([0; 32]));
        for text in ["", "ed25519:", "ed25519:AAAA", "rsa:AAAA", &weak] {
            let refused = text.parse::<PublicKey>().unwrap_err();
            assert!(refused.contains("public key"), "{refused}");
        }
        assert!(PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----").is_err());
    }
}
