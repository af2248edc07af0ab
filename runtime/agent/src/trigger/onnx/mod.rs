//! A network (ONNX, run by tract) that finds something in a frame, or does not.
//!
//! # Layout
//! - `network`: a graph, read and run; what is wrong with one is said in words.
//! - `bounds`: what a graph may ask for.
//! - `input`: a frame as the network takes it.
//! - `output`: what its outputs say: classes, or boxes of five layouts.

mod bounds;
mod input;
mod network;
mod output;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Every, Trigger, Turn};
use crate::area::Area;
use crate::frame::Frame;
use crate::message::Cause;
use crate::trigger::says::Edge;
pub use network::{LARGEST_NETWORK, Network};
pub use output::Found;

/// Fires when a network comes to find something.
pub(crate) struct Onnx {
    network: Arc<Network>,
    /// Where its boxes count.
    zones: Vec<Area>,
    every: Every,
    debounce: Duration,
    edge: Edge,
    found: Option<Found>,
    took: Option<Duration>,
    /// The last run failed: it is said once.
    failed: bool,
}

impl Onnx {
    pub(crate) fn new(
        network: Arc<Network>,
        zones: Vec<Area>,
        period: Duration,
        debounce: Duration,
    ) -> Self {
        Onnx {
            network,
            zones,
            every: Every::new(period),
            debounce,
            edge: Edge::default(),
            found: None,
            took: None,
            failed: false,
        }
    }

    fn look(&mut self, frame: &Frame, now: Instant) -> Turn {
        let started = Instant::now();
        let found = self.network.find_within(&frame.picture, &self.zones);
        self.took = Some(started.elapsed());
        match found {
            Ok(found) => {
                self.failed = false;
                let turn = self.edge.turn(found.is_some(), now, self.debounce);
                self.found = found;
                turn
            }
            Err(reason) => {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::error!(network = self.network.name(), "{reason}");
                }
                Turn::Nothing
            }
        }
    }
}

impl Trigger for Onnx {
    fn turn(&mut self, frame: &Frame, now: Instant, may: bool) -> Turn {
        self.took = None;
        let held = self.edge.holds();
        if !may && !held {
            // What came while nothing new may be made is new when it may.
            self.edge = Edge::default();
            return Turn::Nothing;
        }
        if self.every.is_due(now) {
            self.look(frame, now)
        } else if held {
            Turn::Stands
        } else {
            Turn::Nothing
        }
    }

    fn cause(&self) -> Option<Cause> {
        let found = self.found.as_ref()?;
        Some(Cause::Found {
            class: found.class.clone(),
            score: found.score,
            area: found.area,
        })
    }

    fn took(&self) -> Option<Duration> {
        self.took
    }

    fn missed(&mut self) {
        self.edge.forget();
    }
}
