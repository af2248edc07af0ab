//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use kinglet_model::Part;
use kinglet_quant::onnx::Graph;

use crate::commands::fleet::cli::FleetArgs;
use crate::device::Choice;

/// A camera on a small board, understood and drawn from on the device, over MQTT.
///
/// Exit codes: 0 done, 1 it could not be done (one line on standard error), 2 wrong usage.
/// KINGLET_DEVICE, KINGLET_KERNELS, KINGLET_THREADS, KINGLET_MODEL and KINGLET_LOG (error, warn, info, debug) are read.
#[derive(Debug, Parser)]
#[command(name = "kinglet", version)]
pub(crate) struct Cli {
    /// The model: a GGUF file or an original BAGEL directory, instead of the bundled one.
    #[arg(long, global = true, value_name = "FILE", env = "KINGLET_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Let an accelerator compute a part of the model: `vision` or `vae-decoder`, by a graph that `compress
    /// --export-onnx` wrote (FILE.onnx) or that was converted of one (FILE.rknn). May be given twice.
    #[arg(long, global = true, value_name = "PART=FILE", value_parser = crate::graphs::parse, env = "KINGLET_GRAPHS", value_delimiter = ',')]
    pub(crate) graph: Vec<(Part, PathBuf)>,
    /// Standard output carries one JSON object.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the main job: a sample camera, the bundled model, a broker of its own.
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Run the agent: cameras, watches and commands over MQTT, until it is interrupted.
    Run(RunArgs),
    /// Answer a question about a picture.
    See(SeeArgs),
    /// Draw a picture.
    Draw(DrawArgs),
    /// Change a picture as an instruction says.
    Edit(EditArgs),
    /// Make a smaller container of a checkpoint, or an ONNX graph of a part of it.
    Compress(CompressArgs),
    /// Turn a container back into an original BAGEL directory.
    Export(ExportArgs),
    /// Say how fast this machine multiplies, as a share of its own limits.
    Bench,
    /// Say what a model needs of a board, in memory and time; exit 1 if it does not fit, and what would.
    Plan(PlanArgs),
    /// Say what this machine is, what Kinglet will use of it, and what is missing.
    Doctor(DoctorArgs),
    /// Many devices, through their broker (docs/fleet.md).
    Fleet(FleetArgs),
    /// Say what is in a model; exit 0 only if it is sound and whole.
    Inspect(InspectArgs),
}

/// Of commands that run a model. (Not of all: devices of a fleet are devices, too.)
#[derive(Debug, Args)]
pub(crate) struct ComputeArgs {
    /// What computes (docs/cuda.md).
    #[arg(
        long,
        value_name = "WHAT",
        value_enum,
        default_value_t,
        env = "KINGLET_DEVICE"
    )]
    pub(crate) device: Choice,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// End after this many events and the picture.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) events: Option<u64>,
    /// Use this broker and start none.
    #[arg(long, value_name = "URL")]
    pub(crate) broker: Option<String>,
    /// Where the picture that is drawn goes.
    #[arg(
        short,
        long,
        value_name = "OUT.png",
        default_value = "kinglet-demo.png"
    )]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = "kinglet.toml")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SeeArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// A PNG, JPEG or WebP file; `-` reads standard input.
    pub(crate) image: PathBuf,
    /// The question.
    #[arg(long, value_name = "QUESTION", default_value = kinglet_agent::command::DEFAULT_QUESTION)]
    pub(crate) ask: String,
    /// A picture to compare with, as an earlier one: "what changed?".
    #[arg(long, value_name = "PICTURE", conflicts_with = "region")]
    pub(crate) before: Option<PathBuf>,
    /// Ask about this part of the picture: left, top, width and height in pixels.
    #[arg(long, value_name = "X,Y,W,H", value_parser = kinglet_agent::command::region)]
    pub(crate) region: Option<[usize; 4]>,
    /// A JSON Schema: the answer is JSON that it accepts (docs/answers.md).
    #[arg(long, value_name = "S.json", conflicts_with = "think")]
    pub(crate) schema: Option<PathBuf>,
    /// Let the model think in words first.
    #[arg(long)]
    pub(crate) think: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrawArgs {
    /// What is in the picture.
    pub(crate) prompt: String,
    /// Draw up to so many pictures, with the next seeds, and keep the one in which the model sees most of
    /// the prompt.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = tries)]
    pub(crate) tries: usize,
    #[command(flatten)]
    pub(crate) options: DrawingArgs,
}

#[derive(Debug, Args)]
pub(crate) struct EditArgs {
    /// A PNG, JPEG or WebP file; `-` reads standard input.
    pub(crate) image: PathBuf,
    /// What is to be changed.
    pub(crate) instruction: String,
    #[command(flatten)]
    pub(crate) options: DrawingArgs,
}

/// What drawing and editing have in common.
#[derive(Debug, Args)]
pub(crate) struct DrawingArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// Where the picture goes.
    #[arg(short, long, value_name = "OUT.png")]
    pub(crate) output: PathBuf,
    /// Width and height in pixels.
    #[arg(long, value_name = "WxH", value_parser = kinglet_agent::command::size)]
    pub(crate) size: Option<(usize, usize)>,
    /// Steps.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// Guidance scale: how much the prompt counts.
    #[arg(long, value_name = "G")]
    pub(crate) guidance: Option<f32>,
    /// How steps are taken: euler, heun (two passes a step), ab2, dpm++2m (docs/few-steps.md).
    #[arg(long, value_name = "NAME")]
    pub(crate) sampler: Option<String>,
    /// Where the noise comes from: the same seed gives the same picture.
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
    /// Let the model think in words first.
    #[arg(long)]
    pub(crate) think: bool,
    /// Write a small picture of how far it is here, again after every step.
    #[arg(long, value_name = "PNG")]
    pub(crate) preview: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CompressArgs {
    /// An original BAGEL directory or a GGUF file. With --export-onnx it may be left out: the model that
    /// would be used.
    #[arg(required_unless_present = "export_onnx")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// The container, or the graph, to write.
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// What is to be done.
    #[arg(long, value_name = "R.toml", required_unless_present_any = ["pack", "export_onnx"])]
    pub(crate) recipe: Option<PathBuf>,
    /// Store the weights in the order of one instruction set's kernels, so that loading is mapping:
    /// a name that KINGLET_KERNELS takes, or `native`. Other machines refuse the file. Without a
    /// recipe a GGUF file is packed as it is.
    #[arg(long, value_name = "TARGET")]
    pub(crate) pack: Option<String>,
    /// Compare the result with its source on so many scenes; both models are run. Left out: 4 if the
    /// recipe runs the source anyway, else none.
    #[arg(long, value_name = "N", requires = "recipe")]
    pub(crate) measure: Option<usize>,
    /// Scores to go into the result's report, as `kinglet-eval marks --json` prints them: those of an earlier
    /// result of this recipe, which has the same weights.
    #[arg(long, value_name = "SCORES.json", requires = "recipe")]
    pub(crate) scores: Option<PathBuf>,
    /// A page about what was done.
    #[arg(long, value_name = "FILE.html", requires = "recipe")]
    pub(crate) report: Option<PathBuf>,
    /// Write a part of the model as an ONNX graph instead, for accelerators (fixed shapes, f32):
    /// `vision`, a picture to the tokens that enter the language half, or `vae-decoder`, latents to a
    /// picture.
    #[arg(long, value_name = "GRAPH", conflicts_with_all = ["recipe", "pack"])]
    pub(crate) export_onnx: Option<Graph>,
    /// Width and height in pixels of the graph's pictures; left out: the largest square that the model
    /// is made for.
    // The conflicts of what it requires would waive the requirement.
    #[arg(
        long,
        value_name = "WxH",
        requires = "export_onnx",
        conflicts_with_all = ["recipe", "pack"],
        value_parser = kinglet_agent::command::size
    )]
    pub(crate) size: Option<(usize, usize)>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// A GGUF file; left out: the model that would be used.
    pub(crate) file: Option<PathBuf>,
    /// The directory to make.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
    /// A GGUF file or an original BAGEL directory; left out: the model that would be used.
    #[arg(value_name = "MODEL")]
    pub(crate) file: Option<PathBuf>,
    /// A board by its name (a wrong one lists them); left out: this machine with the memory that is free.
    #[arg(long, value_name = "NAME")]
    pub(crate) board: Option<String>,
    /// Nothing is drawn.
    #[arg(long)]
    pub(crate) see_only: bool,
    /// Width and height in pixels of a drawing; left out: the model's default.
    #[arg(long, value_name = "WxH", value_parser = kinglet_agent::command::size)]
    pub(crate) size: Option<(usize, usize)>,
    /// Steps of a drawing; left out: the model's default.
    #[arg(long, value_name = "N")]
    pub(crate) steps: Option<usize>,
    /// What is drawn.
    #[arg(
        long,
        value_name = "PROMPT",
        default_value = "a cat on a blue background"
    )]
    pub(crate) prompt: String,
    /// Width and height in pixels of the picture that is looked at.
    #[arg(long, value_name = "WxH", default_value = "1280x720", value_parser = kinglet_agent::command::size)]
    pub(crate) picture: (usize, usize),
    /// What is asked about it.
    #[arg(long, value_name = "QUESTION", default_value = kinglet_agent::command::DEFAULT_QUESTION)]
    pub(crate) ask: String,
    /// Tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) tokens: usize,
    /// Width and height in pixels of a camera's frames; once for each camera.
    #[arg(long, value_name = "WxH", value_parser = kinglet_agent::command::size)]
    pub(crate) camera: Vec<(usize, usize)>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Read a captured tree of files (proc, sys, etc, usr, var) instead of this machine's.
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A GGUF file or an original BAGEL directory; left out: the model that would be used.
    pub(crate) file: Option<PathBuf>,
    /// Read every weight and refuse those that are no numbers.
    #[arg(long)]
    pub(crate) deep: bool,
}

fn tries(text: &str) -> Result<usize, String> {
    let most = kinglet_agent::attempts::MOST;
    let tries = text.parse().ok().filter(|n| (1..=most).contains(n));
    tries.ok_or_else(|| format!("1 to {most} are accepted"))
}
