//! What the agent needs of a model.

use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::frame::Picture;

/// Why an engine did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// It was asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// It cannot do this; the text says why.
    #[error("{0}")]
    Refused(String),
}

/// Which model answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ModelInfo {
    /// Its name.
    pub name: String,
    /// The hash of its file.
    pub sha256: String,
}

/// What is asked about a picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// The question.
    pub ask: String,
    /// A picture to compare with, which comes first.
    pub before: Option<Picture>,
    /// The part of the picture that it is about: left, top, width, height in pixels.
    pub region: Option<[usize; 4]>,
    /// What the answer looks like.
    pub form: Form,
    /// Pictures with the answers that are expected for them.
    pub examples: Vec<Example>,
}

/// What an answer looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Form {
    /// Words as they come.
    #[default]
    Text,
    /// JSON text that this JSON Schema accepts.
    Schema(Arc<Value>),
    /// `yes` or `no`.
    YesOrNo,
}

/// A picture with the answer that is expected for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The picture.
    pub picture: Picture,
    /// The answer, as the model is to write it.
    pub answer: String,
}

/// What is to be drawn. What is left out is the model's default.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawRequest {
    /// What is in the picture.
    pub prompt: String,
    /// Width and height in pixels.
    pub size: Option<(usize, usize)>,
    /// Steps.
    pub steps: Option<usize>,
    /// Guidance scale.
    pub guidance: Option<f32>,
    /// How steps are taken, by the model's own name for it.
    pub sampler: Option<String>,
    /// Where the noise comes from.
    pub seed: Option<u64>,
    /// How many drawings may be made until one shows what was asked for ([`crate::attempts`]): at least 1.
    /// An engine makes one.
    pub tries: usize,
    /// Whether progress carries a small picture of how far it is.
    pub preview: bool,
}

impl Default for DrawRequest {
    fn default() -> Self {
        DrawRequest {
            prompt: String::new(),
            size: None,
            steps: None,
            guidance: None,
            sampler: None,
            seed: None,
            tries: 1,
            preview: false,
        }
    }
}

impl DrawRequest {
    /// The same with other noise: that of the try of this number, from 0.
    #[must_use]
    pub fn attempt(&self, number: usize) -> Self {
        DrawRequest {
            seed: self.seed.map(|seed| seed.wrapping_add(number as u64)),
            ..self.clone()
        }
    }
}

/// A step of a drawing that has been taken.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Steps done, from 1.
    pub done: usize,
    /// All steps.
    pub of: usize,
    /// Makes a small picture of how far it is; none where the model cannot.
    pub preview: &'a dyn Fn() -> Option<Picture>,
}

/// Gets each step of a drawing, and may stop it.
pub type Progress<'a> = &'a mut dyn FnMut(Step<'_>) -> ControlFlow<()>;

/// Sees and draws. Both block while they compute; the agent calls them from a thread of its own.
/// Work is cancelled by returning [`ControlFlow::Break`] from its callback.
pub trait Engine: Send + Sync {
    /// Which model it is.
    fn model(&self) -> ModelInfo;

    /// Whether a question can be answered at all: the schema of its answer, the lengths. Nothing is
    /// looked at.
    ///
    /// # Errors
    /// [`EngineError::Refused`] with the reason.
    fn check(&self, question: &Question) -> Result<(), EngineError>;

    /// Answers a question about a picture; the answer has the question's form. `on_text` gets the answer piece by piece.
    ///
    /// # Errors
    /// [`EngineError`].
    fn see(
        &self,
        picture: &Picture,
        question: &Question,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String, EngineError>;

    /// Draws a picture. `progress` gets each step.
    ///
    /// # Errors
    /// [`EngineError`].
    fn draw(&self, request: &DrawRequest, progress: Progress<'_>) -> Result<Picture, EngineError>;

    /// Changes a picture; the request's prompt is the instruction.
    ///
    /// # Errors
    /// [`EngineError`].
    fn edit(
        &self,
        picture: &Picture,
        request: &DrawRequest,
        progress: Progress<'_>,
    ) -> Result<Picture, EngineError>;
}
