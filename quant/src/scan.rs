//! One reading of the whole source before hours are spent on it: its checksum, and whether every weight
//! is a number.

use kinglet_container::bytes_source::give_back;
use kinglet_kernels::Format;
use kinglet_kernels::blocks::decode_row;
use kinglet_model::linear::format_of;
use kinglet_model::{ModelError, Source};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::{QuantError, Result};

/// Bytes that are read at once, about: enough for all threads, and next to no memory.
const PIECE: usize = 16 << 20;

/// Reads every tensor. Returns the SHA-256 of all names and bytes. `progress` gets the bytes that are
/// done, and all.
///
/// # Errors
/// [`ModelError::NotFinite`] for the first weight that is no number, [`QuantError::Type`] for a tensor
/// that is not stored as floats.
pub(crate) fn scan(source: &Source, progress: &mut dyn FnMut(usize, usize)) -> Result<String> {
    let all = source.tensors.values().map(|t| t.bytes.len()).sum();
    let mut done = 0;
    let mut hash = Sha256::new();
    for (name, tensor) in &source.tensors {
        hash.update(name.as_bytes());
        let format = format_of(tensor.kind).ok_or_else(|| QuantError::Type {
            tensor: name.clone(),
            kind: tensor.kind.to_string(),
        })?;
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let row = format.row_bytes(cols)?.max(1);
        let piece = (PIECE / row).max(1) * row;
        for (i, bytes) in tensor.bytes.chunks(piece).enumerate() {
            let check = || not_finite(format, bytes, row, cols);
            let ((), bad) = rayon::join(|| hash.update(bytes), check);
            if let Some((at, value)) = bad? {
                return Err(QuantError::Model(ModelError::NotFinite {
                    source_name: source.name.clone(),
                    tensor: name.clone(),
                    row: i * (piece / row) + at,
                    value,
                }));
            }
            give_back(&tensor.bytes.slice_ref(bytes));
            done += bytes.len();
            progress(done, all);
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// The first row with a value that is no number, and the value.
fn not_finite(
    format: Format,
    bytes: &[u8],
    row_bytes: usize,
    cols: usize,
) -> Result<Option<(usize, f32)>> {
    let suspicious = |row: &[u8]| match format {
        // An exponent of ones is infinity or no number.
        Format::BF16 => any::<2>(row, |b| u16::from_le_bytes(b) & 0x7F80 == 0x7F80),
        Format::F16 => any::<2>(row, |b| u16::from_le_bytes(b) & 0x7C00 == 0x7C00),
        Format::F32 => any::<4>(row, |b| u32::from_le_bytes(b) & 0x7F80_0000 == 0x7F80_0000),
        _ => true,
    };
    let check = |(i, row): (usize, &[u8])| -> Result<Option<(usize, f32)>> {
        if !suspicious(row) {
            return Ok(None);
        }
        let mut values = vec![0.0; cols];
        decode_row(format, row, &mut values)?;
        let bad = values.iter().find(|v| !v.is_finite());
        Ok(bad.map(|value| (i, *value)))
    };
    let rows = bytes.par_chunks_exact(row_bytes).enumerate();
    let found = rows
        .map(check)
        .find_first(|found| !matches!(found, Ok(None)));
    found.unwrap_or(Ok(None))
}

/// Whether any value is so; all are looked at, which is quicker than stopping.
fn any<const N: usize>(row: &[u8], is: impl Fn([u8; N]) -> bool) -> bool {
    row.as_chunks::<N>()
        .0
        .iter()
        .fold(false, |any, b| any | is(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinglet_kernels::blocks::encode_row;

    #[test]
    fn the_first_value_that_is_no_number_is_found_in_every_type_that_holds_one() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
            let mut bytes = Vec::new();
            for _ in 0..5 {
                encode_row(format, &[60_000.0; 64], &mut bytes).unwrap();
            }
            let row = bytes.len() / 5;
            assert_eq!(
                not_finite(format, &bytes, row, 64).unwrap(),
                None,
                "{format}"
            );
            // The last value of row 3, or the scale of its last block.
            let at = match format {
                Format::Q8_0 => 3 * row + 34,
                _ => 4 * row - format.row_bytes(1).unwrap(),
            };
            let bad: &[u8] = match format {
                Format::F32 => &f32::NEG_INFINITY.to_le_bytes(),
                Format::BF16 => &[0xC0, 0x7F],
                _ => &[0, 0x7C],
            };
            bytes[at..at + bad.len()].copy_from_slice(bad);
            let (at, value) = not_finite(format, &bytes, row, 64).unwrap().unwrap();
            assert!(at == 3 && !value.is_finite(), "{format}: {at} {value}");
        }
    }
}
