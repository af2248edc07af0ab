//! All parts of a model on one device.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use kinglet_kernels::{Cpu, Device, Role};

use crate::answer::Vocabulary;
use crate::autoencoder::Autoencoder;
use crate::config::Config;
use crate::context::Context;
use crate::elsewhere::Elsewhere;
use crate::error::{ModelError, Result};
use crate::footprint::cache_format;
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
    /// Latent tokens, and pixels and latents; none if the model understands only.
    drawing: Option<(Latents<D>, Autoencoder<D>)>,
    /// The bytes of its tokens, once an answer of a shape has been asked for.
    vocabulary: OnceLock<Vocabulary>,
    /// Parts that something else runs.
    pub(crate) elsewhere: Elsewhere,
}

impl Model<Cpu> {
    /// Loads a model onto this machine's processor. Where weights are quantized, keys and values need
    /// not be exact either: they are F16 then.
    ///
    /// # Errors
    /// As [`Model::load`], and if `KINGLET_KERNELS` names a set that the processor lacks.
    pub fn on_cpu(source: &Source) -> Result<Arc<Self>> {
        let cache = cache_format(source)?;
        Self::load(source, Cpu::from_environment()?.with_cache(cache))
    }
}

impl<D: Device> Model<D> {
    /// Loads a model onto a device.
    ///
    /// # Errors
    /// [`crate::ModelError`] naming the first thing that does not fit.
    pub fn load(source: &Source, device: D) -> Result<Arc<Self>> {
        Self::fits(source, &device)?;
        let loader = Loader {
            device: &device,
            source,
            audit: None,
        };
        let config = source.config.clone();
        let drawing = if config.draws {
            let latents = Latents::load(loader, &config)?;
            Some((latents, Autoencoder::load(loader, &config)?))
        } else {
            None
        };
        Ok(Arc::new(Model {
            tokenizer: source.tokenizer()?,
            vision: Vision::load(loader, &config)?,
            language: Language::load(loader, &config)?,
            drawing,
            vocabulary: OnceLock::new(),
            elsewhere: Elsewhere::default(),
            config,
            device,
        }))
    }

    /// Everything that is wrong with a checkpoint, not only the first. Weights are not read.
    pub fn audit(source: &Source, device: &D) -> Vec<ModelError> {
        if let Err(e) = Self::fits(source, device) {
            return vec![e];
        }
        let audit = Audit::default();
        Self::load_for(&audit, source, device);
        audit.finish(source)
    }

    /// What every tensor of a sound checkpoint is for.
    pub fn roles(source: &Source, device: &D) -> BTreeMap<String, Role> {
        let audit = Audit::default();
        Self::load_for(&audit, source, device);
        audit.roles()
    }

    /// Whether the container is packed for another device.
    fn fits(source: &Source, device: &D) -> Result<()> {
        match (&source.packed, device.layout()) {
            (Some(packed), layout) if layout != Some(&packed.layout) => Err(ModelError::Packed {
                source_name: source.name.clone(),
                layout: packed.layout.clone(),
                here: match layout {
                    Some(layout) => format!(
                        "this machine's kernels read \"{layout}\": use the container that it was made of, or pack that one here"
                    ),
                    None => "this device reads no packed weights".to_owned(),
                },
            }),
            _ => Ok(()),
        }
    }

    fn load_for(audit: &Audit, source: &Source, device: &D) {
        let loader = Loader {
            device,
            source,
            audit: Some(audit),
        };
        let config = &source.config;
        let mut parts = vec![
            source.tokenizer().map(drop),
            Vision::load(loader, config).map(drop),
            Language::load(loader, config).map(drop),
        ];
        if config.draws {
            parts.push(Latents::load(loader, config).map(drop));
            parts.push(Autoencoder::load(loader, config).map(drop));
        }
        for e in parts.into_iter().filter_map(Result::err) {
            audit.problem(e);
        }
    }

    /// The bytes of its tokens, which answers of a shape need.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] naming what no token spells.
    pub fn vocabulary(&self) -> Result<&Vocabulary> {
        if let Some(vocabulary) = self.vocabulary.get() {
            return Ok(vocabulary);
        }
        let vocabulary = Vocabulary::new(&self.tokenizer, self.config.language.vocabulary)?;
        Ok(self.vocabulary.get_or_init(|| vocabulary))
    }

    /// Latent tokens.
    ///
    /// # Errors
    /// [`ModelError::CannotDraw`] if the model understands only.
    pub fn latents(&self) -> Result<&Latents<D>> {
        self.drawing().map(|(latents, _)| latents)
    }

    /// Pixels and latents.
    ///
    /// # Errors
    /// As [`Model::latents`].
    pub fn autoencoder(&self) -> Result<&Autoencoder<D>> {
        self.drawing().map(|(_, autoencoder)| autoencoder)
    }

    fn drawing(&self) -> Result<&(Latents<D>, Autoencoder<D>)> {
        let drawing = self.drawing.as_ref();
        drawing.ok_or_else(|| ModelError::cannot_draw(&self.config.name))
    }

    /// An empty context.
    pub fn context(self: &Arc<Self>) -> Context<D> {
        Context::new(Arc::clone(self))
    }
}
