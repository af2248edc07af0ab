//! The thread of a watch: every new frame goes past its gate and its trigger.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use crate::agent::thread;
use crate::crew::StartWatch;
use crate::operation::Metrics;
use crate::schedule;
use crate::slot::Slot;
use crate::trigger::Trigger;
use crate::watch::Watch;
use crate::worker::Job;

/// How long a watch sleeps before it looks whether the agent has stopped.
const WAIT: Duration = Duration::from_millis(500);

/// How a watch's thread is started.
pub(crate) fn starter(
    slots: HashMap<String, Arc<Slot>>,
    jobs: SyncSender<Job>,
    metrics: Arc<Metrics>,
) -> StartWatch {
    Box::new(move |watched, stop| {
        let trigger = watched.when.trigger(&watched.config)?;
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
        let fires = watch.gate.may(now) && trigger.fires(&frame, now);
        let due = follow.is_some_and(|period| now.duration_since(chosen) >= period.0);
        if !(fires || due && trigger.stands()) {
            continue;
        }
        chosen = now;
        last = Some(Arc::clone(&frame));
        let job = Job::Look {
            watch: Arc::clone(watch),
            frame,
            since: now,
            again: !fires,
            cause: None,
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
