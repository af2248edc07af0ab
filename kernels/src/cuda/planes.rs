//! Weights in the order in which products read them: planes of integers and of scales (kernels/cuda/planes.cuh).

use rayon::prelude::*;

use crate::blocks::Unpacked;
use crate::format::Format;

/// Values of a run.
const RUN: usize = 32;

/// The weight of these blocks in planes, as many bytes; `None` where a format stays in blocks.
pub(super) fn in_planes(format: Format, blocks: &[u8]) -> Option<Vec<u8>> {
    let runs = format.block_values() / RUN;
    // What is added to the integers, bytes of the lower bits and of the higher ones of a block, and where its scales are.
    let (bias, low, high, head) = match format {
        Format::Q4_0 => (8, 16 * runs, 0, 0..2),
        Format::Q8_0 => (0, 32 * runs, 0, 0..2),
        Format::Q4_K => (0, 16 * runs, 0, 0..16),
        Format::Q6_K => (32, 16 * runs, 8 * runs, 192..210),
        _ => return None,
    };
    let size = format.block_bytes();
    let mut out = vec![0; blocks.len()];
    let count = blocks.len() / size;
    let (lower, rest) = out.split_at_mut(count * low);
    let (higher, heads) = rest.split_at_mut(count * high);
    fill(blocks, size, lower, low, |block, out| {
        for (run, out) in integers(format, bias, block, runs)
            .iter()
            .zip(out.chunks_mut(low / runs))
        {
            for (i, byte) in out.iter_mut().enumerate() {
                // Values 0 to 16 in the lower nibbles, the others in the upper ones; or a byte each.
                *byte = match format {
                    Format::Q8_0 => run[i],
                    _ => run[i] & 15 | run[i + RUN / 2] << 4,
                };
            }
        }
    });
    fill(blocks, size, higher, high, |block, out| {
        for (run, out) in integers(format, bias, block, runs)
            .iter()
            .zip(out.chunks_mut(high / runs))
        {
            for (i, byte) in out.iter_mut().enumerate() {
                // Byte i of an int has those of byte i of four ints.
                let first = i / 4 * 16 + i % 4;
                *byte = (0..4).fold(0, |bits, j| bits | (run[first + 4 * j] >> 4) << (2 * j));
            }
        }
    });
    fill(blocks, size, heads, head.len(), |block, out| {
        out.copy_from_slice(&block[head.clone()]);
    });
    Some(out)
}

/// Fills a plane that has `each` bytes of every block.
fn fill(
    blocks: &[u8],
    size: usize,
    plane: &mut [u8],
    each: usize,
    of: impl Fn(&[u8], &mut [u8]) + Sync,
) {
    if each > 0 {
        let plane = plane.par_chunks_exact_mut(each);
        plane
            .zip(blocks.par_chunks_exact(size))
            .with_min_len(1 << 10)
            .for_each(|(out, block)| of(block, out));
    }
}

/// The integers of a block, without a sign, run by run; those of a format of 8 bits as they are.
fn integers(format: Format, bias: i8, block: &[u8], runs: usize) -> Vec<[u8; RUN]> {
    let mut all = Unpacked::new();
    all.read(format, block);
    let (values, _) = all.q.as_chunks::<RUN>();
    let unsigned = |run: &[i8; RUN]| run.map(|q| q.wrapping_add(bias) as u8);
    values.iter().take(runs).map(unsigned).collect()
}
