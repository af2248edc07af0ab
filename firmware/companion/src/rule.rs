//! When an input wakes the board.

use heapless::Deque;
use kinglet_link::{Capabilities, Fault, InputRule, Light, Millis, Settings};

/// The most times that a rule may count.
pub const MOST_COUNT: usize = 16;
/// Seconds between reports, at most.
const LONGEST_REPORT: u16 = 3600;

/// What a rule remembers.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// When the input became active.
    times: Deque<Millis, MOST_COUNT>,
    /// Until when it rests.
    rests: Option<Millis>,
}

impl Memory {
    /// The input has become active. Returns how often within the rule's time, if that wakes the board.
    pub(crate) fn activated(
        &mut self,
        rule: &InputRule,
        light: Option<Light>,
        now: Millis,
    ) -> Option<u16> {
        if self.times.is_full() {
            self.times.pop_front();
        }
        // There is room now.
        let _ = self.times.push_back(now);
        let within = Millis::from(rule.within) * 1000;
        while self.times.front().is_some_and(|&t| now - t > within) {
            self.times.pop_front();
        }
        let count = self.times.len() as u16;
        let dark = rule
            .darker_than
            .is_none_or(|most| light.is_some_and(|light| light <= most));
        let rests = self.rests.is_some_and(|until| now < until);
        if !rule.wakes || count < rule.count || !dark || rests {
            return None;
        }
        self.times.clear();
        self.rests = Some(now + Millis::from(rule.rest) * 1000);
        Some(count)
    }
}

/// What is wrong with settings for a companion with so many inputs that can do this.
pub(crate) fn check(settings: &Settings, inputs: usize, can: Capabilities) -> Result<(), Fault> {
    if settings.inputs.len() > inputs {
        return Err(Fault::Inputs);
    }
    for (i, rule) in (0..).zip(&settings.inputs) {
        if !(1..=MOST_COUNT).contains(&usize::from(rule.count)) {
            return Err(Fault::Count(i));
        }
        if rule.darker_than.is_some() && !can.has(Capabilities::LIGHT) {
            return Err(Fault::Light(i));
        }
    }
    if let Some(watchdog) = settings.watchdog {
        let times = [watchdog.patience, watchdog.start, watchdog.off];
        if times.contains(&0) || !can.has(Capabilities::POWER) {
            return Err(Fault::Watchdog);
        }
    }
    if !(1..=LONGEST_REPORT).contains(&settings.report) {
        return Err(Fault::Report);
    }
    Ok(())
}
