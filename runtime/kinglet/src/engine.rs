//! The model as the agent's `Engine`.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_agent as agent;
use kinglet_agent::{DrawRequest, Engine, EngineError, ModelInfo, Progress, Question};
use kinglet_model::{DrawOptions, ModelError, Picture};

use crate::governor::Reins;
use crate::works::{Works, from_agent, to_agent};

/// The smallest side of a picture that is seen smaller, in pixels.
const SMALLEST: usize = 112;

/// A model that answers the agent.
pub(crate) struct ModelEngine {
    pub(crate) works: Arc<dyn Works>,
    pub(crate) info: ModelInfo,
    /// What it is still asked to do.
    pub(crate) reins: Arc<Reins>,
}

impl Engine for ModelEngine {
    fn model(&self) -> ModelInfo {
        self.info.clone()
    }

    fn check(&self, question: &Question) -> Result<(), EngineError> {
        self.works.check(question).map_err(refused)
    }

    fn see(
        &self,
        picture: &agent::Picture,
        question: &Question,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        let picture = from_agent(picture).map_err(refused)?;
        if self.reins.smaller()
            && let Some((picture, question)) = halved(&picture, question).map_err(refused)?
        {
            return self.see_plainly(&picture, &question, on_text);
        }
        self.see_plainly(&picture, question, on_text)
    }

    fn draw(
        &self,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<agent::Picture, EngineError> {
        let defaults = DrawOptions::defaults(self.works.config());
        let request = self.reins.drawing(request, defaults.timesteps - 1)?;
        let drawn = self.works.draw(&request, false, progress);
        let drawn = drawn.map_err(refused)?;
        Ok(to_agent(&drawn.picture))
    }

    fn edit(
        &self,
        picture: &agent::Picture,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<agent::Picture, EngineError> {
        let picture = from_agent(picture).map_err(refused)?;
        let size = picture.size_by(&self.works.config().latent.rule);
        let defaults = DrawOptions::edit_defaults(self.works.config(), size);
        let request = self.reins.drawing(request, defaults.timesteps - 1)?;
        let drawn = self.works.edit(&picture, &request, false, progress);
        let drawn = drawn.map_err(refused)?;
        Ok(to_agent(&drawn.picture))
    }
}

impl ModelEngine {
    fn see_plainly(
        &self,
        picture: &Picture,
        question: &Question,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        let seen = self.works.see(picture, question, false, on_text);
        seen.map_err(refused)
    }
}

/// A picture and a question about it with sides half as long; none if they are short already.
fn halved(
    picture: &Picture,
    question: &Question,
) -> Result<Option<(Picture, Question)>, ModelError> {
    let (width, height) = (picture.width() / 2, picture.height() / 2);
    if width < SMALLEST || height < SMALLEST {
        return Ok(None);
    }
    let smaller = kinglet_model::picture::resize_bicubic(picture, width, height)?;
    // At least a pixel, and within the picture.
    let region = question.region.map(|[left, top, wide, high]| {
        let (left, top) = ((left / 2).min(width - 1), (top / 2).min(height - 1));
        let side = |length: usize, room: usize| (length / 2).clamp(1, room);
        [
            left,
            top,
            side(wide, width - left),
            side(high, height - top),
        ]
    });
    let question = Question {
        region,
        ..question.clone()
    };
    Ok(Some((smaller, question)))
}

fn refused(e: ModelError) -> EngineError {
    match e {
        ModelError::Cancelled => EngineError::Cancelled,
        e => EngineError::Refused(e.to_string()),
    }
}
