//! Installations on a simulated disk that fails or stops at every single operation.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

use super::manifest::{File, Smoke};
use super::*;
use crate::engine::{DrawRequest, EngineError, ModelInfo, Question};
use crate::frame::Picture;
use crate::keys::PrivateKey;

/// What a disk does at its operation of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Never,
    /// The operation fails, all others work.
    Fails(usize),
    /// It and all later ones fail, and what was not synced is lost: the power is gone.
    Stops(usize),
}

#[derive(Debug, Clone, Default)]
struct Content {
    bytes: Vec<u8>,
    /// How many of them have reached the disk.
    synced: usize,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<PathBuf, Content>,
    /// Folders, and whether their entries in those above have reached the disk.
    folders: BTreeMap<PathBuf, bool>,
    record: Record,
    done: usize,
    fault: Fault,
}

/// A disk, with the record on it.
#[derive(Debug, Clone)]
struct Simulated(Arc<Mutex<Inner>>);

impl Simulated {
    fn new() -> Self {
        Simulated(Arc::new(Mutex::new(Inner {
            files: BTreeMap::new(),
            folders: BTreeMap::new(),
            record: Record::default(),
            done: 0,
            fault: Fault::Never,
        })))
    }

    fn set(&self, fault: Fault) {
        let mut inner = self.0.lock().unwrap();
        inner.done = 0;
        inner.fault = fault;
    }

    fn done(&self) -> usize {
        self.0.lock().unwrap().done
    }

    /// After a power cut: what was not synced is gone, half of it say.
    fn reboot(&self) {
        let mut inner = self.0.lock().unwrap();
        if matches!(inner.fault, Fault::Stops(_)) {
            for content in inner.files.values_mut() {
                let left = content.synced + (content.bytes.len() - content.synced) / 2;
                content.bytes.truncate(left);
                // What is left of an unsynced write need not be what was written.
                for byte in &mut content.bytes[content.synced..] {
                    *byte = 0;
                }
                content.synced = left;
            }
            // What lies in a folder without an entry is gone.
            let lost = |path: &Path| {
                let mut above = path.ancestors().skip(1);
                above.any(|folder| inner.folders.get(folder) == Some(&false))
            };
            let gone: Vec<PathBuf> = inner.files.keys().filter(|p| lost(p)).cloned().collect();
            for path in gone {
                inner.files.remove(&path);
            }
            inner.folders.retain(|_, kept| *kept);
        }
        inner.done = 0;
        inner.fault = Fault::Never;
    }

    fn change<T>(&self, work: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.0.lock().unwrap();
        inner.done += 1;
        let fails = match inner.fault {
            Fault::Never => false,
            Fault::Fails(at) => inner.done == at,
            Fault::Stops(at) => inner.done >= at,
        };
        if fails {
            return Err(io::Error::other("the disk has failed"));
        }
        work(&mut inner)
    }
}

impl Files for Simulated {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            // The first level is there.
            for folder in path.ancestors().filter(|f| f.components().count() > 2) {
                disk.folders.entry(folder.to_owned()).or_insert(false);
            }
            Ok(())
        })
    }

    fn length(&self, path: &Path) -> io::Result<Option<u64>> {
        self.change(|disk| Ok(disk.files.get(path).map(|c| c.bytes.len() as u64)))
    }

    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.change(|disk| {
            let content = disk.files.entry(path.to_owned()).or_default();
            content.bytes.extend(bytes);
            Ok(())
        })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            let within = |folder: &Path| folder.parent() == Some(path);
            let folders = disk.folders.iter_mut().filter(|(folder, _)| within(folder));
            folders.for_each(|(_, kept)| *kept = true);
            if path.components().count() <= 2 || disk.folders.contains_key(path) {
                return Ok(());
            }
            let content = disk.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
            content.synced = content.bytes.len();
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|disk| {
            let content = disk.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            disk.files.insert(to.to_owned(), content);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|disk| {
            disk.files.remove(path);
            Ok(())
        })
    }

    fn read(&self, path: &Path, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        self.change(|disk| {
            sink(&disk.files.get(path).ok_or(io::ErrorKind::NotFound)?.bytes);
            Ok(())
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.change(|disk| {
            let within = disk.files.keys().filter(|p| p.parent() == Some(folder));
            Ok(within
                .filter_map(|p| p.file_name())
                .map(OsString::from)
                .collect())
        })
    }
}

fn lost(e: &io::Error) -> AgentError {
    AgentError::State {
        path: "record".to_owned(),
        reason: e.to_string(),
    }
}

impl Ledger for Simulated {
    fn load(&self) -> Result<Record> {
        self.change(|disk| Ok(disk.record.clone()))
            .map_err(|e| lost(&e))
    }

    fn store(&self, record: &Record) -> Result<()> {
        let stored = self.change(|disk| {
            disk.record = record.clone();
            Ok(())
        });
        stored.map_err(|e| lost(&e))
    }
}

/// An engine that says which model it is. Some do worse: "slow" ones say so once and then nothing for a second,
/// "stuck" ones for five, "panics" ones panic when they are asked.
struct Says(String);

impl Engine for Says {
    fn model(&self) -> ModelInfo {
        ModelInfo {
            name: self.0.clone(),
            sha256: String::new(),
        }
    }

    fn check(&self, _: &Question) -> std::result::Result<(), EngineError> {
        Ok(())
    }

    fn see(
        &self,
        _: &Picture,
        _: &Question,
        _: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> std::result::Result<String, EngineError> {
        assert!(!self.0.contains("panics"), "this model panics");
        for (word, seconds) in [("slow", 0.1), ("stuck", 5.0)] {
            if self.0.contains(word) {
                std::thread::sleep(Duration::from_secs_f64(seconds));
            }
        }
        Ok(format!("I am {}", self.0))
    }

    fn draw(
        &self,
        _: &DrawRequest,
        _: crate::engine::Progress<'_>,
    ) -> std::result::Result<Picture, EngineError> {
        Err(EngineError::Cancelled)
    }

    fn edit(
        &self,
        _: &Picture,
        _: &DrawRequest,
        _: crate::engine::Progress<'_>,
    ) -> std::result::Result<Picture, EngineError> {
        Err(EngineError::Cancelled)
    }
}

/// Loads models from the simulated disk: text files that begin with "model". Once the flag is set none can be
/// loaded.
struct Models(Simulated, Arc<AtomicBool>);

impl Loader for Models {
    fn check(&self, model: &Path) -> std::result::Result<(), String> {
        let disk = self.0.0.lock().unwrap();
        let content = disk.files.get(model).ok_or("it is not there")?;
        match content.bytes.starts_with(b"model") {
            true => Ok(()),
            false => Err("it is no model".to_owned()),
        }
    }

    fn load(&self, model: &Path) -> std::result::Result<Arc<dyn Engine>, String> {
        // Loading is no operation that is made to fail: it changes nothing.
        let disk = self.0.0.lock().unwrap();
        let content = disk.files.get(model).ok_or("it is not there")?;
        let text = String::from_utf8(content.bytes.clone()).map_err(|e| e.to_string())?;
        drop(disk);
        assert!(
            !text.contains("explodes"),
            "this model panics while it is loaded"
        );
        if self.1.load(Ordering::Relaxed) {
            return Err("out of memory".to_owned());
        }
        if !text.starts_with("model") || text.contains('\0') {
            return Err("it is no model".to_owned());
        }
        Ok(Arc::new(Says(text)))
    }

    fn own(&self) -> std::result::Result<Arc<dyn Engine>, String> {
        match self.1.load(Ordering::Relaxed) {
            true => Err("out of memory".to_owned()),
            false => Ok(Arc::new(Says("own".to_owned()))),
        }
    }
}

/// What the web has, in pieces of three bytes.
#[derive(Clone, Default)]
struct Shelf(BTreeMap<String, Vec<u8>>);

impl Fetch for Shelf {
    fn fetch(
        &self,
        _: &str,
        name: &str,
        from: u64,
        sink: fetch::Sink<'_>,
    ) -> std::result::Result<(), FetchError> {
        let missing = || FetchError::Later("not there".to_owned());
        let bytes = self.0.get(name).ok_or_else(missing)?;
        bytes[(from as usize).min(bytes.len())..]
            .chunks(3)
            .try_for_each(sink)
    }
}

struct World {
    disk: Simulated,
    shelf: Shelf,
    key: PrivateKey,
    /// Whether no model can be loaded.
    broken: Arc<AtomicBool>,
}

impl World {
    fn new() -> Self {
        World {
            disk: Simulated::new(),
            shelf: Shelf::default(),
            key: PrivateKey::generate().unwrap(),
            broken: Arc::default(),
        }
    }

    fn boot(&self) -> Result<Updater> {
        let trust = Keys {
            keys: vec![self.key.public()],
            threshold: 1,
        };
        Updater::boot(
            Box::new(self.disk.clone()),
            Box::new(self.disk.clone()),
            Box::new(self.shelf.clone()),
            Arc::new(Models(self.disk.clone(), Arc::clone(&self.broken))),
            PathBuf::from("/state/slots"),
            trust,
            1000,
        )
    }

    /// A manifest of a model with this text, which is on the shelf.
    fn manifest(&mut self, version: u64, text: &str) -> Manifest {
        let path = "model.gguf".to_owned();
        self.shelf.0.insert(path.clone(), text.as_bytes().to_vec());
        let hash = Sha256::digest(text.as_bytes());
        Manifest {
            name: "test".to_owned(),
            version,
            minimum_program: None,
            expires: "2030-01-01T00:00:00Z".to_owned(),
            allow_downgrade: false,
            files: vec![File {
                path,
                length: text.len() as u64,
                sha256: hash.iter().map(|b| format!("{b:02x}")).collect(),
            }],
            smoke: Some(smoke()),
            keys: None,
        }
    }

    fn job(&self, id: &str, manifest: &Manifest) -> Job {
        Job {
            id: id.to_owned(),
            manifest: manifest.sign(std::slice::from_ref(&self.key)).unwrap(),
            base: "https://models.example".to_owned(),
        }
    }
}

/// Good models are those that say "good".
fn smoke() -> Smoke {
    use base64::Engine as _;
    let picture = Picture {
        width: 1,
        height: 1,
        rgb: vec![0; 3].into(),
    };
    let png = picture.to_png().unwrap();
    Smoke {
        picture: base64::engine::general_purpose::STANDARD.encode(png),
        ask: "who?".to_owned(),
        expect: "GOOD".to_owned(),
        within_ms: 10_000,
    }
}

/// Does a job, tried again `tries` times at most; returns its end, if it has one, and its reason.
fn done(updater: &mut Updater, job: &Job, tries: usize) -> Option<(JobState, String)> {
    let asked = Asked::Install(job.clone());
    let end = asked_of(updater, &asked, tries, &Arc::default())?;
    Some((end.state, end.reason.unwrap_or_default()))
}

/// The same for any job; what is lost is told.
fn asked_of(
    updater: &mut Updater,
    asked: &Asked,
    tries: usize,
    lost: &Arc<Mutex<Vec<String>>>,
) -> Option<super::Progress> {
    let losing = Arc::clone(lost);
    let said = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&said);
    let around = Surroundings {
        now: Box::new(|| Some(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap())),
        accepts: Box::new(|_| Ok(())),
        publish: Box::new(move |progress| sink.lock().unwrap().push(progress)),
        lost: Box::new(move |reason| losing.lock().unwrap().push(reason)),
    };
    let mut left = tries;
    updater.settle(&around);
    said.lock().unwrap().clear();
    updater.job(&around, asked, &mut |_| {
        left = left.saturating_sub(1);
        left > 0
    });
    let said = said.lock().unwrap();
    let last = said.last()?;
    last.state.is_end().then(|| last.clone())
}

fn runs(updater: &Updater) -> String {
    updater.engine().model().name
}

#[test]
fn a_good_model_stays_and_a_bad_one_is_given_back() {
    let mut world = World::new();
    let updater = world.boot().unwrap();
    assert_eq!(runs(&updater), "own");
    let good = world.manifest(1, "model 1, good");
    let mut updater = world.boot().unwrap();
    let end = done(&mut updater, &world.job("1", &good), 1).unwrap();
    assert_eq!(end, (JobState::Confirmed, String::new()));
    assert_eq!(runs(&updater), "model 1, good");
    let again = done(&mut updater, &world.job("1", &good), 1).unwrap();
    assert_eq!(
        again.0,
        JobState::Confirmed,
        "a job that was done is answered"
    );

    for (id, text, expected, words) in [
        ("bad", "model 2, bad", JobState::RolledBack, "it answers"),
        ("no", "no model at all", JobState::Refused, "no model"),
    ] {
        let manifest = world.manifest(2, text);
        let mut updater = world.boot().unwrap();
        let (state, reason) = done(&mut updater, &world.job(id, &manifest), 1).unwrap();
        assert_eq!(state, expected, "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert_eq!(runs(&updater), "model 1, good");
        assert_eq!(
            runs(&world.boot().unwrap()),
            "model 1, good",
            "after a restart"
        );
    }
    let better = world.manifest(3, "model 3, good");
    let mut updater = world.boot().unwrap();
    assert_eq!(
        done(&mut updater, &world.job("3", &better), 1).unwrap().0,
        JobState::Confirmed
    );
    assert_eq!(runs(&world.boot().unwrap()), "model 3, good");
}

#[test]
fn what_may_not_be_installed_is_refused_in_words() {
    let mut world = World::new();
    let good = world.manifest(5, "model 5, good");
    let mut updater = world.boot().unwrap();
    done(&mut updater, &world.job("5", &good), 1).unwrap();
    let refused = |world: &World, id: &str, manifest: &Manifest, words: &str| {
        let mut updater = world.boot().unwrap();
        let (state, reason) = done(&mut updater, &world.job(id, manifest), 1).unwrap();
        assert_eq!(state, JobState::Refused);
        assert!(reason.contains(words), "{words}: {reason}");
        assert_eq!(runs(&updater), "model 5, good");
    };
    let old = world.manifest(4, "model 4, good");
    refused(&world, "old", &old, "older");
    let expired = Manifest {
        version: 6,
        expires: "2020-01-01T00:00:00Z".to_owned(),
        ..old.clone()
    };
    refused(&world, "expired", &expired, "expired");
    let newer = Manifest {
        version: 6,
        minimum_program: Some("99.0.0".to_owned()),
        ..old.clone()
    };
    refused(&world, "newer", &newer, "99.0.0");
    let mut large = Manifest {
        version: 6,
        ..old.clone()
    };
    large.files[0].length = 1001;
    refused(&world, "large", &large, "max_bytes");
    let mut wrong = large.clone();
    wrong.files[0].length = 13;
    wrong.files[0].sha256 = "0".repeat(64);
    refused(&world, "wrong", &wrong, "SHA-256");
    wrong.files[0].length = 5;
    refused(&world, "short", &wrong, "more than 5 bytes");
    let down = Manifest {
        allow_downgrade: true,
        ..old
    };
    let mut updater = world.boot().unwrap();
    let end = done(&mut updater, &world.job("down", &down), 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
}

#[test]
fn keys_are_rotated_by_a_manifest_and_the_old_ones_count_no_more() {
    let mut world = World::new();
    let new = PrivateKey::generate().unwrap();
    let mut first = world.manifest(1, "model 1, good");
    first.keys = Some(Keys {
        keys: vec![new.public()],
        threshold: 1,
    });
    let mut updater = world.boot().unwrap();
    let refused = done(&mut updater, &world.job("1", &first), 1).unwrap();
    assert!(refused.1.contains("new keys: 0 of 1"), "{}", refused.1);
    let mut both = world.job("1", &first);
    both.manifest.add(manifest::PURPOSE, &new);
    let end = done(&mut updater, &both, 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
    let second = world.manifest(2, "model 2, good");
    let mut updater = world.boot().unwrap();
    let (state, reason) = done(&mut updater, &world.job("2", &second), 1).unwrap();
    assert_eq!(state, JobState::Refused, "the old key");
    assert!(reason.contains("0 of 1"), "{reason}");
    world.key = new;
    let end = done(&mut updater, &world.job("2b", &second), 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
}

/// At every single operation: after it, the old or the new model runs, after a restart too, and left alone the
/// device ends with the new one.
#[test]
fn whatever_fails_the_old_or_the_new_model_runs() {
    let install = |fault: Fault| -> usize {
        let mut world = World::new();
        let old = world.manifest(1, "model 1, good");
        done(&mut world.boot().unwrap(), &world.job("1", &old), 1).unwrap();
        let new = world.manifest(2, "model 2, good and longer");
        let job = world.job("2", &new);
        let mut updater = world.boot().unwrap();
        world.disk.set(fault);
        let end = done(&mut updater, &job, 3);
        let operations = world.disk.done();
        let known = ["model 1, good", "model 2, good and longer"];
        assert!(
            known.contains(&&*runs(&updater)),
            "{fault:?}: {}",
            runs(&updater)
        );
        drop(updater);

        world.disk.reboot();
        let mut updater = world.boot().unwrap();
        assert!(
            known.contains(&&*runs(&updater)),
            "{fault:?}: {}",
            runs(&updater)
        );
        // The broker sends the job again. One that was given back for a failing disk needs another one.
        let again = world.job("again", &new);
        let job = match end {
            Some((JobState::RolledBack, _)) => &again,
            _ => &job,
        };
        done(&mut updater, job, 3);
        assert_eq!(runs(&updater), known[1], "{fault:?}: {end:?}");
        assert_eq!(runs(&world.boot().unwrap()), known[1], "{fault:?}");
        operations
    };
    let operations = install(Fault::Never);
    assert!(operations > 15, "{operations}");
    for at in 1..=operations {
        install(Fault::Fails(at));
        install(Fault::Stops(at));
    }
}

#[test]
fn a_trial_that_never_ends_is_given_back_after_some_starts() {
    let mut world = World::new();
    let old = world.manifest(1, "model 1, good");
    done(&mut world.boot().unwrap(), &world.job("1", &old), 1).unwrap();
    let new = world.manifest(2, "model 2, good");
    // The program dies during every trial: the starts are counted, and nothing is confirmed.
    {
        let mut disk = world.disk.0.lock().unwrap();
        disk.record.slots.insert(Slot::B, new);
        let files = b"model 2, good".to_vec();
        let synced = files.len();
        let path = PathBuf::from("/state/slots/b/model.gguf");
        disk.files.insert(
            path,
            Content {
                bytes: files,
                synced,
            },
        );
        disk.record.trial = Some(Trial {
            slot: Some(Slot::B),
            job: "2".to_owned(),
            starts: MOST_STARTS,
            leaves: None,
        });
    }
    let updater = world.boot().unwrap();
    assert_eq!(runs(&updater), "model 1, good");
    let end = updater.end.unwrap();
    assert_eq!(end.state, JobState::RolledBack);
    let disk = world.disk.0.lock().unwrap();
    assert!(disk.record.ended.iter().any(|end| end.id == "2"));
}

#[test]
fn a_damaged_model_makes_room_for_the_same_one_again() {
    let mut world = World::new();
    let old = world.manifest(1, "model 1, good");
    done(&mut world.boot().unwrap(), &world.job("1", &old), 1).unwrap();
    let new = world.manifest(2, "model 2, good");
    done(&mut world.boot().unwrap(), &world.job("2", &new), 1).unwrap();
    let path = PathBuf::from("/state/slots/b/model.gguf");
    let damage = |world: &World| {
        let mut disk = world.disk.0.lock().unwrap();
        disk.files.get_mut(&path).unwrap().bytes[0] = 0;
    };
    damage(&world);
    let mut updater = world.boot().unwrap();
    assert_eq!(runs(&updater), "model 1, good", "the other slot's");
    let (state, reason) = done(&mut updater, &world.job("2 again", &new), 1).unwrap();
    assert_eq!(state, JobState::Confirmed, "{reason}");
    assert_eq!(runs(&world.boot().unwrap()), "model 2, good");
    // One that failed its test is never what runs instead.
    let bad = world.manifest(3, "model 3, bad");
    done(&mut world.boot().unwrap(), &world.job("3", &bad), 1).unwrap();
    damage(&world);
    assert_eq!(runs(&world.boot().unwrap()), "own");
}

#[test]
fn strangers_use_up_no_job() {
    let mut world = World::new();
    let good = world.manifest(1, "model 1, good");
    let mut updater = world.boot().unwrap();
    let stranger = PrivateKey::generate().unwrap();
    let job = Job {
        manifest: good.sign(std::slice::from_ref(&stranger)).unwrap(),
        ..world.job("1", &good)
    };
    assert_eq!(done(&mut updater, &job, 1).unwrap().0, JobState::Refused);
    let end = done(&mut updater, &world.job("1", &good), 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
}

/// A world whose device runs version 2, with version 1 in the other slot.
fn updated() -> (World, Manifest, Manifest) {
    let mut world = World::new();
    let old = world.manifest(1, "model 1, good");
    done(&mut world.boot().unwrap(), &world.job("1", &old), 1).unwrap();
    let new = world.manifest(2, "model 2, good");
    let end = done(&mut world.boot().unwrap(), &world.job("2", &new), 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
    (world, old, new)
}

/// An order to go back.
fn order(world: &World, id: &str, leaves: &Manifest, to: Option<&Manifest>) -> Asked {
    let back = Back {
        leaves: leaves.which(),
        to: to.map(Manifest::which),
        expires: "2030-01-01T00:00:00Z".to_owned(),
    };
    let rollback = back.sign(std::slice::from_ref(&world.key)).unwrap();
    let id = id.to_owned();
    Asked::Back(BackJob { id, rollback })
}

/// Gives an order to a device that starts.
fn ordered(world: &World, asked: &Asked) -> (super::Progress, String) {
    let mut updater = world.boot().unwrap();
    let end = asked_of(&mut updater, asked, 1, &Arc::default()).unwrap();
    let now = runs(&updater);
    assert_eq!(runs(&world.boot().unwrap()), now, "after a restart");
    (end, now)
}

#[test]
fn a_rollback_goes_back_once_and_the_bad_model_does_not_return() {
    let (mut world, old, new) = updated();
    let back = order(&world, "back", &new, Some(&old));
    let (end, now) = ordered(&world, &back);
    assert_eq!(end.state, JobState::Confirmed, "{:?}", end.reason);
    assert_eq!((end.leaves, end.version), (Some(2), Some(1)));
    assert_eq!(now, "model 1, good");

    // What the broker still holds does not bring it back, a downgrade neither.
    for (id, allow_downgrade) in [("2 again", false), ("2 down", true)] {
        let again = Manifest {
            allow_downgrade,
            ..new.clone()
        };
        let mut updater = world.boot().unwrap();
        let (state, reason) = done(&mut updater, &world.job(id, &again), 1).unwrap();
        assert_eq!(state, JobState::Refused);
        assert!(reason.contains("was left"), "{reason}");
    }
    // The order given again under another name finds it done.
    let before = world.disk.0.lock().unwrap().record.clone();
    let (end, now) = ordered(&world, &order(&world, "replayed", &new, Some(&old)));
    assert_eq!((end.state, &*now), (JobState::Confirmed, "model 1, good"));
    assert_eq!(
        world.disk.0.lock().unwrap().record,
        before,
        "nothing is changed"
    );

    // A better one comes, and leaves nothing to replay either.
    let better = world.manifest(3, "model 3, good");
    let end = done(&mut world.boot().unwrap(), &world.job("3", &better), 1).unwrap();
    assert_eq!(end.0, JobState::Confirmed, "{}", end.1);
    let (end, now) = ordered(&world, &order(&world, "late", &new, Some(&old)));
    assert_eq!((end.state, &*now), (JobState::Refused, "model 3, good"));
    assert!(end.reason.unwrap().contains("version 3 runs"));
}

#[test]
fn a_rollback_is_checked_like_an_update() {
    let (mut world, old, new) = updated();
    let refused = |world: &World, asked: &Asked, words: &str| {
        let (end, now) = ordered(world, asked);
        let reason = end.reason.unwrap_or_default();
        assert_eq!(end.state, JobState::Refused, "{reason}");
        assert!(reason.contains(words), "{words}: {reason}");
        assert_eq!(now, "model 2, good");
    };
    // A stranger; somebody whose signature is one of a manifest; an order that is too old.
    let mut stranger = order(&world, "stranger", &new, Some(&old));
    if let Asked::Back(job) = &mut stranger {
        job.rollback.signatures.clear();
        let key = PrivateKey::generate().unwrap();
        job.rollback.add(back::PURPOSE, &key);
    }
    refused(&world, &stranger, "0 of 1");
    if let Asked::Back(job) = &mut stranger {
        job.rollback.add(manifest::PURPOSE, &world.key);
    }
    refused(&world, &stranger, "0 of 1");
    let late = Back {
        leaves: new.which(),
        to: Some(old.which()),
        expires: "2020-01-01T00:00:00Z".to_owned(),
    };
    let rollback = late.sign(std::slice::from_ref(&world.key)).unwrap();
    let id = "late".to_owned();
    refused(&world, &Asked::Back(BackJob { id, rollback }), "expired");
    // Another model than is there.
    let other = world.manifest(1, "model 1, another");
    refused(
        &world,
        &order(&world, "other", &new, Some(&other)),
        "what ran before",
    );
    // One that is damaged since.
    let path = PathBuf::from("/state/slots/a/model.gguf");
    world
        .disk
        .0
        .lock()
        .unwrap()
        .files
        .get_mut(&path)
        .unwrap()
        .bytes[12] = b'D';
    refused(
        &world,
        &order(&world, "damaged", &new, Some(&old)),
        "SHA-256",
    );
}

#[test]
fn a_rollback_of_the_first_model_is_one_to_the_configurations_own() {
    let mut world = World::new();
    let first = world.manifest(1, "model 1, good");
    done(&mut world.boot().unwrap(), &world.job("1", &first), 1).unwrap();
    let (end, now) = ordered(&world, &order(&world, "back", &first, None));
    assert_eq!((end.state, &*now), (JobState::Confirmed, "own"));
    let (state, _) = done(&mut world.boot().unwrap(), &world.job("again", &first), 1).unwrap();
    assert_eq!(state, JobState::Refused);
}

/// At every single operation of a rollback.
#[test]
fn whatever_fails_in_a_rollback_one_of_both_models_runs() {
    let go = |fault: Fault| -> usize {
        let (world, old, new) = updated();
        let mut updater = world.boot().unwrap();
        world.disk.set(fault);
        let back = order(&world, "back", &new, Some(&old));
        let end = asked_of(&mut updater, &back, 3, &Arc::default());
        let operations = world.disk.done();
        let known = ["model 1, good", "model 2, good"];
        assert!(known.contains(&&*runs(&updater)), "{fault:?}");
        drop(updater);
        world.disk.reboot();
        let mut updater = world.boot().unwrap();
        assert!(known.contains(&&*runs(&updater)), "{fault:?}");
        if !matches!(&end, Some(end) if end.state == JobState::RolledBack) {
            asked_of(&mut updater, &back, 3, &Arc::default());
            let now = world.boot().unwrap();
            assert_eq!(runs(&now), known[0], "{fault:?}: {end:?}");
        }
        operations
    };
    let operations = go(Fault::Never);
    assert!(operations >= 4, "{operations}");
    for at in 1..=operations {
        go(Fault::Fails(at));
        go(Fault::Stops(at));
    }
}

#[test]
fn models_that_panic_or_take_too_long_are_given_back() {
    let (mut world, _, _) = updated();
    let slow = Smoke {
        within_ms: 50,
        ..smoke()
    };
    for (version, text, words) in [
        (3, "model 3, good, explodes", "panicked"),
        (4, "model 4, good, panics", "unexpectedly"),
        (5, "model 5, good, slow", "longer than 50 ms"),
    ] {
        let manifest = Manifest {
            smoke: Some(slow.clone()),
            ..world.manifest(version, text)
        };
        let mut updater = world.boot().unwrap();
        let job = world.job(&version.to_string(), &manifest);
        let (state, reason) = done(&mut updater, &job, 1).unwrap();
        assert_eq!(state, JobState::RolledBack, "{reason}");
        assert!(reason.contains(words), "{reason}");
        assert_eq!(runs(&updater), "model 2, good");
    }
    // One that hears nothing keeps its memory: the program must start anew, with the old one.
    let manifest = Manifest {
        smoke: Some(slow),
        ..world.manifest(6, "model 6, good, stuck")
    };
    let mut updater = world.boot().unwrap();
    let lost = Arc::default();
    let asked = Asked::Install(world.job("6", &manifest));
    let start = Instant::now();
    let end = asked_of(&mut updater, &asked, 1, &lost).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "it is not waited for"
    );
    assert_eq!(end.state, JobState::RolledBack);
    assert_eq!(lost.lock().unwrap().len(), 1);
    assert_eq!(runs(&world.boot().unwrap()), "model 2, good");
}

#[test]
fn without_any_model_the_program_ends_and_nothing_is_forgotten() {
    let (mut world, _, _) = updated();
    let new = world.manifest(3, "model 3, good");
    let mut updater = world.boot().unwrap();
    world.broken.store(true, Ordering::Relaxed);
    let lost = Arc::default();
    let asked = Asked::Install(world.job("3", &new));
    let end = asked_of(&mut updater, &asked, 1, &lost).unwrap();
    assert_eq!(end.state, JobState::RolledBack);
    let said = lost.lock().unwrap().join("");
    assert!(
        said.contains("no model") && said.contains("out of memory"),
        "{said}"
    );
    world.broken.store(false, Ordering::Relaxed);
    assert_eq!(runs(&world.boot().unwrap()), "model 2, good");
}

#[test]
fn a_panic_in_what_a_watch_wants_costs_the_model_alone() {
    let (mut world, _, _) = updated();
    let new = world.manifest(3, "model 3, good");
    let updater = world.boot().unwrap();
    let (sender, said) = std::sync::mpsc::channel();
    let around = Surroundings {
        now: Box::new(|| Some(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap())),
        accepts: Box::new(|_| panic!("a schema is too much for it")),
        publish: Box::new(move |progress| sender.send(progress).unwrap()),
        lost: Box::new(|reason| panic!("{reason}")),
    };
    let asked = Asked::Install(world.job("3", &new));
    updater.job(&around, &asked, &mut |_| false);
    let end = said.try_iter().last().unwrap();
    assert_eq!(end.state, JobState::RolledBack);
    assert_eq!(runs(&updater), "model 2, good");
}

#[test]
fn a_job_waits_while_the_time_is_not_known() {
    let (mut world, old, new) = updated();
    let newer = world.manifest(3, "model 3, good");
    let updater = world.boot().unwrap();
    let known = Arc::new(AtomicBool::new(false));
    let (sender, said) = std::sync::mpsc::channel();
    let clock = Arc::clone(&known);
    let time = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let around = Surroundings {
        now: Box::new(move || clock.load(Ordering::Relaxed).then_some(time)),
        accepts: Box::new(|_| Ok(())),
        publish: Box::new(move |progress| sender.send(progress).unwrap()),
        lost: Box::new(|reason| panic!("{reason}")),
    };
    let back = order(&world, "back", &new, Some(&old));
    for asked in [Asked::Install(world.job("3", &newer)), back] {
        updater.job(&around, &asked, &mut |_| false);
        let last = said.try_iter().last().unwrap();
        assert_eq!(last.state, JobState::Downloading);
        assert!(last.reason.unwrap().contains("the time is not known"));
        assert_eq!(runs(&updater), "model 2, good");
    }
    // It becomes known while the job waits.
    let asked = Asked::Install(world.job("3", &newer));
    updater.job(&around, &asked, &mut |_| {
        known.store(true, Ordering::Relaxed);
        true
    });
    assert_eq!(said.try_iter().last().unwrap().state, JobState::Confirmed);
    assert_eq!(runs(&updater), "model 3, good");
}
