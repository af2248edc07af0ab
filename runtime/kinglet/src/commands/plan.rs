//! `kinglet plan`: what a request takes of a board, and whether the board has it. Nothing is loaded.

use std::fmt::Write;
use std::path::Path;

use kinglet_boards::plan::{Ceilings, Machine};
use kinglet_boards::{Plan, Probe, Profile};
use kinglet_kernels::plan::Target;
use kinglet_model::footprint::{Request, SeeRequest, footprint};
use kinglet_model::{DrawOptions, Source};
use serde_json::json;

use crate::cli::{Cli, PlanArgs};
use crate::device::Chosen;
use crate::failure::{Failure, Outcome};
use crate::model;

/// A picture of a camera, in pixels.
const CAMERA: (usize, usize) = (1280, 720);
/// Says how much memory may be taken, in MiB, where that is not what the system says: in a container, or against
/// better knowledge.
const MEMORY: &str = "KINGLET_MEMORY";
const GIB: f64 = (1u64 << 30) as f64;

/// Where the request shall run.
struct Place {
    name: String,
    machine: Machine,
    target: Target,
    recipes: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &PlanArgs) -> Outcome {
    let source = model::open(args.file.as_deref().or(cli.model.as_deref()))?;
    let place = match &args.board {
        Some(name) => board(&Profile::named(name)?),
        None => here(&args.compute.device.open()?)?,
    };
    let request = request(&source, args)?;
    let cameras: Vec<(u32, u32)> = args
        .camera
        .iter()
        .map(|(w, h)| (*w as u32, *h as u32))
        .collect();
    let plan = compare(&source, &place, &request, &cameras)?;
    let would = if plan.fits {
        Vec::new()
    } else {
        alternatives(&source, &place, &request, &cameras)?
    };
    let text = table(&source, &place, &plan);
    let mut result = serde_json::to_value(&plan)?;
    if let Some(result) = result.as_object_mut() {
        result.insert("model".to_owned(), json!(source.config.name));
        result.insert("board".to_owned(), json!(place.name));
        result.insert("kernels".to_owned(), json!(place.target.name()));
        result.insert("would_fit".to_owned(), json!(would));
    }
    super::print(cli.json, &result, text.trim_end())?;
    if plan.fits {
        return Ok(());
    }
    Err(refusal(&source, &place, &plan, &would))
}

/// Refuses, before anything is loaded, what this machine has no memory for.
///
/// # Errors
/// What is needed, what is there, and what would fit.
pub(crate) fn before_loading(source: &Source, request: &Request, device: &Chosen) -> Outcome {
    let place = here(device)?;
    // What cannot be asked of this model is refused in better words by the model.
    let Ok(plan) = compare(source, &place, request, &[]) else {
        return Ok(());
    };
    if plan.fits {
        return Ok(());
    }
    let would = alternatives(source, &place, request, &[])?;
    Err(refusal(source, &place, &plan, &would))
}

/// What an agent may be asked for: a look at a picture of a camera, and a drawing as the model draws.
pub(crate) fn usual(source: &Source) -> Request {
    let draw = || (String::new(), DrawOptions::defaults(&source.config));
    Request {
        see: Some(SeeRequest {
            before: None,
            picture: CAMERA,
            ask: kinglet_agent::command::DEFAULT_QUESTION.to_owned(),
            answer: crate::works::MOST_TOKENS,
        }),
        draw: source.config.draws.then(draw),
    }
}

fn refusal(source: &Source, place: &Place, plan: &Plan, would: &[String]) -> Failure {
    let would = match would.is_empty() {
        true => "nothing smaller of this model does".to_owned(),
        false => format!("what would: {}", would.join("; ")),
    };
    Failure::new(format_args!(
        "{} does not fit {}: {:.2} GiB are needed, {:.2} GiB may be taken; {would}",
        source.name,
        place.name,
        plan.needed as f64 / GIB,
        plan.room as f64 / GIB,
    ))
}

fn board(profile: &Profile) -> Place {
    let (integer, float) = profile.ceilings();
    let read = profile.memory.bandwidth * 1e9;
    Place {
        name: profile.name.clone(),
        machine: Machine {
            room: profile.room(),
            ceilings: Some(Ceilings {
                integer,
                float,
                read,
            }),
        },
        target: profile.set().into(),
        recipes: profile.recipes.clone(),
    }
}

/// This machine, or its graphics processor: the memory that is free now. Its ceilings are not known without measuring.
fn here(device: &Chosen) -> Outcome<Place> {
    let probe = Probe::new(Path::new("/"));
    let said =
        match std::env::var(MEMORY) {
            Ok(text) => Some(text.parse::<u64>().map_err(|_| {
                Failure::new(format_args!("{MEMORY}: \"{text}\" is no number of MiB"))
            })?),
            Err(_) => None,
        };
    let own = device.memory()?;
    let name = own.as_ref().map(|(name, _)| name.clone());
    let memory = said
        .map(|mebibytes| mebibytes.saturating_mul(1 << 20))
        .or(own.map(|(_, free)| free))
        .or(probe.memory.available)
        .or(probe.memory.total);
    let room = memory.ok_or_else(|| {
        let reason =
            format!("this machine does not say how much memory it has; {MEMORY} says it in MiB");
        Failure::new(reason)
    })?;
    let profile = probe.board.as_deref().map(Profile::named).transpose()?;
    Ok(Place {
        name: name.unwrap_or_else(|| "this machine".to_owned()),
        machine: Machine {
            room,
            ceilings: None,
        },
        target: device.target()?,
        recipes: profile.map_or(Vec::new(), |p| p.recipes),
    })
}

fn request(source: &Source, args: &PlanArgs) -> Outcome<Request> {
    let draws = source.config.draws && !args.see_only;
    let draw = draws.then(|| {
        let mut options = DrawOptions::defaults(&source.config);
        options.size = args.size.unwrap_or(options.size);
        if let Some(steps) = args.steps {
            options.timesteps = steps.saturating_add(1);
        }
        (args.prompt.clone(), options)
    });
    if draw.is_none() && (args.size.is_some() || args.steps.is_some()) {
        return Err(Failure::new(
            "nothing is drawn here: --size and --steps mean nothing",
        ));
    }
    Ok(Request {
        see: Some(SeeRequest {
            before: None,
            picture: args.picture,
            ask: args.ask.clone(),
            answer: args.tokens,
        }),
        draw,
    })
}

fn compare(
    source: &Source,
    place: &Place,
    request: &Request,
    cameras: &[(u32, u32)],
) -> Outcome<Plan> {
    let footprint = footprint(source, place.target, request)?;
    Ok(Plan::new(&footprint, &place.machine, cameras))
}

/// What would fit: smaller drawings, seeing alone, the board's recipes.
fn alternatives(
    source: &Source,
    place: &Place,
    request: &Request,
    cameras: &[(u32, u32)],
) -> Outcome<Vec<String>> {
    let mut would = Vec::new();
    if let Some((prompt, options)) = &request.draw {
        let (unit, (width, height)) = (source.config.latent.token_pixels(), options.size);
        let smaller = |percent: usize| {
            let side = |full: usize| (full * percent / 100 / unit * unit).max(unit);
            (side(width), side(height))
        };
        for size in [75, 50, 25].map(smaller) {
            let mut options = options.clone();
            options.size = size;
            let request = Request {
                see: request.see.clone(),
                draw: Some((prompt.clone(), options)),
            };
            if compare(source, place, &request, cameras)?.fits {
                would.push(format!("drawings of {}x{}", size.0, size.1));
                break;
            }
        }
        let seeing = Request {
            see: request.see.clone(),
            draw: None,
        };
        let plan = compare(source, place, &seeing, cameras)?;
        if plan.fits {
            would.push("seeing alone (--see-only)".to_owned());
        } else if plan.needed - plan.weights.never <= plan.room {
            would.push(
                "a container that sees alone, made with `[parts] draw = false` in its recipe"
                    .to_owned(),
            );
        }
    }
    let named = |recipe: &String| {
        format!("a container by quant/recipes/{recipe}.toml, made of the original model")
    };
    would.extend(place.recipes.iter().map(named));
    Ok(would)
}

fn table(source: &Source, place: &Place, plan: &Plan) -> String {
    let mut text = String::new();
    let fits = if plan.fits { "fits" } else { "does not fit" };
    let gib = |bytes: u64| format!("{:8.3} GiB", bytes as f64 / GIB);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{} on {} ({}): {fits}, {:.2} of {:.2} GiB",
        source.config.name,
        place.name,
        place.target,
        plan.needed as f64 / GIB,
        plan.room as f64 / GIB
    );
    let rows = [
        ("weights, seeing and drawing", plan.weights.always),
        ("weights, seeing alone", plan.weights.seeing),
        ("weights, drawing alone", plan.weights.drawing),
        ("weights, not in this request", plan.weights.never),
        (
            "weights in the mapped file, used at once",
            plan.mapped.always + plan.mapped.seeing.max(plan.mapped.drawing),
        ),
        ("activations, keys and values", plan.activations),
        ("frames of cameras", plan.cameras),
        ("the program", plan.program),
    ];
    for (what, bytes) in rows.iter().filter(|(_, bytes)| *bytes > 0) {
        let _ = writeln!(text, "  {} {what}", gib(*bytes));
    }
    for stage in &plan.stages {
        let operations = (stage.integer + stage.float) as f64 / 1e9;
        let read = stage.read as f64 / 1e9;
        let floor = match (stage.seconds, stage.bound) {
            (Some(seconds), Some(bound)) => format!(", at least {seconds:.3} s ({bound})"),
            _ => String::new(),
        };
        let _ = writeln!(
            text,
            "  {:5} x {:16} {operations:10.3} G multiply-adds, {read:7.3} GB read{floor}",
            stage.times, stage.name
        );
    }
    if let Some(seconds) = plan.seconds {
        let _ = writeln!(
            text,
            "  at least {seconds:.2} s for all of it, by the board's figures on paper"
        );
    }
    text
}
