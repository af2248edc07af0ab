//! A model on whatever computes.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use kinglet_agent as agent;
use kinglet_agent::{DrawRequest, Form, Progress, Question};
use kinglet_kernels::Device;
use kinglet_model::recipes::{Guides, to_answer};
use kinglet_model::{
    Config, Constraint, DrawOptions, Drawing, Model, ModelError, Part, Picture, Sampler, Schema,
    Shape, WriteOptions,
};

use crate::failure::Outcome;
use crate::graphs;

/// The most tokens of an answer.
pub(crate) const MOST_TOKENS: usize = 512;

/// What commands and the agent ask of a model; the device is the implementation's business.
pub(crate) trait Works: Send + Sync {
    /// Sizes and defaults.
    fn config(&self) -> &Config;
    /// What computes.
    fn describe(&self) -> String;
    /// Whether a question can be answered at all.
    fn check(&self, question: &Question) -> Result<(), ModelError>;
    /// Answers a question about a picture.
    fn see(
        &self,
        picture: &Picture,
        question: &Question,
        think: bool,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, ModelError>;
    /// Draws a picture; `think` lets the model think first.
    fn draw(
        &self,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError>;
    /// Edits a picture; the request's prompt is the instruction.
    fn edit(
        &self,
        picture: &Picture,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError>;
    /// Opens graphs and lets them compute their parts of the model.
    fn hand_over(&self, graphs: &[(Part, PathBuf)]) -> Outcome;
}

/// What a drawing or an edit is made of.
pub(crate) struct Drawn {
    pub(crate) picture: Picture,
    /// What the model thought first, if it was asked to.
    pub(crate) thought: Option<String>,
}

impl<D: Device> Works for Arc<Model<D>> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn check(&self, question: &Question) -> Result<(), ModelError> {
        prepare(self, question).map(drop)
    }

    fn see(
        &self,
        picture: &Picture,
        question: &Question,
        think: bool,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, ModelError> {
        // What cannot be answered is refused before anything is computed.
        let shape = prepare(self, question)?;
        let examples = question.examples.iter();
        let examples = examples.map(|e| Ok((from_agent(&e.picture)?, e.answer.as_str())));
        let examples: Vec<(Picture, &str)> = examples.collect::<Result<_, ModelError>>()?;
        let ask = &question.ask;
        let before = question.before.as_ref().map(from_agent).transpose()?;
        let mut context = to_answer(
            self,
            &examples,
            before.as_ref(),
            picture,
            question.region,
            ask,
            think,
        )?;
        let written = match shape {
            Some(mut shape) => context.write_within(&mut shape, None, on_text)?,
            None => context.write(&WriteOptions::greedy(MOST_TOKENS), on_text)?,
        };
        graphs::tell(self);
        Ok(written.text)
    }

    fn draw(
        &self,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError> {
        let options = options(self, request, DrawOptions::defaults(&self.config))?;
        let guides = Guides::to_draw(self, &request.prompt, think)?;
        finish(guides, &options, think, progress)
    }

    fn edit(
        &self,
        picture: &Picture,
        request: &DrawRequest,
        think: bool,
        progress: Progress<'_>,
    ) -> Result<Drawn, ModelError> {
        let size = picture.size_by(&self.config.latent.rule);
        let defaults = DrawOptions::edit_defaults(&self.config, size);
        let options = options(self, request, defaults)?;
        let (guides, _) = Guides::to_edit(self, picture, &request.prompt, options.seed, think)?;
        finish(guides, &options, think, progress)
    }

    fn hand_over(&self, graphs: &[(Part, PathBuf)]) -> Outcome {
        graphs::hand_over(self, graphs)
    }
}

pub(crate) fn from_agent(picture: &agent::Picture) -> Result<Picture, ModelError> {
    let (width, height) = (picture.width as usize, picture.height as usize);
    Picture::from_rgb(width, height, picture.rgb.to_vec())
}

pub(crate) fn to_agent(picture: &Picture) -> agent::Picture {
    agent::Picture {
        width: picture.width() as u32,
        height: picture.height() as u32,
        rgb: picture.rgb().into(),
    }
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
    let pictures = 1 + usize::from(question.before.is_some());
    let mut positions = pictures + text(&question.ask)? + longest + 1;
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
    if let Some(name) = &request.sampler {
        options.sampler = Sampler::from_name(name).ok_or_else(|| ModelError::Request {
            what: "the sampler",
            got: format!("{name:?}"),
            expected: Sampler::ALL.map(Sampler::name).join(", ") + " are accepted",
        })?;
    }
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
    let picture = drawing.picture()?;
    graphs::tell(guides.main.model());
    Ok(Drawn { picture, thought })
}

/// A seed that differs from time to time, where none is given.
fn rand_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}
