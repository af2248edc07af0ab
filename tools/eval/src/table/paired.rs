//! Differences of shares on the same scenes.

/// How much better a share is than the source's, in points of a hundred, with half of its 95 %
/// interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Points.
    pub points: f64,
    /// Half the interval's width, in points.
    pub half: f64,
}

/// Two-sided 95 %.
const Z: f64 = 1.96;

impl Difference {
    /// From pairs of what the source and the variant did on a scene. With half a scene added to each of
    /// the four cases, the simple interval holds what it promises for few scenes too (Agresti and Min,
    /// 2005).
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let (mut better, mut worse, mut all) = (0.5, 0.5, 2.0);
        let (mut won, mut lost) = (0.0f64, 0.0f64);
        for (source, variant) in pairs {
            all += 1.0;
            match (source, variant) {
                (false, true) => won += 1.0,
                (true, false) => lost += 1.0,
                _ => {}
            }
        }
        let seen = f64::max(all - 2.0, 1.0);
        better += won;
        worse += lost;
        let variance = (better + worse - (better - worse) * (better - worse) / all) / (all * all);
        Difference {
            points: 100.0 * (won - lost) / seen,
            half: 100.0 * Z * variance.sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenes_where_both_are_alike_say_nothing() {
        let same = Difference::of((0..1000).map(|i| (i % 3 == 0, i % 3 == 0)));
        assert_eq!(same.points, 0.0);
        assert!(same.half < 0.3, "{same:?}");
    }

    #[test]
    fn the_interval_is_that_of_the_formula() {
        // 100 scenes: 30 lost, 10 won. Adjusted: 30.5, 10.5, 102.
        let pairs = (0..100).map(|i| (i < 30, (30..40).contains(&i)));
        let d = Difference::of(pairs);
        assert!((d.points + 20.0).abs() < 1e-9);
        let expected = 196.0 * ((41.0 - 400.0 / 102.0f64) / (102.0 * 102.0)).sqrt();
        assert!((d.half - expected).abs() < 1e-9, "{d:?}");
    }
}
