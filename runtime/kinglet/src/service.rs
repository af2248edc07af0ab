//! What systemd is told, if it has started the program: ready, how it goes, and that nothing hangs. Without
//! systemd nothing is said.

use std::sync::Arc;
use std::time::Duration;

use kinglet_agent::operation::Monitor;
use sd_notify::NotifyState;

/// How often the state is looked at without a watchdog.
const PERIOD: Duration = Duration::from_secs(10);

/// Says ready, and then feeds the watchdog as long as nothing hangs. Never ends.
pub(crate) async fn serve(monitor: Arc<Monitor>) {
    say(&[NotifyState::Ready]);
    let watchdog = sd_notify::watchdog_enabled();
    // Twice as often as it must be, as systemd recommends.
    let mut ticks = tokio::time::interval(watchdog.map_or(PERIOD, |limit| limit / 2));
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let health = monitor.health();
        if watchdog.is_some() && health.healthy {
            say(&[NotifyState::Watchdog]);
        }
        let state = match health.problems.first() {
            Some(problem) => problem.clone(),
            None => format!("broker: {}", health.broker),
        };
        if state != told {
            if !health.healthy {
                tracing::error!("{state}");
            }
            say(&[NotifyState::Status(&state)]);
            told = state;
        }
    }
}

/// Says that the program ends.
pub(crate) fn stopping() {
    say(&[NotifyState::Stopping]);
}

fn say(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("systemd cannot be told: {e}");
    }
}
