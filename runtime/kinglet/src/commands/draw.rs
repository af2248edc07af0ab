//! `kinglet draw`: draw a picture.

use std::ops::ControlFlow;
use std::time::Instant;

use kinglet_agent::DrawRequest;
use kinglet_container::atomic;
use serde_json::json;

use crate::bar::Bar;
use crate::cli::{Cli, DrawArgs};
use crate::failure::Outcome;
use crate::{engine, model};

pub(crate) fn run(cli: &Cli, args: &DrawArgs) -> Outcome {
    let source = model::open(cli.model.as_deref())?;
    let model = model::load(&source)?;
    let request = DrawRequest {
        prompt: args.prompt.clone(),
        size: args.size,
        steps: args.steps,
        guidance: args.guidance,
        seed: args.seed,
    };
    let started = Instant::now();
    let mut bar = Bar::new("drawing");
    let picture = engine::draw(&model, &request, &mut |done, all| {
        bar.show(done, all);
        ControlFlow::Continue(())
    })?;
    drop(bar);
    atomic::write(&args.output, &picture.to_png()?)?;
    let result = json!({
        "picture": args.output,
        "prompt": args.prompt,
        "width": picture.width(),
        "height": picture.height(),
        "model": source.config.name,
        "timing": { "draw": started.elapsed().as_millis() as u64 },
    });
    super::print(cli.json, &result, &args.output.display().to_string())
}
