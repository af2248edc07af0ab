//! `kinglet`: commands, configuration, wiring.
//!
//! # Layout
//! - [`cli`]: the command line.
//! - [`commands`]: one file a command.
//! - [`model`]: which model is loaded, and from where.
//! - [`device`]: what computes; [`rescue`]: and what goes on when that is lost.
//! - [`works`]: a model on whatever computes; [`engine`]: the same as the agent's `Engine`.
//! - [`governor`]: heat of this machine, and what the model is still asked to do.
//! - [`bar`]: progress on standard error, when it is a terminal.
//! - [`failure`]: what ends a command with exit code 1.

mod bar;
mod cli;
mod commands;
mod device;
mod engine;
mod failure;
mod governor;
mod graphs;
mod interrupt;
mod loader;
mod lock;
mod model;
#[cfg(feature = "cuda")]
mod rescue;
mod service;
mod works;

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
