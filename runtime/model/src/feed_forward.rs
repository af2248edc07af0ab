//! The feed-forward networks of the language half, dense or of experts.

use kinglet_kernels::{Device, Expert};

use crate::config::{ExpertsConfig, LanguageConfig};
use crate::error::Result;
use crate::language::Block;
use crate::linear::{Linear, Loader};
use crate::observe::{Observer, Stage, show};

/// A dense feed-forward network: `down(silu(gate x) * up x)`.
struct Dense<D: Device> {
    gate: Linear<D>,
    up: Linear<D>,
    down: Linear<D>,
}

impl<D: Device> Dense<D> {
    fn load(
        loader: Loader<'_, D>,
        names: [String; 3],
        hidden: usize,
        inner: usize,
    ) -> Result<Self> {
        let [gate, up, down] = names;
        Ok(Dense {
            gate: loader.linear_without_bias(&gate, inner, hidden)?,
            up: loader.linear_without_bias(&up, inner, hidden)?,
            down: loader.linear_without_bias(&down, hidden, inner)?,
        })
    }

    fn apply(&self, d: &D, x: &D::Buffer) -> Result<D::Buffer> {
        let inner = Linear::gated(&self.gate, &self.up, d, x)?;
        self.down.apply(d, &inner)
    }
}

/// A sparse feed-forward network (docs/model.md, 4.3).
struct Sparse<D: Device> {
    router: Linear<D>,
    /// Routes the patches of a picture to understand.
    picture_router: Option<Linear<D>>,
    gate: Vec<D::Weight>,
    up: Vec<D::Weight>,
    down: Vec<D::Weight>,
    used: usize,
    /// The gate and the expert that every token uses.
    shared: Option<(Linear<D>, Dense<D>)>,
}

impl<D: Device> Sparse<D> {
    fn load(
        loader: Loader<'_, D>,
        name: impl Fn(&str) -> String,
        hidden: usize,
        experts: ExpertsConfig,
    ) -> Result<Self> {
        let ExpertsConfig { count, used, .. } = experts;
        let router = |part: &str| loader.linear_without_bias(&name(part), count, hidden);
        let picture_router = if loader.has(&format!("{}.weight", name("ffn_gate_inp_img"))) {
            Some(router("ffn_gate_inp_img")?)
        } else {
            None
        };
        let shared = format!("{}.weight", name("ffn_gate_shexp"));
        let shared = if loader.has(&shared) {
            let inner = loader.source.stored(&shared)?.shape.first().copied();
            let names = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"].map(&name);
            let gate = loader.linear_without_bias(&name("ffn_gate_inp_shexp"), 1, hidden)?;
            Some((
                gate,
                Dense::load(loader, names, hidden, inner.unwrap_or(0))?,
            ))
        } else {
            None
        };
        Ok(Sparse {
            router: router("ffn_gate_inp")?,
            picture_router,
            gate: loader.experts(&name("ffn_gate_exps"), count, 0, hidden)?,
            up: loader.experts(&name("ffn_up_exps"), count, 0, hidden)?,
            down: loader.experts(&name("ffn_down_exps"), count, hidden, 0)?,
            used,
            shared,
        })
    }

    fn logits(&self, d: &D, x: &D::Buffer, block: Block) -> Result<D::Buffer> {
        let mut logits = self.router.apply(d, x)?;
        if let (Block::Picture, Some(router)) = (block, &self.picture_router) {
            // The markers around the patches are text.
            let (rows, _) = d.shape(x);
            let patches: Vec<u32> = (1..rows.saturating_sub(1) as u32).collect();
            let routed = router.apply(d, &d.gather_rows(x, &patches)?)?;
            d.scatter_rows(&mut logits, &routed, &patches)?;
        }
        Ok(logits)
    }

    fn apply(&self, d: &D, x: &D::Buffer, logits: &D::Buffer) -> Result<D::Buffer> {
        let experts: Vec<Expert<'_, D::Weight>> = (0..self.gate.len())
            .map(|e| Expert {
                gate: &self.gate[e],
                up: &self.up[e],
                down: &self.down[e],
            })
            .collect();
        let mut y = d.mixture(x, logits, &experts, self.used)?;
        if let Some((gate, expert)) = &self.shared {
            let mut shared = expert.apply(d, x)?;
            d.scale_rows(&mut shared, &gate.apply(d, x)?)?;
            d.add(&mut y, &shared)?;
        }
        Ok(y)
    }
}

enum Network<D: Device> {
    Dense(Dense<D>),
    Sparse(Sparse<D>),
}

/// A branch's feed-forward network and the norm before it.
pub(crate) struct FeedForward<D: Device> {
    norm: D::Weight,
    network: Network<D>,
}

impl<D: Device> FeedForward<D> {
    pub(crate) fn load(
        loader: Loader<'_, D>,
        name: impl Fn(&str) -> String,
        c: &LanguageConfig,
        experts: ExpertsConfig,
        width: usize,
    ) -> Result<Self> {
        let norm = loader.vector(&name("ffn_norm"), c.hidden)?;
        let network = if loader.has(&format!("{}.weight", name("ffn_gate_inp"))) {
            Network::Sparse(Sparse::load(loader, name, c.hidden, experts)?)
        } else {
            let names = ["ffn_gate", "ffn_up", "ffn_down"].map(name);
            Network::Dense(Dense::load(loader, names, c.hidden, width)?)
        };
        Ok(FeedForward { norm, network })
    }

    /// Adds to the rows of a layer what the network says of their norms.
    pub(crate) fn add_to(
        &self,
        d: &D,
        layer: usize,
        epsilon: f32,
        block: Block,
        x: &mut D::Buffer,
        observer: &mut Observer<'_, D>,
    ) -> Result<()> {
        let n = d.rms_norm(x, &self.norm, epsilon)?;
        let y = match &self.network {
            Network::Dense(dense) => dense.apply(d, &n)?,
            Network::Sparse(sparse) => {
                let logits = sparse.logits(d, &n, block)?;
                let y = sparse.apply(d, &n, &logits)?;
                show::<D>(observer, Stage::ExpertsInput(layer), &n);
                show::<D>(observer, Stage::RouterLogits(layer), &logits);
                show::<D>(observer, Stage::ExpertsOutput(layer), &y);
                y
            }
        };
        d.add(x, &y)?;
        Ok(())
    }
}
