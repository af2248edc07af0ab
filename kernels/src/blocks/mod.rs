//! Decoding and encoding of rows.

mod encode;
mod small;
mod super_blocks;
mod unpacked;

pub(crate) use super_blocks::{scale_and_offset, signed_scale};
pub(crate) use unpacked::{MOST_RUNS, Unpacked};

use half::{bf16, f16};

use crate::error::{Result, same};
use crate::format::Format;

/// Decodes one row of `bytes` in `format` into `out`.
///
/// # Errors
/// A [`crate::KernelError`] if `bytes` is not exactly the row that `out.len()` values take.
pub fn decode_row(format: Format, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    same(
        "decode_row",
        "the number of bytes",
        bytes.len(),
        format.row_bytes(out.len())?,
    )?;
    match format {
        Format::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
        Format::F16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f16::from_le_bytes(*b).to_f32();
            }
        }
        Format::BF16 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = bf16::from_le_bytes(*b).to_f32();
            }
        }
        format => {
            let mut block = Unpacked::new();
            let blocks = bytes.chunks_exact(format.block_bytes());
            for (bytes, values) in blocks.zip(out.chunks_exact_mut(format.block_values())) {
                block.read(format, bytes);
                block.values(format.run_values(), values);
            }
        }
    }
    Ok(())
}

/// Encodes one row of values in `format`, appending to `out`. Q4_0, Q4_1, Q5_0 and Q8_0 get the bytes
/// that ggml's reference gives them, without a search; the others are [`encode_row_weighted`].
///
/// # Errors
/// [`crate::KernelError::BlockLength`] if the format's blocks do not divide the row.
pub fn encode_row(format: Format, values: &[f32], out: &mut Vec<u8>) -> Result<()> {
    out.reserve(format.row_bytes(values.len())?);
    match format {
        Format::F32 => out.extend(values.iter().flat_map(|v| v.to_le_bytes())),
        Format::F16 => out.extend(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())),
        Format::BF16 => out.extend(values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes())),
        Format::Q4_0 => small::encode_q4_0(values, out),
        Format::Q4_1 => small::encode_q4_1(values, out),
        Format::Q5_0 => small::encode_q5_0(values, out),
        Format::Q8_0 => small::encode_q8_0(values, out),
        format => encode::row(format, values, None, out),
    }
    Ok(())
}

/// Encodes one row of values in `format`, appending to `out`, so that
/// `sum of importance * (value - decoded)^2` is small; without importance every column counts the
/// same. `importance` holds one number for each column, not negative: the mean square of what the
/// column is multiplied with. The same bytes come out on every processor.
///
/// Values beyond [`Format::largest`] come back smaller; values that are no numbers come back as
/// anything. Neither is refused here.
///
/// # Errors
/// [`crate::KernelError::BlockLength`] if the format's blocks do not divide the row,
/// [`crate::KernelError::Shape`] if there is not one importance a column.
pub fn encode_row_weighted(
    format: Format,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut Vec<u8>,
) -> Result<()> {
    if let Some(importance) = importance {
        same(
            "encode_row_weighted",
            "the length of the importance",
            importance.len(),
            values.len(),
        )?;
    }
    if format.block_values() == 1 {
        return encode_row(format, values, out);
    }
    out.reserve(format.row_bytes(values.len())?);
    encode::row(format, values, importance, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_returns_what_it_was_given_within_its_precision() {
        let values: Vec<f32> = (0..64)
            .map(|i| ((i * 37 % 64) as f32 - 31.5) / 8.0)
            .collect();
        for (format, bound) in [
            (Format::F32, 0.0),
            (Format::F16, 0.003),
            (Format::BF16, 0.02),
            (Format::Q4_0, 0.51),
            (Format::Q4_1, 0.27),
            (Format::Q5_0, 0.26),
            (Format::Q8_0, 0.017),
        ] {
            let mut bytes = Vec::new();
            encode_row(format, &values, &mut bytes).unwrap();
            let mut back = vec![0.0; values.len()];
            decode_row(format, &bytes, &mut back).unwrap();
            for (a, b) in values.iter().zip(&back) {
                assert!((a - b).abs() <= bound, "{format}: {a} came back as {b}");
            }
        }
    }

    #[test]
    fn a_row_of_the_wrong_length_is_refused() {
        let mut out = vec![0.0; 32];
        assert!(decode_row(Format::Q8_0, &[0; 33], &mut out).is_err());
        assert!(encode_row(Format::Q8_0, &[0.0; 33], &mut Vec::new()).is_err());
    }
}
