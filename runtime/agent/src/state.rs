//! What must survive a restart, beside the outbox: small values by name, each written whole or not at all.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{Database, ReadableDatabase, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{AgentError, Result};

const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");

/// The values, in a file. Several threads may use it.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    /// None after an error, a full disk say: the database then refuses everything until it is opened anew.
    database: Mutex<Option<Database>>,
}

impl State {
    /// Opens or makes the file at `path`.
    ///
    /// # Errors
    /// [`AgentError::State`] if it cannot be used, or another agent uses it.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Database::create(path).map_err(|e| refuse(path, &e.into()))?;
        Ok(State {
            path: path.to_owned(),
            database: Mutex::new(Some(database)),
        })
    }

    /// The value of this name; none if there is none, or one that this version does not understand.
    ///
    /// # Errors
    /// [`AgentError::State`] if the file cannot be read.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let bytes = self.on_disk(|database| read(database, name))?;
        Ok(bytes.and_then(|bytes| {
            serde_json::from_slice(&bytes)
                .inspect_err(|e| tracing::warn!("state \"{name}\" is not understood: {e}"))
                .ok()
        }))
    }

    /// The same, but a value that this version does not understand is an error.
    ///
    /// # Errors
    /// [`AgentError::State`] if the file cannot be read, or the value not understood.
    pub fn get_or_refuse<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let bytes = self.on_disk(|database| read(database, name))?;
        let value = bytes
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose();
        value.map_err(|e| AgentError::State {
            path: self.path.display().to_string(),
            reason: format!("\"{name}\" is not understood: {e}"),
        })
    }

    /// Sets a value. When this returns it is on disk.
    ///
    /// # Errors
    /// [`AgentError::State`] if it could not be written; the old one is then still there.
    pub fn set(&self, name: &str, value: &impl Serialize) -> Result<()> {
        let bytes = serde_json::to_vec(value).map_err(|e| AgentError::State {
            path: self.path.display().to_string(),
            reason: e.to_string(),
        })?;
        self.on_disk(|database| write(database, name, &bytes))
    }

    fn on_disk<T>(&self, work: impl FnOnce(&Database) -> Answer<T>) -> Result<T> {
        // A panic half-way leaves no database, which is then opened anew.
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match held.take() {
            Some(database) => Ok(database),
            None => Database::create(&self.path).map_err(redb::Error::from),
        };
        let done = database.and_then(|database| {
            let done = work(&database)?;
            *held = Some(database);
            Ok(done)
        });
        done.map_err(|e| refuse(&self.path, &e))
    }
}

/// What the database says.
type Answer<T> = std::result::Result<T, redb::Error>;

fn read(database: &Database, name: &str) -> Answer<Option<Vec<u8>>> {
    let read = database.begin_read()?;
    match read.open_table(VALUES) {
        Ok(values) => Ok(values.get(name)?.map(|value| value.value().to_vec())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn write(database: &Database, name: &str, bytes: &[u8]) -> Answer<()> {
    let write = database.begin_write()?;
    write.open_table(VALUES)?.insert(name, bytes)?;
    Ok(write.commit()?)
}

/// What the database refuses, as the agent says it.
pub(crate) fn refuse(path: &Path, e: &redb::Error) -> AgentError {
    AgentError::State {
        path: path.display().to_string(),
        reason: e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_restart_and_what_is_not_understood_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.redb");
        let state = State::open(&path).unwrap();
        assert_eq!(state.get::<u64>("a").unwrap(), None);
        state.set("a", &7).unwrap();
        state.set("a", &8).unwrap();
        drop(state);
        let state = State::open(&path).unwrap();
        assert_eq!(state.get::<u64>("a").unwrap(), Some(8));
        assert_eq!(state.get::<String>("a").unwrap(), None);
        assert!(state.get_or_refuse::<String>("a").is_err());
        assert_eq!(state.get_or_refuse::<String>("b").unwrap(), None);
        assert!(State::open(&path).is_err(), "another agent uses it");
    }
}
