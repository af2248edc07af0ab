//! Every kernel of graphics processors, run on the CPU, against the reference device.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cuda/attention.rs"]
mod attention;
#[path = "cuda/products.rs"]
mod products;
mod shim;

use std::sync::{Arc, OnceLock};

use kinglet_kernels::cuda::{Cuda, CudaMatrix, CudaWeight, Effort, Gpu};
use kinglet_kernels::{
    AttentionShape, ConvShape, Device, Expert, Format, HeadNorms, Mask, RenormSpan, Role, Scalar,
    WeightData,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The largest relative error of what is computed in floats.
const NEAR: f64 = 2e-6;
/// The same where activations are rounded to 8 bits.
const ROUNDED: f64 = 0.02;

/// Both devices, and a random source.
struct Pair {
    gpu: Cuda,
    rng: ChaCha8Rng,
}

type On<D> = <D as Device>::Buffer;
type Weights = (CudaWeight, <Scalar as Device>::Weight);

/// A library, and the order in which its threads run.
type Way = (fn() -> Arc<shim::Shim>, u32);

impl Pair {
    fn new(half_cache: bool) -> Self {
        Pair::on(shim::processor(), half_cache)
    }

    /// One after another on these libraries, whose threads run in these orders; on a processor only one.
    fn on_each(half_cache: bool, ways: &'static [Way]) -> Box<dyn Iterator<Item = Pair>> {
        if shim::is_real() {
            return Box::new(std::iter::once(Pair::new(half_cache)));
        }
        Box::new(ways.iter().map(move |(library, order)| {
            let library = library();
            library.order(*order);
            Pair::on(library, half_cache)
        }))
    }

    fn on(gpu: Arc<dyn Gpu>, half_cache: bool) -> Self {
        Pair {
            gpu: Cuda::new(gpu, half_cache),
            rng: ChaCha8Rng::seed_from_u64(7),
        }
    }

    fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| self.rng.random_range(-1.0f32..1.0))
            .collect()
    }

    fn matrix(&mut self, rows: usize, cols: usize) -> (CudaMatrix, On<Scalar>) {
        let values = self.values(rows * cols);
        self.same(&values, cols)
    }

    fn same(&self, values: &[f32], cols: usize) -> (CudaMatrix, On<Scalar>) {
        (
            self.gpu.upload(values, cols).unwrap(),
            Scalar.upload(values, cols).unwrap(),
        )
    }

    fn weight(&mut self, role: Role, format: Format, rows: usize, cols: usize) -> Weights {
        let bytes = self.blocks(format, rows * cols);
        let data = |bytes: Vec<u8>| WeightData {
            role,
            format,
            rows,
            cols,
            bytes: bytes.into(),
        };
        (
            self.gpu.weight(data(bytes.clone())).unwrap(),
            Scalar.weight(data(bytes)).unwrap(),
        )
    }

    /// Random blocks with small factors.
    fn blocks(&mut self, format: Format, values: usize) -> Vec<u8> {
        if format.block_values() == 1 {
            let row = self.values(values);
            let mut bytes = Vec::new();
            kinglet_kernels::blocks::encode_row(format, &row, &mut bytes).unwrap();
            return bytes;
        }
        let mut bytes = vec![0u8; format.row_bytes(values).unwrap()];
        self.rng.fill(&mut bytes[..]);
        let factors: &[usize] = match format {
            Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q2_K => &[80, 82],
            Format::Q3_K => &[108],
            Format::Q6_K => &[208],
            _ => &[0],
        };
        for block in bytes.chunks_mut(format.block_bytes()) {
            for at in factors {
                let factor = half::f16::from_f32(self.rng.random_range(0.001..0.02));
                block[*at..at + 2].copy_from_slice(&factor.to_le_bytes());
            }
        }
        bytes
    }

    fn near(&self, what: &str, got: &CudaMatrix, expected: &On<Scalar>, bound: f64) {
        assert_eq!(self.gpu.shape(got), Scalar.shape(expected), "{what}");
        let (got, expected) = (
            self.gpu.download(got).unwrap(),
            Scalar.download(expected).unwrap(),
        );
        let off = error(&expected, &got);
        assert!(off <= bound, "{what} is off by {off:.1e}");
    }
}

fn error(expected: &[f32], got: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let off = expected
        .iter()
        .zip(got)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)));
    let all = expected.iter().map(|a| square(f64::from(*a)));
    (off.sum::<f64>() / all.sum::<f64>().max(1e-30)).sqrt()
}

/// Fails if the shim is there and has not run these kernels; a processor does not tell.
fn has_run(kernels: &[&str]) {
    let Some(shim) = shim::opened() else {
        return;
    };
    let ran = shim.ran.lock().unwrap();
    for kernel in kernels {
        assert!(ran.contains(*kernel), "{kernel} has not run");
    }
}

/// A library that tests share, of a chip without the products' instructions.
fn without_tensor_cores() -> Arc<shim::Shim> {
    static SHIM: OnceLock<Arc<shim::Shim>> = OnceLock::new();
    let open = || shim::Shim::open(&shim::built("shim-dp4a", &["-DTENSOR_CORES=0"]));
    Arc::clone(SHIM.get_or_init(|| Arc::new(open())))
}

#[test]
fn rows_and_values_are_those_of_the_reference() {
    let mut pair = Pair::new(false);
    for format in Format::ALL.iter().copied() {
        let table = pair.weight(Role::Table, format, 9, 256);
        let ids = [8, 0, 3, 3];
        let got = pair
            .gpu
            .download(&pair.gpu.embed(&table.0, &ids).unwrap())
            .unwrap();
        let expected = Scalar
            .download(&Scalar.embed(&table.1, &ids).unwrap())
            .unwrap();
        assert_eq!(got, expected, "{format}");
        assert!(pair.gpu.embed(&table.0, &[9]).is_err());
    }
    let (mut a, mut b) = pair.matrix(13, 48);
    let (y, z) = pair.matrix(13, 48);
    let (one, other) = pair.matrix(1, 48);
    let (factors, same) = pair.matrix(13, 1);
    macro_rules! both {
        ($name:literal, $call:ident ( $($ours:expr, $theirs:expr);* )) => {
            pair.gpu.$call(&mut a, $($ours),*).unwrap();
            Scalar.$call(&mut b, $($theirs),*).unwrap();
            pair.near($name, &a, &b, NEAR);
        };
    }
    both!("add", add(&y, &z));
    both!("add a row", add(&one, &other));
    both!("add_scaled", add_scaled(0.3, 0.3; &y, &z));
    both!("affine", affine(1.5, 1.5; -0.25, -0.25));
    both!("silu", silu());
    both!("gelu", gelu_tanh());
    both!("swiglu", swiglu(&y, &z));
    both!("scale_rows", scale_rows(&factors, &same));
    both!("extrapolate", extrapolate(&y, &z; 4.0, 4.0));
    both!("renorm", renorm(&y, &z; 0.1, 0.1; RenormSpan::Whole, RenormSpan::Whole));
    both!("renorm rows", renorm(&y, &z; 0.0, 0.0; RenormSpan::Row, RenormSpan::Row));
    let positions: Vec<u32> = (0..13).map(|i| i * 700).collect();
    both!("rope", rope(&positions, &positions; 16, 16; 10_000.0, 10_000.0));
    let (c, d) = (
        pair.gpu.gather_rows(&y, &[5, 5, 0]).unwrap(),
        Scalar.gather_rows(&z, &[5, 5, 0]).unwrap(),
    );
    pair.near("gather", &c, &d, 0.0);
    both!("scatter", scatter_rows(&c, &d; &[3, 3, 12], &[3, 3, 12]));
    let (c, d) = (pair.gpu.copy(&a).unwrap(), Scalar.copy(&b).unwrap());
    let (c, d) = (
        pair.gpu.reshape(c, 24).unwrap(),
        Scalar.reshape(d, 24).unwrap(),
    );
    pair.near("reshape", &c, &d, NEAR);
    let (c, d) = (
        pair.gpu.gaussian(&a, None).unwrap(),
        Scalar.gaussian(&b, None).unwrap(),
    );
    pair.near("mean", &c, &d, NEAR);
    let (noise, same) = pair.matrix(13, 24);
    let (c, d) = (
        pair.gpu.gaussian(&a, Some(&noise)).unwrap(),
        Scalar.gaussian(&b, Some(&same)).unwrap(),
    );
    pair.near("gaussian", &c, &d, NEAR);
    for largest in [1.0, 3e5] {
        pair.gpu.affine(&mut a, largest, 0.0).unwrap();
        Scalar.affine(&mut b, largest, 0.0).unwrap();
        let (c, d) = (pair.gpu.halve(&a).unwrap(), Scalar.halve(&b).unwrap());
        let (c, d) = (pair.gpu.restore(&c).unwrap(), Scalar.restore(&d).unwrap());
        pair.near("halves", &c, &d, 1e-4);
    }
}

#[test]
fn heads_are_normed_and_turned_at_once() {
    let mut pair = Pair::new(false);
    for (rows, heads, kv_heads, head) in [(1, 4, 2, 64), (7, 3, 3, 72), (33, 2, 1, 130)] {
        let ((q, a), (k, b)) = (
            pair.matrix(rows, heads * head),
            pair.matrix(rows, kv_heads * head),
        );
        let (w, v) = (
            pair.weight(Role::Vector, Format::F32, 1, head),
            pair.weight(Role::Vector, Format::F16, 1, head),
        );
        let positions: Vec<u32> = (0..rows as u32).map(|i| 3 + i * 700).collect();
        fn norms<'a, W>(q: &'a W, k: &'a W, head_dim: usize) -> HeadNorms<'a, W> {
            let (eps, theta) = (1e-6, 1e6);
            HeadNorms {
                q,
                k,
                eps,
                head_dim,
                theta,
            }
        }
        let got = pair
            .gpu
            .turn_heads(&q, &k, norms(&w.0, &v.0, head), &positions)
            .unwrap();
        let expected = Scalar
            .turn_heads(&a, &b, norms(&w.1, &v.1, head), &positions)
            .unwrap();
        pair.near("queries", &got.0, &expected.0, NEAR);
        pair.near("keys", &got.1, &expected.1, NEAR);
        // Nothing but shapes that fit.
        for wrong in [
            norms(&w.0, &v.0, head - 1),
            norms(&w.0, &v.0, 2 * heads * head),
        ] {
            assert!(pair.gpu.turn_heads(&q, &k, wrong, &positions).is_err());
        }
        assert!(
            pair.gpu
                .turn_heads(&q, &k, norms(&w.0, &v.0, head), &[])
                .is_err()
        );
    }
}

#[test]
fn norms_are_those_of_the_reference() {
    let mut pair = Pair::new(false);
    for (rows, cols) in [(1, 8), (5, 72), (3, 600)] {
        let (a, b) = pair.matrix(rows, cols);
        let (w, v) = (
            pair.weight(Role::Vector, Format::F32, 1, cols),
            pair.weight(Role::Vector, Format::F16, 1, cols),
        );
        let got = pair.gpu.layer_norm(&a, &w.0, &v.0, 1e-6).unwrap();
        pair.near(
            "layer_norm",
            &got,
            &Scalar.layer_norm(&b, &w.1, &v.1, 1e-6).unwrap(),
            NEAR,
        );
        let got = pair.gpu.rms_norm(&a, &w.0, 1e-6).unwrap();
        pair.near(
            "rms_norm",
            &got,
            &Scalar.rms_norm(&b, &w.1, 1e-6).unwrap(),
            NEAR,
        );
        let head = pair.weight(Role::Vector, Format::F32, 1, cols / 4);
        let got = pair.gpu.rms_norm(&a, &head.0, 1e-6).unwrap();
        pair.near(
            "rms_norm of heads",
            &got,
            &Scalar.rms_norm(&b, &head.1, 1e-6).unwrap(),
            NEAR,
        );
        let (got, expected) = (
            pair.gpu.group_moments(&a, 4).unwrap(),
            Scalar.group_moments(&b, 4).unwrap(),
        );
        for (a, b) in got
            .mean
            .iter()
            .chain(&got.squares)
            .zip(expected.mean.iter().chain(&expected.squares))
        {
            assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
        }
        for swish in [false, true] {
            let ours = pair
                .gpu
                .group_norm(&a, &got, &w.0, &v.0, 1e-6, swish)
                .unwrap();
            let theirs = Scalar
                .group_norm(&b, &expected, &w.1, &v.1, 1e-6, swish)
                .unwrap();
            pair.near("group_norm", &ours, &theirs, NEAR);
        }
    }
}

#[test]
fn pictures_are_those_of_the_reference() {
    let mut pair = Pair::new(false);
    for (height, width, channels, outputs, kernel, stride, before, after) in [
        (5, 7, 3, 4, 3, 1, 1, 1),
        (8, 6, 16, 33, 3, 2, 0, 1),
        (4, 4, 5, 2, 1, 1, 0, 0),
        (9, 9, 2, 3, 3, 1, 1, 1),
    ] {
        let shape = ConvShape {
            height,
            width,
            kernel,
            stride,
            pad_before: before,
            pad_after: after,
        };
        let (a, b) = pair.matrix(height * width, channels);
        let role = Role::Kernel { side: kernel };
        let w = pair.weight(role, Format::F32, outputs, channels * kernel * kernel);
        let bias = pair.weight(Role::Vector, Format::F32, 1, outputs);
        let got = pair.gpu.conv2d(&a, &w.0, &bias.0, shape).unwrap();
        let expected = Scalar.conv2d(&b, &w.1, &bias.1, shape).unwrap();
        pair.near(&format!("{shape:?}"), &got, &expected, NEAR);
        let got = pair.gpu.upsample_nearest(&a, height, width).unwrap();
        pair.near(
            "upsampling",
            &got,
            &Scalar.upsample_nearest(&b, height, width).unwrap(),
            0.0,
        );
    }
}

/// Experts of these formats and inner widths, in both devices.
fn experts(
    pair: &mut Pair,
    formats: &[Format],
    inner: &[usize],
    hidden: usize,
) -> Vec<[Weights; 3]> {
    let one = |(format, inner): (&Format, &usize)| {
        [(*inner, hidden), (*inner, hidden), (hidden, *inner)]
            .map(|(rows, cols)| pair.weight(Role::Matrix, *format, rows, cols))
    };
    formats.iter().zip(inner).map(one).collect()
}

/// The mixture of both devices for these logits.
fn mix(pair: &mut Pair, weights: &[[Weights; 3]], logits: &[f32], used: usize, bound: f64) {
    let hidden = Scalar.weight_shape(&weights[0][0].1).1;
    let (a, b) = pair.matrix(logits.len() / weights.len(), hidden);
    let (l, m) = pair.same(logits, weights.len());
    let ours = weights.iter().map(|[gate, up, down]| Expert {
        gate: &gate.0,
        up: &up.0,
        down: &down.0,
    });
    let theirs = weights.iter().map(|[gate, up, down]| Expert {
        gate: &gate.1,
        up: &up.1,
        down: &down.1,
    });
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.collect(), theirs.collect());
    let got = pair.gpu.mixture(&a, &l, &ours, used).unwrap();
    let expected = Scalar.mixture(&b, &m, &theirs, used).unwrap();
    let what = format!("{used} of {} experts, {:?}", ours.len(), Scalar.shape(&b));
    pair.near(&what, &got, &expected, bound);
    assert!(pair.gpu.mixture(&a, &l, &ours, ours.len() + 1).is_err());
}

#[test]
fn a_mixture_is_that_of_the_reference() {
    for order in [0, 3] {
        shim::shared().order(order);
        let mut pair = Pair::new(false);
        let weights = experts(&mut pair, &[Format::F32; 4], &[48; 4], 32);
        for tokens in [0, 1, 11, 40] {
            for used in [0, 1, 2, 4] {
                let logits = pair.values(tokens * 4);
                mix(&mut pair, &weights, &logits, used, NEAR);
            }
        }
        // Everybody to one expert; experts without a token; more tokens than threads of a block.
        let one = |tokens: usize| [0.5, 0.1, 0.9, 0.2].repeat(tokens);
        mix(&mut pair, &weights, &one(70), 1, NEAR);
        mix(&mut pair, &weights, &one(300), 2, NEAR);
        // The first of equals; zeros with a sign; what is no number is larger than all others.
        let equal = [
            0.3f32, 0.3, 0.3, 0.3, -0.0, 0.0, -0.0, 0.0, -1.0, -1.0, -2.0, -1.0,
        ];
        for used in 1..4 {
            mix(&mut pair, &weights, &equal, used, NEAR);
        }
    }
    shim::shared().order(0);
}

#[test]
fn experts_of_every_format_and_width_mix() {
    for library in [shim::shared(), without_tensor_cores()] {
        let mut pair = Pair::on(library, false);
        for format in Format::ALL.iter().copied() {
            let weights = experts(&mut pair, &[format; 3], &[256; 3], 256);
            let bound = if format.block_values() == 1 {
                NEAR
            } else {
                // Three products, each of activations in 8 bits.
                2.0 * ROUNDED
            };
            // A few tokens an expert, and more than a tile for one of them.
            for tokens in [1, 5, 80] {
                let logits = pair.values(tokens * 3);
                mix(&mut pair, &weights, &logits, 2, bound);
            }
        }
        // Checkpoints may store each expert by itself, in its own format and width.
        let formats = [Format::Q8_0, Format::F16, Format::Q4_0, Format::Q8_0];
        let weights = experts(&mut pair, &formats, &[96, 40, 32, 160], 64);
        for tokens in [1, 3, 90] {
            let logits = pair.values(tokens * 4);
            mix(&mut pair, &weights, &logits, 3, 2.0 * ROUNDED);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut pair = Pair::new(false);
    let (a, _) = pair.matrix(3, 32);
    let (b, _) = pair.matrix(3, 31);
    let w = pair.weight(Role::Matrix, Format::Q8_0, 4, 64).0;
    let table = pair.weight(Role::Table, Format::F32, 4, 32).0;
    let says = |result: kinglet_kernels::Result<()>, words: &str| {
        let said = result.unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    };
    let gpu = &pair.gpu;
    says(
        gpu.matmul(&a, &w, None).map(drop),
        "the row length of x is 32, expected 64",
    );
    says(gpu.matmul(&a, &table, None).map(drop), "loaded as a Table");
    says(gpu.embed(&w, &[0]).map(drop), "loaded as a Matrix");
    says(gpu.upload(&[0.0; 5], 2).map(drop), "the number of columns");
    says(gpu.zeros(usize::MAX, 2).map(drop), "overflows");
    let mut x = gpu.copy(&a).unwrap();
    says(gpu.add(&mut x, &b), "the row length is 31");
    says(
        gpu.scatter_rows(&mut x, &a, &[0, 1, 3]),
        "index 3 is out of range",
    );
    says(gpu.rope(&mut x, &[0; 3], 7, 1e4), "the head length");
    let wide = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 320,
        mask: Mask::Full,
    };
    let (q, _) = pair.matrix(1, 320);
    says(
        pair.gpu.attention(&q, &[], &q, &q, wide).map(drop),
        "at most 256",
    );
}

/// A processor's limits are measured; what stands in for it shows only that the measuring ends.
#[test]
fn limits_are_measured() {
    let effort = if shim::is_real() {
        Effort::FULL
    } else {
        Effort::LEAST
    };
    let roof = Cuda::new(shim::processor(), false).roof(effort).unwrap();
    println!("{roof:?}");
    assert!(roof.copy.is_finite() && roof.copy > 0.0);
    assert!(roof.integers.is_finite() && roof.integers > 0.0);
}

/// A test of the shim: what a barrier is for is seen when it is gone.
#[test]
fn a_barrier_that_is_missing_is_noticed() {
    let library = Arc::new(shim::Shim::open(&shim::built("shim-barriers", &[])));
    let mut pair = Pair::on(library.clone(), false);
    let w = pair.weight(Role::Matrix, Format::Q4_K, 70, 512);
    let plain = pair.weight(Role::Matrix, Format::F32, 40, 48);
    let vector = pair.weight(Role::Vector, Format::F32, 1, 512);
    let (a, _) = pair.matrix(20, 512);
    let (b, _) = pair.matrix(20, 48);
    let all = |pair: &Pair| {
        let download =
            |m: kinglet_kernels::Result<CudaMatrix>| m.and_then(|m| pair.gpu.download(&m));
        [
            download(pair.gpu.matmul(&a, &w.0, None)),
            download(pair.gpu.matmul(&b, &plain.0, None)),
            download(pair.gpu.layer_norm(&a, &vector.0, &vector.0, 1e-6)),
        ]
    };
    let expected = all(&pair);
    let mut noticed = Vec::new();
    for barrier in 0..library.barriers() {
        library.remove_barrier(barrier);
        let mut off = [false; 3];
        for order in 0..4 {
            library.order(order);
            for (off, (got, expected)) in off.iter_mut().zip(all(&pair).iter().zip(&expected)) {
                *off |= got != expected;
            }
        }
        println!("barrier {barrier}: {off:?}");
        if off.contains(&true) {
            noticed.push(off);
        }
    }
    library.remove_barrier(-1);
    for order in 0..4 {
        library.order(order);
        assert!(all(&pair) == expected, "the order counts");
    }
    for kernel in 0..3 {
        let count = noticed.iter().filter(|off| off[kernel]).count();
        assert!(count >= 1, "no barrier of kernel {kernel} is noticed");
    }
}
