//! The reference device against formulas computed another way.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::blocks::encode_row;
use crate::device::Mask;

fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn weight(format: Format, rows: usize, cols: usize, values: &[f32]) -> Stored {
    let mut bytes = Vec::new();
    for row in values.chunks(cols) {
        encode_row(format, row, &mut bytes).unwrap();
    }
    let data = WeightData {
        role: Role::Matrix,
        format,
        rows,
        cols,
        bytes: bytes.into(),
    };
    Scalar.weight(data).unwrap()
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() < 1e-4, "value {i}: {a} is not {b}");
    }
}

#[test]
fn a_matrix_product_is_the_sum_of_products_plus_the_bias() {
    for (n, rows, cols) in [(0, 3, 32), (1, 1, 32), (3, 37, 64), (5, 16, 96)] {
        let x = random(1, n * cols);
        let w = random(2, rows * cols);
        let b = random(3, rows);
        let out = Scalar
            .matmul(
                &Scalar.upload(&x, cols).unwrap(),
                &weight(Format::F32, rows, cols, &w),
                Some(&weight(Format::F32, 1, rows, &b)),
            )
            .unwrap();
        let mut expected = Vec::new();
        for x in x.chunks(cols) {
            for (w, b) in w.chunks(cols).zip(&b) {
                expected.push(b + x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>());
            }
        }
        close(&out.values, &expected);
    }
}

#[test]
fn attention_in_pieces_equals_attention_in_one() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mask: Mask::Causal,
    };
    let q = Scalar.upload(&random(1, 6 * 32), 32).unwrap();
    let k = Scalar.upload(&random(2, 6 * 16), 16).unwrap();
    let v = Scalar.upload(&random(3, 6 * 16), 16).unwrap();
    let whole = Scalar.attention(&q, &[], &k, &v, shape).unwrap();

    let part = |x: &Matrix, ids: &[u32]| Scalar.gather_rows(x, ids).unwrap();
    let mut first = Scalar.cache(16);
    Scalar
        .cache_append(&mut first, &part(&k, &[0, 1]), &part(&v, &[0, 1]))
        .unwrap();
    let mut second = Scalar.cache(16);
    Scalar
        .cache_append(&mut second, &part(&k, &[2]), &part(&v, &[2]))
        .unwrap();
    let rest = [3, 4, 5];
    let tail = Scalar
        .attention(
            &part(&q, &rest),
            &[&first, &second],
            &part(&k, &rest),
            &part(&v, &rest),
            shape,
        )
        .unwrap();
    close(&tail.values, &part(&whole, &rest).values);
}

#[test]
fn a_convolution_with_one_tap_is_a_matrix_product() {
    let x = Scalar.upload(&random(1, 12 * 5), 5).unwrap();
    let w = weight(Format::F32, 7, 5, &random(2, 35));
    let b = weight(Format::F32, 1, 7, &random(3, 7));
    let conv = Scalar.conv2d(&x, &w, &b, ConvShape::same(3, 4, 1)).unwrap();
    close(
        &conv.values,
        &Scalar.matmul(&x, &w, Some(&b)).unwrap().values,
    );
}

#[test]
fn a_strided_convolution_reads_zeros_right_and_below() {
    // One channel, 2x2 pixels, a kernel of ones: the only output is the sum of all pixels.
    let x = Scalar.upload(&[1.0, 2.0, 3.0, 4.0], 1).unwrap();
    let w = weight(Format::F32, 1, 9, &[1.0; 9]);
    let b = weight(Format::F32, 1, 1, &[0.5]);
    let shape = ConvShape {
        height: 2,
        width: 2,
        kernel: 3,
        stride: 2,
        pad_before: 0,
        pad_after: 1,
    };
    assert_eq!(shape.output(), (1, 1));
    close(&Scalar.conv2d(&x, &w, &b, shape).unwrap().values, &[10.5]);
}

#[test]
fn rotation_keeps_lengths_and_depends_on_distance_only() {
    let turn = |values: &[f32], position| {
        let mut x = Scalar.upload(values, 8).unwrap();
        Scalar.rope(&mut x, &[position], 8, 10_000.0).unwrap();
        x.values
    };
    let (a, b) = (random(1, 8), random(2, 8));
    let product = |p, q| matmul::dot(&turn(&a, p), &turn(&b, q));
    assert!((product(3, 1) - product(12, 10)).abs() < 1e-4);
    assert!((product(0, 0) - matmul::dot(&a, &b)).abs() < 1e-5);
}

#[test]
fn renorm_never_lengthens_and_respects_its_floor() {
    let reference = Scalar.upload(&[3.0, 4.0, 0.0, 1.0], 2).unwrap();
    let mut x = Scalar.upload(&[6.0, 8.0, 0.0, 0.5], 2).unwrap();
    Scalar
        .renorm(&mut x, &reference, 0.0, RenormSpan::Row)
        .unwrap();
    close(&x.values, &[3.0, 4.0, 0.0, 0.5]);
    let mut x = Scalar.upload(&[6.0, 8.0, 0.0, 0.0], 2).unwrap();
    Scalar
        .renorm(&mut x, &reference, 1.0, RenormSpan::Whole)
        .unwrap();
    close(&x.values, &[6.0, 8.0, 0.0, 0.0]);
}

#[test]
fn shapes_that_do_not_fit_are_refused_by_name() {
    let x = Scalar.upload(&random(1, 6), 3).unwrap();
    let w = weight(Format::F32, 2, 4, &random(2, 8));
    let refusal = Scalar.matmul(&x, &w, None).unwrap_err();
    assert!(refusal.to_string().contains("matmul"), "{refusal}");
    assert!(Scalar.embed(&w, &[2]).is_err());
    assert!(Scalar.upload(&[1.0; 5], 2).is_err());
    assert!(Scalar.upload(&[1.0; 5], 0).is_err());
    assert!(Scalar.upsample_nearest(&x, 3, 3).is_err());
    let data = WeightData {
        role: Role::Matrix,
        format: Format::Q8_0,
        rows: 2,
        cols: 32,
        bytes: vec![0; 67].into(),
    };
    assert!(Scalar.weight(data).is_err());
}
