//! `kinglet-eval`: marks for seeing and drawing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kinglet_eval::{Program, Result, draw, see};
use serde_json::json;

/// Marks for what `kinglet` sees and draws, on held-out scenes.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program.
    #[arg(long, default_value = "target/release/kinglet")]
    program: PathBuf,
    /// A model instead of the bundled one.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Steps of a drawing instead of the model's own.
    #[arg(long)]
    steps: Option<usize>,
    /// Keeps the drawings in this folder.
    #[arg(long)]
    drawings: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("kinglet-eval: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let program = Program::new(&arguments.program, arguments.model.as_deref());
    let seen = see::run(&program)?;
    let temporary = tempfile::tempdir().map_err(|e| kinglet_eval::EvalError::Data {
        path: "a temporary folder".to_owned(),
        reason: e.to_string(),
    })?;
    let folder = arguments.drawings.as_deref().unwrap_or(temporary.path());
    let drawn = draw::run(&program, folder, arguments.steps)?;
    if arguments.json {
        println!("{}", json!({ "see": seen, "draw": drawn }));
        return Ok(());
    }
    println!("seeing: naming      {}", seen.naming);
    println!("seeing: lists       {}", seen.lists);
    println!("seeing: counting    {}", seen.counting);
    println!("seeing: background  {}", seen.background);
    println!("seeing: regions     {}", seen.regions);
    println!("drawing: strict     {}", drawn.strict);
    println!("drawing: plain      {}", drawn.plain);
    println!("drawing: background {}", drawn.background);
    Ok(())
}
