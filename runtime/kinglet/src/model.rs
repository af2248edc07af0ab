//! Which model is loaded, and from where.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kinglet_agent::ModelInfo;
use kinglet_model::Source;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome};

/// The bundled model.
static BUNDLED: &[u8] = include_bytes!("../../assets/kinglet-tiny.gguf");
/// What errors call it.
const BUNDLED_NAME: &str = "the bundled model";

/// Opens the model at `path`, or the bundled one.
pub(crate) fn open(path: Option<&Path>) -> Outcome<Source> {
    Ok(match path {
        Some(path) => Source::open(path)?,
        None => Source::from_bytes(Bytes::from_static(BUNDLED), BUNDLED_NAME)?,
    })
}

/// Name and hash of a model, as events carry them.
pub(crate) fn info(source: &Source, path: Option<&Path>) -> Outcome<ModelInfo> {
    let mut hash = Sha256::new();
    match path {
        None => hash.update(BUNDLED),
        Some(path) => {
            for file in files(path) {
                let mut file = std::fs::File::open(&file)
                    .map_err(|e| Failure::new(format_args!("{}: {e}", file.display())))?;
                std::io::copy(&mut file, &mut hash)?;
            }
        }
    }
    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(ModelInfo {
        name: source.config.name.clone(),
        sha256,
    })
}

/// The files that hold a model's weights.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() {
        vec![path.join("ema.safetensors"), path.join("ae.safetensors")]
    } else {
        vec![path.to_owned()]
    }
}
