//! What becomes of a message that comes in: a command goes to the worker, or is answered at once; a shadow and
//! a job go to threads of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use time::OffsetDateTime;

use crate::command::{self, Action, Command, ReplyTo};
use crate::link::Incoming;
use crate::message::{Outcome, Timing};
use crate::operation::Metrics;
use crate::orders::Orders;
use crate::outbox::Outbox;
use crate::pending::Pending;
use crate::shadow::Change;
use crate::topic::Topics;
use crate::worker::{Job, QUEUE, refusal, result};

/// Changes of the configuration that may wait.
pub(crate) const CHANGES: usize = 8;
/// Jobs that may wait.
pub(crate) const UPDATES: usize = 4;

/// Where messages go.
pub(crate) struct Inbox {
    pub(crate) topics: Topics,
    pub(crate) jobs: SyncSender<Job>,
    pub(crate) changes: SyncSender<Change>,
    pub(crate) updates: SyncSender<Vec<u8>>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) pending: Arc<Pending>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Arc<Orders>,
    /// Ids that were made for commands without one.
    pub(crate) made: AtomicU64,
}

impl Inbox {
    /// Takes a message.
    pub(crate) fn take_in(&self, message: Incoming) {
        if message.topic == self.topics.job() {
            if self.updates.try_send(message.payload).is_err() {
                tracing::error!("a job is lost: {UPDATES} are waiting already");
            }
            return;
        }
        if message.topic == self.topics.desired() {
            if self
                .changes
                .try_send(Change::Desired(message.payload))
                .is_err()
            {
                tracing::error!("a shadow is lost: {CHANGES} changes are waiting already");
            }
            return;
        }
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        let id = format!("c{now:x}-{number}");
        let received = command::receive(&message.topic, &message.payload, message.envelope, id);
        let answer = received.and_then(|mut received| {
            received.reply.clock = self.orders.clock().mark();
            // First who it is from: its arguments may be large.
            let admitted = self.orders.admit(&message.topic, received.sealed.as_ref());
            admitted.map_err(|reason| (received.reply.clone(), reason))?;
            self.take(received.command()?)
        });
        let answer = match answer {
            Ok(None) => return,
            Ok(Some((reply, cancelled))) => {
                self.metrics.command(true);
                let outcome = Outcome::Cancelled(cancelled);
                result(&self.topics, &reply, outcome, Timing::new())
            }
            Err((mut reply, reason)) => {
                reply.clock = self.orders.clock().mark();
                tracing::warn!(topic = message.topic, "command refused: {reason}");
                self.metrics.command(false);
                refusal(&self.topics, &reply, &reason)
            }
        };
        if let Err(e) = self.outbox.store(vec![answer]) {
            tracing::error!("{e}");
        }
    }

    /// Puts a command into its queue. One that calls off another is done at once: that one's id is
    /// returned.
    fn take(
        &self,
        command: Command,
    ) -> std::result::Result<Option<(ReplyTo, String)>, (ReplyTo, String)> {
        let reply = command.reply.clone();
        if let Action::Cancel(id) = command.action {
            let now = OffsetDateTime::now_utc();
            return if command.expires.is_some_and(|t| t < now) {
                Err((reply, "it has expired".to_owned()))
            } else if self.pending.cancel(&id) {
                Ok(Some((reply, id)))
            } else {
                Err((reply, format!("no command \"{id}\" waits or is being done")))
            };
        }
        if let Action::Set(args) = command.action {
            let change = Change::Set {
                reply: reply.clone(),
                expires: command.expires,
                changes: args,
            };
            let sent = self.changes.try_send(change).map(|()| None);
            return sent.map_err(|_| {
                (
                    reply,
                    format!("busy: {CHANGES} changes are waiting already"),
                )
            });
        }
        self.pending.enter(&reply.id);
        let job = Job::Command {
            command: Box::new(command),
            since: Instant::now(),
        };
        self.jobs.try_send(job).map(|()| None).map_err(|_| {
            self.pending.leave(&reply.id);
            (reply, format!("busy: {QUEUE} jobs are waiting already"))
        })
    }
}
