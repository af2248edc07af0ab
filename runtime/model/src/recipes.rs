//! The contexts that a drawing, an edit and a thought need (docs/model.md, 2.3).

use std::ops::ControlFlow;
use std::sync::Arc;

use kinglet_kernels::Device;

use crate::context::{Context, WriteOptions};
use crate::error::Result;
use crate::model::Model;
use crate::picture::Picture;

/// What makes the model think before it answers.
pub const THINK_TO_ANSWER: &str = "You should first think about the reasoning process in the mind and then provide the user with the answer. \nThe reasoning process is enclosed within <think> </think> tags, i.e. <think> reasoning process here </think> answer here";
/// What makes the model think before it draws.
pub const THINK_TO_DRAW: &str = "You should first think about the planning process in the mind and then generate the image. \nThe planning process is enclosed within <think> </think> tags, i.e. <think> planning process here </think> image here";

/// What tells the model that the second of two pictures is a part of the first.
pub const PART_OF_PICTURE: &str = "The second picture is a part of the first.";

/// The context of a question about a picture, or about a part of it (left, top, width, height):
/// then the part comes beside the whole, with the words that say so. `think` puts the request to
/// think before all. `examples` are pictures with the answers to the same question that are expected
/// for them; they come first. `before` is a picture to compare with.
///
/// # Errors
/// [`crate::ModelError`] if the picture, the part or the question cannot be used.
pub fn to_answer<D: Device>(
    model: &Arc<Model<D>>,
    examples: &[(Picture, &str)],
    before: Option<&Picture>,
    picture: &Picture,
    region: Option<[usize; 4]>,
    question: &str,
    think: bool,
) -> Result<Context<D>> {
    let part = region.map(|r| picture.crop(r)).transpose()?;
    let mut context = model.context();
    if think {
        context.push_text(THINK_TO_ANSWER)?;
    }
    for (picture, answer) in examples {
        context.push_image(picture)?;
        context.push_text(question)?;
        context.push_text(answer)?;
    }
    if let Some(before) = before {
        context.push_image(before)?;
    }
    context.push_image(picture)?;
    if let Some(part) = part {
        context.push_image(&part)?;
        context.push_text(PART_OF_PICTURE)?;
    }
    context.push_text(question)?;
    Ok(context)
}

/// A drawing's context and those that guide it.
pub struct Guides<D: Device> {
    /// Everything.
    pub main: Context<D>,
    /// Without the prompt: what text guidance leads away from.
    pub unprompted: Context<D>,
    /// Without pictures: what picture guidance leads away from. None where there are no pictures.
    pub pictureless: Option<Context<D>>,
}

impl<D: Device> Guides<D> {
    /// For drawing from a prompt; `think` puts the request to think before it.
    ///
    /// # Errors
    /// [`crate::ModelError::Request`] if a text is too long, [`crate::ModelError::CannotDraw`].
    pub fn to_draw(model: &Arc<Model<D>>, prompt: &str, think: bool) -> Result<Self> {
        model.latents()?;
        let mut main = model.context();
        if think {
            main.push_text(THINK_TO_DRAW)?;
        }
        let unprompted = main.fork();
        main.push_text(prompt)?;
        Ok(Guides {
            main,
            unprompted,
            pictureless: None,
        })
    }

    /// For editing a picture. Also the picture as it was resized, whose size is the result's.
    ///
    /// # Errors
    /// [`crate::ModelError`] if the picture or a text cannot be used.
    pub fn to_edit(
        model: &Arc<Model<D>>,
        picture: &Picture,
        instruction: &str,
        seed: u64,
        think: bool,
    ) -> Result<(Self, Picture)> {
        model.latents()?;
        let mut main = model.context();
        if think {
            main.push_text(THINK_TO_DRAW)?;
        }
        let mut pictureless = main.fork();
        let resized = main.push_reference(picture, seed)?;
        let unprompted = main.fork();
        main.push_text(instruction)?;
        pictureless.push_text(instruction)?;
        let guides = Guides {
            main,
            unprompted,
            pictureless: Some(pictureless),
        };
        Ok((guides, resized))
    }

    /// Lets the model think: the thought is decoded on a fork and then appended to the main context
    /// alone, as a text.
    ///
    /// # Errors
    /// As [`Context::write`].
    pub fn think(
        &mut self,
        options: &WriteOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<String> {
        let thought = self.main.fork().write(options, on_text)?.text;
        self.main.push_text(&thought)?;
        Ok(thought)
    }
}
