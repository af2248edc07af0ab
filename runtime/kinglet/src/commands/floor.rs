//! A look and a drawing of the model, timed beside what they take at least on this machine.

use std::ops::ControlFlow;
use std::time::Instant;

use kinglet_agent::{DrawRequest, Question};
use kinglet_boards::Plan;
use kinglet_boards::plan::{Ceilings, Machine};
use kinglet_kernels::{Cpu, Roof};
use kinglet_model::footprint::{Request, SeeRequest, footprint};
use kinglet_model::{DrawOptions, Picture};
use serde::Serialize;

use crate::cli::Cli;
use crate::device::Chosen;
use crate::failure::{Failure, Outcome};
use crate::model;

/// The picture that is looked at, in pixels.
const PICTURE: (usize, usize) = (224, 224);
/// Steps of the drawing.
const STEPS: usize = 8;
/// Looks and drawings, of which the quickest counts.
const TIMES: usize = 3;
const PROMPT: &str = "a red ball";

/// A stage, measured.
#[derive(Debug, Serialize)]
pub(super) struct Timed {
    /// What it is.
    pub(super) stage: &'static str,
    /// Seconds that it took.
    pub(super) seconds: f64,
    /// Seconds that it takes at least.
    pub(super) floor: f64,
    /// The floor as a part of what it took.
    pub(super) share: f64,
}

/// Times the model of the command line. None if this instruction set has no limits to compare with.
pub(super) fn measure(cli: &Cli, cpu: Cpu, roof: &Roof) -> Outcome<Option<Vec<Timed>>> {
    let (Some(integers), Some(floats)) = (roof.integers, roof.floats) else {
        return Ok(None);
    };
    // A multiplication with its addition is two operations.
    let ceilings = Ceilings {
        integer: integers / 2.0,
        float: floats / 2.0,
        read: roof.read,
    };
    let source = model::open(cli.model.as_deref())?;
    let draws = source.config.draws;
    let options = DrawOptions {
        timesteps: STEPS + 1,
        ..DrawOptions::defaults(&source.config)
    };
    let question = Question {
        ask: kinglet_agent::command::DEFAULT_QUESTION.to_owned(),
        ..Question::default()
    };
    let mut request = Request {
        see: Some(SeeRequest {
            before: None,
            picture: PICTURE,
            ask: question.ask.clone(),
            answer: 0,
        }),
        draw: draws.then(|| (PROMPT.to_owned(), options.clone())),
    };
    let works = Chosen::Cpu.load(&source, &request)?;
    let grey = vec![128; PICTURE.0 * PICTURE.1 * 3];
    let picture = Picture::from_rgb(PICTURE.0, PICTURE.1, grey)?;

    // A look, to the first token; the tokens behind it; a drawing.
    let (mut look, mut drawing) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TIMES {
        let started = Instant::now();
        let first = &mut |_: &str| {
            look = look.min(started.elapsed().as_secs_f64());
            ControlFlow::Break(())
        };
        // It is called off after its first token.
        let _ = works.see(&picture, &question, false, first);
        if draws {
            let ask = DrawRequest {
                prompt: PROMPT.to_owned(),
                steps: Some(STEPS),
                seed: Some(1),
                ..DrawRequest::default()
            };
            let started = Instant::now();
            works.draw(&ask, false, &mut |_| ControlFlow::Continue(()))?;
            drawing = drawing.min(started.elapsed().as_secs_f64());
        }
    }
    if !look.is_finite() {
        return Err(Failure::new("the model answers nothing"));
    }
    if let Some(see) = &mut request.see {
        see.answer = 1;
    }
    let machine = Machine {
        room: u64::MAX,
        ceilings: Some(ceilings),
    };
    let floor = |request: Request| -> Outcome<f64> {
        let plan = Plan::new(&footprint(&source, cpu.set(), &request)?, &machine, &[]);
        plan.seconds
            .ok_or_else(|| Failure::new("there is no floor"))
    };
    let timed = |stage, seconds: f64, floor: f64| Timed {
        stage,
        seconds,
        floor,
        share: floor / seconds,
    };
    let Request { see, draw } = request;
    let mut all = Vec::from([timed("look", look, floor(Request { see, draw: None })?)]);
    if draws {
        all.push(timed(
            "drawing",
            drawing,
            floor(Request { see: None, draw })?,
        ));
    }
    Ok(Some(all))
}
