//! Ranges of numbers as regular expressions.

/// Whole numbers or millionths, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// Digits after the point.
const DIGITS: usize = 6;
const ONE: i64 = 1_000_000;

/// The whole numbers of answers: 15 digits, which every reader of JSON keeps exactly.
pub(super) const INTEGERS: Range = Range::within(999_999_999_999_999);
/// The numbers of answers, in millionths: nine digits before the point and six after it.
pub(super) const MICROS: Range = Range::within(999_999_999_999_999);

impl Range {
    const fn within(high: i64) -> Self {
        Range { low: -high, high }
    }

    /// The most characters of a bound.
    pub(super) fn longest(self) -> usize {
        self.low.to_string().len().max(self.high.to_string().len())
    }

    /// Its whole numbers: no zeros before, no -0.
    pub(super) fn integers(self) -> String {
        self.signed(integers)
    }

    /// Its millionths as decimals: at most six digits after the point, no -0.
    pub(super) fn decimals(self) -> String {
        self.signed(decimals)
    }

    /// Both signs, each from a rule for numbers that are not negative.
    fn signed(self, of: impl Fn(u64, u64) -> Vec<String>) -> String {
        let mut all = Vec::new();
        if self.low < 0 {
            let nearest = self.high.min(-1).unsigned_abs();
            let below = of(nearest, self.low.unsigned_abs());
            all.push(format!("-({})", below.join("|")));
        }
        if self.high >= 0 {
            all.extend(of(self.low.max(0).unsigned_abs(), self.high.unsigned_abs()));
        }
        format!("({})", all.join("|"))
    }
}

fn integers(low: u64, high: u64) -> Vec<String> {
    let mut all = Vec::new();
    let mut from = low;
    // Numbers of equal length compare as their digits do.
    while from <= high {
        let digits = from.to_string().len() as u32;
        let to = high.min(10u64.pow(digits) - 1);
        let text = |n: u64| n.to_string().into_bytes();
        all.push(between(&text(from), &text(to), false));
        from = to + 1;
    }
    all
}

fn decimals(low: u64, high: u64) -> Vec<String> {
    let one = ONE.unsigned_abs();
    let (a, b) = (low / one, high / one);
    let digits = |n: u64| format!("{:0DIGITS$}", n % one).into_bytes();
    let (zeros, nines) = (vec![b'0'; DIGITS], vec![b'9'; DIGITS]);
    // The whole with what may stand behind it, from `least` to `most` millionths.
    let with = |wholes: Vec<String>, least: &[u8], most: &[u8]| {
        let fraction = fraction(least, most);
        let alone = if least == zeros.as_slice() { "?" } else { "" };
        format!("({})(\\.{fraction}){alone}", wholes.join("|"))
    };
    if a == b {
        return vec![with(integers(a, a), &digits(low), &digits(high))];
    }
    let mut all = vec![
        with(integers(a, a), &digits(low), &nines),
        with(integers(b, b), &zeros, &digits(high)),
    ];
    if a + 1 < b {
        all.push(with(integers(a + 1, b - 1), &zeros, &nines));
    }
    all
}

/// One digit or more after the point; those left out are zeros.
fn fraction(low: &[u8], high: &[u8]) -> String {
    between(low, high, true)
}

/// Digits that compare as not below `low` and not above `high`, which are equally long. If they may
/// be `cut`, what is left out at the end counts as zeros, and one digit remains.
fn between(low: &[u8], high: &[u8], cut: bool) -> String {
    let (Some((&l, low)), Some((&h, high))) = (low.split_first(), high.split_first()) else {
        return String::new();
    };
    let rest = |low: &[u8], high: &[u8]| {
        if low.is_empty() {
            return String::new();
        }
        let rest = between(low, high, cut);
        if cut && low.iter().all(|d| *d == b'0') {
            format!("({rest})?")
        } else {
            rest
        }
    };
    let (zeros, nines) = (vec![b'0'; low.len()], vec![b'9'; low.len()]);
    let digit = |d: u8| char::from(d);
    if l == h && (low != zeros || high != nines) {
        return format!("{}{}", digit(l), rest(low, high));
    }
    // First digits behind which everything may stand are written together: otherwise the expression
    // would double with every digit.
    let mut all = Vec::new();
    let (mut from, mut to) = (l, h);
    if low != zeros {
        all.push(format!("{}{}", digit(l), rest(low, &nines)));
        from += 1;
    }
    if high != nines {
        all.push(format!("{}{}", digit(h), rest(&zeros, high)));
        to -= 1;
    }
    if from <= to {
        let n = low.len();
        let tail = match (n, cut) {
            (0, _) => String::new(),
            (_, true) => format!("[0-9]{{0,{n}}}"),
            (_, false) => format!("[0-9]{{{n}}}"),
        };
        all.push(format!("[{}-{}]{tail}", digit(from), digit(to)));
    }
    format!("({})", all.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_grow_with_the_digits_and_not_faster() {
        let odd = Range {
            low: -123_456_789_012_345,
            high: 543_210_987_654_321,
        };
        for range in [INTEGERS, odd] {
            assert!(range.integers().len() < 4000, "{}", range.integers());
            assert!(range.decimals().len() < 4000, "{}", range.decimals());
        }
    }
}
