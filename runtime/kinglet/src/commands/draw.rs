//! `kinglet draw` and `kinglet edit`: make a picture.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use kinglet_agent::attempts::{self, Check};
use kinglet_agent::{DrawRequest, Question, Step};
use kinglet_container::atomic;
use kinglet_model::footprint::Request;
use kinglet_model::{DrawOptions, Picture};
use serde_json::json;

use crate::bar::Bar;
use crate::cli::{Cli, DrawArgs, DrawingArgs, EditArgs};
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::works::Drawn;

pub(crate) fn run(cli: &Cli, args: &DrawArgs) -> Outcome {
    make(cli, &args.prompt, None, args.tries, &args.options)
}

pub(crate) fn edit(cli: &Cli, args: &EditArgs) -> Outcome {
    let picture = super::picture(&args.image)?;
    make(cli, &args.instruction, Some(&picture), 1, &args.options)
}

/// Draws, or changes `picture`.
fn make(
    cli: &Cli,
    prompt: &str,
    picture: Option<&Picture>,
    tries: usize,
    options: &DrawingArgs,
) -> Outcome {
    let source = model::open(cli.model.as_deref())?;
    let request = request(prompt, tries, options);
    let mut drawing = DrawOptions::defaults(&source.config);
    drawing.size = request.size.unwrap_or(drawing.size);
    let needs = Request {
        see: None,
        draw: source.config.draws.then(|| (prompt.to_owned(), drawing)),
    };
    super::log("warn");
    let works = options.compute.device.open()?.load(&source, &needs)?;
    works.hand_over(&cli.graph)?;
    let started = Instant::now();
    let mut bar = Bar::new(if picture.is_some() {
        "editing"
    } else {
        "drawing"
    });
    if options.preview.is_some() && source.config.latent.preview.is_none() {
        let reason = "the model has no map for previews; kinglet compress makes one";
        return Err(Failure::new(reason));
    }
    let mut unwritten = None;
    let mut progress = |step: Step<'_>| {
        bar.show(step.done, step.of);
        if let Some(path) = &options.preview
            && let Err(e) = write_preview(path, step)
        {
            unwritten = Some(e);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    };
    let drawn = match picture {
        None if tries > 1 => {
            let question = Question {
                ask: attempts::QUESTION.to_owned(),
                ..Question::default()
            };
            let go_on = &mut |_: &str| ControlFlow::Continue(());
            let mut draw = |number| {
                let request = request.attempt(number);
                works.draw(&request, options.think, &mut progress)
            };
            let mut see = |drawn: &Drawn| works.see(&drawn.picture, &question, false, go_on);
            attempts::best(prompt, tries, &mut draw, &mut see)
                .map(|(drawn, check)| (drawn, Some(check)))
        }
        None => works
            .draw(&request, options.think, &mut progress)
            .map(|drawn| (drawn, None)),
        Some(picture) => works
            .edit(picture, &request, options.think, &mut progress)
            .map(|drawn| (drawn, None)),
    };
    drop(bar);
    if let Some(e) = unwritten {
        return Err(e);
    }
    let (drawn, check) = drawn?;
    deliver(
        cli,
        options,
        &request,
        &source.config.name,
        &drawn,
        check.as_ref(),
        started,
    )
}

fn write_preview(path: &Path, step: Step<'_>) -> Outcome {
    if let Some(picture) = (step.preview)() {
        atomic::write(path, &picture.to_png().map_err(Failure::new)?)?;
    }
    Ok(())
}

fn request(prompt: &str, tries: usize, options: &DrawingArgs) -> DrawRequest {
    DrawRequest {
        prompt: prompt.to_owned(),
        size: options.size,
        steps: options.steps,
        guidance: options.guidance,
        sampler: options.sampler.clone(),
        seed: options.seed,
        tries,
        preview: options.preview.is_some(),
    }
}

fn deliver(
    cli: &Cli,
    options: &DrawingArgs,
    request: &DrawRequest,
    model: &str,
    drawn: &Drawn,
    check: Option<&Check>,
    started: Instant,
) -> Outcome {
    atomic::write(&options.output, &drawn.picture.to_png()?)?;
    if let (Some(thought), false) = (&drawn.thought, cli.json) {
        eprintln!("thought: {thought}");
    }
    if let (Some(check), false) = (check, cli.json) {
        eprintln!("seen after {} tries: {}", check.tries, check.seen);
    }
    let mut result = json!({
        "picture": options.output,
        "prompt": request.prompt,
        "thought": drawn.thought,
        "width": drawn.picture.width(),
        "height": drawn.picture.height(),
        "model": model,
        "timing": { "draw": started.elapsed().as_millis() as u64 },
    });
    if let Some(check) = check {
        result["check"] = json!(check);
    }
    super::print(cli.json, &result, &options.output.display().to_string())
}
