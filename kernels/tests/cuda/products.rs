//! Matrix products: exact sums of integers, floats, 16 bits.

use kinglet_kernels::{Device, Format, RenormSpan, Role, Scalar, WeightData};
use rand::Rng;

use crate::{NEAR, Pair, ROUNDED, has_run, shim, without_tensor_cores};

/// Integers that 8 bits hold exactly: their sums must be exact, in every format, on every path.
#[test]
fn sums_of_integers_are_exact() {
    let ways: &[(fn() -> _, u32)] = &[
        (shim::shared, 0),
        (shim::shared, 5),
        (without_tensor_cores, 3),
    ];
    for mut pair in Pair::on_each(false, ways) {
        for format in Format::ALL.iter().copied().filter(|f| f.block_values() > 1) {
            for (tokens, rows, blocks) in [
                (1, 1, 1),
                (3, 7, 2),
                (8, 9, 1),
                (9, 65, 1),
                (70, 66, 1),
                (9, 3, 3),
            ] {
                let cols = (blocks * format.block_values()).max(64);
                let mut bytes = pair.blocks(format, rows * cols);
                for block in bytes.chunks_mut(format.block_bytes()) {
                    let one = half::f16::ONE.to_le_bytes();
                    match format {
                        Format::Q4_1 | Format::Q5_1 | Format::Q4_K | Format::Q5_K => {
                            block[..4].copy_from_slice(&[one, one].concat());
                        }
                        Format::Q2_K => block[80..].copy_from_slice(&[one, one].concat()),
                        Format::Q3_K => block[108..].copy_from_slice(&one),
                        Format::Q6_K => block[208..].copy_from_slice(&one),
                        _ => block[..2].copy_from_slice(&one),
                    }
                }
                let data = || WeightData {
                    role: Role::Matrix,
                    format,
                    rows,
                    cols,
                    bytes: bytes.clone().into(),
                };
                let (ours, theirs) = (
                    pair.gpu.weight(data()).unwrap(),
                    Scalar.weight(data()).unwrap(),
                );
                let mut x: Vec<f32> = (0..tokens * cols)
                    .map(|_| f32::from(pair.rng.random_range(-3i8..=3)))
                    .collect();
                // The largest of every 32 is 127, so that their scale is one.
                for block in x.chunks_mut(32) {
                    block[pair.rng.random_range(0..32)] = 127.0;
                }
                let (a, b) = pair.same(&x, cols);
                let got = pair
                    .gpu
                    .download(&pair.gpu.matmul(&a, &ours, None).unwrap())
                    .unwrap();
                let expected = Scalar
                    .download(&Scalar.matmul(&b, &theirs, None).unwrap())
                    .unwrap();
                assert!(
                    got == expected,
                    "{format}, {tokens} x {rows} x {cols} on {}",
                    pair.gpu.describe()
                );
            }
        }
    }
    if let Some(shim) = shim::opened() {
        shim.order(0);
    }
}

#[test]
fn products_are_near_in_every_format() {
    let mut pair = Pair::new(false);
    pair.gpu = pair.gpu.exact();
    for format in Format::ALL.iter().copied() {
        let bound = if format.block_values() == 1 {
            NEAR
        } else {
            ROUNDED
        };
        for (tokens, rows, cols) in [
            (0, 5, 256),
            (1, 40, 512),
            (7, 33, 256),
            (20, 70, 256),
            (65, 3, 256),
        ] {
            let w = pair.weight(Role::Matrix, format, rows, cols);
            let bias = pair.weight(Role::Vector, Format::F32, 1, rows);
            let (a, b) = pair.matrix(tokens, cols);
            let got = pair.gpu.matmul(&a, &w.0, Some(&bias.0)).unwrap();
            let expected = Scalar.matmul(&b, &w.1, Some(&bias.1)).unwrap();
            pair.near(
                &format!("{format} {tokens} x {rows} x {cols}"),
                &got,
                &expected,
                bound,
            );
            let got = pair.gpu.gated(&a, &w.0, &w.0).unwrap();
            let expected = Scalar.gated(&b, &w.1, &w.1).unwrap();
            pair.near(&format!("gated {format}"), &got, &expected, 2.0 * bound);
        }
        // Plain formats may have rows of any length.
        if format.block_values() == 1 {
            let w = pair.weight(Role::Matrix, format, 35, 19);
            for tokens in [1, 8, 37] {
                let (a, b) = pair.matrix(tokens, 19);
                let (got, expected) = (
                    pair.gpu.matmul(&a, &w.0, None),
                    Scalar.matmul(&b, &w.1, None),
                );
                pair.near("odd sizes", &got.unwrap(), &expected.unwrap(), bound);
            }
        }
    }
}

/// Weights of 16 bits and many tokens: activations are rounded to the same format, with 11 bits or 8, whatever their size;
/// rows differ by many powers of two.
#[test]
fn products_of_many_tokens_are_near_in_16_bits() {
    for mut pair in Pair::on_each(false, &[(shim::shared, 4), (without_tensor_cores, 4)]) {
        for (format, bound) in [(Format::F16, 2e-3), (Format::BF16, 1e-2)] {
            for (tokens, rows, cols) in [(9, 5, 19), (70, 66, 64), (64, 129, 200), (65, 3, 72)] {
                let w = pair.weight(Role::Matrix, format, rows, cols);
                let bias = pair.weight(Role::Vector, Format::F32, 1, rows);
                for largest in [1.0, 1e9, 1e-9, 0.0] {
                    let mut x = pair.values(tokens * cols);
                    for (i, row) in x.chunks_mut(cols).enumerate() {
                        for v in row {
                            *v *= largest * 0.5f32.powi(i as i32 % 4);
                        }
                    }
                    let (a, b) = pair.same(&x, cols);
                    let what = format!("{format} {tokens} x {rows} x {cols}, {largest}");
                    let got = pair.gpu.matmul(&a, &w.0, Some(&bias.0)).unwrap();
                    let expected = Scalar.matmul(&b, &w.1, Some(&bias.1)).unwrap();
                    pair.near(&what, &got, &expected, bound);
                    let got = pair.gpu.matmul(&a, &w.0, None).unwrap();
                    let expected = Scalar.matmul(&b, &w.1, None).unwrap();
                    pair.near(&what, &got, &expected, bound);
                }
            }
        }
    }
    has_run(&["rounded_F16", "rounded_BF16"]);
}

/// A norm quantizes its result for the products that follow, and what changes the result takes that back.
#[test]
fn a_norm_is_quantized_with_its_result() {
    let mut pair = Pair::new(false);
    for (tokens, cols) in [(1, 64), (9, 288), (3, 512)] {
        let w = pair.weight(Role::Matrix, Format::Q8_0, 33, cols);
        let norm = pair.weight(Role::Vector, Format::F32, 1, cols);
        let (a, _) = pair.matrix(tokens, cols);
        let product = |x: &crate::CudaMatrix| {
            let product = pair.gpu.matmul(x, &w.0, None).unwrap();
            pair.gpu.download(&product).unwrap()
        };
        // A copy has no integers beside it: they are made for the product.
        let mut normed = pair.gpu.rms_norm(&a, &norm.0, 1e-6).unwrap();
        let once = product(&normed);
        let mut copy = pair.gpu.copy(&normed).unwrap();
        assert_eq!(once, product(&copy));
        type Change<'a> = &'a dyn Fn(&mut crate::CudaMatrix);
        let gpu = &pair.gpu;
        let factors = gpu.upload(&vec![0.5; tokens], 1).unwrap();
        let positions: Vec<u32> = (1..=tokens as u32).collect();
        let changes: [Change<'_>; 11] = [
            &|x| gpu.add(x, &a).unwrap(),
            &|x| gpu.add_scaled(x, 0.3, &a).unwrap(),
            &|x| gpu.affine(x, 1.5, 0.25).unwrap(),
            &|x| gpu.silu(x).unwrap(),
            &|x| gpu.gelu_tanh(x).unwrap(),
            &|x| gpu.swiglu(x, &a).unwrap(),
            &|x| gpu.scale_rows(x, &factors).unwrap(),
            &|x| gpu.rope(x, &positions, 32, 1e4).unwrap(),
            &|x| {
                gpu.scatter_rows(x, &a, &positions.iter().map(|p| p - 1).collect::<Vec<_>>())
                    .unwrap()
            },
            &|x| gpu.extrapolate(x, &a, 3.0).unwrap(),
            &|x| gpu.renorm(x, &a, 0.0, RenormSpan::Row).unwrap(),
        ];
        for (i, change) in changes.iter().enumerate() {
            change(&mut normed);
            change(&mut copy);
            let got = product(&normed);
            assert_eq!(got, product(&copy), "change {i}");
            assert_ne!(got, once, "change {i}");
            normed = gpu.rms_norm(&a, &norm.0, 1e-6).unwrap();
            copy = gpu.copy(&normed).unwrap();
        }
    }
}
