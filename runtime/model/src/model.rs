//! All parts of a model on one device.

use std::sync::Arc;

use kinglet_kernels::Device;

use crate::autoencoder::Autoencoder;
use crate::config::Config;
use crate::context::Context;
use crate::error::{ModelError, Result};
use crate::language::Language;
use crate::latent::Latents;
use crate::linear::{Audit, Loader};
use crate::source::Source;
use crate::tokenizer::Tokenizer;
use crate::vision::Vision;

/// A loaded model. It does not change; what a conversation needs is in [`Context`].
pub struct Model<D: Device> {
    /// Where it runs.
    pub device: D,
    /// Sizes and defaults.
    pub config: Config,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// The vision encoder.
    pub vision: Vision<D>,
    /// The language half.
    pub language: Language<D>,
    /// Latent tokens.
    pub latents: Latents<D>,
    /// Pixels and latents.
    pub autoencoder: Autoencoder<D>,
}

impl<D: Device> Model<D> {
    /// Loads a model onto a device.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the first thing that does not fit.
    pub fn load(source: &Source, device: D) -> Result<Arc<Self>> {
        let loader = Loader {
            device: &device,
            source,
            audit: None,
        };
        let config = source.config.clone();
        Ok(Arc::new(Model {
            tokenizer: source.tokenizer()?,
            vision: Vision::load(loader, &config)?,
            language: Language::load(loader, &config)?,
            latents: Latents::load(loader, &config)?,
            autoencoder: Autoencoder::load(loader, &config)?,
            config,
            device,
        }))
    }

    /// Everything that is wrong with a checkpoint, not only the first. Weights are not read.
    pub fn audit(source: &Source, device: &D) -> Vec<ModelError> {
        let audit = Audit::default();
        let loader = Loader {
            device,
            source,
            audit: Some(&audit),
        };
        let config = &source.config;
        let parts = [
            source.tokenizer().map(drop),
            Vision::load(loader, config).map(drop),
            Language::load(loader, config).map(drop),
            Latents::load(loader, config).map(drop),
            Autoencoder::load(loader, config).map(drop),
        ];
        for e in parts.into_iter().filter_map(Result::err) {
            audit.problem(e);
        }
        audit.finish(source)
    }

    /// An empty context.
    pub fn context(self: &Arc<Self>) -> Context<D> {
        Context::new(Arc::clone(self))
    }
}
