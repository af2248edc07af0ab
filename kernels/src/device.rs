//! What a device can do.
//!
//! Buffers are matrices of f32, row-major: `[rows, cols]`. A row is a token, a patch or a pixel; a
//! picture of `h` by `w` pixels and `c` channels is the matrix `[h * w, c]` (channels last), so a
//! 1x1 convolution is a matrix product and attention over pixels is attention over rows.

use bytes::Bytes;

use crate::error::{KernelError, Result};
use crate::format::Format;

/// What a weight is for; a device may keep each kind in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The matrix of a product.
    Matrix,
    /// A table whose rows are looked up.
    Table,
    /// Scales and biases.
    Vector,
    /// The kernel of a convolution, with this side: rows are `[in, side, side]`.
    Kernel {
        /// Side of the square kernel.
        side: usize,
    },
}

/// The stored bytes of a weight, shared with whoever holds them (a memory map, say).
#[derive(Debug, Clone)]
pub struct WeightData {
    /// What it is for.
    pub role: Role,
    /// How the values are stored.
    pub format: Format,
    /// Rows: outputs of a linear layer. A vector has one row.
    pub rows: usize,
    /// Values in a row: inputs of a linear layer.
    pub cols: usize,
    /// The rows, one after another.
    pub bytes: Bytes,
}

/// Which tokens of its own block a query may see. Everything cached before is always visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// Every token of the block.
    Full,
    /// The tokens up to and including itself.
    Causal,
}

/// One expert of a mixture: `down(silu(gate x) * up x)`.
#[derive(Debug, Clone, Copy)]
pub struct Expert<'a, W> {
    /// `[inner, hidden]`.
    pub gate: &'a W,
    /// `[inner, hidden]`.
    pub up: &'a W,
    /// `[hidden, inner]`.
    pub down: &'a W,
}

/// How queries and keys become what attention takes: an RMS norm of every head, then rotary position embedding.
#[derive(Debug, Clone, Copy)]
pub struct HeadNorms<'a, W> {
    /// Scales of the norm of query heads, `[head_dim]`.
    pub q: &'a W,
    /// Scales of the norm of key heads, `[head_dim]`.
    pub k: &'a W,
    /// Added to the mean of squares.
    pub eps: f32,
    /// Values in a head.
    pub head_dim: usize,
    /// Base of the rotary frequencies.
    pub theta: f32,
}

/// The shape of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; query head `h` uses key head `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Values in a head. The softmax is scaled by `1 / sqrt(head_dim)`.
    pub head_dim: usize,
    /// What a query sees of its own block.
    pub mask: Mask,
}

/// The shape of a two-dimensional convolution on a picture `[height * width, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Input height in pixels.
    pub height: usize,
    /// Input width in pixels.
    pub width: usize,
    /// Side of the square kernel.
    pub kernel: usize,
    /// Distance between two outputs.
    pub stride: usize,
    /// Zeros added left and above.
    pub pad_before: usize,
    /// Zeros added right and below.
    pub pad_after: usize,
}

impl ConvShape {
    /// A kernel that keeps the picture's size: stride 1, the same padding on all sides.
    pub const fn same(height: usize, width: usize, kernel: usize) -> Self {
        ConvShape {
            height,
            width,
            kernel,
            stride: 1,
            pad_before: kernel / 2,
            pad_after: kernel / 2,
        }
    }

    /// Output height and width; zero where the kernel does not fit.
    pub const fn output(&self) -> (usize, usize) {
        (self.side(self.height), self.side(self.width))
    }

    const fn side(&self, input: usize) -> usize {
        let padded = input + self.pad_before + self.pad_after;
        if padded < self.kernel || self.stride == 0 {
            0
        } else {
            (padded - self.kernel) / self.stride + 1
        }
    }
}

/// Means and variances of the groups of a picture's channels, which can be joined from parts.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupMoments {
    /// Values in a group.
    pub count: f64,
    /// The mean of each group.
    pub mean: Vec<f64>,
    /// The sum of squared distances to the mean, of each group.
    pub squares: Vec<f64>,
}

impl GroupMoments {
    /// The moments of both parts together (Chan, Golub and LeVeque, 1979).
    #[must_use]
    pub fn join(&self, other: &GroupMoments) -> Self {
        let count = self.count + other.count;
        let share = other.count / count.max(1.0);
        let mut joined = self.clone();
        joined.count = count;
        for (g, (mean, squares)) in other.mean.iter().zip(&other.squares).enumerate() {
            let apart = mean - self.mean[g];
            joined.mean[g] += apart * share;
            joined.squares[g] += squares + apart * apart * self.count * share;
        }
        joined
    }
}

/// Over what a norm is taken when a guided velocity is scaled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenormSpan {
    /// One norm over the whole matrix.
    Whole,
    /// One norm a row.
    Row,
}

/// Opaque buffers and the operations on them.
///
/// Every operation checks its shapes and refuses what does not fit with a
/// [`KernelError`]; none panics. Only logits and finished pictures are meant to
/// be read back.
pub trait Device: Send + Sync + 'static {
    /// A matrix of f32 on the device.
    type Buffer: Send + Sync;
    /// A weight in the device's own layout.
    type Weight: Send + Sync;
    /// Keys and values of a run of tokens in one layer.
    type Cache: Send + Sync;
    /// A matrix in half precision, that waits to be used.
    type Half: Send + Sync;

    /// What this device is, for logs: instruction set and threads.
    fn describe(&self) -> String;

    /// Takes a weight. The bytes may be kept (shared) or repacked.
    fn weight(&self, data: WeightData) -> Result<Self::Weight>;
    /// The name of the device's own order of weights, if weights can be stored in it.
    fn layout(&self) -> Option<&'static str> {
        None
    }
    /// Takes a weight that was stored in the order [`Device::layout`]; the bytes are shared.
    fn packed_weight(&self, _: WeightData) -> Result<Self::Weight> {
        Err(KernelError::NoLayout)
    }
    /// Whether a weight still reads the bytes that it was made of.
    fn shares_bytes(&self, weight: &Self::Weight) -> bool;
    /// `[rows, cols]` of a weight.
    fn weight_shape(&self, weight: &Self::Weight) -> (usize, usize);

    /// Copies `values` into a new matrix of `cols` columns.
    fn upload(&self, values: &[f32], cols: usize) -> Result<Self::Buffer>;
    /// A matrix of zeros.
    fn zeros(&self, rows: usize, cols: usize) -> Result<Self::Buffer>;
    /// Copies a matrix back.
    fn download(&self, x: &Self::Buffer) -> Result<Vec<f32>>;
    /// A copy of a matrix.
    fn copy(&self, x: &Self::Buffer) -> Result<Self::Buffer>;
    /// `[rows, cols]` of a matrix.
    fn shape(&self, x: &Self::Buffer) -> (usize, usize);
    /// The same values in rows of `cols`.
    fn reshape(&self, x: Self::Buffer, cols: usize) -> Result<Self::Buffer>;

    /// A matrix in half precision (with a factor, so that large values fit).
    fn halve(&self, x: &Self::Buffer) -> Result<Self::Half>;
    /// A matrix back from half precision.
    fn restore(&self, x: &Self::Half) -> Result<Self::Buffer>;

    /// `x W^T + b`: `[n, cols] -> [n, rows]`, `w` being `[rows, cols]` and `bias` `[1, rows]`.
    fn matmul(
        &self,
        x: &Self::Buffer,
        w: &Self::Weight,
        bias: Option<&Self::Weight>,
    ) -> Result<Self::Buffer>;
    /// [`Device::matmul`] with several weights, which may share the work on `x`.
    fn matmuls(
        &self,
        x: &Self::Buffer,
        weights: &[(&Self::Weight, Option<&Self::Weight>)],
    ) -> Result<Vec<Self::Buffer>> {
        weights.iter().map(|(w, b)| self.matmul(x, w, *b)).collect()
    }
    /// `silu(x gate^T) * (x up^T)`.
    fn gated(
        &self,
        x: &Self::Buffer,
        gate: &Self::Weight,
        up: &Self::Weight,
    ) -> Result<Self::Buffer> {
        let mut inner = self.matmul(x, gate, None)?;
        self.swiglu(&mut inner, &self.matmul(x, up, None)?)?;
        Ok(inner)
    }
    /// The rows `ids` of a table: `[ids, cols]`.
    fn embed(&self, table: &Self::Weight, ids: &[u32]) -> Result<Self::Buffer>;

    /// `x += y`; a `y` of one row is added to every row.
    fn add(&self, x: &mut Self::Buffer, y: &Self::Buffer) -> Result<()>;
    /// `x += a * y`.
    fn add_scaled(&self, x: &mut Self::Buffer, a: f32, y: &Self::Buffer) -> Result<()>;
    /// `x = mul * x + add`.
    fn affine(&self, x: &mut Self::Buffer, mul: f32, add: f32) -> Result<()>;
    /// `x * sigmoid(x)`.
    fn silu(&self, x: &mut Self::Buffer) -> Result<()>;
    /// GELU by its tanh approximation.
    fn gelu_tanh(&self, x: &mut Self::Buffer) -> Result<()>;
    /// `silu(gate) * up`, in `gate`'s place.
    fn swiglu(&self, gate: &mut Self::Buffer, up: &Self::Buffer) -> Result<()>;

    /// A mixture of experts: for every row the `used` experts with the largest logits (the first of
    /// equals), `sum of (1 + logit) * expert(x)`. `logits` is `[n, experts]`.
    fn mixture(
        &self,
        x: &Self::Buffer,
        logits: &Self::Buffer,
        experts: &[Expert<'_, Self::Weight>],
        used: usize,
    ) -> Result<Self::Buffer>;
    /// Multiplies every row of `x` by one plus its factor: `factors` is `[n, 1]`.
    fn scale_rows(&self, x: &mut Self::Buffer, factors: &Self::Buffer) -> Result<()>;

    /// Root-mean-square norm of every run of `w`'s length in a row, times `w`.
    fn rms_norm(&self, x: &Self::Buffer, w: &Self::Weight, eps: f32) -> Result<Self::Buffer>;
    /// Layer norm of every row with weight and bias.
    fn layer_norm(
        &self,
        x: &Self::Buffer,
        w: &Self::Weight,
        b: &Self::Weight,
        eps: f32,
    ) -> Result<Self::Buffer>;
    /// The moments of a picture's groups of channels, `[pixels, channels]`, for its group norm.
    fn group_moments(&self, x: &Self::Buffer, groups: usize) -> Result<GroupMoments>;
    /// Group norm of a picture `[pixels, channels]`, or of a part of one, by the whole one's moments,
    /// with weight and bias, then `x * sigmoid(x)` if `swish`.
    fn group_norm(
        &self,
        x: &Self::Buffer,
        moments: &GroupMoments,
        w: &Self::Weight,
        b: &Self::Weight,
        eps: f32,
        swish: bool,
    ) -> Result<Self::Buffer>;

    /// Rotary position embedding, half-split: element `j` of a head is paired with
    /// `j + head_dim / 2`, angle `position * theta^(-2 j / head_dim)`. One position a row.
    fn rope(
        &self,
        x: &mut Self::Buffer,
        positions: &[u32],
        head_dim: usize,
        theta: f32,
    ) -> Result<()>;

    /// Queries and keys with their heads normed ([`Device::rms_norm`]) and turned ([`Device::rope`]), one position a row.
    /// A device may do it all at once.
    fn turn_heads(
        &self,
        q: &Self::Buffer,
        k: &Self::Buffer,
        norms: HeadNorms<'_, Self::Weight>,
        positions: &[u32],
    ) -> Result<(Self::Buffer, Self::Buffer)> {
        let one = |x: &Self::Buffer, w: &Self::Weight| {
            let mut x = self.rms_norm(x, w, norms.eps)?;
            self.rope(&mut x, positions, norms.head_dim, norms.theta)?;
            Ok::<_, KernelError>(x)
        };
        Ok((one(q, norms.q)?, one(k, norms.k)?))
    }

    /// An empty cache for rows of `width` values.
    fn cache(&self, width: usize) -> Self::Cache;
    /// Appends keys and values, `[n, width]` each.
    fn cache_append(
        &self,
        cache: &mut Self::Cache,
        k: &Self::Buffer,
        v: &Self::Buffer,
    ) -> Result<()>;
    /// The keys and values of a cache.
    fn cache_read(&self, cache: &Self::Cache) -> Result<(Self::Buffer, Self::Buffer)>;
    /// Softmax attention of `q` over the tokens of `past`, in order, and then over its own block
    /// `k`, `v`: `[n, heads * head_dim]`.
    fn attention(
        &self,
        q: &Self::Buffer,
        past: &[&Self::Cache],
        k: &Self::Buffer,
        v: &Self::Buffer,
        shape: AttentionShape,
    ) -> Result<Self::Buffer>;

    /// The rows `ids` of `x`.
    fn gather_rows(&self, x: &Self::Buffer, ids: &[u32]) -> Result<Self::Buffer>;
    /// Row `i` of `y` replaces row `ids[i]` of `x`.
    fn scatter_rows(&self, x: &mut Self::Buffer, y: &Self::Buffer, ids: &[u32]) -> Result<()>;

    /// Convolution of a picture with a weight stored `[out, in * kernel * kernel]` in the order
    /// (in, row, column), and a bias: `[output pixels, out]`.
    fn conv2d(
        &self,
        x: &Self::Buffer,
        w: &Self::Weight,
        bias: &Self::Weight,
        shape: ConvShape,
    ) -> Result<Self::Buffer>;
    /// Every pixel twice in both directions: `[h * w, c] -> [2h * 2w, c]`.
    fn upsample_nearest(
        &self,
        x: &Self::Buffer,
        height: usize,
        width: usize,
    ) -> Result<Self::Buffer>;
    /// A draw from a diagonal Gaussian: `x` is `[n, 2 c]`, mean then log variance;
    /// `mean + exp(log variance / 2) * noise`, or the mean where there is no noise: `[n, c]`.
    fn gaussian(&self, x: &Self::Buffer, noise: Option<&Self::Buffer>) -> Result<Self::Buffer>;

    /// Guidance: `base + scale * (x - base)`, in `x`'s place.
    fn extrapolate(&self, x: &mut Self::Buffer, base: &Self::Buffer, scale: f32) -> Result<()>;
    /// Scales `x` by `clamp(|reference| / (|x| + 1e-8), min, 1)`.
    fn renorm(
        &self,
        x: &mut Self::Buffer,
        reference: &Self::Buffer,
        min: f32,
        span: RenormSpan,
    ) -> Result<()>;
}
