//! What is counted is what the formulas say.

use bytes::Bytes;

use super::*;
use crate::cpu::{InstructionSet, keeping};
use crate::format::Format;

fn plan() -> Plan {
    Plan::new(InstructionSet::Avx2, CacheFormat::F16)
}

fn weight(plan: &Plan, format: Format, rows: usize, cols: usize) -> Weight {
    let bytes = vec![0; format.row_bytes(cols).unwrap() * rows];
    let data = WeightData {
        role: Role::Matrix,
        format,
        rows,
        cols,
        bytes: Bytes::from(bytes),
    };
    plan.weight(data).unwrap()
}

#[test]
fn products_are_counted_by_kind_and_weights_by_phase() {
    let plan = plan();
    let (q, f) = (
        weight(&plan, Format::Q4_0, 64, 32),
        weight(&plan, Format::F16, 16, 64),
    );
    let x = plan.zeros(10, 32).unwrap();
    plan.take();
    plan.phase(Phase::Seeing);
    let y = plan.matmul(&x, &q, None).unwrap();
    plan.phase(Phase::Drawing);
    plan.matmul(&y, &f, None).unwrap();
    let work = plan.take();
    assert_eq!((work.integer, work.float), (10 * 64 * 32, 10 * 16 * 64));
    assert_eq!(work.read, 64 * 18 + 16 * 64 * 2);
    let (weights, mapped) = plan.weights();
    assert_eq!(mapped, Residency::default());
    assert_eq!((weights.seeing, weights.drawing), (64 * 18, 16 * 64 * 2));
    assert!(
        plan.matmul(&x, &f, None).is_err(),
        "32 values do not fit 64"
    );
}

#[test]
fn memory_is_what_was_held_at_once() {
    let plan = plan();
    let small = plan.zeros(100, 10).unwrap();
    drop(plan.zeros(1000, 10).unwrap());
    assert_eq!(plan.take().memory, 44_000);
    assert_eq!(plan.take().memory, 4_000);
    drop(small);
    // Large ones are kept, and used again for what fits.
    drop(plan.zeros(1000, 100).unwrap());
    assert_eq!(plan.take().memory, 400_000);
    let again = plan.zeros(600, 100).unwrap();
    assert_eq!(plan.take().memory, 400_000);
    let other = plan.zeros(600, 100).unwrap();
    assert_eq!(plan.take().memory, 640_000);
    drop((again, other));
}

#[test]
fn a_few_tokens_take_a_few_experts() {
    // A graphics processor computes them at once: the same work.
    takes_a_few_experts(&plan());
    takes_a_few_experts(&Plan::new(Target::Cuda, CacheFormat::F16));
}

fn takes_a_few_experts(plan: &Plan) {
    let experts: Vec<[Weight; 3]> = (0..8)
        .map(|_| [(64, 32), (64, 32), (32, 64)].map(|(r, c)| weight(plan, Format::Q8_0, r, c)))
        .collect();
    let experts: Vec<Expert<'_, Weight>> = experts
        .iter()
        .map(|[gate, up, down]| Expert { gate, up, down })
        .collect();
    for (tokens, taken) in [(1, 2), (3, 6), (40, 8)] {
        let x = plan.zeros(tokens, 32).unwrap();
        let logits = plan.zeros(tokens, 8).unwrap();
        plan.take();
        plan.mixture(&x, &logits, &experts, 2).unwrap();
        let work = plan.take();
        assert_eq!(work.integer, (tokens * 2 * 3 * 64 * 32) as u64);
        assert_eq!(work.read, taken * 3 * 64 * 34);
    }
}

#[test]
fn keys_and_values_stay_and_are_read() {
    let plan = plan();
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mask: Mask::Causal,
    };
    let (q, k) = (plan.zeros(1, 32).unwrap(), plan.zeros(10, 16).unwrap());
    let mut cache = plan.cache(16);
    plan.take();
    plan.cache_append(&mut cache, &k, &k).unwrap();
    let one = plan.zeros(1, 16).unwrap();
    plan.attention(&q, &[&cache], &one, &one, shape).unwrap();
    let work = plan.take();
    assert_eq!(work.float, 2 * 11 * 32);
    assert_eq!(work.read, 2 * 10 * 16 * 2);
}

#[test]
fn weights_take_what_the_kernels_make_of_them() {
    for set in InstructionSet::ALL {
        for format in Format::ALL.iter().copied() {
            for (role, rows, cols) in [(Role::Matrix, 21, 256), (Role::Kernel { side: 2 }, 21, 256)]
            {
                let bytes = Bytes::from(vec![0; format.row_bytes(cols).unwrap() * rows]);
                let data = WeightData {
                    role,
                    format,
                    rows,
                    cols,
                    bytes,
                };
                let packed = crate::cpu::pack(set, data.clone()).unwrap().unwrap();
                let kept = keeping(set, &data).bytes;
                assert_eq!(packed.len(), kept, "{set} {format} {role:?}");
            }
        }
    }
}

#[test]
fn of_a_table_the_rows_that_are_read_count() {
    let plan = plan();
    let data = WeightData {
        role: Role::Table,
        format: Format::F32,
        rows: 4,
        cols: 1024,
        bytes: Bytes::from(vec![0; 4 * 4096]),
    };
    let table = plan.weight(data).unwrap();
    plan.phase(Phase::Seeing);
    plan.embed(&table, &[1, 2]).unwrap();
    let (own, mapped) = plan.weights();
    assert_eq!((own.all(), mapped.seeing), (0, 2 * 4096));
    plan.embed(&table, &[0, 1, 2, 3]).unwrap();
    assert_eq!(plan.weights().1.seeing, 4 * 4096, "no more than there is");
}
