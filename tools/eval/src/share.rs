//! Shares with their intervals.

use std::fmt;

use serde::Serialize;

/// How many of how many were right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Right ones.
    pub right: usize,
    /// All.
    pub of: usize,
}

/// Two-sided 95 %.
const Z: f64 = 1.96;

impl Share {
    /// Counts one more.
    pub fn count(&mut self, right: bool) {
        self.right += usize::from(right);
        self.of += 1;
    }

    /// The share itself.
    pub fn value(&self) -> f64 {
        self.right as f64 / self.of.max(1) as f64
    }

    /// The 95 % interval (Wilson, 1927).
    pub fn interval(&self) -> (f64, f64) {
        let (n, p) = (self.of.max(1) as f64, self.value());
        let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        ((middle - half).max(0.0), (middle + half).min(1.0))
    }

    /// In percent, with the interval: `98.0 (96.1 to 99.0)`.
    pub fn percent(&self) -> String {
        let (low, high) = self.interval();
        let [value, low, high] = [self.value(), low, high].map(|share| 100.0 * share);
        format!("{value:.1} ({low:.1} to {high:.1})")
    }

    /// Whether this share is compatible with another one, measured elsewhere: not lower by more
    /// than the noise of both.
    pub fn reaches(&self, other: Share) -> bool {
        let variance = |s: &Share| s.value() * (1.0 - s.value()) / s.of.max(1) as f64;
        let noise = Z * (variance(self) + variance(&other)).sqrt();
        self.value() >= other.value() - noise
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {} %", self.right, self.of, self.percent())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_share_and_narrows_with_more() {
        let few = Share { right: 8, of: 10 }.interval();
        let many = Share {
            right: 800,
            of: 1000,
        }
        .interval();
        assert!(few.0 < 0.8 && 0.8 < few.1);
        assert!(many.1 - many.0 < few.1 - few.0);
        assert!((few.0 - 0.490).abs() < 0.001 && (few.1 - 0.943).abs() < 0.001);
    }

    #[test]
    fn a_clearly_lower_share_does_not_reach() {
        let card = Share { right: 53, of: 68 };
        assert!(Share { right: 50, of: 68 }.reaches(card));
        assert!(!Share { right: 38, of: 68 }.reaches(card));
    }
}
