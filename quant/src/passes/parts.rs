//! Leaving out all that only drawing needs.

use kinglet_model::config::ExpertsConfig;
use kinglet_model::names::draws;
use serde::Deserialize;

use super::{Pass, tensor};
use crate::calibration::Calibration;
use crate::error::{QuantError, Result};
use crate::plan::Plan;

/// `[parts]`: what the result can do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parts {
    /// Whether it can draw. If not, the generation branch, the projections of latents and the
    /// autoencoder are not stored.
    pub draw: bool,
}

impl Pass for Parts {
    fn name(&self) -> &'static str {
        "parts"
    }

    fn needs_calibration(&self) -> bool {
        false
    }

    fn apply(&self, plan: &mut Plan<'_>, _: &Calibration) -> Result<Vec<String>> {
        if self.draw && !plan.config.draws {
            let text = "[parts] draw: the checkpoint has nothing to draw with";
            return Err(QuantError::Recipe(text.to_owned()));
        }
        if self.draw {
            return Ok(vec!["draws".to_owned()]);
        }
        let before = plan.tensors.len();
        plan.drop_tensors(draws);
        let routers: Vec<bool> = (0..plan.config.language.blocks)
            .map(|layer| plan.part(&tensor(layer, "ffn_gate_inp", "")).is_some())
            .collect();
        let config = &mut plan.config;
        config.draws = false;
        config.latent.preview = None;
        // Nothing is left that these could be about.
        let understand = config.language.widths_understand();
        config.language.set_widths(&understand, &understand);
        for (layer, router) in config.language.layers.iter_mut().zip(routers) {
            layer.skip_generate = None;
            if !router {
                layer.experts = ExpertsConfig::default();
            }
        }
        Ok(vec![format!(
            "understands only: {} tensors that drawing needs are not stored",
            before - plan.tensors.len()
        )])
    }
}
