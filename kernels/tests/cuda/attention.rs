//! Attention in its three forms: few queries, the keys in parts, many queries in halves.

use kinglet_kernels::{AttentionShape, Device, Mask, Scalar};

use crate::{NEAR, Pair, has_run, shim, without_tensor_cores};

/// Attention after caches of `past` tokens (that come in two pieces) on both devices.
fn attends(
    pair: &mut Pair,
    queries: usize,
    past: &[[usize; 2]],
    shape: AttentionShape,
    bound: f64,
) {
    let width = shape.kv_heads * shape.head_dim;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for pieces in past {
        let (mut a, mut b) = (pair.gpu.cache(width), Scalar.cache(width));
        for tokens in pieces.iter().filter(|tokens| **tokens > 0) {
            let (k, l) = pair.matrix(*tokens, width);
            let (v, w) = pair.matrix(*tokens, width);
            pair.gpu.cache_append(&mut a, &k, &v).unwrap();
            Scalar.cache_append(&mut b, &l, &w).unwrap();
        }
        let (read, expected) = (
            pair.gpu.cache_read(&a).unwrap(),
            Scalar.cache_read(&b).unwrap(),
        );
        pair.near("keys", &read.0, &expected.0, bound);
        pair.near("values", &read.1, &expected.1, bound);
        ours.push(a);
        theirs.push(b);
    }
    let (q, p) = pair.matrix(queries, shape.heads * shape.head_dim);
    let (k, l) = pair.matrix(queries, width);
    let (v, w) = pair.matrix(queries, width);
    // Scores that differ, so that the running maximum moves.
    let (mut q, mut p) = (q, p);
    pair.gpu.affine(&mut q, 4.0, 0.0).unwrap();
    Scalar.affine(&mut p, 4.0, 0.0).unwrap();
    let (ours, theirs): (Vec<_>, Vec<_>) = (ours.iter().collect(), theirs.iter().collect());
    let got = pair.gpu.attention(&q, &ours, &k, &v, shape).unwrap();
    let expected = Scalar.attention(&p, &theirs, &l, &w, shape).unwrap();
    let what = format!("{queries} queries of {shape:?} after {past:?}");
    pair.near(&what, &got, &expected, bound);
}

#[test]
fn attention_is_that_of_the_reference() {
    for half in [false, true] {
        let mut pair = Pair::new(half);
        for (heads, kv_heads, head_dim) in [(4, 2, 16), (3, 3, 72), (2, 1, 128), (2, 1, 20)] {
            for mask in [Mask::Full, Mask::Causal] {
                let shape = AttentionShape {
                    heads,
                    kv_heads,
                    head_dim,
                    mask,
                };
                let bound = if half { 1e-3 } else { NEAR };
                // One cache is appended to twice, beyond its first room; one stays empty.
                for past in [&[][..], &[[5, 0], [0, 0], [33, 40]]] {
                    attends(&mut pair, 6, past, shape, bound);
                }
            }
        }
    }
}

/// The keys of a long prefix are split over several blocks.
#[test]
fn long_prefixes_are_read_in_parts() {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        mask: Mask::Causal,
    };
    for (half, bound) in [(false, NEAR), (true, 1e-3)] {
        let mut pair = Pair::new(half);
        for (queries, past) in [(1, 700), (3, 513), (1, 511)] {
            attends(&mut pair, queries, &[[7, 0], [past, 0]], shape, bound);
        }
        has_run(&["attention_join"]);
    }
}

/// Many queries with keys in halves: the products of f16, on both paths. An f16 has 11 bits, so that each of queries, keys,
/// values and probabilities is off by 2^-12 at most, relatively.
#[test]
fn attention_of_many_queries_is_near_in_halves() {
    for mut pair in Pair::on_each(true, &[(shim::shared, 2), (without_tensor_cores, 2)]) {
        for (heads, kv_heads, head_dim) in
            [(2, 1, 64), (2, 2, 72), (2, 1, 128), (1, 1, 16), (2, 1, 20)]
        {
            for mask in [Mask::Full, Mask::Causal] {
                let shape = AttentionShape {
                    heads,
                    kv_heads,
                    head_dim,
                    mask,
                };
                for (queries, past) in [(16, &[][..]), (70, &[[5, 0], [33, 40]]), (129, &[[64, 0]])]
                {
                    attends(&mut pair, queries, past, shape, 2e-3);
                }
            }
        }
    }
    has_run(&["flash_64", "flash_80", "flash_128"]);
}
