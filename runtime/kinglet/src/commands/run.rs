//! `kinglet run`: the agent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kinglet_agent::update::{Updater, Web};
use kinglet_agent::{Agent, Config};
use kinglet_model::Part;

use crate::cli::{Cli, RunArgs};
use crate::failure::{Failure, Outcome};
use crate::governor;
use crate::loader::FileLoader;
use crate::service;

pub(crate) fn run(cli: &Cli, args: &RunArgs) -> Outcome {
    super::log("info");
    let path = &args.config;
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| refuse(&e))?;
    let mut config = Config::read(&text).map_err(|e| refuse(&e))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    config.relative_to(folder);
    config.check().map_err(|e| refuse(&e))?;
    let state = match &config.device.state {
        Some(state) => state.clone(),
        None => default_state(&config.device.name)?,
    };
    let file = cli.model.clone().or_else(|| config.model.file.clone());
    let loader = FileLoader {
        device: args.compute.device.open()?,
        own: file,
        lock: config.model.lock,
        reins: Arc::default(),
        graphs: graphs(cli, &config),
    };
    let reins = Arc::clone(&loader.reins);

    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let agent = match &config.update {
            None => {
                let engine = loader.own_engine()?;
                Agent::start(&config, folder, &state, engine)?
            }
            Some(update) => {
                let ca = update.ca.as_ref().map(|file| folder.join(file));
                let web = Web::new(ca.as_deref(), update.from.as_deref())?;
                let trust = update.trust();
                let loader = Arc::new(loader);
                let updater = Updater::start(&state, trust, update.max_bytes, loader, web)?;
                Agent::start_updating(&config, folder, &state, updater)?
            }
        };
        let lost = tokio::select! {
            ended = interrupted() => ended.map(|()| None)?,
            () = service::serve(agent.monitor()) => None,
            reason = agent.lost() => Some(reason),
            () = governor::govern(&config.governor, &agent, reins), if config.governor.on => None,
        };
        tracing::info!("stopping");
        service::stopping();
        agent.stop().await;
        // Whoever has started it starts it anew.
        lost.map_or(Ok(()), |reason| Err(Failure::new(reason)))
    })
}

/// Waits for an interrupt or a request to end.
pub(crate) async fn interrupted() -> Outcome {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// `$STATE_DIRECTORY` that systemd gives, else `$XDG_STATE_HOME/kinglet/DEVICE`, by default below
/// `~/.local/state`.
fn default_state(device: &str) -> Outcome<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    if let Some(given) = set("STATE_DIRECTORY") {
        return Ok(PathBuf::from(given));
    }
    let base = match (set("XDG_STATE_HOME"), set("HOME")) {
        (Some(state), _) => PathBuf::from(state),
        (None, Some(home)) => PathBuf::from(home).join(".local/state"),
        (None, None) => {
            let reason = "there is no home directory; [device] state names a folder to use";
            return Err(Failure::new(reason));
        }
    };
    Ok(base.join("kinglet").join(device))
}

/// The graphs of the command line, or those of the configuration.
fn graphs(cli: &Cli, config: &Config) -> Vec<(Part, PathBuf)> {
    if !cli.graph.is_empty() {
        return cli.graph.clone();
    }
    let named = &config.model.graphs;
    let files = [
        (Part::Vision, &named.vision),
        (Part::Decoder, &named.vae_decoder),
    ];
    let given = files
        .into_iter()
        .filter_map(|(part, file)| Some((part, file.clone()?)));
    given.collect()
}
