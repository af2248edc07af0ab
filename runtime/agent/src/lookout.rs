//! The thread of a watch: every new frame goes past its gate and its trigger.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use crate::agent::thread;
use crate::companion::Wakes;
use crate::crew::StartWatch;
use crate::operation::Metrics;
use crate::schedule;
use crate::slot::Slot;
use crate::trigger::{Trigger, Turn};
use crate::watch::Watch;
use crate::worker::Job;

/// How long a watch sleeps before it looks whether the agent has stopped.
const WAIT: Duration = Duration::from_millis(500);

/// How a watch's thread is started.
pub(crate) fn starter(
    slots: HashMap<String, Arc<Slot>>,
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
    wakes: Arc<Wakes>,
) -> StartWatch {
    Box::new(move |watched, stop| {
        let trigger = watched.when.trigger(&watched, &wakes)?;
        // A configuration that was checked names a camera that is there.
        let slot = slots
            .get(&watched.config.camera)
            .cloned()
            .unwrap_or_default();
        let (jobs, metrics) = (jobs.clone(), Arc::clone(&metrics));
        thread("watch", move || {
            watch(&watched, trigger, &slot, &stop, &jobs, &metrics);
        })
    })
}

/// A watch's thread: every new frame goes past its trigger.
fn watch(
    watch: &Arc<Watch>,
    mut trigger: Box<dyn Trigger>,
    slot: &Slot,
    stop: &AtomicBool,
    jobs: &SyncSender<Job>,
    metrics: &Metrics,
) {
    // A rule in words is asked about at its own rate: the worker knows then when an event is due.
    let follow = watch.config.follow.filter(|_| watch.condition.is_none());
    let mut chosen = Instant::now();
    let mut seen = 0;
    let mut last = None;
    // What was followed is gone, and the worker does not know it yet.
    let mut gone = false;
    while !slot.closed() && !stop.load(Ordering::Relaxed) {
        let Some(frame) = slot.newer_than(seen, WAIT) else {
            continue;
        };
        seen = frame.number;
        let now = Instant::now();
        if !watch.gate.awake(schedule::local(frame.at)) {
            continue;
        }
        if watch.gate.has_failed() {
            trigger.missed();
        }
        let turn = trigger.turn(&frame, now, watch.gate.may(now));
        if let Some(took) = trigger.took() {
            metrics.took("network", took);
        }
        let due = follow.is_some_and(|period| now.duration_since(chosen) >= period.0);
        gone |= turn == Turn::Falls && follow.is_some();
        if gone {
            let (watch, frame) = (Arc::clone(watch), Arc::clone(&frame));
            // One that finds no room is tried again with the next frame.
            gone = jobs.try_send(Job::Leave { watch, frame }).is_err();
            if !gone {
                last = None;
            }
        }
        if !(turn == Turn::Rises || due && turn == Turn::Stands) {
            continue;
        }
        chosen = now;
        last = Some(Arc::clone(&frame));
        let job = Job::Look {
            watch: Arc::clone(watch),
            frame,
            since: now,
            part: trigger.part(),
            again: turn != Turn::Rises,
            cause: trigger.cause().filter(|_| turn == Turn::Rises),
        };
        match jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                tracing::warn!(watch = watch.config.name, "busy: a frame was not looked at");
                metrics.missed(&watch.config.name);
                trigger.missed();
            }
            Err(TrySendError::Disconnected(_)) => return,
        }
    }
    // Not when the agent stops: what is seen then goes on.
    if let Some(frame) = last.filter(|_| !slot.closed()) {
        let watch = Arc::clone(watch);
        if jobs.try_send(Job::Leave { watch, frame }).is_err() {
            tracing::warn!("busy: the event of a watch that was changed has no end");
        }
    }
}
