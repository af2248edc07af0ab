//! Running `kinglet`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The result of an evaluation.
pub type Result<T> = std::result::Result<T, EvalError>;

/// Why something could not be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The program cannot be run, or failed.
    #[error("{program} {arguments}: {reason}")]
    Program {
        /// The program.
        program: String,
        /// What it was asked.
        arguments: String,
        /// What went wrong.
        reason: String,
    },
    /// A file of this crate cannot be used.
    #[error("{path}: {reason}")]
    Data {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A model cannot be run.
    #[error(transparent)]
    Model(#[from] kinglet_model::ModelError),
    /// A variant cannot be made.
    #[error(transparent)]
    Quant(#[from] kinglet_quant::QuantError),
    /// A referee does not fit together.
    #[error(transparent)]
    Kernel(#[from] kinglet_kernels::KernelError),
    /// A referee's file is not sound.
    #[error(transparent)]
    Container(#[from] kinglet_container::ContainerError),
}

/// The program that is evaluated.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    /// The model, if not the bundled one.
    model: Option<PathBuf>,
}

impl Program {
    /// The program at `path` with its bundled model, or `model`.
    pub fn new(path: &Path, model: Option<&Path>) -> Self {
        Program {
            path: path.to_owned(),
            model: model.map(Path::to_owned),
        }
    }

    /// Runs it with `--json` and returns its one object.
    ///
    /// # Errors
    /// [`EvalError::Program`] if it does not end with exit code 0 and an object.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(&self.path);
        command
            .arg("--json")
            .args(arguments)
            .env_remove("KINGLET_MODEL");
        if let Some(model) = &self.model {
            command.env("KINGLET_MODEL", model);
        }
        let refuse = |reason: String| EvalError::Program {
            program: self.path.display().to_string(),
            arguments: arguments.join(" "),
            reason,
        };
        let output = command.output().map_err(|e| refuse(e.to_string()))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(refuse(text.trim().to_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| refuse(e.to_string()))
    }
}

/// A problem with a file of this crate.
pub(crate) fn data_error(path: &Path, reason: impl ToString) -> EvalError {
    EvalError::Data {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}
