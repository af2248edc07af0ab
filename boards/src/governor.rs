//! Heat, clocks and memory turn into a step of a ladder: up at once, down one step after a quiet while.
//!
//! It has no clock and reads no files: readings and the time go in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::probe::Health;

/// What a board can still be asked to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Everything.
    #[default]
    Full,
    /// Fewer frames.
    Fewer,
    /// Fewer frames yet, smaller pictures and fewer steps of a drawing.
    Smaller,
    /// No drawing.
    Paused,
}

impl Step {
    const ALL: [Step; 4] = [Step::Full, Step::Fewer, Step::Smaller, Step::Paused];

    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Step::Full => "full",
            Step::Fewer => "fewer frames",
            Step::Smaller => "smaller pictures",
            Step::Paused => "no drawing",
        }
    }
}

/// When which step is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Degrees Celsius from which on each step behind the first is taken.
    pub degrees: [f64; 3],
    /// Per cent of the time in which programs wait for memory, likewise.
    pub pressure: [f64; 3],
    /// How much cooler it must be before a step is left, in degrees.
    pub cooler: f64,
    /// How long it must be so.
    pub quiet: Duration,
}

impl Default for Limits {
    /// For chips that throttle from 85 degrees on, as those of most boards.
    fn default() -> Self {
        Limits {
            degrees: [75.0, 80.0, 85.0],
            pressure: [10.0, 30.0, 60.0],
            cooler: 5.0,
            quiet: Duration::from_secs(60),
        }
    }
}

/// Cores that are allowed less than this part of the most that they ever were since the start are held back: a power
/// mode that holds them from the beginning is its owner's will.
const HELD_BACK: f64 = 0.9;
/// Healths of which the one in the middle counts: a sensor may lie once.
const MEDIAN: usize = 3;
/// A sensor that has been gone for so long does not hold a step any more.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Decides.
#[derive(Debug)]
pub struct Governor {
    limits: Limits,
    step: Step,
    degrees: VecDeque<f64>,
    /// When a temperature was read last.
    heard: Option<Duration>,
    /// The highest part of their clock that the cores were allowed.
    clock: f64,
    /// Since when a lower step would do.
    quiet: Option<Duration>,
}

/// A step that was taken, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The step.
    pub step: Step,
    /// Why, in words; none for [`Step::Full`].
    pub why: Option<String>,
}

impl Governor {
    /// Everything may be done.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Governor {
            limits,
            step: Step::Full,
            degrees: VecDeque::new(),
            heard: None,
            clock: 0.0,
            quiet: None,
        }
    }

    /// Takes a reading at a time since some start. Returns the step, if it is another one now.
    pub fn turn(&mut self, reading: &Health, now: Duration) -> Option<Change> {
        let degrees = self.median(reading.degrees, now);
        let level = |value: Option<f64>, limits: &[f64; 3], less: f64| {
            let value = value.unwrap_or(f64::NEG_INFINITY);
            limits
                .iter()
                .filter(|&&limit| value >= limit - less)
                .count()
        };
        self.clock = self.clock.max(reading.clock.unwrap_or(0.0));
        let held_back = self.is_held_back(reading);
        let limits = &self.limits;
        let asked = |cooler: f64, calmer: f64| {
            let heat = level(degrees, &limits.degrees, cooler);
            let pressure = reading.pressure.map(|p| p + calmer);
            heat.max(level(pressure, &limits.pressure, 0.0))
                .max(usize::from(held_back))
        };
        let wanted = Step::ALL[asked(0.0, 0.0)];
        if wanted > self.step {
            return self.take(wanted, degrees, reading);
        }
        // To leave a step it takes more than what would not have led to it.
        let kept = Step::ALL[asked(self.limits.cooler, self.limits.pressure[0] / 2.0)];
        let hidden = self
            .heard
            .is_some_and(|at| reading.degrees.is_none() && now.saturating_sub(at) < FORGOTTEN);
        if kept >= self.step || hidden {
            self.quiet = None;
            return None;
        }
        let since = *self.quiet.get_or_insert(now);
        if now.saturating_sub(since) < self.limits.quiet {
            return None;
        }
        let below = Step::ALL[self.step as usize - 1];
        self.take(below, degrees, reading)
    }

    fn take(&mut self, step: Step, degrees: Option<f64>, reading: &Health) -> Option<Change> {
        (self.step, self.quiet) = (step, None);
        let mut why = Vec::new();
        let quieter = self.limits.cooler;
        if let Some(degrees) = degrees.filter(|d| *d >= self.limits.degrees[0] - quieter) {
            why.push(format!("{degrees:.0} degrees"));
        }
        if let Some(pressure) = reading
            .pressure
            .filter(|p| *p >= self.limits.pressure[0] / 2.0)
        {
            why.push(format!(
                "programs wait for memory {pressure:.0} % of the time"
            ));
        }
        if let Some(clock) = reading.clock.filter(|_| self.is_held_back(reading)) {
            why.push(format!(
                "cores are held back to {:.0} % of their clock",
                clock * 100.0
            ));
        }
        if why.is_empty() {
            why.push("it was too much a moment ago".to_owned());
        }
        let why = (step > Step::Full).then(|| why.join(", "));
        Some(Change { step, why })
    }

    fn is_held_back(&self, reading: &Health) -> bool {
        reading
            .clock
            .is_some_and(|clock| clock < self.clock * HELD_BACK)
    }

    /// The temperature, without a single lie.
    fn median(&mut self, degrees: Option<f64>, now: Duration) -> Option<f64> {
        if let Some(degrees) = degrees {
            if self.degrees.len() == MEDIAN {
                self.degrees.pop_front();
            }
            self.degrees.push_back(degrees);
            self.heard = Some(now);
        } else if self
            .heard
            .is_some_and(|at| now.saturating_sub(at) >= FORGOTTEN)
        {
            self.degrees.clear();
        }
        if self.degrees.len() < MEDIAN {
            return None;
        }
        let mut sorted: Vec<f64> = self.degrees.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(MEDIAN / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Step::{Fewer, Full, Paused, Smaller};

    /// Steps with their seconds, for a reading every second.
    fn run(seconds: u64, reading: impl Fn(u64) -> Health) -> Vec<(u64, Step)> {
        let mut governor = Governor::new(Limits::default());
        let turns = (0..seconds).filter_map(|s| {
            let change = governor.turn(&reading(s), Duration::from_secs(s))?;
            assert_eq!(change.why.is_none(), change.step == Full);
            Some((s, change.step))
        });
        turns.collect()
    }

    fn hot(degrees: f64) -> Health {
        Health {
            degrees: Some(degrees),
            ..Health::default()
        }
    }

    #[test]
    fn a_ramp_goes_up_step_by_step_and_down_again_slowly() {
        // Up by a degree every ten seconds to 90, and down again.
        let ramp = |s: u64| hot(60.0 + (s.min(600 - s.min(600)) as f64 / 10.0));
        let steps = run(900, ramp);
        let expected = [
            (151, Fewer),
            (201, Smaller),
            (251, Paused),
            // 80, 75 and 70 degrees must not be passed for a minute.
            (462, Smaller),
            (523, Fewer),
            (584, Full),
        ];
        assert_eq!(steps.len(), expected.len(), "{steps:?}");
        for ((at, step), (about, wanted)) in steps.iter().zip(expected) {
            assert_eq!(*step, wanted, "{steps:?}");
            assert!(at.abs_diff(about) <= 12, "{steps:?}");
        }
    }

    #[test]
    fn what_swings_around_a_limit_makes_one_step() {
        let noise = |s: u64| hot(75.0 + (s * 7919 % 13) as f64 / 4.0 - 1.5);
        assert_eq!(run(3600, noise).len(), 1);
        let sawtooth = |s: u64| hot(72.0 + (s % 50) as f64 / 6.0);
        let steps = run(3600, sawtooth);
        assert_eq!(steps.len(), 2, "{steps:?}");
    }

    #[test]
    fn a_sensor_may_lie_once_vanish_or_stand_still() {
        let lie = |s: u64| hot(if s % 100 == 50 { 150.0 } else { 50.0 });
        assert_eq!(run(3600, lie), []);
        // It vanishes while it is hot: the step stays for a while, then the board goes on without it.
        let vanishes = |s: u64| {
            if s < 100 {
                hot(90.0)
            } else {
                Health::default()
            }
        };
        let steps = run(2000, vanishes);
        assert_eq!(steps[0].1, Paused);
        assert!(steps[1].0 >= 700, "{steps:?}");
        assert_eq!(steps.last().unwrap().1, Full);
        assert_eq!(run(3600, |_| hot(77.0)), [(2, Fewer)]);
        assert_eq!(run(3600, |_| Health::default()), []);
    }

    #[test]
    fn memory_and_clocks_count_too() {
        let pressed = |s: u64| Health {
            pressure: Some(if s < 300 { 35.0 } else { 0.0 }),
            ..Health::default()
        };
        let steps: Vec<_> = run(1000, pressed).into_iter().map(|s| s.1).collect();
        assert_eq!(steps, [Smaller, Fewer, Full]);
        let slow = |s: u64| Health {
            clock: Some(if (100..300).contains(&s) { 0.4 } else { 0.7 }),
            ..Health::default()
        };
        let steps: Vec<_> = run(1000, slow).into_iter().map(|s| s.1).collect();
        assert_eq!(steps, [Fewer, Full]);
    }
}
