//! Drawing: flow matching from noise to a picture.

use std::ops::ControlFlow;

use kinglet_kernels::{Device, RenormSpan};

use crate::autoencoder::to_bytes;
use crate::config::{Config, Renorm};
use crate::context::Context;
use crate::error::{ModelError, Result};
use crate::observe::Observer;
use crate::picture::Picture;
use crate::preview;
use crate::recipes::Guides;
use crate::sampling::normal;
use crate::schedule::timesteps;
use crate::solver::{Before, Sampler};
use crate::taylor::{MOST_DERIVATIVES, Taylor};

/// The most points in time of a drawing.
pub const MOST_TIMESTEPS: usize = 1000;

/// How a velocity is guided away from what the picture would be without the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Guidance {
    /// Scale of the prompt; at most 1 means no guidance.
    pub text_scale: f32,
    /// Scale of the pictures of an edit; at most 1 means no guidance by them. Without text guidance
    /// there is none either.
    pub picture_scale: f32,
    /// Guidance is applied where `low < t <= high`, `t` being shifted.
    pub interval: (f32, f32),
    /// How the guided velocity is scaled back.
    pub renorm: Renorm,
    /// The least factor of scaling back; 1 turns it off.
    pub renorm_min: f32,
    /// It is computed anew every so many guided velocities; between them what it last added is added again. At
    /// least 1.
    pub every: usize,
}

/// What can be chosen about a drawing.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawOptions {
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// Points in time, the end included: one more than there are steps.
    pub timesteps: usize,
    /// Timestep shift.
    pub shift: f32,
    /// Guidance.
    pub guidance: Guidance,
    /// How steps are taken.
    pub sampler: Sampler,
    /// Where the noise comes from.
    pub seed: u64,
    /// Most passes are replaced by predictions (TaylorSeer) with derivatives up to this one.
    pub predict: Option<usize>,
}

impl DrawOptions {
    /// The model's own defaults.
    pub fn defaults(config: &Config) -> Self {
        let d = &config.draw;
        DrawOptions {
            size: (config.latent.rule.max, config.latent.rule.max),
            timesteps: d.timesteps,
            shift: d.shift,
            guidance: Guidance {
                text_scale: d.guidance,
                picture_scale: 1.0,
                interval: d.interval,
                renorm: d.renorm,
                renorm_min: d.renorm_min,
                every: 1,
            },
            sampler: d.sampler,
            seed: 0,
            predict: None,
        }
    }

    /// The model's own defaults for editing, at this size.
    pub fn edit_defaults(config: &Config, size: (usize, usize)) -> Self {
        let mut options = DrawOptions {
            size,
            ..Self::defaults(config)
        };
        options.guidance = Guidance {
            text_scale: config.edit.guidance,
            picture_scale: config.edit.picture_guidance,
            interval: (0.0, 1.0),
            renorm: config.edit.renorm,
            renorm_min: 0.0,
            every: 1,
        };
        options
    }

    /// Steps of the solver.
    pub fn steps(&self) -> usize {
        self.timesteps - 1
    }

    /// Checks every option against the model.
    ///
    /// # Errors
    /// [`ModelError::Request`] naming the first that cannot be.
    pub fn check(&self, config: &Config) -> Result<()> {
        let refuse = |what, got: String, expected: String| {
            Err(ModelError::Request {
                what,
                got,
                expected,
            })
        };
        let unit = config.latent.token_pixels();
        let largest = unit * config.latent.position_side;
        let (w, h) = self.size;
        if [w, h]
            .iter()
            .any(|s| *s == 0 || *s > largest || !s.is_multiple_of(unit))
        {
            return refuse(
                "the size",
                format!("{w}x{h}"),
                format!("sides must be multiples of {unit} from {unit} to {largest}"),
            );
        }
        if self.timesteps < 2 || self.timesteps > MOST_TIMESTEPS {
            return refuse(
                "the number of steps",
                self.timesteps.saturating_sub(1).to_string(),
                format!("1 to {} are accepted", MOST_TIMESTEPS - 1),
            );
        }
        if !(self.shift.is_finite() && self.shift > 0.0) {
            let expected = "a positive number is expected".to_owned();
            return refuse("the timestep shift", self.shift.to_string(), expected);
        }
        for scale in [self.guidance.text_scale, self.guidance.picture_scale] {
            if !(0.0..=100.0).contains(&scale) {
                let expected = "0 to 100 are accepted".to_owned();
                return refuse("the guidance", scale.to_string(), expected);
            }
        }
        if self.guidance.every == 0 {
            return refuse(
                "the velocities for which guidance is kept",
                "0".to_owned(),
                "at least 1 is expected".to_owned(),
            );
        }
        if let Some(order) = self.predict.filter(|order| *order > MOST_DERIVATIVES) {
            return refuse(
                "the derivative of predictions",
                order.to_string(),
                format!("0 to {MOST_DERIVATIVES} are accepted"),
            );
        }
        Ok(())
    }
}

/// A drawing in progress: latent tokens and the contexts that guide them.
pub struct Drawing<'a, D: Device> {
    main: Pass<'a, D>,
    unprompted: Pass<'a, D>,
    pictureless: Option<Pass<'a, D>>,
    options: &'a DrawOptions,
    times: Vec<f32>,
    /// Rows and columns in tokens.
    grid: (usize, usize),
    x: D::Buffer,
    /// Of the step before, for solvers that look back.
    before: Option<Before<D>>,
    /// What guidance last added, and for how many velocities more it is kept.
    kept: Option<(D::Buffer, usize)>,
}

/// A step that has been taken.
pub struct Step<'s, 'a, D: Device> {
    /// Steps done, from 1.
    pub done: usize,
    /// All steps.
    pub of: usize,
    drawing: &'s Drawing<'a, D>,
    velocity: D::Buffer,
}

impl<D: Device> Step<'_, '_, D> {
    /// What the picture would be if the velocity stayed as it is, one pixel a latent pixel; none
    /// where the model has no map for it. Costs a copy of the latents.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn preview(&self) -> Result<Option<Picture>> {
        let drawing = self.drawing;
        let model = drawing.main.context.model();
        let latent = &model.config.latent;
        let Some(map) = &latent.preview else {
            return Ok(None);
        };
        let d = &model.device;
        let mut end = d.copy(&drawing.x)?;
        d.add_scaled(&mut end, -drawing.times[self.done], &self.velocity)?;
        let (rows, columns) = drawing.grid;
        let latents = d.download(&model.latents()?.unpack(d, &end, rows, columns)?)?;
        preview::picture(map, &latents, columns * latent.patch, rows * latent.patch).map(Some)
    }
}

/// One context of a drawing, and what it remembers of its passes.
struct Pass<'a, D: Device> {
    context: &'a Context<D>,
    taylor: Option<Taylor<D>>,
    passes: usize,
}

impl<'a, D: Device> Pass<'a, D> {
    fn new(context: &'a Context<D>, options: &DrawOptions) -> Self {
        Pass {
            context,
            passes: 0,
            taylor: options.predict.map(Taylor::new),
        }
    }

    fn velocity(
        &mut self,
        x: &D::Buffer,
        t: f32,
        grid: (usize, usize),
        observer: &mut Observer<'_, D>,
    ) -> Result<D::Buffer> {
        match &mut self.taylor {
            Some(taylor) => self.context.predicted_velocity(x, t, grid, taylor),
            None => {
                self.passes += 1;
                self.context.velocity(x, t, grid, observer)
            }
        }
    }

    /// Passes through the model so far.
    fn passes(&self) -> usize {
        let predicting = self.taylor.as_ref().map_or(0, Taylor::computed);
        self.passes + predicting
    }
}

impl<'a, D: Device> Drawing<'a, D> {
    /// Starts from noise that the seed gives.
    ///
    /// # Errors
    /// [`ModelError::Request`] if an option cannot be.
    pub fn new(guides: &'a Guides<D>, options: &'a DrawOptions) -> Result<Self> {
        let config = &guides.main.model().config;
        options.check(config)?;
        let pixels = config.latent.token_pixels();
        let tokens = options.size.0 / pixels * (options.size.1 / pixels);
        let noise = normal(options.seed, tokens * config.latent.token_values());
        Self::from_noise(guides, options, &noise)
    }

    /// Starts from this noise, `[tokens, values]`.
    ///
    /// # Errors
    /// [`ModelError::Request`] if an option cannot be; what the device refuses.
    pub fn from_noise(
        guides: &'a Guides<D>,
        options: &'a DrawOptions,
        noise: &[f32],
    ) -> Result<Self> {
        let model = guides.main.model();
        options.check(&model.config)?;
        model.latents()?;
        let latent = &model.config.latent;
        let pixels = latent.token_pixels();
        Ok(Drawing {
            main: Pass::new(&guides.main, options),
            unprompted: Pass::new(&guides.unprompted, options),
            pictureless: guides.pictureless.as_ref().map(|c| Pass::new(c, options)),
            options,
            times: timesteps(options.timesteps, options.shift),
            grid: (options.size.1 / pixels, options.size.0 / pixels),
            x: model.device.upload(noise, latent.token_values())?,
            before: None,
            kept: None,
        })
    }

    /// The shifted points in time, the end included.
    pub fn times(&self) -> &[f32] {
        &self.times
    }

    /// The latent tokens as they are now.
    pub fn latents(&self) -> &D::Buffer {
        &self.x
    }

    /// Passes through the model so far, of all contexts.
    pub fn passes(&self) -> usize {
        let pictureless = self.pictureless.as_ref().map_or(0, Pass::passes);
        self.main.passes() + self.unprompted.passes() + pictureless
    }

    /// Whether guidance is applied at time `t`.
    pub fn guided(&self, t: f32) -> bool {
        let g = &self.options.guidance;
        g.text_scale > 1.0 && t > g.interval.0 && t <= g.interval.1
    }

    /// The velocity at time `t`, guided where guidance applies (docs/model.md, 3.11).
    ///
    /// # Errors
    /// What the device refuses.
    pub fn velocity(&mut self, t: f32) -> Result<D::Buffer> {
        self.observed_velocity(t, &mut None)
    }

    fn observed_velocity(&mut self, t: f32, observer: &mut Observer<'_, D>) -> Result<D::Buffer> {
        let plain = self.main.velocity(&self.x, t, self.grid, observer)?;
        if !self.guided(t) {
            return Ok(plain);
        }
        let d = &self.main.context.model().device;
        let g = &self.options.guidance;
        if let Some((added, left @ 1..)) = &mut self.kept {
            *left -= 1;
            let mut guided = plain;
            d.add_scaled(&mut guided, 1.0, added)?;
            return Ok(guided);
        }
        let unprompted = self.unprompted.velocity(&self.x, t, self.grid, observer)?;
        let pictureless = match &mut self.pictureless {
            Some(pass) if g.picture_scale > 1.0 => {
                Some(pass.velocity(&self.x, t, self.grid, observer)?)
            }
            _ => None,
        };
        let mut guided = d.copy(&plain)?;
        d.extrapolate(&mut guided, &unprompted, g.text_scale)?;
        if g.renorm == Renorm::TextChannel {
            d.renorm(&mut guided, &plain, g.renorm_min, RenormSpan::Row)?;
        }
        if let Some(pictureless) = &pictureless {
            d.extrapolate(&mut guided, pictureless, g.picture_scale)?;
        }
        match g.renorm {
            Renorm::Global => d.renorm(&mut guided, &plain, g.renorm_min, RenormSpan::Whole)?,
            Renorm::Channel => d.renorm(&mut guided, &plain, g.renorm_min, RenormSpan::Row)?,
            Renorm::TextChannel => {}
        }
        if g.every > 1 {
            let mut added = d.copy(&guided)?;
            d.add_scaled(&mut added, -1.0, &plain)?;
            self.kept = Some((added, g.every - 1));
        }
        Ok(guided)
    }

    /// Step number `i`, from `t_i` to `t_{i+1}`. Returns the velocity at its beginning.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn step(&mut self, i: usize) -> Result<D::Buffer> {
        self.observed_step(i, &mut None)
    }

    /// As [`Drawing::step`]; the observer sees the passes of every context, one after another.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn observed_step(&mut self, i: usize, observer: &mut Observer<'_, D>) -> Result<D::Buffer> {
        let span = (self.times[i], self.times[i + 1]);
        let sampler = self.options.sampler;
        let velocity = self.observed_velocity(span.0, observer)?;
        let d = &self.main.context.model().device;
        sampler.advance(d, &mut self.x, span, &velocity, &mut self.before)?;
        if sampler.looks_ahead(span.1) {
            let ahead = self.observed_velocity(span.1, observer)?;
            let d = &self.main.context.model().device;
            Sampler::correct(d, &mut self.x, span, &velocity, &ahead)?;
        }
        Ok(velocity)
    }

    /// Takes all steps. `progress` gets each when it is done and may stop; the contexts stay usable.
    ///
    /// # Errors
    /// [`ModelError::Cancelled`] if `progress` stopped it.
    pub fn run(
        &mut self,
        progress: &mut dyn FnMut(&Step<'_, '_, D>) -> ControlFlow<()>,
    ) -> Result<()> {
        for i in 0..self.options.steps() {
            let velocity = self.step(i)?;
            let step = Step {
                done: i + 1,
                of: self.options.steps(),
                drawing: self,
                velocity,
            };
            if progress(&step).is_break() {
                return Err(ModelError::Cancelled);
            }
        }
        Ok(())
    }

    /// Decodes the latents to a picture.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn picture(&self) -> Result<Picture> {
        let model = self.main.context.model();
        let d = &model.device;
        let (rows, columns) = self.grid;
        let patch = model.config.latent.patch;
        let latents = model.latents()?.unpack(d, &self.x, rows, columns)?;
        let bytes = to_bytes(&model.paint(&latents, rows * patch, columns * patch)?);
        Picture::from_rgb(self.options.size.0, self.options.size.1, bytes)
    }
}
