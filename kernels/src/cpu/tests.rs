//! Every set of this machine against exact integers and against the reference device.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::blocks::decode_row;
use crate::device::Mask;

/// Where the f16 factors of a block lie.
fn factors(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => &[0, 2],
        Format::Q2_K => &[80, 82],
        Format::Q3_K => &[108],
        Format::Q6_K => &[208],
        _ => &[0],
    }
}

/// Random blocks whose factors are `factor`, or random ones.
fn blocks(rng: &mut ChaCha8Rng, format: Format, values: usize, factor: Option<f32>) -> Vec<u8> {
    if format.block_values() == 1 {
        let mut bytes = Vec::new();
        let row: Vec<f32> = (0..values).map(|_| rng.random_range(-1.0..1.0)).collect();
        crate::blocks::encode_row(format, &row, &mut bytes).unwrap();
        return bytes;
    }
    let mut bytes = vec![0u8; format.row_bytes(values).unwrap()];
    rng.fill(&mut bytes[..]);
    for block in bytes.chunks_mut(format.block_bytes()) {
        for at in factors(format) {
            let factor = factor.unwrap_or_else(|| rng.random_range(0.001..0.02));
            let stored = half::f16::from_f32(factor).to_le_bytes();
            block[*at..at + 2].copy_from_slice(&stored);
        }
    }
    bytes
}

fn data(role: Role, format: Format, rows: usize, cols: usize, bytes: Vec<u8>) -> WeightData {
    WeightData {
        role,
        format,
        rows,
        cols,
        bytes: bytes.into(),
    }
}

fn random(rng: &mut ChaCha8Rng, rows: usize, cols: usize) -> Matrix {
    let values: Vec<f32> = (0..rows * cols)
        .map(|_| rng.random_range(-1.0..1.0))
        .collect();
    Scalar.upload(&values, cols).unwrap()
}

fn error(expected: &[f32], got: &[f32]) -> f64 {
    assert_eq!(expected.len(), got.len());
    let square = |v: f64| v * v;
    let off: f64 = expected
        .iter()
        .zip(got)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let all: f64 = expected.iter().map(|a| square(f64::from(*a))).sum();
    (off / all.max(1e-30)).sqrt()
}

#[test]
fn sums_of_integers_are_exact_on_every_set() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for format in Format::ALL.iter().copied().filter(|f| f.block_values() > 1) {
        for (n, rows, blocks_in_row) in [(1, 1, 1), (3, 7, 2), (5, 17, 1), (16, 16, 3), (37, 33, 2)]
        {
            let cols = blocks_in_row * format.block_values();
            // Factors of one: weights are integers. Activations are integers whose largest is 127 in
            // every block, so that their scale is one too. Sums stay far below 2^24.
            let bytes = blocks(&mut rng, format, rows * cols, Some(1.0));
            let mut weights = vec![0.0; rows * cols];
            for (row, bytes) in weights
                .chunks_mut(cols)
                .zip(bytes.chunks(format.row_bytes(cols).unwrap()))
            {
                decode_row(format, bytes, row).unwrap();
            }
            let mut x: Vec<f32> = (0..n * cols)
                .map(|_| f32::from(rng.random_range(-3i8..=3)))
                .collect();
            for block in x.chunks_mut(32) {
                block[rng.random_range(0..32)] = 127.0;
            }
            let expected: Vec<f32> = x
                .chunks(cols)
                .flat_map(|x| {
                    weights.chunks(cols).map(|w| {
                        let sum: f64 = x.iter().zip(w).map(|(a, b)| f64::from(a * b)).sum();
                        sum as f32
                    })
                })
                .collect();
            let x = Scalar.upload(&x, cols).unwrap();
            for set in InstructionSet::available() {
                let cpu = Cpu::new(set).unwrap();
                let w = cpu
                    .weight(data(Role::Matrix, format, rows, cols, bytes.clone()))
                    .unwrap();
                let got = cpu.matmul(&x, &w, None).unwrap();
                assert!(
                    got.values[..] == expected[..],
                    "{set}: {format}, {n} x {rows} x {cols}: {:?} is not {:?}",
                    &got.values[..expected.len().min(4)],
                    &expected[..expected.len().min(4)]
                );
            }
        }
    }
}

#[test]
fn products_are_near_the_reference_on_every_set_and_format() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for format in Format::ALL.iter().copied() {
        let unit = format.block_values();
        for (n, rows, units) in [(0, 3, 1), (1, 40, 3), (2, 0, 1), (19, 65, 2), (130, 300, 2)] {
            // Floats of any length, blocks of a few.
            let cols = if unit == 1 { 37 * units } else { unit * units };
            let bytes = blocks(&mut rng, format, rows * cols, None);
            let bias = blocks(&mut rng, Format::F32, rows, None);
            let x = random(&mut rng, n, cols);
            let matrix = || data(Role::Matrix, format, rows, cols, bytes.clone());
            let vector = || data(Role::Vector, Format::F32, 1, rows, bias.clone());
            let expected = Scalar
                .matmul(
                    &x,
                    &Scalar.weight(matrix()).unwrap(),
                    Some(&Scalar.weight(vector()).unwrap()),
                )
                .unwrap();
            for set in InstructionSet::available() {
                let cpu = Cpu::new(set).unwrap();
                let (w, b) = (cpu.weight(matrix()).unwrap(), cpu.weight(vector()).unwrap());
                let got = cpu.matmul(&x, &w, Some(&b)).unwrap();
                assert_eq!((got.rows, got.cols), (n, rows));
                let error = error(&expected.values, &got.values);
                // Activations in 8 bits are off by about 0.6 %; the weights are the same.
                let bound = if unit == 1 { 1e-6 } else { 1e-2 };
                assert!(
                    error < bound,
                    "{set}: {format}, {n} x {rows} x {cols}: {error}"
                );
            }
        }
    }
}

#[test]
fn sharing_and_fusing_change_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for format in [Format::Q8_0, Format::Q4_K, Format::F16] {
        let x = random(&mut rng, 21, 256);
        let bytes = [0; 2].map(|_| blocks(&mut rng, format, 40 * 256, None));
        for set in InstructionSet::available() {
            let cpu = Cpu::new(set).unwrap();
            let load = |bytes: &Vec<u8>| {
                cpu.weight(data(Role::Matrix, format, 40, 256, bytes.clone()))
                    .unwrap()
            };
            let (gate, up) = (load(&bytes[0]), load(&bytes[1]));
            let both = cpu.matmuls(&x, &[(&gate, None), (&up, None)]).unwrap();
            assert!(both[0].values[..] == cpu.matmul(&x, &gate, None).unwrap().values[..]);
            assert!(both[1].values[..] == cpu.matmul(&x, &up, None).unwrap().values[..]);
            let mut apart = both[0].clone();
            cpu.swiglu(&mut apart, &both[1]).unwrap();
            let fused = cpu.gated(&x, &gate, &up).unwrap();
            assert!(
                error(&apart.values, &fused.values) < 1e-6,
                "{set}: {format}"
            );

            // Two experts, of which every row takes one or the other.
            let down = cpu
                .weight(data(
                    Role::Matrix,
                    Format::F32,
                    256,
                    40,
                    blocks(&mut rng.clone(), Format::F32, 256 * 40, None),
                ))
                .unwrap();
            let expert = |gate, up| Expert {
                gate,
                up,
                down: &down,
            };
            let experts = [expert(&gate, &up), expert(&up, &gate)];
            let logits: Vec<f32> = (0..21)
                .flat_map(|i| [f32::from(i % 3 == 0) - 0.5, 0.0])
                .collect();
            let logits = Scalar.upload(&logits, 2).unwrap();
            let mixed = cpu.mixture(&x, &logits, &experts, 1).unwrap();
            for i in 0..21u32 {
                let e = usize::from(logits.row(i as usize)[0] < 0.0);
                let one = cpu.gather_rows(&x, &[i]).unwrap();
                let inner = cpu.gated(&one, experts[e].gate, experts[e].up).unwrap();
                let mut alone = cpu.matmul(&inner, &down, None).unwrap();
                cpu.affine(&mut alone, 1.0 + logits.row(i as usize)[e], 0.0)
                    .unwrap();
                assert!(
                    error(&alone.values, mixed.row(i as usize)) < 1e-5,
                    "{set}: {format}"
                );
            }
        }
    }
}

#[test]
fn attention_is_the_references_on_every_set() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (heads, kv_heads, head_dim) in [(4, 2, 64), (2, 2, 72), (3, 1, 128), (2, 1, 6)] {
        for (n, cached, mask) in [
            (1, 0, Mask::Causal),
            (2, 5, Mask::Full),
            (9, 0, Mask::Full),
            (30, 41, Mask::Causal),
            (50, 7, Mask::Full),
            (1, 1300, Mask::Causal),
            (30, 700, Mask::Causal),
            (5, 600, Mask::Full),
        ] {
            let shape = AttentionShape {
                heads,
                kv_heads,
                head_dim,
                mask,
            };
            let width = kv_heads * head_dim;
            let q = random(&mut rng, n, heads * head_dim);
            let (k, v) = (random(&mut rng, n, width), random(&mut rng, n, width));
            let mut past = Scalar.cache(width);
            let (old_k, old_v) = (
                random(&mut rng, cached, width),
                random(&mut rng, cached, width),
            );
            Scalar.cache_append(&mut past, &old_k, &old_v).unwrap();
            let expected = Scalar.attention(&q, &[&past], &k, &v, shape).unwrap();
            for set in InstructionSet::available() {
                for (format, bound) in [(CacheFormat::F32, 2e-6), (CacheFormat::F16, 1e-3)] {
                    let cpu = Cpu::new(set).unwrap().with_cache(format);
                    let mut past = cpu.cache(width);
                    cpu.cache_append(&mut past, &old_k, &old_v).unwrap();
                    let got = cpu.attention(&q, &[&past], &k, &v, shape).unwrap();
                    let error = error(&expected.values, &got.values);
                    assert!(
                        error < bound,
                        "{set}, {format:?}: {n} after {cached}, {shape:?}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn scores_of_any_size_give_weights_that_are_numbers() {
    let shape = AttentionShape {
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        mask: Mask::Full,
    };
    let row = |value: f32| vec![value; 8];
    for set in InstructionSet::available() {
        for format in [CacheFormat::F32, CacheFormat::F16] {
            let cpu = Cpu::new(set).unwrap().with_cache(format);
            for n in [1, 5] {
                // The key with the largest score comes last, after others far below it.
                let q = cpu.upload(&row(1e4).repeat(n), 8).unwrap();
                let (k, v) = (
                    cpu.upload(&row(1e3).repeat(n), 8),
                    cpu.upload(&row(2.0).repeat(n), 8),
                );
                let mut past = cpu.cache(8);
                let old = cpu
                    .upload(&[row(-1e6), row(-9.0), row(9.0)].concat(), 8)
                    .unwrap();
                cpu.cache_append(&mut past, &old, &old).unwrap();
                let got = cpu
                    .attention(&q, &[&past], &k.unwrap(), &v.unwrap(), shape)
                    .unwrap();
                assert!(
                    got.values.iter().all(|v| *v == 2.0),
                    "{set} {format:?} {n}: {got:?}"
                );
            }
        }
    }
}

#[test]
fn convolutions_and_norms_are_the_references_on_every_set() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for (side, stride, before, after, h, w, channels, outputs) in [
        (3, 1, 1, 1, 9, 13, 8, 40),
        (3, 2, 0, 1, 8, 10, 6, 33),
        (1, 1, 0, 0, 5, 5, 64, 3),
        (3, 1, 1, 1, 1, 1, 4, 1),
    ] {
        let shape = ConvShape {
            height: h,
            width: w,
            kernel: side,
            stride,
            pad_before: before,
            pad_after: after,
        };
        let cols = channels * side * side;
        let kernel = blocks(&mut rng, Format::F32, outputs * cols, None);
        let bias = blocks(&mut rng, Format::F32, outputs.max(channels), None);
        let x = random(&mut rng, h * w, channels);
        let kernel = || {
            data(
                Role::Kernel { side },
                Format::F32,
                outputs,
                cols,
                kernel.clone(),
            )
        };
        let vector = |n: usize| data(Role::Vector, Format::F32, 1, n, bias[..4 * n].to_vec());
        let reference = |data| Scalar.weight(data).unwrap();
        let expected = Scalar
            .conv2d(&x, &reference(kernel()), &reference(vector(outputs)), shape)
            .unwrap();
        let (weight, offset) = (vector(channels), vector(channels));
        let normed = Scalar
            .layer_norm(
                &x,
                &reference(weight.clone()),
                &reference(offset.clone()),
                1e-6,
            )
            .unwrap();
        let rms = Scalar
            .rms_norm(&x, &reference(weight.clone()), 1e-6)
            .unwrap();
        let moments = Scalar.group_moments(&x, 2).unwrap();
        let grouped = Scalar
            .group_norm(
                &x,
                &moments,
                &reference(weight.clone()),
                &reference(offset.clone()),
                1e-6,
                true,
            )
            .unwrap();
        for set in InstructionSet::available() {
            let cpu = Cpu::new(set).unwrap();
            let own = |data: &WeightData| cpu.weight(data.clone()).unwrap();
            let got = cpu
                .conv2d(&x, &own(&kernel()), &own(&vector(outputs)), shape)
                .unwrap();
            assert!(
                error(&expected.values, &got.values) < 1e-6,
                "{set}: {shape:?}"
            );
            let (w, b) = (own(&weight), own(&offset));
            let got = cpu.layer_norm(&x, &w, &b, 1e-6).unwrap();
            assert!(
                error(&normed.values, &got.values) < 1e-5,
                "{set}: layer norm"
            );
            let got = cpu.rms_norm(&x, &w, 1e-6).unwrap();
            assert!(error(&rms.values, &got.values) < 1e-6, "{set}: rms norm");
            let m = cpu.group_moments(&x, 2).unwrap();
            let got = cpu.group_norm(&x, &m, &w, &b, 1e-6, true).unwrap();
            assert!(
                error(&grouped.values, &got.values) < 1e-5,
                "{set}: group norm"
            );
        }
    }
}

#[test]
fn half_precision_is_the_references_also_for_large_values() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for (rows, cols, size) in [(3, 5, 1.0), (300, 77, 1e-3), (200, 100, 1e7)] {
        let mut x = random(&mut rng, rows, cols);
        Scalar.affine(&mut x, size, 0.0).unwrap();
        let expected = Scalar.halve(&x).unwrap();
        for set in InstructionSet::available() {
            let cpu = Cpu::new(set).unwrap();
            let half = cpu.halve(&x).unwrap();
            assert_eq!(
                (&half.values, half.factor),
                (&expected.values, expected.factor),
                "{set}"
            );
            let back = cpu.restore(&half).unwrap();
            assert!(back.values[..] == Scalar.restore(&expected).unwrap().values[..]);
            assert!(error(&x.values, &back.values) < 1e-3, "{set}");
        }
        let ids: Vec<u32> = (0..rows as u32).rev().collect();
        let gathered = Cpu::best().gather_rows(&x, &ids).unwrap();
        assert!(gathered.values[..] == Scalar.gather_rows(&x, &ids).unwrap().values[..]);
        assert!(
            Cpu::best()
                .gather_rows(&x, &vec![rows as u32; rows])
                .is_err()
        );
    }
}

#[test]
fn a_weight_that_was_loaded_for_something_else_is_refused() {
    let cpu = Cpu::best();
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let bytes = blocks(&mut rng, Format::F32, 64, None);
    let x = random(&mut rng, 2, 8);
    for role in [Role::Table, Role::Vector, Role::Kernel { side: 1 }] {
        let w = cpu
            .weight(data(role, Format::F32, 8, 8, bytes.clone()))
            .unwrap();
        let refused = cpu.matmul(&x, &w, None).unwrap_err();
        assert!(matches!(refused, KernelError::Role { .. }), "{refused}");
    }
    let w = cpu
        .weight(data(Role::Matrix, Format::F32, 8, 8, bytes))
        .unwrap();
    assert!(matches!(cpu.embed(&w, &[0]), Err(KernelError::Role { .. })));
    let wide = random(&mut rng, 2, 9);
    assert!(matches!(
        cpu.matmul(&wide, &w, None),
        Err(KernelError::Shape { .. })
    ));
    let short = data(Role::Matrix, Format::Q4_K, 1, 256, vec![0; 143]);
    assert!(matches!(
        cpu.weight(short),
        Err(KernelError::WeightBytes { .. })
    ));
}
