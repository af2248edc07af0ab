//! `kinglet see`: answer a question about a picture.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kinglet_agent::{Form, Question};
use kinglet_model::Schema;
use kinglet_model::footprint::{Request, SeeRequest};
use serde_json::{Value, json};

use crate::cli::{Cli, SeeArgs};
use crate::failure::{Failure, Outcome};
use crate::model;
use crate::works::{MOST_TOKENS, to_agent};

pub(crate) fn run(cli: &Cli, args: &SeeArgs) -> Outcome {
    let form = match &args.schema {
        Some(path) => schema(path)?,
        None => Form::Text,
    };
    let picture = super::picture(&args.image)?;
    let before = args.before.as_deref().map(super::picture).transpose()?;
    let source = model::open(cli.model.as_deref())?;
    let request = Request {
        see: Some(SeeRequest {
            before: before.as_ref().map(|b| (b.width(), b.height())),
            picture: (picture.width(), picture.height()),
            ask: args.ask.clone(),
            answer: MOST_TOKENS,
        }),
        draw: None,
    };
    super::log("warn");
    let works = args.compute.device.open()?.load(&source, &request)?;
    works.hand_over(&cli.graph)?;
    let started = Instant::now();
    let question = Question {
        ask: args.ask.clone(),
        before: before.as_ref().map(to_agent),
        region: args.region,
        form,
        examples: Vec::new(),
    };
    let answer = works.see(&picture, &question, args.think, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let value = match question.form {
        Form::Schema(_) => serde_json::from_str(&answer)?,
        Form::Text | Form::YesOrNo => Value::String(answer.clone()),
    };
    let ms = started.elapsed().as_millis() as u64;
    let result = json!({
        "answer": value,
        "ask": args.ask,
        "region": args.region,
        "model": source.config.name,
        "timing": { "see": ms },
    });
    super::print(cli.json, &result, &answer)
}

/// Reads a schema, which is refused here before a model is loaded.
fn schema(path: &Path) -> Outcome<Form> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    let bytes = super::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|e| refuse(&e))?;
    Schema::from_json(text).map_err(|e| refuse(&e))?;
    let value = serde_json::from_str(text).map_err(|e| refuse(&e))?;
    Ok(Form::Schema(Arc::new(value)))
}
