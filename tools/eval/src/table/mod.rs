//! A table of what compression costs: many variants of one model, on the same scenes, prompts and noise.
//!
//! Thousands of pictures are too many for a program that is started for each, so the model is linked
//! here and loaded once a variant. What is measured is kept in a folder, a line for each scene: a run
//! that was interrupted goes on, and a variant that is added later is compared with the others.
//!
//! # Layout
//! - [`variants`]: what is compared.
//! - [`work`]: makes a variant, lets it look and draw, keeps what came out.
//! - [`paired`]: differences on the same scenes, with their intervals.
//! - [`print`](mod@print): the tables; [`plot`]: the figures.

pub mod paired;
pub mod plot;
pub mod print;
pub mod variants;
pub mod work;

use std::path::PathBuf;

use crate::error::{Result, data_error};

/// What is measured, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// The model that all variants are made of.
    pub source: PathBuf,
    /// The variants.
    pub variants: PathBuf,
    /// Scenes and prompts (tools/train/held_out.py).
    pub scenes: PathBuf,
    /// Who judges drawings.
    pub judges: Vec<PathBuf>,
    /// Where results are kept.
    pub folder: PathBuf,
    /// At most so many scenes.
    pub looks: usize,
    /// At most so many drawings of each category.
    pub drawings: usize,
    /// Steps of a drawing instead of the variant's own.
    pub steps: Option<usize>,
    /// Only groups whose name begins so; the source is always there.
    pub only: String,
}

/// Measures what is missing, prints the tables and writes the figures.
///
/// # Errors
/// [`crate::EvalError`] if a variant cannot be made or run.
pub fn run(options: &Options) -> Result<String> {
    let all = variants::read(&options.variants)?;
    let tasks = work::Tasks::of(options)?;
    let mut measured = Vec::new();
    for variant in all.into_iter().filter(|v| v.is_in(&options.only)) {
        let results = work::measure(options, &tasks, &variant)?;
        measured.push((variant, results));
        // Written after each: a look into the folder shows how far it is.
        let text = print::tables(&measured);
        let page = options.folder.join("table.md");
        std::fs::write(&page, &text).map_err(|e| data_error(&page, e))?;
    }
    plot::figures(&measured, &options.folder)?;
    Ok(print::tables(&measured))
}
