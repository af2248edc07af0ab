//! One file a command.

mod bench;
mod compress;
#[cfg(feature = "demo")]
mod demo;
mod doctor;
mod draw;
mod export;
pub(crate) mod fleet;
mod floor;
mod inspect;
pub(crate) mod plan;
mod run;
mod see;

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use kinglet_model::Picture;
use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::failure::{Failure, Outcome};

/// Runs the command that was asked for.
pub(crate) fn run(cli: &Cli) -> Outcome {
    match &cli.command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(cli, args),
        Command::Run(args) => run::run(cli, args),
        Command::See(args) => see::run(cli, args),
        Command::Draw(args) => draw::run(cli, args),
        Command::Edit(args) => draw::edit(cli, args),
        Command::Compress(args) => compress::run(cli, args),
        Command::Export(args) => export::run(cli, args),
        Command::Bench => bench::run(cli),
        Command::Fleet(args) => fleet::run(cli, args),
        Command::Plan(args) => plan::run(cli, args),
        Command::Doctor(args) => doctor::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
    }
}

/// Prints a result: as one JSON object, or as text.
fn print(json: bool, result: &impl Serialize, text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, result)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}

/// Logs to standard error. `KINGLET_LOG` sets how much.
fn log(default: &str) {
    let level = std::env::var("KINGLET_LOG").unwrap_or_else(|_| default.to_owned());
    // Our own crates at that level; libraries only when they are in trouble. rumqttd reports every
    // client that leaves as an error.
    let filter = format!("error,rumqttd=off,kinglet={level},kinglet_agent={level}");
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}

/// The largest picture file that is read.
const LARGEST_FILE: u64 = 256 << 20;

/// Reads a picture from a file, or from standard input where the path is `-`.
fn picture(path: &Path) -> Outcome<Picture> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    Picture::decode(&read(path)?).map_err(|e| refuse(&e))
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let mut input = std::io::stdin().lock().take(LARGEST_FILE + 1);
        input.read_to_end(&mut bytes).map_err(|e| refuse(&e))?;
    } else {
        let file = std::fs::File::open(path).map_err(|e| refuse(&e))?;
        let mut file = file.take(LARGEST_FILE + 1);
        file.read_to_end(&mut bytes).map_err(|e| refuse(&e))?;
    }
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(refuse(&format_args!("more than {LARGEST_FILE} bytes")));
    }
    Ok(bytes)
}
