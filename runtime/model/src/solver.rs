//! How a drawing goes from one point in time to the next: solvers of the flow `dx/dt = v(x, t)` from t = 1 to 0.

use kinglet_kernels::Device;

use crate::error::Result;

/// A solver. All of them are exact for a straight flow; they differ in how many passes a curved one takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sampler {
    /// Euler's: one velocity a step. The reference's.
    #[default]
    Euler,
    /// Heun's: the mean of the velocities at both ends of a step; two velocities a step but the last.
    Heun,
    /// Adams and Bashforth's of second order: a line through the last two velocities; one velocity a step.
    AdamsBashforth,
    /// DPM-Solver++(2M) (Lu and others, 2022): a line, in the logarithm of signal to noise, through the last two
    /// predictions of the picture; one velocity a step, the last step of first order.
    DpmSolver,
}

/// Between steps: what multistep solvers need of the step before.
pub(crate) struct Before<D: Device> {
    /// The velocity, or the predicted picture.
    value: D::Buffer,
    /// When it was.
    time: f32,
}

impl Sampler {
    /// All of them.
    pub const ALL: [Sampler; 4] = [
        Sampler::Euler,
        Sampler::Heun,
        Sampler::AdamsBashforth,
        Sampler::DpmSolver,
    ];

    /// What it is called in containers and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Sampler::Euler => "euler",
            Sampler::Heun => "heun",
            Sampler::AdamsBashforth => "ab2",
            Sampler::DpmSolver => "dpm++2m",
        }
    }

    /// The one with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Sampler::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Velocities that `steps` steps take.
    pub const fn velocities(self, steps: usize) -> usize {
        match self {
            Sampler::Heun => (2 * steps).saturating_sub(1),
            _ => steps,
        }
    }

    /// Whether the velocity at the step's end is wanted too.
    pub(crate) fn looks_ahead(self, to: f32) -> bool {
        self == Sampler::Heun && to > 0.0
    }

    /// Goes from `from` to `to` by the velocity at `from`: all of the step but for what comes of looking ahead.
    pub(crate) fn advance<D: Device>(
        self,
        d: &D,
        x: &mut D::Buffer,
        (from, to): (f32, f32),
        velocity: &D::Buffer,
        before: &mut Option<Before<D>>,
    ) -> Result<()> {
        let step = to - from;
        match self {
            Sampler::Euler | Sampler::Heun => d.add_scaled(x, step, velocity)?,
            Sampler::AdamsBashforth => {
                d.add_scaled(x, step, velocity)?;
                if let Some(before) = before.as_ref() {
                    let bend = step * step / (2.0 * (from - before.time));
                    d.add_scaled(x, bend, velocity)?;
                    d.add_scaled(x, -bend, &before.value)?;
                }
                let value = d.copy(velocity)?;
                *before = Some(Before { value, time: from });
            }
            Sampler::DpmSolver => {
                let mut picture = d.copy(x)?;
                d.add_scaled(&mut picture, -from, velocity)?;
                d.add_scaled(x, step, velocity)?;
                if let Some(before) = before.as_ref().filter(|_| to > 0.0) {
                    // h is infinite at t = 1, where nothing is known of the picture: first order then.
                    let log_snr = |t: f32| ((1.0 - t) / t).ln();
                    let last = log_snr(from) - log_snr(before.time);
                    let share = (log_snr(to) - log_snr(from)) / (2.0 * last);
                    let bend = (1.0 - to / from) * share;
                    d.add_scaled(x, bend, &picture)?;
                    d.add_scaled(x, -bend, &before.value)?;
                }
                *before = Some(Before {
                    value: picture,
                    time: from,
                });
            }
        }
        Ok(())
    }

    /// The rest of a step that has looked ahead: half of it by the velocity at its end instead.
    pub(crate) fn correct<D: Device>(
        d: &D,
        x: &mut D::Buffer,
        (from, to): (f32, f32),
        velocity: &D::Buffer,
        ahead: &D::Buffer,
    ) -> Result<()> {
        let half = (to - from) / 2.0;
        d.add_scaled(x, half, ahead)?;
        d.add_scaled(x, -half, velocity)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use kinglet_kernels::Scalar;

    use super::*;
    use crate::schedule::timesteps;

    /// Where a solver comes out from x = 1 at t = 1, by a velocity that is known.
    fn solved(sampler: Sampler, steps: usize, velocity: impl Fn(f32, f32) -> f32) -> f32 {
        let d = Scalar;
        let times = timesteps(steps + 1, 1.0);
        let mut x = d.upload(&[1.0], 1).unwrap();
        let mut before = None;
        let at = |x: &<Scalar as Device>::Buffer, t| {
            let v = velocity(d.download(x).unwrap()[0], t);
            d.upload(&[v], 1).unwrap()
        };
        for pair in times.windows(2) {
            let span = (pair[0], pair[1]);
            let v = at(&x, span.0);
            sampler.advance(&d, &mut x, span, &v, &mut before).unwrap();
            if sampler.looks_ahead(span.1) {
                let ahead = at(&x, span.1);
                Sampler::correct(&d, &mut x, span, &v, &ahead).unwrap();
            }
        }
        d.download(&x).unwrap()[0]
    }

    #[test]
    fn a_straight_flow_is_solved_exactly_by_all() {
        for sampler in Sampler::ALL {
            for steps in [1, 2, 5] {
                let end = solved(sampler, steps, |_, _| 0.75);
                assert!((end - 0.25).abs() < 1e-5, "{}: {end}", sampler.name());
            }
        }
    }

    /// The flow from a normal distribution of width 1 to one of width 1/2: x = sqrt(t^2 + (1-t)^2 / 4) is its path, so
    /// that v = x (t - (1-t) / 4) / (t^2 + (1-t)^2 / 4).
    fn narrowing(x: f32, t: f32) -> f32 {
        let u = 1.0 - t;
        x * (t - u / 4.0) / (t * t + u * u / 4.0)
    }

    #[test]
    fn a_curved_flow_comes_out_nearer_by_second_order() {
        let off = |sampler, steps| (solved(sampler, steps, narrowing) - 0.5).abs();
        let euler = off(Sampler::Euler, 16);
        for sampler in [Sampler::Heun, Sampler::AdamsBashforth, Sampler::DpmSolver] {
            let (few, many) = (off(sampler, 16), off(sampler, 64));
            assert!(few < euler / 6.0, "{}: {few} and {euler}", sampler.name());
            // Four times the steps: sixteen times as near in the end; DPM-Solver's first steps are of first order.
            assert!(many < few / 4.5, "{}: {few}, {many}", sampler.name());
        }
        assert!(off(Sampler::Euler, 64) > euler / 4.5);
    }

    #[test]
    fn names_are_read_back() {
        for sampler in Sampler::ALL {
            assert_eq!(Sampler::from_name(sampler.name()), Some(sampler));
        }
        assert_eq!(Sampler::from_name("Euler"), None);
        assert_eq!(Sampler::Heun.velocities(4), 7);
    }
}
