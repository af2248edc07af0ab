//! `kinglet-eval`: marks for seeing and drawing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use kinglet_eval::judges::Judges;
use kinglet_eval::way::Way;
use kinglet_eval::{EvalError, Result, drawings, page, prompts, questions, steps, table};
use kinglet_model::{Model, Source};
use serde_json::json;

/// Marks for what models answer and draw, on held-out scenes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What compression costs: variants of a model on the same scenes, prompts and noise. What is there
    /// in the folder is not measured again.
    Table(TableArguments),
    /// What fewer passes cost: a model's drawings in many ways, from the same prompts and noise.
    Steps(StepsArguments),
    /// What a model answers and draws of the scenes and prompts that tools/train/held_out.py makes: shares of right answers by
    /// ability and by what was done to the picture, and of right drawings by GenEval's categories. What is kept in the
    /// output's folder is not drawn again.
    Marks(MarksArguments),
}

#[derive(Debug, Args)]
struct MarksArguments {
    /// The model.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    model: PathBuf,
    /// Another one beside it.
    #[arg(long)]
    against: Option<PathBuf>,
    /// A folder with `truth.json` (questions), `prompts.json` (drawings) or both.
    #[arg(long, default_value = "target/held-out")]
    scenes: PathBuf,
    /// Only the ones or the others.
    #[arg(long)]
    only: Option<Half>,
    /// At most so many scenes of each condition and drawings of each category.
    #[arg(long, default_value_t = usize::MAX)]
    most: usize,
    /// Judges: files of tools/train/train_judge.py, or one JSON file with what others see in the drawings:
    /// {"00000.png": [{"name": "cat", "x": 30, "y": 40, "size": 25}]}, in pixels. With `none`, prompts are only drawn.
    #[arg(long, num_args = 1.., default_values = JUDGES)]
    judges: Vec<PathBuf>,
    /// Steps of a drawing instead of the model's own.
    #[arg(long)]
    steps: Option<usize>,
    /// Where drawings are kept.
    #[arg(short, long, default_value = "target/marks")]
    output: PathBuf,
    /// Writes a page with pictures, answers, drawings and marks.
    #[arg(long)]
    page: Option<PathBuf>,
    /// Scenes and drawings on the page.
    #[arg(long, default_value_t = 60)]
    shown: usize,
    /// One JSON object a model.
    #[arg(long)]
    json: bool,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Half {
    Questions,
    Drawings,
}

/// Those of the bundled model's world.
const JUDGES: [&str; 2] = [
    "tools/eval/judges/a.safetensors",
    "tools/eval/judges/b.safetensors",
];

#[derive(Debug, Args)]
struct StepsArguments {
    /// The model.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    model: PathBuf,
    /// The ways.
    #[arg(long, default_value = "tools/eval/steps.toml")]
    ways: PathBuf,
    /// Where the prompts are.
    #[arg(long, default_value = "target/held-out")]
    scenes: PathBuf,
    /// Who judges, as for `marks`.
    #[arg(long, num_args = 1.., default_values = JUDGES)]
    judges: Vec<PathBuf>,
    /// At most so many drawings of each category.
    #[arg(long, default_value_t = 100)]
    most: usize,
    /// Where drawings and the table are kept.
    #[arg(short, long, default_value = "target/steps")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct TableArguments {
    /// The model that all variants are made of.
    #[arg(long, default_value = "runtime/assets/kinglet-tiny.gguf")]
    source: PathBuf,
    /// The variants.
    #[arg(long, default_value = "tools/eval/table.toml")]
    variants: PathBuf,
    /// Scenes and prompts.
    #[arg(long, default_value = "target/held-out")]
    scenes: PathBuf,
    /// Who judges, as for `marks`.
    #[arg(long, num_args = 1.., default_values = JUDGES)]
    judges: Vec<PathBuf>,
    /// Where results are kept.
    #[arg(short, long, default_value = "target/table")]
    output: PathBuf,
    /// At most so many scenes.
    #[arg(long, default_value_t = 1000)]
    looks: usize,
    /// At most so many drawings of each category.
    #[arg(long, default_value_t = 100)]
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
    let text = match &arguments.command {
        Command::Marks(arguments) => return marks(arguments),
        Command::Steps(arguments) => steps::run(&steps::Options {
            model: arguments.model.clone(),
            ways: arguments.ways.clone(),
            scenes: arguments.scenes.clone(),
            judges: arguments.judges.clone(),
            most: arguments.most,
            folder: arguments.output.clone(),
        })?,
        Command::Table(arguments) => table::run(&table::Options {
            source: arguments.source.clone(),
            variants: arguments.variants.clone(),
            scenes: arguments.scenes.clone(),
            judges: arguments.judges.clone(),
            folder: arguments.output.clone(),
            looks: arguments.looks,
            drawings: arguments.drawings,
            steps: arguments.steps,
            only: arguments.only.clone(),
        })?,
    };
    print!("{text}");
    Ok(())
}

fn marks(arguments: &MarksArguments) -> Result<()> {
    let folder = &arguments.scenes;
    let wants = |half, file: &str| {
        arguments.only.is_none_or(|only| only == half) && folder.join(file).exists()
    };
    let (asks, draws) = (
        wants(Half::Questions, "truth.json"),
        wants(Half::Drawings, "prompts.json"),
    );
    if !asks && !draws {
        return Err(EvalError::Data {
            path: folder.display().to_string(),
            reason: "there is nothing to ask or draw".to_owned(),
        });
    }
    let scenes = if asks {
        questions::scenes(folder)?
    } else {
        Vec::new()
    };
    let wanted = if draws {
        prompts::wanted(folder)?
    } else {
        Vec::new()
    };
    let unjudged = arguments.judges == [PathBuf::from("none")];
    let mut sides = Vec::new();
    for model in [Some(&arguments.model), arguments.against.as_ref()]
        .into_iter()
        .flatten()
    {
        let side = side(arguments, model, &scenes, &wanted, unjudged)?;
        let questions = questions::Marks::of(&scenes, &side.answers);
        let drawn = drawings::marks(&wanted, &side.drawn);
        if arguments.json {
            let marks = json!({ "model": side.name, "questions": questions, "drawings": drawn });
            println!("{marks}");
        } else {
            println!("{}\n", side.name);
            if !side.answers.is_empty() {
                println!("{}", questions.table());
            }
            if !side.drawn.is_empty() {
                println!("{}", drawings::table(&drawn));
            }
            if draws && unjudged {
                println!(
                    "The drawings are in {}; nobody judged them.",
                    side.folder.display()
                );
            }
        }
        sides.push(side);
    }
    if let Some(file) = &arguments.page {
        let asked = page::Asked {
            folder,
            scenes: &scenes,
            wanted: &wanted,
        };
        let text = page::page(&asked, &sides, arguments.shown)?;
        std::fs::write(file, text).map_err(|e| EvalError::Data {
            path: file.display().to_string(),
            reason: e.to_string(),
        })?;
    }
    Ok(())
}

/// What a model answers and draws.
fn side(
    arguments: &MarksArguments,
    model: &Path,
    scenes: &[questions::Scene],
    wanted: &[prompts::Wanted],
    unjudged: bool,
) -> Result<page::Side> {
    let name = model.display().to_string();
    let options = questions::Options {
        model: model.to_owned(),
        scenes: arguments.scenes.clone(),
        most: arguments.most,
    };
    let mut side = page::Side {
        answers: match scenes {
            [] => Vec::new(),
            _ => questions::run(&options, scenes)?,
        },
        drawn: BTreeMap::new(),
        folder: arguments.output.join(table::variants::slug(&name)),
        name,
    };
    if wanted.is_empty() {
        return Ok(side);
    }
    let categories = wanted.iter().map(|w| &*w.category);
    let numbers = prompts::first_of_each(categories, arguments.most);
    let way = Way::in_steps(arguments.steps);
    let easel = drawings::Easel {
        model: Model::on_cpu(&Source::open(model)?)?,
        file: model,
        way: &way,
        scenes: &arguments.scenes,
        folder: side.folder.clone(),
        originals: None,
    };
    if unjudged {
        easel.pictures(&side.name, wanted, &numbers)?;
    } else {
        let judges = Judges::open(&arguments.judges)?;
        side.drawn = easel.draw(&side.name, wanted, &numbers, &judges)?;
    }
    Ok(side)
}
