//! `kinglet-eval`: marks for seeing and drawing.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kinglet_eval::{
    EvalError, Program, Result, draw, drawings, page, questions, see, steps, table,
};
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
    /// Questions about held-out scenes, made by tools/train/held_out.py: shares of right answers by ability and by what was
    /// done to the picture.
    Questions(QuestionsArguments),
    /// Drawings and edits that tools/train/held_out.py asks for, by GenEval's categories, before two judges of
    /// tools/train/train_judge.py.
    Drawings(DrawingsArguments),
}

#[derive(Debug, Args)]
struct DrawingsArguments {
    /// The two judges' files.
    #[arg(required = true, num_args = 2)]
    judges: Vec<PathBuf>,
    /// The model.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    model: PathBuf,
    /// Where the prompts are.
    #[arg(long, default_value = "target/held-out")]
    scenes: PathBuf,
    /// At most so many drawings of each category.
    #[arg(long, default_value_t = usize::MAX)]
    most: usize,
    /// Steps of a drawing instead of the model's own.
    #[arg(long)]
    steps: Option<usize>,
    /// Where drawings are kept.
    #[arg(short, long, default_value = "target/drawings")]
    output: PathBuf,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct QuestionsArguments {
    /// The model.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    model: PathBuf,
    /// Another one beside it.
    #[arg(long)]
    against: Option<PathBuf>,
    /// The scenes.
    #[arg(long, default_value = "target/held-out")]
    scenes: PathBuf,
    /// At most so many scenes of each condition.
    #[arg(long, default_value_t = usize::MAX)]
    most: usize,
    /// Writes a page with pictures, answers and marks.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Scenes on the page.
    #[arg(long, default_value_t = 60)]
    shown: usize,
    /// One JSON object.
    #[arg(long)]
    json: bool,
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
    if let Some(Command::Drawings(arguments)) = &arguments.command {
        return draw_all(arguments);
    }
    if let Some(Command::Questions(arguments)) = &arguments.command {
        return ask(arguments);
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

fn ask(arguments: &QuestionsArguments) -> Result<()> {
    let scenes = questions::scenes(&arguments.scenes)?;
    let models = [Some(&arguments.model), arguments.against.as_ref()];
    let mut sides = Vec::new();
    for model in models.into_iter().flatten() {
        let options = questions::Options {
            model: model.clone(),
            scenes: arguments.scenes.clone(),
            most: arguments.most,
        };
        sides.push((
            model.display().to_string(),
            questions::run(&options, &scenes)?,
        ));
    }
    for (name, answered) in &sides {
        let marks = questions::Marks::of(&scenes, answered);
        if arguments.json {
            println!("{}", json!({ "model": name, "questions": marks }));
        } else {
            println!("{name}\n\n{}", marks.table());
        }
    }
    if let Some(file) = &arguments.page {
        let sides: Vec<page::Side<'_>> =
            sides.iter().map(|(name, a)| (&name[..], &a[..])).collect();
        let text = page::page(&scenes, &arguments.scenes, &sides, arguments.shown)?;
        std::fs::write(file, text).map_err(|e| EvalError::Data {
            path: file.display().to_string(),
            reason: e.to_string(),
        })?;
    }
    Ok(())
}

fn draw_all(arguments: &DrawingsArguments) -> Result<()> {
    let wanted = drawings::wanted(&arguments.scenes)?;
    let [one, other] = &arguments.judges[..] else {
        return Ok(());
    };
    let marks = drawings::run(
        &drawings::Options {
            model: arguments.model.clone(),
            scenes: arguments.scenes.clone(),
            judges: [one.clone(), other.clone()],
            most: arguments.most,
            timesteps: arguments.steps.map(|steps| steps + 1),
            folder: arguments.output.clone(),
        },
        &wanted,
    )?;
    if arguments.json {
        println!("{}", json!({ "model": arguments.model, "drawings": marks }));
    } else {
        print!("{}", drawings::table(&marks));
    }
    Ok(())
}
