//! The model as the agent's `Engine`.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_agent as agent;
use kinglet_agent::{DrawRequest, Engine, EngineError, ModelInfo};
use kinglet_kernels::Device;
use kinglet_model::recipes::Guides;
use kinglet_model::{DrawOptions, Drawing, Model, ModelError, Picture, WriteOptions};

/// The most tokens of an answer.
pub(crate) const MOST_TOKENS: usize = 512;

/// A model that answers the agent.
pub(crate) struct ModelEngine<D: Device> {
    pub(crate) model: Arc<Model<D>>,
    pub(crate) info: ModelInfo,
}

impl<D: Device> Engine for ModelEngine<D> {
    fn model(&self) -> ModelInfo {
        self.info.clone()
    }

    fn see(
        &self,
        picture: &agent::Picture,
        ask: &str,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        let (width, height) = (picture.width as usize, picture.height as usize);
        let picture = Picture::from_rgb(width, height, picture.rgb.to_vec()).map_err(refused)?;
        see(&self.model, &picture, ask, on_text).map_err(refused)
    }

    fn draw(
        &self,
        request: &DrawRequest,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<agent::Picture, EngineError> {
        let picture = draw(&self.model, request, progress).map_err(refused)?;
        Ok(agent::Picture {
            width: picture.width() as u32,
            height: picture.height() as u32,
            rgb: picture.rgb().into(),
        })
    }
}

fn refused(e: ModelError) -> EngineError {
    match e {
        ModelError::Cancelled => EngineError::Cancelled,
        e => EngineError::Refused(e.to_string()),
    }
}

/// Answers a question about a picture.
pub(crate) fn see<D: Device>(
    model: &Arc<Model<D>>,
    picture: &Picture,
    ask: &str,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<String, ModelError> {
    let mut context = model.context();
    context.push_image(picture)?;
    context.push_text(ask)?;
    Ok(context
        .write(&WriteOptions::greedy(MOST_TOKENS), on_text)?
        .text)
}

/// Draws a picture.
pub(crate) fn draw<D: Device>(
    model: &Arc<Model<D>>,
    request: &DrawRequest,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Picture, ModelError> {
    let mut options = DrawOptions::defaults(&model.config);
    options.size = request.size.unwrap_or(options.size);
    if let Some(steps) = request.steps {
        options.timesteps = steps.saturating_add(1);
    }
    options.guidance.text_scale = request.guidance.unwrap_or(options.guidance.text_scale);
    options.seed = request.seed.unwrap_or_else(rand_seed);
    options.check(&model.config)?;

    let guides = Guides::to_draw(model, &request.prompt, false)?;
    let mut drawing = Drawing::new(&guides, &options)?;
    let steps = options.steps();
    drawing.run(&mut |done| progress(done, steps))?;
    drawing.picture()
}

/// A seed that differs from time to time, where none is given.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}
