//! What the result says about itself: its metadata, and the types and sizes of its tensors.

use kinglet_container::TensorType;
use kinglet_container::gguf::Value;
use kinglet_model::{Source, metadata};

use crate::error::{QuantError, Result};
use crate::passes::precision::Choice;
use crate::plan::{Item, Plan};
use crate::recipe::Recipe;

/// The key of the report.
pub(crate) const REPORT: &str = "kinglet.report";

/// ggml's number for "mostly Q8_0" and so on, for `general.file_type`.
fn file_type(format: &str) -> u32 {
    match format {
        "F32" => 0,
        "F16" => 1,
        "Q4_0" => 2,
        "Q4_1" => 3,
        "Q8_0" => 7,
        "Q5_0" => 8,
        "Q5_1" => 9,
        "Q2_K" => 10,
        // The next three: ggml's "small" mixtures, which are pure.
        "Q3_K" => 11,
        "Q4_K" => 14,
        "Q5_K" => 16,
        "Q6_K" => 18,
        "BF16" => 32,
        // ggml's LLAMA_FTYPE_GUESSED.
        _ => 1024,
    }
}

/// Name, type and sizes of each tensor.
pub(crate) fn tensors(items: &[Item]) -> Result<Vec<(String, TensorType, Vec<usize>)>> {
    items
        .iter()
        .map(|item| Ok((item.name.clone(), kind(&item.choice)?, item.shape.clone())))
        .collect()
}

fn kind(choice: &Choice) -> Result<TensorType> {
    let name = choice.format.name();
    let mut kinds = TensorType::ALL.iter().copied();
    kinds
        .find(|kind| kind.name() == name)
        .ok_or_else(|| QuantError::Recipe(format!("GGUF has no type \"{name}\"")))
}

/// All metadata but the report.
pub(crate) fn describe(
    source: &Source,
    recipe: &Recipe,
    plan: &Plan<'_>,
    preview: Option<Vec<f32>>,
    sha256: &str,
) -> Vec<(String, Value)> {
    let mut config = plan.config.clone();
    config.latent.preview = preview;
    if let Some(name) = &recipe.about.name {
        config.name.clone_from(name);
    }
    let mut metadata = metadata::write(&config);
    let mut put = |key: &str, value: Value| metadata.push((key.to_owned(), value));
    if let Some(license) = &recipe.about.license {
        put("general.license", license.as_str().into());
    }
    // A budget gives a mixture, which has no number.
    let default = match recipe.precision.budget {
        None => recipe.precision.default_name(),
        Some(_) => "",
    };
    put("general.file_type", file_type(default).into());
    put("general.quantization_version", 2.into());
    put(metadata::TOKENIZER, source.tokenizer.as_str().into());
    put("kinglet.recipe", recipe.text.as_str().into());
    put("kinglet.source.sha256", sha256.into());
    put("kinglet.version", env!("CARGO_PKG_VERSION").into());
    metadata
}
