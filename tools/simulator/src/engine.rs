//! An engine that answers at once, and counts how often.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::ops::ControlFlow;

use kinglet_agent::update::Loader;
use kinglet_agent::{DrawRequest, Engine, EngineError, ModelInfo, Picture, Progress, Question};
use sha2::{Digest, Sha256};

/// Answers with the number of the answer.
pub(crate) struct Stub {
    pub(crate) made: Arc<AtomicU64>,
    /// Which model it says that it is.
    pub(crate) model: ModelInfo,
}

impl Stub {
    /// One that has no model.
    pub(crate) fn new(made: Arc<AtomicU64>) -> Self {
        let (name, sha256) = ("none".to_owned(), "0".repeat(64));
        let model = ModelInfo { name, sha256 };
        Stub { made, model }
    }
}

/// In hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

/// Makes such engines of any file.
pub(crate) struct Stubs(pub(crate) Arc<AtomicU64>);

impl Loader for Stubs {
    fn check(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }

    fn load(&self, model: &Path) -> Result<Arc<dyn Engine>, String> {
        let bytes = std::fs::read(model).map_err(|e| e.to_string())?;
        let mut stub = Stub::new(Arc::clone(&self.0));
        stub.model.sha256 = sha256(&bytes);
        Ok(Arc::new(stub))
    }

    fn own(&self) -> Result<Arc<dyn Engine>, String> {
        Ok(Arc::new(Stub::new(Arc::clone(&self.0))))
    }
}

impl Engine for Stub {
    fn model(&self) -> ModelInfo {
        self.model.clone()
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
