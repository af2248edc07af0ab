//! The defaults of drawings.

use kinglet_model::draw::MOST_TIMESTEPS;
use serde::Deserialize;

use super::Pass;
use crate::calibration::Calibration;
use crate::error::{QuantError, Result};
use crate::plan::Plan;

/// `[steps]`: what a drawing does when its request says nothing else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Steps {
    /// Points in time, the end included: one more than there are steps.
    pub timesteps: Option<usize>,
    /// Timestep shift.
    pub shift: Option<f32>,
    /// Text guidance scale.
    pub guidance: Option<f32>,
    /// Guidance is applied where `low < t <= high`.
    pub interval: Option<(f32, f32)>,
    /// Text guidance scale of edits.
    pub edit_guidance: Option<f32>,
    /// Picture guidance scale of edits; 1 is none.
    pub edit_picture_guidance: Option<f32>,
}

impl Pass for Steps {
    fn name(&self) -> &'static str {
        "steps"
    }

    fn needs_calibration(&self) -> bool {
        false
    }

    fn apply(&self, plan: &mut Plan<'_>, _: &Calibration) -> Result<Vec<String>> {
        let refuse =
            |key: &str, text: String| Err(QuantError::Recipe(format!("[steps] {key}: {text}")));
        let draw = &mut plan.config.draw;
        let before = draw.timesteps;
        draw.timesteps = self.timesteps.unwrap_or(draw.timesteps);
        draw.shift = self.shift.unwrap_or(draw.shift);
        draw.guidance = self.guidance.unwrap_or(draw.guidance);
        draw.interval = self.interval.unwrap_or(draw.interval);
        if !(2..=MOST_TIMESTEPS).contains(&draw.timesteps) {
            let text = format!("{} is not between 2 and {MOST_TIMESTEPS}", draw.timesteps);
            return refuse("timesteps", text);
        }
        if !(draw.shift.is_finite() && draw.shift > 0.0) {
            return refuse("shift", format!("{} is no positive number", draw.shift));
        }
        let edit = &mut plan.config.edit;
        edit.guidance = self.edit_guidance.unwrap_or(edit.guidance);
        edit.picture_guidance = self.edit_picture_guidance.unwrap_or(edit.picture_guidance);
        for (key, scale) in [
            ("guidance", draw.guidance),
            ("edit_guidance", edit.guidance),
            ("edit_picture_guidance", edit.picture_guidance),
        ] {
            if !(0.0..=100.0).contains(&scale) {
                return refuse(key, format!("{scale} is not between 0 and 100"));
            }
        }
        let (low, high) = draw.interval;
        if !(low.is_finite() && high.is_finite() && low <= high) {
            return refuse("interval", format!("{low} to {high} is no interval"));
        }
        Ok(vec![format!(
            "{before} timesteps became {}",
            draw.timesteps
        )])
    }
}
