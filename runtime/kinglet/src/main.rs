//! `kinglet`: commands, configuration, wiring.
//!
//! # Layout
//! - [`cli`]: the command line.
//! - [`commands`]: one file a command.
//! - [`model`]: which model is loaded, and from where.
//! - [`engine`]: the model as the agent's `Engine`.
//! - [`governor`]: heat of this machine, and what the model is still asked to do.
//! - [`bar`]: progress on standard error, when it is a terminal.
//! - [`failure`]: what ends a command with exit code 1.

mod bar;
mod cli;
mod commands;
mod engine;
mod failure;
mod governor;
mod interrupt;
mod loader;
mod lock;
mod model;
mod service;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let threads = kinglet_kernels::cpu::threads::start().map_err(failure::Failure::from);
    match threads.and_then(|()| commands::run(&cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kinglet: {failure}");
            ExitCode::FAILURE
        }
    }
}
