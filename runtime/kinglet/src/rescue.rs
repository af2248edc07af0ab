//! A model on a graphics processor that may be lost, and the cores, which then go on.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use kinglet_agent::{DrawRequest, Progress, Question};
use kinglet_kernels::KernelError;
use kinglet_model::{Config, ModelError, Part, Picture};

use crate::failure::Outcome;
use crate::works::{Drawn, Works};

/// Loads the model onto the cores.
type Load = Box<dyn Fn() -> Outcome<Arc<dyn Works>> + Send + Sync>;

/// What is asked of it is asked of the processor until that is lost, and of the cores from then on: once more, from
/// its beginning.
pub(crate) struct Rescue {
    first: Arc<dyn Works>,
    load: Load,
    spare: Mutex<Option<Arc<dyn Works>>>,
}

impl Rescue {
    pub(crate) fn new(first: Arc<dyn Works>, load: Load) -> Self {
        let spare = Mutex::default();
        Rescue { first, load, spare }
    }

    fn spare(&self) -> Option<Arc<dyn Works>> {
        let spare = self.spare.lock();
        spare.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ask<T>(
        &self,
        mut ask: impl FnMut(&dyn Works) -> Result<T, ModelError>,
    ) -> Result<T, ModelError> {
        if let Some(spare) = self.spare() {
            return ask(&*spare);
        }
        let reason = match ask(&*self.first) {
            Err(ModelError::Kernel(KernelError::Lost(reason))) => reason,
            answer => return answer,
        };
        // Whoever loses it meanwhile waits here, and finds it loaded.
        let mut place = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = match &*place {
            Some(spare) => Arc::clone(spare),
            None => {
                tracing::error!(reason, "the graphics processor is lost; the cores go on");
                let loaded = (self.load)().map_err(|e| {
                    let both = format!("{reason}; and the cores cannot go on: {e}");
                    ModelError::Kernel(KernelError::Lost(both))
                })?;
                tracing::info!(kernels = loaded.describe(), "loaded");
                Arc::clone(place.insert(loaded))
            }
        };
        drop(place);
        ask(&*spare)
    }
}

impl Works for Rescue {
    fn config(&self) -> &Config {
        self.first.config()
    }

    fn describe(&self) -> String {
        let spare = self.spare();
        spare.map_or_else(|| self.first.describe(), |spare| spare.describe())
    }

    fn check(&self, question: &Question) -> Result<(), ModelError> {
        self.first.check(question)
    }

    fn see(
        &self,
        picture: &Picture,
        question: &Question,
        think: bool,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, ModelError> {
        self.ask(|works| works.see(picture, question, think, on_text))
    }

    fn draw(
        &self,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError> {
        self.ask(|works| works.draw(request, think, progress))
    }

    fn edit(
        &self,
        picture: &Picture,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError> {
        self.ask(|works| works.edit(picture, request, think, progress))
    }

    fn hand_over(&self, graphs: &[(Part, PathBuf)]) -> Outcome {
        self.first.hand_over(graphs)
    }
}
