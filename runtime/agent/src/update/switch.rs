//! An engine whose model can be replaced while the agent runs. Only one is in memory at a time.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::engine::{DrawRequest, Engine, EngineError, ModelInfo, Progress, Question};
use crate::frame::Picture;

/// Holds an engine. Whoever uses it while it is being replaced waits.
pub struct Switch {
    /// None while it is being replaced, and if no model could be loaded at all.
    engine: RwLock<Option<Arc<dyn Engine>>>,
    /// What is said of the model meanwhile.
    info: Mutex<ModelInfo>,
}

impl Switch {
    /// Begins with this engine.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Switch {
            info: Mutex::new(engine.model()),
            engine: RwLock::new(Some(engine)),
        }
    }

    /// Waits for what is being computed, gives the old model's memory back and calls `load`.
    pub(crate) fn replace(&self, load: impl FnOnce() -> Option<Arc<dyn Engine>>) {
        let mut engine = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        *engine = None;
        *engine = load();
        if let Some(engine) = &*engine {
            *self.info.lock().unwrap_or_else(PoisonError::into_inner) = engine.model();
        }
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&dyn Engine) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        match &*engine {
            Some(engine) => work(engine.as_ref()),
            None => Err(EngineError::Refused("there is no model".to_owned())),
        }
    }
}

impl Engine for Switch {
    fn model(&self) -> ModelInfo {
        let info = self.info.lock().unwrap_or_else(PoisonError::into_inner);
        info.clone()
    }

    fn check(&self, question: &Question) -> Result<(), EngineError> {
        self.with(|engine| engine.check(question))
    }

    fn see(
        &self,
        picture: &Picture,
        question: &Question,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        self.with(|engine| engine.see(picture, question, on_text))
    }

    fn draw(&self, request: &DrawRequest, progress: Progress<'_>) -> Result<Picture, EngineError> {
        self.with(|engine| engine.draw(request, progress))
    }

    fn edit(
        &self,
        picture: &Picture,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<Picture, EngineError> {
        self.with(|engine| engine.edit(picture, request, progress))
    }
}
