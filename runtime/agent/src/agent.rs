//! All of it wired together.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc, watch};

use crate::camera::{Camera, Report};
use crate::clock::{self, Clock};
use crate::companion::{self, Companion, Wakes};
use crate::config::Config;
use crate::crew::Crew;
use crate::engine::Engine;
use crate::error::{AgentError, Result};
use crate::groups::Groups;
use crate::homeassistant;
use crate::inbox::{CHANGES, Inbox, UPDATES};
use crate::link::{Connection, Link};
use crate::lookout;
use crate::message::{Stamped, State, Status, json, rfc3339};
use crate::operation::{Metrics, Monitor, Pulse, Server};
use crate::orders::Orders;
use crate::outbox::{Class, Outbox};
use crate::pending::Pending;
use crate::regime::{self, Regime};
use crate::security::Security;
use crate::shadow::{self, Change, Shadow};
use crate::slot::Slot;
use crate::state;
use crate::temperature;
use crate::topic::Topics;
use crate::update::{self, Surroundings, Updater};
use crate::watch::Current;
use crate::worker::{Job, QUEUE, Worker, message};

/// Progress messages that may wait.
const PROGRESS: usize = 32;
/// The outbox's file in the state directory.
const OUTBOX: &str = "outbox.redb";
/// The file of what else survives a restart.
const STATE: &str = "state.redb";
/// How often it is looked whether the time is known now.
const CLOCK: Duration = Duration::from_secs(5);

/// A running agent.
pub struct Agent {
    crew: Arc<Crew>,
    mate: Option<JoinHandle<()>>,
    shadow: JoinHandle<()>,
    worker: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
    jobs: SyncSender<Job>,
    link: tokio::task::JoinHandle<()>,
    clock: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
    connection: watch::Receiver<Connection>,
    lost: watch::Receiver<Option<String>>,
    monitor: Arc<Monitor>,
    regime: Arc<regime::Current>,
    status_changed: Arc<Notify>,
}

impl Agent {
    /// Starts an agent inside a tokio runtime. Relative folders of cameras are relative to
    /// `folder`; `state` is where the outbox is kept.
    ///
    /// # Errors
    /// [`AgentError`] if the configuration cannot be, or the state directory cannot be used.
    pub fn start(
        config: &Config,
        folder: &Path,
        state: &Path,
        engine: Arc<dyn Engine>,
    ) -> Result<Self> {
        Self::run(config, folder, state, engine, None)
    }

    /// The same with an engine whose model can be replaced.
    ///
    /// # Errors
    /// [`AgentError`], as above.
    pub fn start_updating(
        config: &Config,
        folder: &Path,
        state: &Path,
        updater: Updater,
    ) -> Result<Self> {
        let engine = updater.engine();
        Self::run(config, folder, state, engine, Some(updater))
    }

    fn run(
        config: &Config,
        folder: &Path,
        state: &Path,
        engine: Arc<dyn Engine>,
        updater: Option<Updater>,
    ) -> Result<Self> {
        config.check()?;
        std::fs::create_dir_all(state).map_err(|e| AgentError::State {
            path: state.display().to_string(),
            reason: e.to_string(),
        })?;
        let kept = Arc::new(state::State::open(&state.join(STATE))?);
        let ready = shadow::start(config, folder, engine.as_ref(), &kept)?;
        let (own, config) = (config, ready.config.clone());
        let outbox = Arc::new(Outbox::open(&state.join(OUTBOX), config.outbox.max_bytes)?);
        let clock = Arc::new(Clock::new(Arc::clone(&kept), config.device.clock)?);
        let orders = Orders::new(&config.commands, Arc::clone(&kept), Arc::clone(&clock))?;
        let orders = Arc::new(orders);
        let topics = Topics::new(&config.device.name);
        let security = Security::load(&config.broker, folder)?;
        let server = config.metrics.as_ref().map(|m| Server::bind(&m.listen));
        let server = server.transpose()?;

        let mut slots = HashMap::new();
        let mut reports = BTreeMap::new();
        let status_changed = Arc::new(Notify::new());
        for config in &config.camera {
            let rate = Camera::read(config)?.rate();
            let slot = Arc::new(Slot::default());
            let report = Arc::new(Report::new(rate, Arc::clone(&status_changed)));
            slots.insert(config.name.clone(), Arc::clone(&slot));
            reports.insert(config.name.clone(), (report, slot));
        }

        let (jobs, queue) = sync_channel(QUEUE);
        let stopping = Arc::new(AtomicBool::new(false));
        let pending = Arc::new(Pending::default());
        let pulse = Arc::new(Pulse::default());
        let metrics = Arc::new(Metrics::default());
        let (connection_sender, connection) =
            watch::channel(Connection::Down("not connected yet".to_owned()));
        let monitor = Arc::new(Monitor {
            cameras: reports.clone(),
            outbox: Arc::clone(&outbox),
            connection: connection.clone(),
            pulse: Arc::clone(&pulse),
            metrics: Arc::clone(&metrics),
        });
        let (progress, progress_queue) = mpsc::channel(PROGRESS);
        let watches = Arc::new(Current::default());
        let worker = Worker {
            engine: Arc::clone(&engine),
            topics: topics.clone(),
            slots: slots.clone(),
            outputs: config.output.clone(),
            watches: Arc::clone(&watches),
            outbox: Arc::clone(&outbox),
            progress,
            stopping: Arc::clone(&stopping),
            pending: Arc::clone(&pending),
            clock: Arc::clone(&clock),
            pulse,
            metrics: Arc::clone(&metrics),
        };
        let worker = thread("worker", move || worker.run(&queue))?;
        let wakes = Arc::new(Wakes::default());
        let start_watch = lookout::starter(
            slots,
            jobs.clone(),
            Arc::clone(&metrics),
            Arc::clone(&wakes),
        );
        let crew = Crew::new(folder.to_owned(), reports, watches, start_watch);
        let crew = Arc::new(crew);
        if let Err(e) = crew.set(&config.camera, &ready.watches) {
            crew.stop();
            return Err(e);
        }

        let companion = start_companion(&config, wakes, &status_changed, &monitor, &stopping)?;
        let (mate, companion) = companion.unzip();
        let (stop, stopped) = watch::channel(false);
        if let Some(server) = server {
            let (monitor, engine) = (Arc::clone(&monitor), Arc::clone(&engine));
            server.start(monitor, engine, &config.device.name, stopped.clone())?;
        }
        let status = status(&config, engine.as_ref());
        let will = Status {
            state: State::Offline,
            ..status.clone()
        };
        let groups = Arc::new(Groups::new(&config.device.groups));
        let parts = shadow::Parts {
            groups: Arc::clone(&groups),
            own: own.clone(),
            folder: folder.to_owned(),
            engine: Arc::clone(&engine),
            state: kept,
            clock: Arc::clone(&clock),
            orders: Arc::clone(&orders),
            topics: topics.clone(),
            outbox: Arc::clone(&outbox),
            metrics: Arc::clone(&metrics),
            crew: Arc::clone(&crew),
            discovery: discovery(config.clone(), topics.clone(), Arc::clone(&engine)),
            changed: Arc::clone(&status_changed),
        };
        let shadow = Arc::new(Shadow::new(parts, ready));
        let (changes, changed) = sync_channel(CHANGES);
        let changing = Arc::clone(&shadow);
        let changing = thread("shadow", move || changing.run(&changed))?;
        let keeping = tokio::spawn(keep_time(
            Arc::clone(&clock),
            Arc::clone(&status_changed),
            changes.clone(),
            stopped.clone(),
        ));
        let (losing, lost) = watch::channel(None);
        let updates = start_updates(
            updater,
            losing,
            Arc::clone(&clock),
            Arc::clone(&shadow),
            topics.clone(),
            Arc::clone(&outbox),
            Arc::clone(&status_changed),
        )?;
        let inbox = Inbox {
            topics: topics.clone(),
            jobs: jobs.clone(),
            changes,
            updates,
            outbox: Arc::clone(&outbox),
            pending,
            metrics: Arc::clone(&metrics),
            orders,
            made: AtomicU64::new(0),
        };
        let running = Arc::clone(&engine);
        let timed = Arc::clone(&clock);
        let regime = Arc::new(regime::Current::default());
        let held = Arc::clone(&regime);
        let changed = Arc::clone(&status_changed);
        let followed = Arc::clone(&groups);
        let (retained, shown) = (Arc::clone(&shadow), Arc::clone(&shadow));
        let monitored = Arc::clone(&monitor);
        let link = Link {
            client_id: config.device.name.clone(),
            security,
            protocol: config.broker.protocol,
            status_topic: topics.status(),
            will: json(&will),
            online: Box::new(move || {
                json(&Stamped {
                    payload: &Status {
                        at: Some(rfc3339(OffsetDateTime::now_utc())),
                        temperature: temperature::hottest(Path::new(temperature::SENSORS)),
                        sources: monitored.sources(Instant::now()),
                        groups: followed.now(),
                        groups_refused: followed.refused(),
                        watches: shown.watches(),
                        governor: held.get(),
                        companion: companion.as_ref().map(|c| c.report()),
                        model: running.model(),
                        ..status.clone()
                    },
                    clock: timed.mark(),
                })
            }),
            retained: Box::new(move || retained.retained()),
            status_changed,
            topics: topics.clone(),
            groups: Arc::clone(&groups),
            outbox: Arc::clone(&outbox),
            metrics: Arc::clone(&metrics),
            progress: progress_queue,
            incoming: Box::new(move |message| inbox.take_in(message)),
            connection: connection_sender,
            stop: stopped,
        };
        Ok(Agent {
            crew,
            mate,
            shadow: changing,
            worker,
            stopping,
            jobs,
            link: tokio::spawn(link.run()),
            clock: keeping,
            stop,
            connection,
            lost,
            monitor,
            regime,
            status_changed: changed,
        })
    }

    /// Whether the broker is there, now and as it changes.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.clone()
    }

    /// Returns, with the reason, once there is no model any more: nothing can be answered, and the program must
    /// be started anew.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.clone();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // What installs models has ended before; the model stays as it is.
            Err(_) => std::future::pending().await,
        }
    }

    /// What it may do from now on.
    pub fn govern(&self, regime: Regime) {
        for (_, slot) in self.monitor.cameras.values() {
            slot.slow_down(regime.slower);
        }
        self.regime.set(regime);
        self.status_changed.notify_one();
    }

    /// How it does.
    pub fn monitor(&self) -> Arc<Monitor> {
        Arc::clone(&self.monitor)
    }

    /// Stops: no new frames; what is being computed is given up; what is stored is sent, if the
    /// broker is there and takes it soon; the status says offline.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        let crew = self.crew;
        let _ = tokio::task::spawn_blocking(move || crew.stop()).await;
        drop(self.jobs);
        self.stop.send_replace(true);
        let _ = self.link.await;
        let _ = self.clock.await;
        // The link held the last senders of the queues, so these end after their last jobs.
        let (worker, shadow, mate) = (self.worker, self.shadow, self.mate);
        let ended = tokio::task::spawn_blocking(move || {
            let _ = (worker.join(), shadow.join());
            mate.map(JoinHandle::join)
        });
        let _ = ended.await;
    }
}

/// Starts what talks with the microcontroller, if there is one: its thread, and what is known of it.
fn start_companion(
    config: &Config,
    wakes: Arc<Wakes>,
    changed: &Arc<Notify>,
    monitor: &Arc<Monitor>,
    stopping: &Arc<AtomicBool>,
) -> Result<Option<(JoinHandle<()>, Arc<Companion>)>> {
    let Some(config) = &config.companion else {
        return Ok(None);
    };
    let known = Arc::new(Companion::new(wakes, Arc::clone(changed)));
    let monitor = Arc::clone(monitor);
    let thread = companion::start(
        Arc::clone(&known),
        config.clone(),
        move || monitor.health().healthy,
        Arc::clone(stopping),
    )?;
    Ok(Some((thread, known)))
}

/// Writes the last known time now and then, and at the end; says once when the time has become known.
async fn keep_time(
    clock: Arc<Clock>,
    changed: Arc<Notify>,
    changes: SyncSender<Change>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut kept: Option<Instant> = None;
    let mut known = clock.known().is_some();
    if !known {
        tracing::info!(
            "{}; [device] clock = \"system\" believes this machine's clock",
            clock.complaint()
        );
    }
    loop {
        let stop = tokio::select! {
            () = tokio::time::sleep(CLOCK) => false,
            _ = stopped.wait_for(|stop| *stop) => true,
        };
        let knows = clock.known().is_some();
        if knows != known {
            known = knows;
            tracing::info!(known, "clock");
            changed.notify_one();
            // A full queue has a shadow in it, which is read with the time known.
            let _ = changes.try_send(Change::Clock);
        }
        if knows && (stop || kept.is_none_or(|at| at.elapsed() >= clock::KEPT)) {
            if let Err(e) = clock.keep() {
                tracing::error!("{e}");
            }
            kept = Some(Instant::now());
        }
        if stop {
            return;
        }
    }
}

/// What makes others know the device and its watches, for whoever asked for it.
fn discovery(config: Config, topics: Topics, engine: Arc<dyn Engine>) -> shadow::Discovery {
    Box::new(move |now| match &config.homeassistant {
        Some(home) => {
            let model = engine.model().name;
            homeassistant::discovery(&home.prefix, now, &topics, &model)
        }
        None => Vec::new(),
    })
}

pub(crate) fn thread(
    what: &'static str,
    run: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(what.to_owned())
        .spawn(run)
        .map_err(|e| AgentError::Start {
            what,
            reason: e.to_string(),
        })
}

/// Starts what installs models, or what says that none are taken. Returns where jobs go.
fn start_updates(
    updater: Option<Updater>,
    losing: watch::Sender<Option<String>>,
    clock: Arc<Clock>,
    shadow: Arc<Shadow>,
    topics: Topics,
    outbox: Arc<Outbox>,
    changed: Arc<Notify>,
) -> Result<SyncSender<Vec<u8>>> {
    let (updates, inbox) = sync_channel(UPDATES);
    let news = Arc::clone(&shadow);
    let publish = move |progress: update::Progress| {
        let ended = progress.state.is_end();
        let topic = topics.job_progress(&progress.id);
        if let Err(e) = outbox.store(vec![message(&topic, Class::Reply, json(&progress), None)]) {
            tracing::error!("{e}");
        }
        if ended {
            changed.notify_one();
            // It may be another model's.
            news.announce();
        }
    };
    thread("update", move || match updater {
        Some(updater) => {
            let around = Surroundings {
                now: Box::new(move || clock.known()),
                accepts: Box::new(move |engine| shadow.suits(engine)),
                publish: Box::new(publish),
                lost: Box::new(move |reason| {
                    losing.send_replace(Some(reason));
                }),
            };
            updater.run(&around, &inbox);
        }
        None => update::refuse_all(&inbox, &publish),
    })?;
    Ok(updates)
}

fn status(config: &Config, engine: &dyn Engine) -> Status {
    Status {
        state: State::Online,
        device: config.device.name.clone(),
        groups: config.device.groups.clone(),
        groups_refused: Vec::new(),
        version: env!("CARGO_PKG_VERSION"),
        model: engine.model(),
        cameras: config.camera.iter().map(|c| c.name.clone()).collect(),
        watches: config.watch.iter().map(|w| w.name.clone()).collect(),
        sources: BTreeMap::new(),
        companion: None,
        governor: None,
        temperature: None,
        at: None,
    }
}
