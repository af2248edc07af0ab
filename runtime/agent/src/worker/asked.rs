//! Somebody has a watch look, whatever its trigger says.

use std::sync::Arc;
use std::time::Instant;

use time::OffsetDateTime;

use super::look::Sight;
use super::{Worker, to};
use crate::command::ReplyTo;
use crate::frame::{Frame, Picture};
use crate::message::{Cause, EventType, Outcome, Reply};
use crate::outbox::Message;

impl Worker {
    /// Asks a watch's question about the newest frame of its camera, or this picture, and makes an event of the
    /// answer. Neither hours nor rests nor limits hold it back, nor does it count for them: a person asked.
    pub(super) fn asked(
        &self,
        reply: &ReplyTo,
        name: &str,
        picture: Option<&Picture>,
        since: Instant,
    ) -> Result<Vec<Message>, String> {
        let watch = self
            .watches
            .find(name)
            .ok_or_else(|| format!("there is no watch \"{name}\""))?;
        let frame = match picture {
            Some(picture) => Arc::new(Frame {
                number: 0,
                at: OffsetDateTime::now_utc(),
                picture: picture.clone(),
            }),
            None => self.newest(Some(&watch.config.camera))?,
        };
        let cause = Cause::Command {
            command: reply.id.clone(),
            image: picture.is_some(),
        };
        let sight = Sight {
            watch: &watch,
            frame: &frame,
            since,
            part: watch.region,
            cause: Some(&cause),
        };
        let said = self.ask(&sight).map_err(|e| e.to_string())?;
        let seen = self.act(&sight, said);
        let (answer, timing) = (seen.answer.clone(), seen.timing.clone());
        let event = self
            .event(EventType::New, None, &sight, seen)
            .ok_or("the answer is there, but its event could not be stored")?;
        let payload = Reply::Result {
            id: reply.id.clone(),
            device: self.topics.device().to_owned(),
            result: Outcome::Answer(answer),
            event: Some(event),
            check: None,
            timing,
        };
        Ok(vec![to(&self.topics, reply, &payload)])
    }
}
