//! Messages on disk until the broker has them. A message counts as stored only after it is on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::error::{AgentError, Result};

const HEADERS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("headers");
const PAYLOADS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("payloads");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// The number of the last stored event.
const EVENTS: &str = "events";
/// The key of the last stored message.
const KEYS: &str = "keys";

/// What a message is worth when there is no room for all: pictures go first, then replies, events
/// last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Pictures.
    Picture,
    /// Results of commands.
    Reply,
    /// Events.
    Event,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Everything but the payload.
    pub header: Header,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Everything but the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The topic.
    pub topic: String,
    /// What it is worth.
    pub class: Class,
    /// Whether the broker keeps it.
    #[serde(default)]
    pub retain: bool,
    /// The payload's media type.
    pub content_type: String,
    /// Correlation data of the command that is answered.
    #[serde(default)]
    pub correlation: Option<Vec<u8>>,
}

/// The messages that are to be sent, oldest first.
#[derive(Debug)]
pub struct Outbox {
    database: Database,
    name: String,
    max_bytes: u64,
    index: Mutex<Index>,
    dropped: AtomicU64,
    /// Woken when a message has been stored.
    pub stored: Notify,
}

#[derive(Debug, Default)]
struct Index {
    messages: BTreeMap<u64, (Class, u64)>,
    bytes: u64,
}

impl Outbox {
    /// Opens or makes the outbox at `path`, which holds at most `max_bytes` of messages.
    ///
    /// # Errors
    /// [`AgentError::State`] if the file cannot be used, or another agent uses it.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let name = path.display().to_string();
        let state = |e: redb::Error| refuse(&name, &e);
        let database = Database::create(path).map_err(|e| state(e.into()))?;
        let mut index = Index::default();
        let write = database.begin_write().map_err(|e| state(e.into()))?;
        {
            let headers = write.open_table(HEADERS).map_err(|e| state(e.into()))?;
            let payloads = write.open_table(PAYLOADS).map_err(|e| state(e.into()))?;
            write.open_table(COUNTERS).map_err(|e| state(e.into()))?;
            for entry in headers.iter().map_err(|e| state(e.into()))? {
                let (key, header) = entry.map_err(|e| state(e.into()))?;
                let payload = payloads.get(key.value()).map_err(|e| state(e.into()))?;
                let size = header.value().len() + payload.map_or(0, |p| p.value().len());
                let class = parse_header(header.value()).map_or(Class::Picture, |h| h.class);
                index.insert(key.value(), class, size as u64);
            }
        }
        write.commit().map_err(|e| state(e.into()))?;
        Ok(Outbox {
            database,
            name,
            max_bytes,
            index: Mutex::new(index),
            dropped: AtomicU64::new(0),
            stored: Notify::new(),
        })
    }

    /// Stores messages, all or none.
    ///
    /// # Errors
    /// [`AgentError::State`] if they are not on disk.
    pub fn store(&self, messages: Vec<Message>) -> Result<()> {
        self.write(None, |_| messages)
    }

    /// Stores an event and what belongs to it, all or none. `build` gets the event's number.
    ///
    /// # Errors
    /// [`AgentError::State`] if they are not on disk; the number is then given again.
    pub fn store_event(&self, build: impl FnOnce(u64) -> Vec<Message>) -> Result<()> {
        self.write(Some(EVENTS), build)
    }

    fn write(&self, counter: Option<&str>, build: impl FnOnce(u64) -> Vec<Message>) -> Result<()> {
        let mut index = self.lock();
        let stored = self
            .try_write(&mut index, counter, build)
            .map_err(|e| refuse(&self.name, &e))?;
        for (key, class, size) in stored.added {
            index.insert(key, class, size);
        }
        for key in stored.dropped {
            index.remove(key);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.stored.notify_one();
        Ok(())
    }

    fn try_write(
        &self,
        index: &mut Index,
        counter: Option<&str>,
        build: impl FnOnce(u64) -> Vec<Message>,
    ) -> std::result::Result<Stored, redb::Error> {
        let mut stored = Stored::default();
        let write = self.database.begin_write()?;
        {
            let mut headers = write.open_table(HEADERS)?;
            let mut payloads = write.open_table(PAYLOADS)?;
            let mut counters = write.open_table(COUNTERS)?;
            let number = match counter {
                None => 0,
                Some(counter) => {
                    let next = counters.get(counter)?.map_or(0, |v| v.value()) + 1;
                    counters.insert(counter, next)?;
                    next
                }
            };
            let mut key = counters.get(KEYS)?.map_or(0, |v| v.value());
            let mut bytes = index.bytes;
            for message in build(number) {
                key += 1;
                let header = serde_json::to_vec(&message.header).unwrap_or_default();
                let size = (header.len() + message.payload.len()) as u64;
                headers.insert(key, header.as_slice())?;
                payloads.insert(key, message.payload.as_slice())?;
                stored.added.push((key, message.header.class, size));
                bytes += size;
            }
            counters.insert(KEYS, key)?;
            // No room: the least worth go first, the oldest of them before the newer. What was just
            // added goes last of all.
            let mut old: Vec<(Class, u64, u64)> = index
                .messages
                .iter()
                .map(|(key, (class, size))| (*class, *key, *size))
                .collect();
            old.sort_unstable();
            let new = stored
                .added
                .iter()
                .map(|(key, class, size)| (*class, *key, *size));
            for (_, key, size) in old.into_iter().chain(new) {
                if bytes <= self.max_bytes {
                    break;
                }
                headers.remove(key)?;
                payloads.remove(key)?;
                stored.dropped.push(key);
                bytes -= size;
            }
        }
        write.commit()?;
        Ok(stored)
    }

    /// The oldest message and its key.
    ///
    /// # Errors
    /// [`AgentError::State`] if it cannot be read.
    pub fn first(&self) -> Result<Option<(u64, Message)>> {
        let Some(key) = self.lock().messages.keys().next().copied() else {
            return Ok(None);
        };
        self.read(key)
            .map(|message| message.map(|m| (key, m)))
            .map_err(|e| refuse(&self.name, &e))
    }

    fn read(&self, key: u64) -> std::result::Result<Option<Message>, redb::Error> {
        let read = self.database.begin_read()?;
        let header = read.open_table(HEADERS)?.get(key)?;
        let payload = read.open_table(PAYLOADS)?.get(key)?;
        let (Some(header), Some(payload)) = (header, payload) else {
            return Ok(None);
        };
        let header = parse_header(header.value());
        Ok(header.map(|header| Message {
            header,
            payload: payload.value().to_vec(),
        }))
    }

    /// Removes a message that has arrived.
    ///
    /// # Errors
    /// [`AgentError::State`] if that cannot be written; it will then be sent again.
    pub fn remove(&self, key: u64) -> Result<()> {
        let mut index = self.lock();
        let removed = || -> std::result::Result<(), redb::Error> {
            let write = self.database.begin_write()?;
            write.open_table(HEADERS)?.remove(key)?;
            write.open_table(PAYLOADS)?.remove(key)?;
            write.commit()?;
            Ok(())
        };
        removed().map_err(|e| refuse(&self.name, &e))?;
        index.remove(key);
        Ok(())
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that were dropped because there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // The index is changed after the transaction, in steps that cannot panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Stored {
    added: Vec<(u64, Class, u64)>,
    dropped: Vec<u64>,
}

impl Index {
    fn insert(&mut self, key: u64, class: Class, size: u64) {
        self.messages.insert(key, (class, size));
        self.bytes += size;
    }

    fn remove(&mut self, key: u64) {
        if let Some((_, size)) = self.messages.remove(&key) {
            self.bytes -= size;
        }
    }
}

fn parse_header(bytes: &[u8]) -> Option<Header> {
    serde_json::from_slice(bytes).ok()
}

fn refuse(name: &str, e: &redb::Error) -> AgentError {
    AgentError::State {
        path: name.to_owned(),
        reason: e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, class: Class, len: usize) -> Message {
        Message {
            header: Header {
                topic: topic.to_owned(),
                class,
                retain: false,
                content_type: String::new(),
                correlation: Some(vec![0, 255]),
            },
            payload: vec![7; len],
        }
    }

    #[test]
    fn messages_and_event_numbers_survive_a_restart_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.redb");
        for round in 0..3 {
            let outbox = Outbox::open(&path, 1 << 20).unwrap();
            assert_eq!(outbox.len(), round);
            let mut number = 0;
            outbox
                .store_event(|n| {
                    number = n;
                    vec![message(&n.to_string(), Class::Event, 10)]
                })
                .unwrap();
            assert_eq!(number, round as u64 + 1);
        }
        let outbox = Outbox::open(&path, 1 << 20).unwrap();
        for expected in ["1", "2", "3"] {
            let (key, first) = outbox.first().unwrap().unwrap();
            assert_eq!(first, message(expected, Class::Event, 10));
            outbox.remove(key).unwrap();
        }
        assert!(outbox.is_empty() && outbox.first().unwrap().is_none());
    }

    #[test]
    fn without_room_pictures_go_before_events_and_the_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = Outbox::open(&folder.path().join("o"), 3500).unwrap();
        for (topic, class) in [
            ("event", Class::Event),
            ("old picture", Class::Picture),
            ("picture", Class::Picture),
            ("last", Class::Event),
        ] {
            outbox.store(vec![message(topic, class, 1000)]).unwrap();
        }
        let mut left = Vec::new();
        while let Some((key, message)) = outbox.first().unwrap() {
            left.push(message.header.topic);
            outbox.remove(key).unwrap();
        }
        assert_eq!(left, ["event", "picture", "last"]);
        assert_eq!(outbox.dropped(), 1);
    }

    #[test]
    fn a_second_agent_on_the_same_outbox_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o");
        let _first = Outbox::open(&path, 1000).unwrap();
        assert!(Outbox::open(&path, 1000).is_err());
    }
}
