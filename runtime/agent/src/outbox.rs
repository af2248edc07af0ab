//! Messages on disk until the broker has them. A message counts as stored only after it is on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ballast::Ballast;
use crate::error::Result;
use crate::state::refuse;

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
    path: PathBuf,
    max_bytes: AtomicU64,
    disk: Mutex<Disk>,
    dropped: AtomicU64,
    ballast: Ballast,
    /// Woken when a message has been stored.
    pub stored: Notify,
}

/// The file, and what is known about it.
#[derive(Debug)]
struct Disk {
    /// None after an error: the database then refuses everything until it is opened anew.
    database: Option<Database>,
    index: Index,
    /// Messages that have arrived and could not be removed from the file yet.
    arrived: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Index {
    messages: BTreeMap<u64, Entry>,
    bytes: u64,
}

/// What is known of a message without reading it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    class: Class,
    topic: TopicKey,
    size: u64,
}

/// What a topic is remembered by. All pictures of a device share one: each has a topic of its own, but who may
/// write on one may write on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicKey(u64);

impl TopicKey {
    /// The key of a topic.
    #[must_use]
    pub fn of(topic: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        let (stem, _) = topic.split_once("/image/").unwrap_or((topic, ""));
        stem.hash(&mut hasher);
        TopicKey(hasher.finish())
    }
}

impl Outbox {
    /// Opens or makes the outbox at `path`, which holds at most `max_bytes` of messages.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if the file cannot be used, or another agent uses it.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        let arrived = BTreeSet::new();
        let (database, index) = open(path, &arrived).map_err(|e| refuse(path, &e))?;
        Ok(Outbox {
            path: path.to_owned(),
            max_bytes: AtomicU64::new(max_bytes),
            disk: Mutex::new(Disk {
                database: Some(database),
                index,
                arrived,
            }),
            dropped: AtomicU64::new(0),
            ballast: Ballast::beside(path),
            stored: Notify::new(),
        })
    }

    /// Holds at most so many bytes from now on: seen to when the next message is stored.
    pub fn limit(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::Relaxed);
    }

    /// Stores messages, all or none.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if they are not on disk.
    pub fn store(&self, messages: Vec<Message>) -> Result<()> {
        self.write(None, |_| messages)
    }

    /// Stores an event and what belongs to it, all or none. `build` gets the event's number.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if they are not on disk; the number is then given again.
    pub fn store_event(&self, build: impl FnOnce(u64) -> Vec<Message>) -> Result<()> {
        self.write(Some(EVENTS), build)
    }

    fn write(&self, counter: Option<&str>, build: impl FnOnce(u64) -> Vec<Message>) -> Result<()> {
        let mut disk = self.lock();
        // What has arrived makes room for what is new.
        if !disk.arrived.is_empty() {
            self.forget(&mut disk)?;
        }
        let max_bytes = self.max_bytes.load(Ordering::Relaxed);
        let stored = self.on_disk(&mut disk, |database, index, _| {
            try_write(database, index, max_bytes, counter, build)
        });
        let stored = stored.map_err(|e| refuse(&self.path, &e))?;
        for (key, entry) in stored.added {
            disk.index.insert(key, entry);
        }
        for key in stored.dropped {
            disk.index.remove(key);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.stored.notify_one();
        Ok(())
    }

    /// The oldest message and its key.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if it cannot be read.
    pub fn first(&self) -> Result<Option<(u64, Message)>> {
        self.first_of(|_| true)
    }

    /// The oldest message on one of the topics that are `wanted`, and its key.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if it cannot be read.
    pub fn first_of(&self, wanted: impl Fn(TopicKey) -> bool) -> Result<Option<(u64, Message)>> {
        let mut disk = self.lock();
        let first = self.on_disk(&mut disk, |database, index, _| {
            let first = index.messages.iter().find(|(_, e)| wanted(e.topic));
            let Some((&key, _)) = first else {
                return Ok(None);
            };
            Ok(read(database, key)?.map(|message| (key, message)))
        });
        first.map_err(|e| refuse(&self.path, &e))
    }

    /// Removes a message that has arrived. It is not sent again while this program runs, even if that
    /// cannot be written; it is then tried again before anything is stored.
    ///
    /// # Errors
    /// [`crate::AgentError::State`] if it cannot be written.
    pub fn remove(&self, key: u64) -> Result<()> {
        let mut disk = self.lock();
        disk.index.remove(key);
        disk.arrived.insert(key);
        self.forget(&mut disk)
    }

    /// Removes what has arrived from the file. That writes, so on a full disk it takes the ballast's room.
    fn forget(&self, disk: &mut Disk) -> Result<()> {
        let mut forgotten = self.on_disk(disk, forget);
        if forgotten.as_ref().is_err_and(is_full) && self.ballast.release() {
            forgotten = self.on_disk(disk, forget);
        }
        forgotten.map_err(|e| refuse(&self.path, &e))?;
        disk.arrived.clear();
        self.ballast.hold();
        Ok(())
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.lock().index.messages.len()
    }

    /// How many bytes wait.
    pub fn bytes(&self) -> u64 {
        self.lock().index.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that were dropped because there was no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Works on the file. After an error, a full disk say, it is opened anew the next time: whether a
    /// transaction that failed took place is known only then.
    fn on_disk<T>(
        &self,
        disk: &mut Disk,
        work: impl FnOnce(&Database, &Index, &BTreeSet<u64>) -> Answer<T>,
    ) -> Answer<T> {
        let database = match disk.database.take() {
            Some(database) => database,
            None => {
                let (database, index) = open(&self.path, &disk.arrived)?;
                disk.index = index;
                database
            }
        };
        let done = work(&database, &disk.index, &disk.arrived);
        if done.is_ok() {
            disk.database = Some(database);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        // The index is changed after the transaction, in steps that cannot panic.
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the database says.
type Answer<T> = std::result::Result<T, redb::Error>;

/// Opens or makes the file and lists what is in it, but for what has arrived.
fn open(path: &Path, arrived: &BTreeSet<u64>) -> Answer<(Database, Index)> {
    let database = Database::create(path)?;
    let mut index = Index::default();
    // Nothing is written where nothing is missing: that works on a full disk, too.
    if database.begin_read()?.list_tables()?.count() == 0 {
        let write = database.begin_write()?;
        write.open_table(HEADERS)?;
        write.open_table(PAYLOADS)?;
        write.open_table(COUNTERS)?;
        write.commit()?;
    }
    let read = database.begin_read()?;
    let (headers, payloads) = (read.open_table(HEADERS)?, read.open_table(PAYLOADS)?);
    for entry in headers.iter()? {
        let (key, header) = entry?;
        if arrived.contains(&key.value()) {
            continue;
        }
        let payload = payloads.get(key.value())?;
        let size = header.value().len() + payload.map_or(0, |p| p.value().len());
        let header = parse_header(header.value());
        let entry = Entry {
            class: header.as_ref().map_or(Class::Picture, |h| h.class),
            topic: TopicKey::of(header.as_ref().map_or("", |h| &h.topic)),
            size: size as u64,
        };
        index.insert(key.value(), entry);
    }
    Ok((database, index))
}

fn try_write(
    database: &Database,
    index: &Index,
    max_bytes: u64,
    counter: Option<&str>,
    build: impl FnOnce(u64) -> Vec<Message>,
) -> Answer<Stored> {
    let mut stored = Stored::default();
    let write = database.begin_write()?;
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
            let entry = Entry {
                class: message.header.class,
                topic: TopicKey::of(&message.header.topic),
                size,
            };
            stored.added.push((key, entry));
            bytes += size;
        }
        counters.insert(KEYS, key)?;
        // No room: the least worth go first, the oldest of them before the newer. What was just
        // added goes last of all.
        let mut old: Vec<(Class, u64, u64)> = index
            .messages
            .iter()
            .map(|(key, entry)| (entry.class, *key, entry.size))
            .collect();
        old.sort_unstable();
        let added = stored.added.iter();
        let new = added.map(|(key, entry)| (entry.class, *key, entry.size));
        for (_, key, size) in old.into_iter().chain(new) {
            if bytes <= max_bytes {
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

/// Removes messages that have arrived.
fn forget(database: &Database, _: &Index, arrived: &BTreeSet<u64>) -> Answer<()> {
    let write = database.begin_write()?;
    {
        let mut headers = write.open_table(HEADERS)?;
        let mut payloads = write.open_table(PAYLOADS)?;
        for key in arrived {
            headers.remove(key)?;
            payloads.remove(key)?;
        }
    }
    Ok(write.commit()?)
}

fn is_full(e: &redb::Error) -> bool {
    matches!(e, redb::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull)
}

fn read(database: &Database, key: u64) -> Answer<Option<Message>> {
    let read = database.begin_read()?;
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

#[derive(Default)]
struct Stored {
    added: Vec<(u64, Entry)>,
    dropped: Vec<u64>,
}

impl Index {
    fn insert(&mut self, key: u64, entry: Entry) {
        self.messages.insert(key, entry);
        self.bytes += entry.size;
    }

    fn remove(&mut self, key: u64) {
        if let Some(entry) = self.messages.remove(&key) {
            self.bytes -= entry.size;
        }
    }
}

fn parse_header(bytes: &[u8]) -> Option<Header> {
    serde_json::from_slice(bytes).ok()
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
