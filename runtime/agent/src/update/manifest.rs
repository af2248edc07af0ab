//! What a new model is, said by those who may.
//!
//! A signed manifest is `{"signed": TEXT, "signatures": [{"key", "signature"}]}`. TEXT is the JSON of a
//! [`Manifest`]; what is signed are the bytes of [`PURPOSE`] followed by those of TEXT.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::LONGEST_QUESTION;
use crate::frame::Picture;
use crate::keys::{PrivateKey, PublicKey};

/// What stands before the text that is signed: a signature for another purpose is none for this one.
pub const PURPOSE: &str = "kinglet-manifest-v1\n";
/// The largest signed manifest, in bytes: room for a picture in base64.
pub const LARGEST_MANIFEST: usize = 1 << 20;
/// The most files of a model.
pub const MOST_FILES: usize = 16;
/// The most keys.
pub const MOST_KEYS: usize = 16;
/// The most signatures: old keys and new ones.
const MOST_SIGNATURES: usize = 2 * MOST_KEYS;
/// The longest time that a smoke test may be given, in milliseconds.
const LONGEST_SMOKE: u64 = 3_600_000;

/// A manifest with its signatures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// The manifest as JSON, exactly as it was signed.
    pub signed: String,
    /// Who says so.
    pub signatures: Vec<Signature>,
}

/// A signature of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// `ed25519:` and 32 bytes in base64.
    #[cfg_attr(test, schemars(with = "String"))]
    pub key: PublicKey,
    /// 64 bytes in base64.
    pub signature: String,
}

/// A model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What people call it.
    pub name: String,
    /// Grows with every model that is given out.
    pub version: u64,
    /// The oldest program that can run it, as `0.1.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_program: Option<String>,
    /// After this time, RFC 3339, it is not installed any more.
    pub expires: String,
    /// Whether it may take the place of a higher version.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_downgrade: bool,
    /// Its files. The first is the model.
    pub files: Vec<File>,
    /// What it must be able to do before it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smoke: Option<Smoke>,
    /// Whose signatures count from the next manifest on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,
}

/// Which model: its version and the hash of its first file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Its version.
    pub version: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct File {
    /// A plain name: letters, digits, `.`, `-` and `_`.
    pub path: String,
    /// Bytes.
    pub length: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// A question that a model must answer as expected, in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Smoke {
    /// A PNG, JPEG or WebP file in base64.
    pub picture: String,
    /// The question.
    pub ask: String,
    /// What the answer must contain, in any case.
    pub expect: String,
    /// Milliseconds that it may take.
    pub within_ms: u64,
}

/// Whose signatures count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// The keys.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub keys: Vec<PublicKey>,
    /// How many of them must have signed.
    pub threshold: usize,
}

impl Keys {
    /// Checks that the threshold can be met.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check(&self) -> Result<(), String> {
        let different: HashSet<_> = self.keys.iter().collect();
        if different.len() != self.keys.len() {
            return Err("keys: one is named twice".to_owned());
        }
        if !(1..=MOST_KEYS).contains(&self.keys.len()) {
            return Err(format!("keys: 1 to {MOST_KEYS} are accepted"));
        }
        if !(1..=self.keys.len()).contains(&self.threshold) {
            return Err(format!(
                "threshold: 1 to {} of these keys are accepted",
                self.keys.len()
            ));
        }
        Ok(())
    }
}

impl Manifest {
    /// Reads what was signed, if enough of `keys` have signed it, and of the keys that it brings too. Whether it
    /// has expired is not looked at.
    ///
    /// # Errors
    /// The reason in words.
    pub fn open(signed: &Signed, keys: &Keys) -> Result<Self, String> {
        signed.check(PURPOSE, "manifest", keys)?;
        let manifest = Self::parse(&signed.signed)?;
        if let Some(new) = &manifest.keys {
            // A key that nobody holds, or that is mistyped, must not lock everybody out.
            signed.check(PURPOSE, "manifest: of its own new keys", new)?;
        }
        Ok(manifest)
    }

    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// The reason in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|e| format!("manifest: {e}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what cannot be said in types.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=64).contains(&self.name.chars().count()) {
            return Err("name: 1 to 64 characters are accepted".to_owned());
        }
        self.expiry()?;
        if let Some(minimum) = &self.minimum_program {
            program(minimum)?;
        }
        if !(1..=MOST_FILES).contains(&self.files.len()) {
            return Err(format!("files: 1 to {MOST_FILES} are accepted"));
        }
        let mut names = HashSet::new();
        for file in &self.files {
            file.check()?;
            if !names.insert(file.path.to_ascii_lowercase()) {
                return Err(format!("files: \"{}\" is named twice", file.path));
            }
        }
        if let Some(smoke) = &self.smoke {
            if smoke.ask.len() > LONGEST_QUESTION || smoke.expect.len() > LONGEST_QUESTION {
                return Err(format!(
                    "smoke: at most {LONGEST_QUESTION} bytes are accepted"
                ));
            }
            if !(1..=LONGEST_SMOKE).contains(&smoke.within_ms) {
                return Err(format!(
                    "smoke.within_ms: 1 to {LONGEST_SMOKE} are accepted"
                ));
            }
            if smoke.expect.trim().is_empty() {
                return Err("smoke.expect: every answer would do".to_owned());
            }
            smoke.picture()?;
        }
        self.keys.as_ref().map_or(Ok(()), Keys::check)
    }

    /// When it expires.
    ///
    /// # Errors
    /// The reason in words.
    pub fn expiry(&self) -> Result<OffsetDateTime, String> {
        expiry(&self.expires)
    }

    /// Whether this program is new enough.
    ///
    /// # Errors
    /// The reason in words.
    pub fn suits_program(&self, version: &str) -> Result<(), String> {
        match &self.minimum_program {
            Some(minimum) if program(version)? < program(minimum)? => {
                Err(format!("it needs kinglet {minimum}; this is {version}"))
            }
            _ => Ok(()),
        }
    }

    /// All its bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let lengths = self.files.iter().map(|f| f.length);
        lengths.fold(0, u64::saturating_add)
    }

    /// This manifest, signed by these keys.
    ///
    /// # Errors
    /// The reason in words.
    pub fn sign(&self, keys: &[PrivateKey]) -> Result<Signed, String> {
        Signed::new(self, PURPOSE, keys)
    }

    /// Which model it is.
    #[must_use]
    pub fn which(&self) -> Which {
        let sha256 = self.files.first().map(|file| file.sha256.clone());
        Which {
            version: self.version,
            sha256: sha256.unwrap_or_default(),
        }
    }
}

impl Signed {
    /// What is to be signed for this purpose, signed by these keys.
    pub(super) fn new(
        what: &impl Serialize,
        purpose: &str,
        keys: &[PrivateKey],
    ) -> Result<Self, String> {
        let signed = serde_json::to_string(what).map_err(|e| e.to_string())?;
        let mut signed = Signed {
            signed,
            signatures: Vec::new(),
        };
        keys.iter().for_each(|key| signed.add(purpose, key));
        Ok(signed)
    }

    /// Adds a signature for this purpose, or replaces that of the same key.
    pub fn add(&mut self, purpose: &str, key: &PrivateKey) {
        let public = key.public();
        self.signatures.retain(|s| s.key != public);
        self.signatures.push(Signature {
            key: public,
            signature: key.sign(&message(purpose, &self.signed)),
        });
    }

    /// Whether enough of these keys have signed it for this purpose. `what` is what errors call it.
    ///
    /// # Errors
    /// The reason in words.
    pub fn check(&self, purpose: &str, what: &str, keys: &Keys) -> Result<(), String> {
        if self.signed.len() > LARGEST_MANIFEST {
            return Err(format!(
                "{what}: at most {LARGEST_MANIFEST} bytes are accepted"
            ));
        }
        if self.signatures.len() > MOST_SIGNATURES {
            return Err(format!(
                "{what}: at most {MOST_SIGNATURES} signatures are accepted"
            ));
        }
        let message = message(purpose, &self.signed);
        // One key counts once, however often it has signed.
        let good: HashSet<PublicKey> = self
            .signatures
            .iter()
            .filter(|s| keys.keys.contains(&s.key) && s.key.has_signed(&message, &s.signature))
            .map(|s| s.key)
            .collect();
        if good.len() < keys.threshold {
            return Err(format!(
                "{what}: {} of {} signatures that are needed",
                good.len(),
                keys.threshold
            ));
        }
        Ok(())
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let name = &self.path;
        if !(1..=100).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(format!(
                "files: \"{}\" is no plain name: 1 to 100 letters, digits, ., - and _ are accepted",
                name.escape_default()
            ));
        }
        if !is_sha256(&self.sha256) {
            return Err(format!(
                "files: {name}: sha256 has 64 digits 0 to 9 and a to f"
            ));
        }
        Ok(())
    }
}

impl Smoke {
    /// The picture.
    ///
    /// # Errors
    /// The reason in words.
    pub fn picture(&self) -> Result<Picture, String> {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(&self.picture)
            .map_err(|e| format!("smoke.picture: it is no base64: {e}"))?;
        Picture::decode(&bytes).map_err(|e| format!("smoke.picture: {e}"))
    }
}

fn message(purpose: &str, text: &str) -> Vec<u8> {
    [purpose.as_bytes(), text.as_bytes()].concat()
}

/// Reads when something expires.
pub(super) fn expiry(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "expires: a time as 2026-01-31T12:00:00Z is expected".to_owned())
}

/// Whether these are 64 hexadecimal digits in small letters.
pub(super) fn is_sha256(text: &str) -> bool {
    let digit = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 64 && text.bytes().all(digit)
}

/// `1.2.3` as numbers; what follows a `-` or `+` does not count.
fn program(version: &str) -> Result<[u64; 3], String> {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Option<Vec<u64>> = plain.split('.').map(|n| n.parse().ok()).collect();
    numbers
        .and_then(|n| n.try_into().ok())
        .ok_or_else(|| format!("minimum_program: \"{version}\" is no version as 0.1.0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn manifest() -> Manifest {
        Manifest {
            name: "porch".to_owned(),
            version: 3,
            minimum_program: None,
            expires: "2030-01-01T00:00:00Z".to_owned(),
            allow_downgrade: false,
            files: vec![File {
                path: "porch.gguf".to_owned(),
                length: 10,
                sha256: "0".repeat(64),
            }],
            smoke: None,
            keys: None,
        }
    }

    fn keys(n: usize) -> Vec<PrivateKey> {
        (0..n).map(|_| PrivateKey::generate().unwrap()).collect()
    }

    fn trusted(keys: &[PrivateKey], threshold: usize) -> Keys {
        Keys {
            keys: keys.iter().map(PrivateKey::public).collect(),
            threshold,
        }
    }

    #[test]
    fn enough_different_keys_must_have_signed() {
        let keys = keys(3);
        let trust = trusted(&keys[..2], 2);
        let signed = manifest().sign(&keys).unwrap();
        assert_eq!(Manifest::open(&signed, &trust).unwrap(), manifest());

        let few = manifest().sign(&keys[1..]).unwrap();
        let refused = Manifest::open(&few, &trust).unwrap_err();
        assert!(
            refused.contains("1 of 2"),
            "a stranger does not count: {refused}"
        );

        let mut twice = manifest().sign(&keys[..1]).unwrap();
        twice.signatures.push(twice.signatures[0].clone());
        assert!(Manifest::open(&twice, &trust).is_err(), "one key twice");

        let mut changed = signed.clone();
        changed.signed = changed.signed.replace(":3", ":4");
        assert!(Manifest::open(&changed, &trust).is_err());

        // The same text signed for another purpose.
        let mut other = signed;
        for (signature, key) in other.signatures.iter_mut().zip(&keys) {
            signature.signature =
                key.sign(format!("kinglet-command-v1\n{}", other.signed).as_bytes());
        }
        assert!(Manifest::open(&other, &trust).is_err());
    }

    #[test]
    fn new_keys_must_have_signed_too() {
        let (old, new) = (keys(1), keys(3));
        let changed = Manifest {
            keys: Some(trusted(&new, 2)),
            ..manifest()
        };
        let trust = trusted(&old, 1);
        let mut signed = changed.sign(&old).unwrap();
        signed.add(PURPOSE, &new[0]);
        let refused = Manifest::open(&signed, &trust).unwrap_err();
        assert!(refused.contains("new keys: 1 of 2"), "{refused}");
        signed.add(PURPOSE, &new[2]);
        assert!(Manifest::open(&signed, &trust).is_ok());
        let without = changed.sign(&new).unwrap();
        assert!(Manifest::open(&without, &trust).is_err(), "new ones alone");
    }

    #[test]
    fn a_signature_can_be_added_later() {
        let keys = keys(2);
        let mut signed = manifest().sign(&keys[..1]).unwrap();
        assert!(Manifest::open(&signed, &trusted(&keys, 2)).is_err());
        signed.add(PURPOSE, &keys[1]);
        signed.add(PURPOSE, &keys[1]);
        assert_eq!(signed.signatures.len(), 2);
        assert!(Manifest::open(&signed, &trusted(&keys, 2)).is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let refused = |change: &dyn Fn(&mut Manifest), words: &str| {
            let mut manifest = manifest();
            change(&mut manifest);
            let reason = manifest.check().unwrap_err();
            assert!(reason.contains(words), "{words}: {reason}");
        };
        for path in [
            "",
            "../x",
            "a/b",
            "/etc/passwd",
            ".hidden",
            "a\\b",
            "a b",
            "ä",
        ] {
            refused(&|m| m.files[0].path = path.to_owned(), "plain name");
        }
        refused(&|m| m.files[0].sha256 = "0".repeat(63), "sha256");
        refused(&|m| m.files.clear(), "files");
        refused(&|m| m.files = vec![m.files[0].clone(); 2], "twice");
        refused(&|m| m.expires = "soon".to_owned(), "expires");
        refused(
            &|m| m.minimum_program = Some("new".to_owned()),
            "minimum_program",
        );
        refused(&|m| m.name = String::new(), "name");
        let key = PrivateKey::generate().unwrap().public();
        let keys = |n, threshold| Keys {
            keys: vec![key; n],
            threshold,
        };
        refused(&|m| m.keys = Some(keys(2, 1)), "twice");
        refused(&|m| m.keys = Some(keys(1, 0)), "threshold");
        refused(&|m| m.keys = Some(keys(1, 2)), "threshold");
        refused(&|m| m.keys = Some(keys(0, 0)), "keys");
        let text = serde_json::to_string(&manifest()).unwrap();
        let unknown = text.replacen('{', "{\"colour\":1,", 1);
        assert!(Manifest::parse(&unknown).unwrap_err().contains("colour"));
    }

    #[test]
    fn a_program_that_is_too_old_is_named() {
        let mut manifest = manifest();
        manifest.minimum_program = Some("0.10.0".to_owned());
        assert!(manifest.suits_program("0.10.0").is_ok());
        assert!(manifest.suits_program("1.0.0-beta").is_ok());
        let refused = manifest.suits_program("0.9.7").unwrap_err();
        assert!(refused.contains("0.10.0"), "{refused}");
    }
}
