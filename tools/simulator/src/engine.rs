//! An engine that answers at once, and counts how often.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::ops::ControlFlow;

use kinglet_agent::{DrawRequest, Engine, EngineError, ModelInfo, Picture, Progress, Question};

/// Answers with the number of the answer.
pub(crate) struct Stub {
    pub(crate) made: Arc<AtomicU64>,
}

impl Engine for Stub {
    fn model(&self) -> ModelInfo {
        ModelInfo {
            name: "none".to_owned(),
            sha256: "0".repeat(64),
        }
    }

    fn check(&self, _: &Question) -> Result<(), EngineError> {
        Ok(())
    }

    fn see(
        &self,
        _: &Picture,
        _: &Question,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Ok(format!("answer {number}"))
    }

    fn draw(&self, _: &DrawRequest, _: Progress<'_>) -> Result<Picture, EngineError> {
        Err(EngineError::Refused("it does not draw".to_owned()))
    }

    fn edit(&self, _: &Picture, _: &DrawRequest, _: Progress<'_>) -> Result<Picture, EngineError> {
        Err(EngineError::Refused("it does not draw".to_owned()))
    }
}
