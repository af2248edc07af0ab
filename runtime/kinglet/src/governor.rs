//! Heat and pressure of this machine, and what the model is still asked to do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kinglet_agent::config::GovernorConfig;
use kinglet_agent::{Agent, DrawRequest, EngineError, Regime};
use kinglet_boards::governor::{Change, Governor, Limits, Step};
use kinglet_boards::probe::Health;

/// How often the sensors are read.
const PERIOD: Duration = Duration::from_secs(2);
/// Fewer steps than this make no picture.
const FEWEST_STEPS: usize = 4;

/// The step that was taken last, for the engine.
#[derive(Debug, Default)]
pub(crate) struct Reins(Mutex<Option<Change>>);

impl Reins {
    fn step(&self) -> Step {
        self.lock()
            .as_ref()
            .map_or(Step::Full, |change| change.step)
    }

    /// Whether pictures are to be seen smaller.
    pub(crate) fn smaller(&self) -> bool {
        self.step() >= Step::Smaller
    }

    /// What becomes of a drawing, which takes so many steps if it does not say how many.
    ///
    /// # Errors
    /// [`EngineError::Refused`], with the reason, while nothing is drawn.
    pub(crate) fn drawing(
        &self,
        request: &DrawRequest,
        steps: usize,
    ) -> Result<DrawRequest, EngineError> {
        let step = self.step();
        if step == Step::Paused {
            let why = self.lock().as_ref().and_then(|change| change.why.clone());
            let why = why.unwrap_or_default();
            return Err(EngineError::Refused(format!("drawing is paused: {why}")));
        }
        let mut request = request.clone();
        if step == Step::Smaller {
            let steps = request.steps.unwrap_or(steps);
            request.steps = Some((steps / 2).max(FEWEST_STEPS.min(steps)));
        }
        Ok(request)
    }

    fn set(&self, change: Change) {
        *self.lock() = Some(change);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Change>> {
        // The value is replaced as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the sensors and takes steps. Never ends.
pub(crate) async fn govern(config: &GovernorConfig, agent: &Agent, reins: Arc<Reins>) {
    let limits = Limits {
        degrees: config.degrees,
        quiet: config.quiet.0,
        ..Limits::default()
    };
    let mut governor = Governor::new(limits);
    let start = Instant::now();
    let mut ticks = tokio::time::interval(PERIOD.min(config.quiet.0));
    agent.govern(regime(Step::Full, None));
    loop {
        ticks.tick().await;
        let reading = Health::read(&config.root);
        if let Some(change) = governor.turn(&reading, start.elapsed()) {
            let why = change.why.clone().unwrap_or_default();
            tracing::warn!(step = change.step.name(), "governor: {why}");
            agent.govern(regime(change.step, change.why.clone()));
            reins.set(change);
        }
    }
}

fn regime(step: Step, why: Option<String>) -> Regime {
    Regime {
        step: step.name(),
        why,
        slower: match step {
            Step::Full => 1,
            Step::Fewer => 2,
            Step::Smaller | Step::Paused => 4,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_become_shorter_and_are_refused_in_words() {
        let reins = Reins::default();
        let ask = |steps| DrawRequest {
            steps,
            ..DrawRequest::default()
        };
        assert_eq!(reins.drawing(&ask(None), 24).unwrap().steps, None);
        let set = |step, why: &str| {
            let why = Some(why.to_owned());
            reins.set(Change { step, why });
        };
        set(Step::Smaller, "82 degrees");
        assert!(reins.smaller());
        for (asked, taken) in [
            (None, 12),
            (Some(40), 20),
            (Some(5), 4),
            (Some(3), 3),
            (Some(1), 1),
        ] {
            assert_eq!(reins.drawing(&ask(asked), 24).unwrap().steps, Some(taken));
        }
        set(Step::Paused, "86 degrees");
        let refused = reins.drawing(&ask(None), 24).unwrap_err().to_string();
        assert_eq!(refused, "drawing is paused: 86 degrees");
    }
}
