//! The threads of cameras and watches, which come and go while the agent runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::camera::Camera;
use crate::config::CameraConfig;
use crate::error::Result;
use crate::operation::Cameras;
use crate::watch::{Current, Watch};

/// Starts the thread of a watch, which ends soon after the flag is set or its camera's slot is closed.
pub(crate) type StartWatch =
    Box<dyn Fn(Arc<Watch>, Arc<AtomicBool>) -> Result<JoinHandle<()>> + Send + Sync>;

/// The threads that run.
pub(crate) struct Crew {
    folder: PathBuf,
    seats: Cameras,
    current: Arc<Current>,
    threads: Mutex<Threads>,
}

struct Threads {
    /// None once the agent stops.
    start_watch: Option<StartWatch>,
    cameras: BTreeMap<String, (CameraConfig, JoinHandle<()>)>,
    watches: BTreeMap<String, Running>,
}

struct Running {
    watch: Arc<Watch>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Crew {
    /// Nobody. Every camera has a seat: its counters and its slot.
    pub(crate) fn new(
        folder: PathBuf,
        seats: Cameras,
        current: Arc<Current>,
        start_watch: StartWatch,
    ) -> Self {
        Crew {
            folder,
            seats,
            current,
            threads: Mutex::new(Threads {
                start_watch: Some(start_watch),
                cameras: BTreeMap::new(),
                watches: BTreeMap::new(),
            }),
        }
    }

    /// Lets these cameras and watches run and no others. What stays as it is goes on undisturbed. Takes
    /// seconds at worst, if a camera is slow to end.
    ///
    /// # Errors
    /// What could not be started; the others run.
    pub(crate) fn set(&self, cameras: &[CameraConfig], watches: &[Arc<Watch>]) -> Result<()> {
        let mut threads = self.lock();
        let Some(start_watch) = threads.start_watch.take() else {
            return Ok(());
        };
        let done = cameras
            .iter()
            .try_for_each(|camera| self.set_camera(&mut threads, camera));
        let done = done.and(set_watches(&mut threads, watches, &start_watch));
        threads.start_watch = Some(start_watch);
        let running = threads.watches.values().map(|r| Arc::clone(&r.watch));
        self.current.set(running.collect());
        done
    }

    fn set_camera(&self, threads: &mut Threads, config: &CameraConfig) -> Result<()> {
        let Some((report, slot)) = self.seats.get(&config.name) else {
            return Ok(());
        };
        if let Some((old, thread)) = threads.cameras.remove(&config.name) {
            if old == *config {
                threads.cameras.insert(old.name.clone(), (old, thread));
                return Ok(());
            }
            slot.take_turn();
            let _ = thread.join();
            // What is masked from now on is not to be seen in an old frame either.
            slot.clear();
        }
        let camera = Camera::read(config)?;
        report.ask(camera.rate());
        let thread = camera.start(&self.folder, Arc::clone(slot), Arc::clone(report))?;
        let started = (config.clone(), thread);
        threads.cameras.insert(config.name.clone(), started);
        Ok(())
    }

    /// Ends all of them.
    pub(crate) fn stop(&self) {
        for (_, slot) in self.seats.values() {
            slot.close();
        }
        let mut threads = self.lock();
        threads.start_watch = None;
        for (_, (_, thread)) in std::mem::take(&mut threads.cameras) {
            let _ = thread.join();
        }
        end(std::mem::take(&mut threads.watches).into_values().collect());
    }

    fn lock(&self) -> MutexGuard<'_, Threads> {
        // Threads that a panic has left behind end with the agent.
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_watches(threads: &mut Threads, watches: &[Arc<Watch>], start: &StartWatch) -> Result<()> {
    let (same, others): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut threads.watches)
        .into_iter()
        .partition(|(_, running)| watches.iter().any(|w| w.config == running.watch.config));
    threads.watches = same;
    end(others.into_values().collect());
    for watch in watches {
        if threads.watches.contains_key(&watch.config.name) {
            continue;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let running = Running {
            watch: Arc::clone(watch),
            thread: start(Arc::clone(watch), Arc::clone(&stop))?,
            stop,
        };
        threads.watches.insert(watch.config.name.clone(), running);
    }
    Ok(())
}

fn end(watches: Vec<Running>) {
    for running in &watches {
        running.stop.store(true, Ordering::SeqCst);
    }
    for running in watches {
        let _ = running.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::camera::Report;
    use crate::config::WatchConfig;
    use crate::slot::Slot;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A crew with one camera of grey pictures, whose watches do nothing but say that they begin and end.
    fn crew(folder: &Path) -> (Crew, CameraConfig, Arc<Mutex<Vec<String>>>) {
        let picture = crate::frame::Picture {
            width: 2,
            height: 1,
            rgb: vec![200; 6].into(),
        };
        std::fs::write(folder.join("a.png"), picture.to_png().unwrap()).unwrap();
        let slot = Arc::new(Slot::default());
        let report = Arc::new(Report::new(1.0, Arc::default()));
        let seats = Cameras::from([("door".to_owned(), (report, slot))]);
        let said = Arc::new(Mutex::new(Vec::new()));
        let saying = Arc::clone(&said);
        let start: StartWatch = Box::new(move |watch, stop| {
            let said = Arc::clone(&saying);
            let name = watch.config.ask.clone();
            said.lock().unwrap().push(format!("+{name}"));
            Ok(std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                said.lock().unwrap().push(format!("-{name}"));
            }))
        });
        let camera = CameraConfig::new("door", &format!("folder:{}?fps=50", folder.display()));
        let crew = Crew::new(PathBuf::new(), seats, Arc::default(), start);
        (crew, camera, said)
    }

    fn watch(name: &str, ask: &str) -> Arc<Watch> {
        let config = WatchConfig::new(name, "door", "motion", ask);
        Arc::new(Watch::load(&config, Path::new("")).unwrap())
    }

    #[test]
    fn only_what_changes_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (crew, mut camera, said) = crew(folder.path());
        let next =
            |text: &str| assert_eq!(std::mem::take(&mut *said.lock().unwrap()).join(" "), text);
        let (report, slot) = &crew.seats["door"];
        let cameras = std::slice::from_ref(&camera);
        crew.set(cameras, &[watch("w", "a"), watch("v", "b")])
            .unwrap();
        next("+a +b");
        crew.set(cameras, &[watch("w", "c"), watch("v", "b")])
            .unwrap();
        next("-a +c");
        crew.set(cameras, &[watch("v", "b")]).unwrap();
        next("-c");
        let first = slot.newer_than(0, PATIENCE).unwrap();
        assert_eq!(*first.picture.rgb, [200; 6]);

        // A mask: the numbers of the frames go on, and none comes without it.
        camera.mask = vec![[0.0, 0.0, 0.5, 1.0]];
        crew.set(std::slice::from_ref(&camera), &[watch("v", "b")])
            .unwrap();
        let seen = slot.last();
        assert!(seen >= first.number);
        let masked = slot.newer_than(seen, PATIENCE).unwrap();
        assert_eq!(*masked.picture.rgb, [0, 0, 0, 200, 200, 200]);
        assert_eq!(report.read(Instant::now()).reconnects, 0);
        next("");
        crew.stop();
        // A test's watch does not look at slots.
        next("-b");
        crew.set(&[camera], &[watch("v", "b")]).unwrap();
        next("");
    }
}
