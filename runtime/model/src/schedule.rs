//! The timesteps of a drawing.

/// `timesteps` points from 1 to 0, the end included, shifted: `t' = s t / (1 + (s - 1) t)`. There
/// is one step less than there are points.
pub fn timesteps(timesteps: usize, shift: f32) -> Vec<f32> {
    let last = timesteps.saturating_sub(1).max(1);
    (0..timesteps)
        .map(|i| {
            let t = 1.0 - i as f32 / last as f32;
            shift * t / (1.0 + (shift - 1.0) * t)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_run_from_one_to_zero_and_are_shifted_upwards() {
        let plain = timesteps(5, 1.0);
        assert_eq!(plain, [1.0, 0.75, 0.5, 0.25, 0.0]);
        let shifted = timesteps(5, 3.0);
        assert_eq!((shifted[0], shifted[4]), (1.0, 0.0));
        assert!((shifted[2] - 0.75).abs() < 1e-6);
    }
}
