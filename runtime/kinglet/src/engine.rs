//! The model as the agent's `Engine`.

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_agent as agent;
use kinglet_agent::{DrawRequest, Engine, EngineError, Form, ModelInfo, Progress, Question};
use kinglet_kernels::Device;
use kinglet_model::recipes::{Guides, to_answer};
use kinglet_model::{
    Constraint, DrawOptions, Drawing, Model, ModelError, Picture, Schema, Shape, WriteOptions,
};

use crate::governor::Reins;

/// The smallest side of a picture that is seen smaller, in pixels.
const SMALLEST: usize = 112;
/// The most tokens of an answer.
pub(crate) const MOST_TOKENS: usize = 512;

/// A model that answers the agent.
pub(crate) struct ModelEngine<D: Device> {
    pub(crate) model: Arc<Model<D>>,
    pub(crate) info: ModelInfo,
    /// What it is still asked to do.
    pub(crate) reins: Arc<Reins>,
}

impl<D: Device> Engine for ModelEngine<D> {
    fn model(&self) -> ModelInfo {
        self.info.clone()
    }

    fn check(&self, question: &Question) -> Result<(), EngineError> {
        prepare(&self.model, question).map(drop).map_err(refused)
    }

    fn see(
        &self,
        picture: &agent::Picture,
        question: &Question,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError> {
        let picture = from_agent(picture)?;
        if self.reins.smaller()
            && let Some((picture, question)) = halved(&picture, question).map_err(refused)?
        {
            return see(&self.model, &picture, &question, false, on_text).map_err(refused);
        }
        see(&self.model, &picture, question, false, on_text).map_err(refused)
    }

    fn draw(
        &self,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<agent::Picture, EngineError> {
        let defaults = DrawOptions::defaults(&self.model.config);
        let request = self.reins.drawing(request, defaults.timesteps - 1)?;
        let drawn = draw(&self.model, &request, false, progress).map_err(refused)?;
        Ok(to_agent(&drawn.picture))
    }

    fn edit(
        &self,
        picture: &agent::Picture,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<agent::Picture, EngineError> {
        let picture = from_agent(picture)?;
        let size = picture.size_by(&self.model.config.latent.rule);
        let defaults = DrawOptions::edit_defaults(&self.model.config, size);
        let request = self.reins.drawing(request, defaults.timesteps - 1)?;
        let drawn = edit(&self.model, &picture, &request, false, progress).map_err(refused)?;
        Ok(to_agent(&drawn.picture))
    }
}

fn to_agent(picture: &Picture) -> agent::Picture {
    agent::Picture {
        width: picture.width() as u32,
        height: picture.height() as u32,
        rgb: picture.rgb().into(),
    }
}

fn from_agent(picture: &agent::Picture) -> Result<Picture, EngineError> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    Picture::from_rgb(width, height, picture.rgb.to_vec()).map_err(refused)
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

/// Answers a question about a picture.
pub(crate) fn see<D: Device>(
    model: &Arc<Model<D>>,
    picture: &Picture,
    question: &Question,
    think: bool,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<String, ModelError> {
    // What cannot be answered is refused before anything is computed.
    let shape = prepare(model, question)?;
    let examples = question.examples.iter().map(|e| {
        let (width, height) = (e.picture.width as usize, e.picture.height as usize);
        let picture = Picture::from_rgb(width, height, e.picture.rgb.to_vec())?;
        Ok((picture, e.answer.as_str()))
    });
    let examples: Vec<(Picture, &str)> = examples.collect::<Result<_, ModelError>>()?;
    let ask = &question.ask;
    let mut context = to_answer(model, &examples, picture, question.region, ask, think)?;
    let written = match shape {
        Some(mut shape) => context.write_within(&mut shape, None, on_text)?,
        None => context.write(&WriteOptions::greedy(MOST_TOKENS), on_text)?,
    };
    Ok(written.text)
}

/// What holds an answer to its form.
fn shape<D: Device>(model: &Model<D>, form: &Form) -> Result<Option<Shape>, ModelError> {
    Ok(match form {
        Form::Text => None,
        Form::Schema(schema) => {
            let schema = Schema::from_value(schema)?;
            Some(Shape::of_schema(model.vocabulary()?, &schema)?)
        }
        Form::YesOrNo => Some(Shape::of_words(model.vocabulary()?, &["yes", "no"])?),
    })
}

/// What holds an answer to its form, if the question and the longest answer fit the context.
fn prepare<D: Device>(model: &Model<D>, question: &Question) -> Result<Option<Shape>, ModelError> {
    let shape = shape(model, &question.form)?;
    let longest = shape.as_ref().map_or(0, Constraint::longest);
    // A text has two markers; a picture, at whatever size, one position.
    let text = |t: &str| Ok::<_, ModelError>(model.tokenizer.encode_data(t)?.len() + 2);
    let mut positions = 1 + text(&question.ask)? + longest + 1;
    for example in &question.examples {
        positions += 1 + text(&question.ask)? + text(&example.answer)?;
    }
    let limit = model.config.language.context_length;
    if positions > limit {
        return Err(ModelError::Request {
            what: "the question with its examples and its longest answer",
            got: format!("{positions} positions long"),
            expected: format!("this model has {limit}"),
        });
    }
    Ok(shape)
}

/// What a drawing or an edit is made of.
pub(crate) struct Drawn {
    pub(crate) picture: Picture,
    /// What the model thought first, if it was asked to.
    pub(crate) thought: Option<String>,
}

/// Draws a picture; `think` lets the model think first.
pub(crate) fn draw<D: Device>(
    model: &Arc<Model<D>>,
    request: &DrawRequest,
    think: bool,
    progress: Progress<'_>,
) -> Result<Drawn, ModelError> {
    let options = options(model, request, DrawOptions::defaults(&model.config))?;
    let guides = Guides::to_draw(model, &request.prompt, think)?;
    finish(guides, &options, think, progress)
}

/// Edits a picture; the request's prompt is the instruction.
pub(crate) fn edit<D: Device>(
    model: &Arc<Model<D>>,
    picture: &Picture,
    request: &DrawRequest,
    think: bool,
    progress: Progress<'_>,
) -> Result<Drawn, ModelError> {
    let size = picture.size_by(&model.config.latent.rule);
    let options = options(
        model,
        request,
        DrawOptions::edit_defaults(&model.config, size),
    )?;
    let (guides, _) = Guides::to_edit(model, picture, &request.prompt, options.seed, think)?;
    finish(guides, &options, think, progress)
}

fn options<D: Device>(
    model: &Model<D>,
    request: &DrawRequest,
    mut options: DrawOptions,
) -> Result<DrawOptions, ModelError> {
    options.size = request.size.unwrap_or(options.size);
    if let Some(steps) = request.steps {
        options.timesteps = steps.saturating_add(1);
    }
    options.guidance.text_scale = request.guidance.unwrap_or(options.guidance.text_scale);
    options.seed = request.seed.unwrap_or_else(rand_seed);
    options.check(&model.config)?;
    Ok(options)
}

fn finish<D: Device>(
    mut guides: Guides<D>,
    options: &DrawOptions,
    think: bool,
    progress: Progress<'_>,
) -> Result<Drawn, ModelError> {
    let thought = if think {
        let write = WriteOptions::greedy(MOST_TOKENS);
        Some(guides.think(&write, &mut |_| ControlFlow::Continue(()))?)
    } else {
        None
    };
    let mut drawing = Drawing::new(&guides, options)?;
    drawing.run(&mut |step| {
        progress(agent::Step {
            done: step.done,
            of: step.of,
            preview: &|| step.preview().ok().flatten().as_ref().map(to_agent),
        })
    })?;
    Ok(Drawn {
        picture: drawing.picture()?,
        thought,
    })
}

/// A seed that differs from time to time, where none is given.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}
