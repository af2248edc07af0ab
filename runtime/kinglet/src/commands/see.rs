//! `kinglet see`: answer a question about a picture.

use std::ops::ControlFlow;
use std::time::Instant;

use kinglet_agent::Question;
use serde_json::json;

use crate::cli::{Cli, SeeArgs};
use crate::failure::Outcome;
use crate::{engine, model};

pub(crate) fn run(cli: &Cli, args: &SeeArgs) -> Outcome {
    let picture = super::picture(&args.image)?;
    let source = model::open(cli.model.as_deref())?;
    let model = model::load(&source)?;
    let started = Instant::now();
    let question = Question {
        ask: args.ask.clone(),
        region: args.region,
    };
    let answer = engine::see(&model, &picture, &question, args.think, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let ms = started.elapsed().as_millis() as u64;
    let result = json!({
        "answer": answer,
        "ask": args.ask,
        "region": args.region,
        "model": source.config.name,
        "timing": { "see": ms },
    });
    super::print(cli.json, &result, &answer)
}
