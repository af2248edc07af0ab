//! `kinglet-eval`: marks for seeing and drawing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kinglet_eval::{Program, Result, draw, see, steps, table};
use serde_json::json;

/// Marks for what `kinglet` sees and draws, on held-out scenes.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The program.
    #[arg(long, default_value = "target/release/kinglet")]
    program: PathBuf,
    /// A model instead of the bundled one.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Steps of a drawing instead of the model's own.
    #[arg(long)]
    steps: Option<usize>,
    /// So many drawings of every object.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Tries for a drawing, of which the model keeps the one that it likes best.
    #[arg(long, default_value_t = 1)]
    tries: usize,
    /// Keeps the drawings in this folder.
    #[arg(long)]
    drawings: Option<PathBuf>,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What compression costs: variants of a model on the same scenes, prompts and noise. What is there
    /// in the folder is not measured again.
    Table(TableArguments),
    /// What fewer passes cost: a model's drawings in many ways, from the same prompts and noise.
    Steps(StepsArguments),
}

#[derive(Debug, Args)]
struct StepsArguments {
    /// The model.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    source: PathBuf,
    /// The ways.
    #[arg(long, default_value = "tools/eval/steps.toml")]
    ways: PathBuf,
    /// Where drawings and the table are kept.
    #[arg(short, long, default_value = "target/steps")]
    output: PathBuf,
    /// So many drawings a way: every object 5 times.
    #[arg(long, default_value_t = 340)]
    drawings: usize,
}

#[derive(Debug, Args)]
struct TableArguments {
    /// The model that all variants are made of.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    source: PathBuf,
    /// The variants.
    #[arg(long, default_value = "tools/eval/table.toml")]
    variants: PathBuf,
    /// Scenes with their truth, made by tools/scenes/heldout.py.
    #[arg(long, default_value = "tools/eval/scenes")]
    scenes: PathBuf,
    /// Where results are kept.
    #[arg(short, long, default_value = "target/table")]
    output: PathBuf,
    /// At most so many scenes.
    #[arg(long, default_value_t = 1000)]
    looks: usize,
    /// So many drawings: every object 15 times.
    #[arg(long, default_value_t = 1020)]
    drawings: usize,
    /// Steps of a drawing instead of the variant's own.
    #[arg(long)]
    steps: Option<usize>,
    /// Only groups whose name begins so.
    #[arg(long, default_value = "")]
    only: String,
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
    if let Some(Command::Steps(arguments)) = &arguments.command {
        let text = steps::run(&steps::Options {
            model: arguments.source.clone(),
            ways: arguments.ways.clone(),
            drawings: arguments.drawings,
            folder: arguments.output.clone(),
        })?;
        print!("{text}");
        return Ok(());
    }
    if let Some(Command::Table(arguments)) = &arguments.command {
        let text = table::run(&table::Options {
            source: arguments.source.clone(),
            variants: arguments.variants.clone(),
            scenes: arguments.scenes.clone(),
            folder: arguments.output.clone(),
            looks: arguments.looks,
            drawings: arguments.drawings,
            steps: arguments.steps,
            only: arguments.only.clone(),
        })?;
        print!("{text}");
        return Ok(());
    }
    let program = Program::new(&arguments.program, arguments.model.as_deref());
    let seen = see::run(&program)?;
    let temporary = tempfile::tempdir().map_err(|e| kinglet_eval::EvalError::Data {
        path: "a temporary folder".to_owned(),
        reason: e.to_string(),
    })?;
    let folder = arguments.drawings.as_deref().unwrap_or(temporary.path());
    let (steps, tries) = (
        arguments.steps.map(|n| n.to_string()),
        arguments.tries.to_string(),
    );
    let mut further = vec!["--tries", &tries];
    if let Some(steps) = &steps {
        further.extend(["--steps", steps]);
    }
    let count = draw::objects() * arguments.rounds;
    let drawn = draw::run(&program, folder, count, &further)?;
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
