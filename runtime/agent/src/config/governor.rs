//! What is done about heat.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error;
use crate::error::Result;
use crate::period::Period;

/// `[governor]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GovernorConfig {
    /// Whether anything is done.
    pub on: bool,
    /// Degrees Celsius from which on fewer frames are looked at, pictures become smaller, nothing is drawn.
    pub degrees: [f64; 3],
    /// How long it must be cooler before a step is left.
    pub quiet: Period,
    /// The tree of files in which the system tells: `/`.
    pub root: PathBuf,
}

impl Default for GovernorConfig {
    fn default() -> Self {
        GovernorConfig {
            on: true,
            degrees: [75.0, 80.0, 85.0],
            quiet: Period(Duration::from_secs(60)),
            root: PathBuf::from("/"),
        }
    }
}

impl GovernorConfig {
    /// Checks that steps follow each other.
    ///
    /// # Errors
    /// [`crate::AgentError::Config`].
    pub fn check(&self) -> Result<()> {
        let [first, second, third] = self.degrees;
        if (-60.0..=second).contains(&first) && (second..=200.0).contains(&third) {
            return Ok(());
        }
        let expected = "are not three temperatures that do not fall, from -60 to 200";
        Err(error(
            "governor.degrees",
            &format!("{:?}", self.degrees),
            expected,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperatures_rise() {
        for (text, is_right) in [
            ("", true),
            ("on = false", true),
            ("degrees = [60, 60, 90]", true),
            ("degrees = [80, 75, 90]", false),
            ("degrees = [60, 70, 65]", false),
            ("degrees = [nan, 70, 80]", false),
            ("degrees = [60, nan, 80]", false),
            ("degrees = [60, 70, inf]", false),
        ] {
            let config: GovernorConfig = toml::from_str(text).unwrap();
            assert_eq!(config.check().is_ok(), is_right, "{text}");
        }
    }
}
