//! Makes a directory of the true shape of BAGEL-7B-MoT from random numbers: for trying what happens
//! at that size without the weights. Nothing that it says means anything.
//!
//! usage: bagel-shape OUT_DIR [--layers N] [--experts N] [--hollow]
//!
//! 28 layers take 29.5 GB of disk. `--experts N` makes the generation half of all layers but the
//! first and the last sparse, with N experts of which half are used. `--hollow` writes headers alone,
//! with zeros behind them that take no room on disk.

use std::path::Path;
use std::process::ExitCode;

use kinglet_tests::shape::Shape;
use kinglet_tests::shape_files::{Filling, write_directory};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bagel-shape: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let option = |name: &str, default: usize| -> Result<usize, std::num::ParseIntError> {
        let at = arguments.iter().position(|a| a == name);
        match at.and_then(|i| arguments.get(i + 1)) {
            Some(value) => value.parse(),
            None => Ok(default),
        }
    };
    let out = Path::new(
        arguments
            .first()
            .ok_or("usage: bagel-shape OUT_DIR [--layers N] [--experts N] [--hollow]")?,
    );
    let (layers, experts) = (option("--layers", 28)?, option("--experts", 0)?);
    let shape = Shape {
        layers,
        experts,
        ..Shape::RELEASE
    };
    let filling = match arguments.iter().any(|a| a == "--hollow") {
        true => Filling::Hollow,
        false => Filling::Random,
    };
    Ok(write_directory(out, &shape, filling)?)
}
