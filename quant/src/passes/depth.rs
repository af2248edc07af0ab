//! How much each layer changes what passes through it (docs/model.md, 4.1): what changes least can
//! be left out.

use kinglet_kernels::Device;
use kinglet_model::observe::Stage;

/// Similarities of one layer, summed over tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    block: f64,
    attention: f64,
    feed_forward: f64,
    block_with_residual: f64,
    feed_forward_with_residual: f64,
}

/// Mean cosines over tokens, one for each layer. A layer with a high one changes little.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DepthScores {
    /// Of a layer's input and its feed-forward output, as the published code has it: without the
    /// residual.
    pub block: Vec<f64>,
    /// Of a layer's input and the stream after its attention.
    pub attention: Vec<f64>,
    /// Of the stream after attention and the feed-forward output, without the residual.
    pub feed_forward: Vec<f64>,
    /// Of a layer's input and its output: the usual score.
    pub block_with_residual: Vec<f64>,
    /// Of the stream after attention and the layer's output.
    pub feed_forward_with_residual: Vec<f64>,
}

/// Watches passes of a model and scores its layers. Give [`Watcher::see`] to the passes as observer.
pub struct Watcher<'a, D: Device> {
    device: &'a D,
    hidden: usize,
    input: Vec<f32>,
    after_attention: Vec<f32>,
    layers: Vec<(Sums, usize)>,
    failed: Option<kinglet_kernels::KernelError>,
}

impl<'a, D: Device> Watcher<'a, D> {
    /// For a model with this hidden size and number of layers.
    pub fn new(device: &'a D, hidden: usize, layers: usize) -> Self {
        Watcher {
            device,
            hidden,
            input: Vec::new(),
            after_attention: Vec::new(),
            layers: vec![(Sums::default(), 0); layers],
            failed: None,
        }
    }

    /// Takes a stage's result.
    pub fn see(&mut self, stage: Stage, x: &D::Buffer) {
        let relevant = matches!(
            stage,
            Stage::LanguageInput | Stage::LanguageAttention(_) | Stage::LanguageLayer(_)
        );
        if !relevant || self.failed.is_some() {
            return;
        }
        let x = match self.device.download(x) {
            Ok(x) => x,
            Err(e) => {
                self.failed = Some(e);
                return;
            }
        };
        match stage {
            Stage::LanguageAttention(_) => self.after_attention = x,
            Stage::LanguageLayer(layer) => {
                self.score(layer, &x);
                self.input = x;
            }
            _ => self.input = x,
        }
    }

    fn score(&mut self, layer: usize, output: &[f32]) {
        let Some((sums, tokens)) = self.layers.get_mut(layer) else {
            return;
        };
        let rows = |x: &'_ [f32]| -> Vec<Vec<f32>> {
            x.chunks_exact(self.hidden).map(<[f32]>::to_vec).collect()
        };
        let (inputs, middles, outputs) =
            (rows(&self.input), rows(&self.after_attention), rows(output));
        for ((a, r), y) in inputs.iter().zip(&middles).zip(&outputs) {
            let f: Vec<f32> = y.iter().zip(r).map(|(y, r)| y - r).collect();
            sums.block += cosine(a, &f);
            sums.attention += cosine(a, r);
            sums.feed_forward += cosine(r, &f);
            sums.block_with_residual += cosine(a, y);
            sums.feed_forward_with_residual += cosine(r, y);
            *tokens += 1;
        }
    }

    /// The scores of everything that was seen.
    ///
    /// # Errors
    /// What the device refused while results were read.
    pub fn scores(self) -> Result<DepthScores, kinglet_kernels::KernelError> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        let mean = |f: fn(&Sums) -> f64| {
            let share = |(sums, tokens): &(Sums, usize)| f(sums) / (*tokens).max(1) as f64;
            self.layers.iter().map(share).collect()
        };
        Ok(DepthScores {
            block: mean(|s| s.block),
            attention: mean(|s| s.attention),
            feed_forward: mean(|s| s.feed_forward),
            block_with_residual: mean(|s| s.block_with_residual),
            feed_forward_with_residual: mean(|s| s.feed_forward_with_residual),
        })
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    product(a, b)
        / (product(a, a) * product(b, b))
            .sqrt()
            .max(f64::MIN_POSITIVE)
}
