//! Ways to draw.

use std::path::{Path, PathBuf};

use kinglet_model::{Config, DrawOptions, Sampler};
use serde::{Deserialize, Serialize};

use crate::error::{Result, data_error};

/// A way to draw; what is left out is the model's own.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Way {
    /// What it is called in the table.
    pub name: String,
    /// Another container than the one that all ways are of: one whose steps are distilled.
    pub model: Option<PathBuf>,
    steps: Option<usize>,
    sampler: Option<String>,
    shift: Option<f32>,
    guidance: Option<f32>,
    /// Guidance where low < t <= high.
    interval: Option<(f32, f32)>,
    /// Guidance anew every so many velocities.
    every: Option<usize>,
    /// TaylorSeer with derivatives up to this one.
    predict: Option<usize>,
}

impl Way {
    /// The model's own but for the steps, if some are said.
    pub fn in_steps(steps: Option<usize>) -> Self {
        Way {
            steps,
            ..Way::default()
        }
    }

    /// These options with what this way says.
    ///
    /// # Errors
    /// Which option cannot be.
    pub fn applied(
        &self,
        mut options: DrawOptions,
        config: &Config,
    ) -> std::result::Result<DrawOptions, String> {
        if let Some(steps) = self.steps {
            options.timesteps = steps.saturating_add(1);
        }
        if let Some(name) = &self.sampler {
            options.sampler =
                Sampler::from_name(name).ok_or(format!("the sampler {name} is not known"))?;
        }
        options.shift = self.shift.unwrap_or(options.shift);
        let guidance = &mut options.guidance;
        guidance.text_scale = self.guidance.unwrap_or(guidance.text_scale);
        guidance.interval = self.interval.unwrap_or(guidance.interval);
        guidance.every = self.every.unwrap_or(guidance.every);
        options.predict = self.predict;
        options.check(config).map_err(|e| e.to_string())?;
        Ok(options)
    }
}

/// The ways of a file.
///
/// # Errors
/// [`crate::EvalError`] if it is not sound.
pub fn ways(path: &Path) -> Result<Vec<Way>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        way: Vec<Way>,
    }
    let text = std::fs::read_to_string(path).map_err(|e| data_error(path, e))?;
    let file: File = toml::from_str(&text).map_err(|e| data_error(path, e))?;
    Ok(file.way)
}

#[cfg(test)]
mod tests {
    use kinglet_model::Source;

    use super::*;

    #[test]
    fn the_ways_of_this_crate_can_be_drawn() {
        let model = crate::data("../../runtime/assets/kinglet-tiny.gguf");
        let config = Source::open(&model).unwrap().config;
        let ways = ways(&crate::data("steps.toml")).unwrap();
        assert!(ways.len() > 10);
        for way in ways {
            let options = DrawOptions::defaults(&config);
            way.applied(options, &config).unwrap();
        }
    }
}
