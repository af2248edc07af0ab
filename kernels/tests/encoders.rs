//! The encoders that search: how close they come, and what they make of odd rows.

// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row, encode_row_weighted};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn blocks() -> impl Iterator<Item = Format> {
    let formats = Format::ALL.iter().copied();
    formats.filter(|f| f.block_values() > 1)
}

fn there_and_back(format: Format, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = Vec::new();
    encode_row_weighted(format, values, importance, &mut bytes).unwrap();
    decoded(format, &bytes, values.len())
}

fn decoded(format: Format, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut back = vec![0.0; len];
    decode_row(format, bytes, &mut back).unwrap();
    back
}

/// The relative L2 error, with one weight a column.
fn error(values: &[f32], back: &[f32], weight: impl Fn(usize) -> f32) -> f64 {
    let sum = |f: &dyn Fn(usize) -> f32| -> f64 {
        let term = |i| f64::from(weight(i)) * f64::from(f(i)).powi(2);
        (0..values.len()).map(term).sum()
    };
    (sum(&|i| values[i] - back[i]) / sum(&|i| values[i])).sqrt()
}

/// Roughly normal.
fn normal(rng: &mut ChaCha8Rng, len: usize) -> Vec<f32> {
    let one = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
    (0..len).map(|_| one(rng)).collect()
}

/// Relative errors of normal rows. A perfect one of 4 bits would have about 0.075.
const BOUNDS: [(Format, f64); 10] = [
    (Format::Q4_0, 0.085),
    (Format::Q4_1, 0.075),
    (Format::Q5_0, 0.043),
    (Format::Q5_1, 0.037),
    (Format::Q8_0, 0.006),
    (Format::Q2_K, 0.29),
    (Format::Q3_K, 0.155),
    (Format::Q4_K, 0.075),
    (Format::Q5_K, 0.038),
    (Format::Q6_K, 0.018),
];

#[test]
fn normal_rows_come_back_within_the_bounds() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    assert_eq!(BOUNDS.len(), blocks().count());
    for (format, bound) in BOUNDS {
        for size in [1e-3, 1.0, 300.0] {
            let values: Vec<f32> = normal(&mut rng, 8192).iter().map(|v| v * size).collect();
            let error = error(&values, &there_and_back(format, &values, None), |_| 1.0);
            assert!(error < bound, "{format} at {size}: {error}");
        }
    }
}

#[test]
fn the_search_is_not_worse_than_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for format in [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q8_0] {
        for _ in 0..500 {
            let values = normal(&mut rng, format.block_values());
            let searched = error(&values, &there_and_back(format, &values, None), |_| 1.0);
            let mut bytes = Vec::new();
            encode_row(format, &values, &mut bytes).unwrap();
            let plain = error(&values, &decoded(format, &bytes, values.len()), |_| 1.0);
            assert!(searched <= plain * 1.01, "{format}: {searched} > {plain}");
        }
    }
}

#[test]
fn importance_lowers_the_error_where_it_lies() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let importance: Vec<f32> = (0..4096)
        .map(|_| rng.random::<f32>().powi(8) * 50.0)
        .collect();
    for format in blocks() {
        let values = normal(&mut rng, 4096);
        let weight = |i: usize| importance[i];
        let with = there_and_back(format, &values, Some(&importance));
        let without = there_and_back(format, &values, None);
        let (with, without) = (
            error(&values, &with, weight),
            error(&values, &without, weight),
        );
        assert!(with < 0.95 * without, "{format}: {with} against {without}");
    }
}

#[test]
fn importance_that_says_nothing_changes_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let values = normal(&mut rng, 512);
    for format in blocks() {
        let plain = there_and_back(format, &values, None);
        for same in [0.0, 1.0, 7.0] {
            let importance = vec![same; 512];
            assert_eq!(
                there_and_back(format, &values, Some(&importance)),
                plain,
                "{format}"
            );
        }
        let short = encode_row_weighted(format, &values, Some(&[1.0; 3]), &mut Vec::new());
        assert!(short.is_err());
    }
}

/// Rows of 512 on which a scale may be 0, subnormal or beyond f16, with the relative error that is
/// allowed in shares of the largest value.
fn odd_rows() -> Vec<(&'static str, Vec<f32>)> {
    let wave = |size: f32| (0..512).map(|i| size * (i as f32 * 0.7).sin()).collect();
    let outlier = |size: f32| {
        let mut values: Vec<f32> = wave(1e-3);
        values[100] = size;
        values[300] = -size;
        values
    };
    vec![
        ("zeros", vec![0.0; 512]),
        ("a constant", vec![0.7; 512]),
        ("a negative constant", vec![-0.7; 512]),
        ("small", wave(1e-4)),
        ("tiny", wave(1e-7)),
        ("subnormal", wave(1e-40)),
        ("large", wave(6e4)),
        ("huge", wave(1e9)),
        ("vast", wave(3e38)),
        ("an outlier", outlier(1.0)),
        ("a huge outlier", outlier(1e30)),
        ("positive", (0..512).map(|i| 5.0 + (i % 7) as f32).collect()),
        (
            "negative",
            (0..512).map(|i| -5.0 - (i % 7) as f32).collect(),
        ),
    ]
}

#[test]
fn odd_rows_come_back_finite_and_as_close_as_f16_scales_allow() {
    for format in blocks() {
        for (name, values) in odd_rows() {
            for importance in [None, Some(&[2.0; 512][..])] {
                let back = there_and_back(format, &values, importance);
                assert!(back.iter().all(|v| v.is_finite()), "{format}: {name}");
                let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                // The least f16 is 6e-8.
                if largest <= format.largest() && largest > 5e-5 {
                    let error = error(&values, &back, |_| 1.0);
                    let bound = BOUNDS.iter().find(|b| b.0 == format).unwrap().1;
                    assert!(error < 1.5 * bound, "{format}: {name}: {error}");
                }
                if largest < 1e-30 {
                    assert!(back.iter().all(|v| *v == 0.0), "{format}: {name}");
                }
            }
        }
    }
}

#[test]
fn the_largest_value_of_a_format_comes_back() {
    for format in blocks() {
        for size in [1.0, 0.5] {
            let mut values = vec![0.0; 256];
            (values[3], values[40]) = (format.largest() * size, -format.largest() * size);
            let back = there_and_back(format, &values, None);
            assert!(error(&values, &back, |_| 1.0) < 0.2, "{format}");
        }
    }
}

#[test]
fn what_is_no_number_is_encoded_without_a_panic() {
    for format in blocks() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![0.5; 256];
            values[7] = bad;
            there_and_back(format, &values, None);
            there_and_back(format, &[bad; 256], None);
            there_and_back(format, &[1.0; 256], Some(&[bad; 256]));
        }
    }
}
