//! Outputs: what a watch may switch. Each has a few values that its user has named, and nothing else can be
//! written.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{error, name_error};
use crate::error::Result;
use crate::topic;

/// The most outputs.
const MOST_OUTPUTS: usize = 32;
/// The longest text that is written into a file.
const LONGEST_TEXT: usize = 256;

/// `[[output]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputConfig {
    /// What watches call it.
    pub name: String,
    /// Its values, and what is written into the file for each.
    pub values: BTreeMap<String, String>,
    /// A file that is there already, `/sys/class/gpio/gpio17/value` say; left out: it is published alone.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

/// `kinglet/D/output/NAME`
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OutputState {
    /// Its value.
    pub value: String,
    /// When it was set, RFC 3339.
    pub at: String,
    /// The event for which it was set.
    pub event: String,
}

/// Checks all outputs.
///
/// # Errors
/// [`crate::AgentError::Config`] naming the key.
pub(crate) fn check(outputs: &[OutputConfig]) -> Result<()> {
    if outputs.len() > MOST_OUTPUTS {
        let expected = format!("are too many; {MOST_OUTPUTS} are accepted");
        return Err(error("output", &outputs.len().to_string(), &expected));
    }
    for (i, output) in outputs.iter().enumerate() {
        if !topic::is_name(&output.name) {
            return Err(name_error("output.name", &output.name));
        }
        if outputs[..i].iter().any(|o| o.name == output.name) {
            return Err(error("output.name", &output.name, "is used twice"));
        }
        if output.values.is_empty() {
            return Err(error("output.values", &output.name, "has none"));
        }
        for (value, text) in &output.values {
            if !topic::is_name(value) {
                return Err(name_error("output.values", value));
            }
            if text.len() > LONGEST_TEXT {
                let expected = format!("writes more than {LONGEST_TEXT} bytes");
                return Err(error("output.values", value, &expected));
            }
        }
    }
    Ok(())
}

impl OutputConfig {
    /// Writes a value into the file, if there is one.
    ///
    /// # Errors
    /// The reason in words.
    pub(crate) fn set(&self, value: &str) -> std::result::Result<(), String> {
        let text = self.values.get(value).ok_or("it has no such value")?;
        let Some(file) = &self.file else {
            return Ok(());
        };
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                // A pipe that nobody reads must not hold the agent up.
                .custom_flags(libc::O_NONBLOCK)
                .open(file)?;
            file.write_all(text.as_bytes())
        };
        write().map_err(|e| format!("{}: {e}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn output(text: &str) -> OutputConfig {
        toml::from_str(text).unwrap()
    }

    fn light(file: &Path) -> OutputConfig {
        let file = file.display();
        output(&format!(
            "name = 'light'\nfile = '{file}'\nvalues = {{ on = '1', off = '0' }}"
        ))
    }

    #[test]
    fn what_was_named_is_written_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("value");
        let light = light(&file);
        let missing = light.set("on").unwrap_err();
        assert!(missing.contains("value: No such file"), "{missing}");
        std::fs::write(&file, "0000").unwrap();
        light.set("on").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
        assert!(light.set("dim").is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
        output("name = 'light'\nvalues = { on = '' }")
            .set("on")
            .unwrap();
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap();
        assert!(made.success());
        assert!(light(&pipe).set("on").unwrap_err().contains("pipe: "));
    }

    #[test]
    fn bad_outputs_are_refused_by_name() {
        for (text, words) in [
            ("name = 'a b'\nvalues = { on = '1' }", "output.name"),
            ("name = 'a'\nvalues = {}", "output.values"),
            ("name = 'a'\nvalues = { 'On!' = '1' }", "On!"),
        ] {
            let refused = check(&[output(text)]).unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
        let one = output("name = 'a'\nvalues = { on = '1' }");
        assert!(
            check(&[one.clone(), one])
                .unwrap_err()
                .to_string()
                .contains("twice")
        );
    }
}
