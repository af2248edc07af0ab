//! A budget of bytes, spent where it lowers the error most.
//!
//! The error of a matrix in a type is that of its outputs, squared and relative: for inputs whose
//! columns have the mean squares `a` (all the same, if nothing is known of them) it is
//! `sum of a (w - w')^2 / sum of a w^2`. The sum over all matrices is made small: every matrix begins with
//! its smallest type, and the next bytes go where they lower the sum most for each byte, until no step
//! fits any more (the greedy solution on the lower convex hulls).

use kinglet_kernels::Format;
use kinglet_kernels::blocks::{decode_row, encode_row_weighted};

use crate::error::{QuantError, Result};

/// Rows that are measured of each matrix (of each expert, where it has some), spread over all of it.
const ROWS: usize = 32;

/// A type that a tensor can have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Offer {
    /// The type.
    pub format: Format,
    /// Bytes of the whole tensor in it.
    pub bytes: usize,
    /// Its error (see above).
    pub error: f64,
}

/// The rows to measure.
pub fn rows(all: usize) -> impl Iterator<Item = usize> {
    (0..all).step_by(all.div_ceil(ROWS).max(1))
}

/// The errors of one tensor in every type, gathered part by part.
#[derive(Debug, Clone)]
pub struct Measure {
    cols: usize,
    /// What each type changes; none if it cannot hold the values.
    off: Vec<(Format, Option<f64>)>,
    all: f64,
}

impl Measure {
    /// Of a tensor with rows of `cols` values.
    pub fn new(cols: usize) -> Self {
        // F32 has no error worth its bytes.
        let formats = Format::ALL.iter().copied().filter(|f| *f != Format::F32);
        let fitting = formats.filter(|f| cols.is_multiple_of(f.block_values()));
        Measure {
            cols,
            off: fitting.map(|f| (f, Some(0.0))).collect(),
            all: 0.0,
        }
    }

    /// Takes a row.
    ///
    /// # Errors
    /// [`QuantError::Kernel`] if it or the importance has another length.
    pub fn row(&mut self, row: &[f32], importance: Option<&[f32]>) -> Result<()> {
        let weighted = |f: &dyn Fn(usize) -> f64| -> f64 {
            let weight = |i: usize| importance.map_or(1.0, |w| f64::from(w[i]));
            (0..row.len()).map(|i| weight(i) * f(i).powi(2)).sum()
        };
        let largest = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut bytes = Vec::new();
        let mut back = vec![0.0; self.cols];
        for (format, sum) in &mut self.off {
            bytes.clear();
            encode_row_weighted(*format, row, importance, &mut bytes)?;
            decode_row(*format, &bytes, &mut back)?;
            let off = weighted(&|i| f64::from(row[i]) - f64::from(back[i]));
            let holds = largest <= format.largest() && off.is_finite();
            *sum = sum.filter(|_| holds).map(|sum| sum + off);
        }
        self.all += weighted(&|i| f64::from(row[i]));
        Ok(())
    }

    /// What a tensor of so many rows can have.
    ///
    /// # Errors
    /// [`QuantError::Kernel`] if its bytes cannot be counted.
    pub fn offers(&self, rows: usize) -> Result<Vec<Offer>> {
        let all = if self.all > 0.0 { self.all } else { 1.0 };
        let offer = |(format, off): &(Format, Option<f64>)| {
            let error = (*off)? / all;
            Some(format.row_bytes(self.cols).map(|bytes| Offer {
                format: *format,
                bytes: bytes * rows,
                error,
            }))
        };
        let offers: std::result::Result<Vec<_>, _> = self.off.iter().filter_map(offer).collect();
        Ok(offers?)
    }
}

/// Chooses an offer for each tensor so that all take at most `budget` bytes.
///
/// # Errors
/// [`QuantError::Budget`] if the smallest offers take more.
pub fn spend(tensors: &[Vec<Offer>], budget: usize) -> Result<Vec<Offer>> {
    let hulls: Vec<Vec<Offer>> = tensors.iter().map(|offers| hull(offers)).collect();
    let mut at = vec![0; hulls.len()];
    let mut used: usize = hulls
        .iter()
        .filter_map(|h| h.first())
        .map(|o| o.bytes)
        .sum();
    if used > budget {
        return Err(QuantError::Budget {
            budget,
            least: used,
        });
    }
    // Along a hull the gain for a byte falls, so steps sorted by it come in the order of each hull.
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (tensor, hull) in hulls.iter().enumerate() {
        for (i, pair) in hull.windows(2).enumerate() {
            steps.push((gain(pair[0], pair[1]), tensor, i));
        }
    }
    steps.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    for (_, tensor, i) in steps {
        let hull = &hulls[tensor];
        let more = hull[i + 1].bytes - hull[i].bytes;
        if at[tensor] == i && used + more <= budget {
            at[tensor] = i + 1;
            used += more;
        }
    }
    let chosen = hulls.iter().zip(at).filter_map(|(hull, at)| hull.get(at));
    Ok(chosen.copied().collect())
}

/// How much the error falls for a byte.
fn gain(from: Offer, to: Offer) -> f64 {
    (from.error - to.error) / (to.bytes - from.bytes).max(1) as f64
}

/// The offers that no mixture of others beats, the smallest first.
fn hull(offers: &[Offer]) -> Vec<Offer> {
    let mut sorted = offers.to_vec();
    sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
    let mut hull: Vec<Offer> = Vec::new();
    for offer in sorted {
        if hull.last().is_some_and(|last| offer.error >= last.error) {
            continue;
        }
        while let [.., before, last] = hull[..] {
            if gain(before, last) > gain(last, offer) {
                break;
            }
            hull.pop();
        }
        hull.push(offer);
    }
    hull
}

/// Reads a size: bytes, or a number with `KB`, `MB`, `GB`, `KiB`, `MiB` or `GiB`.
///
/// # Errors
/// [`QuantError::Recipe`] if it is none.
pub fn size(text: &str) -> Result<usize> {
    let units = [
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1u64 << 30),
        ("KB", 1000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("B", 1),
        ("", 1),
    ];
    let of_unit = |(name, unit): (&str, u64)| {
        let number: f64 = text.strip_suffix(name)?.trim().parse().ok()?;
        let bytes = number * unit as f64;
        (bytes.is_finite() && bytes >= 1.0).then_some(bytes as usize)
    };
    units.into_iter().find_map(of_unit).ok_or_else(|| {
        QuantError::Recipe(format!(
            "\"{text}\" is no size; write one as \"6.5GiB\", \"800MB\" or in bytes"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(format: Format, bytes: usize, error: f64) -> Offer {
        Offer {
            format,
            bytes,
            error,
        }
    }

    #[test]
    fn bytes_go_where_they_lower_the_error_most() {
        let sensitive = vec![
            offer(Format::Q2_K, 10, 8.0),
            offer(Format::Q4_K, 20, 0.5),
            offer(Format::Q8_0, 40, 0.0),
        ];
        let dull = vec![
            offer(Format::Q2_K, 10, 1.0),
            offer(Format::Q4_K, 20, 0.5),
            // Worse than a mixture of its neighbours.
            offer(Format::Q5_K, 29, 0.45),
            offer(Format::Q8_0, 30, 0.1),
        ];
        let tensors = [sensitive, dull];
        let chosen = |budget| -> Vec<Format> {
            let chosen = spend(&tensors, budget).unwrap();
            chosen.iter().map(|o| o.format).collect()
        };
        assert_eq!(chosen(20), [Format::Q2_K, Format::Q2_K]);
        assert_eq!(chosen(30), [Format::Q4_K, Format::Q2_K]);
        assert_eq!(chosen(49), [Format::Q4_K, Format::Q4_K]);
        assert_eq!(chosen(50), [Format::Q4_K, Format::Q8_0]);
        assert_eq!(chosen(1000), [Format::Q8_0, Format::Q8_0]);
    }

    #[test]
    fn a_budget_that_cannot_be_met_is_refused_with_the_least_size() {
        let tensors = [vec![offer(Format::Q2_K, 1_000_000, 1.0)]];
        let text = spend(&tensors, 999_999).unwrap_err().to_string();
        assert!(
            text.contains("999999") && text.contains("1000000"),
            "{text}"
        );
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("6.5GiB").unwrap(), 6_979_321_856);
        assert_eq!(size("800 MB").unwrap(), 800_000_000);
        assert_eq!(size("123").unwrap(), 123);
        for bad in ["", "much", "-1MB", "0", "1TB", "nanGB"] {
            assert!(size(bad).unwrap_err().to_string().contains(bad));
        }
    }

    #[test]
    fn more_bits_mean_less_error_and_importance_counts() {
        let row: Vec<f32> = (0..512)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0)
            .collect();
        let mut importance = vec![1e-3; 512];
        importance[7] = 1.0;
        for importance in [None, Some(&importance[..])] {
            let mut measure = Measure::new(512);
            measure.row(&row, importance).unwrap();
            let hull = hull(&measure.offers(4).unwrap());
            assert!(hull.len() > 4);
            assert_eq!(hull[0].format, Format::Q2_K);
            assert_eq!(hull[0].bytes, 4 * 2 * 84);
        }
        // Rows of 96 have no blocks of 256; what F16 cannot hold is not offered as such.
        let mut measure = Measure::new(96);
        measure.row(&[1e6; 96], None).unwrap();
        let offers = measure.offers(1).unwrap();
        assert!(offers.iter().all(|o| o.format.block_values() < 256));
        assert!(offers.iter().all(|o| o.format != Format::F16));
    }
}
