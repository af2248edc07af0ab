//! `kinglet see`: answer a question about a picture.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use kinglet_model::Picture;
use serde_json::json;

use crate::cli::{Cli, SeeArgs};
use crate::failure::{Failure, Outcome};
use crate::{engine, model};

/// The largest picture file that is read.
const LARGEST_FILE: u64 = 256 << 20;

pub(crate) fn run(cli: &Cli, args: &SeeArgs) -> Outcome {
    let bytes = read(&args.image)?;
    let refuse =
        |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", args.image.display()));
    let picture = Picture::decode(&bytes).map_err(|e| refuse(&e))?;
    let source = model::open(cli.model.as_deref())?;
    let model = model::load(&source)?;
    let started = Instant::now();
    let answer = engine::see(&model, &picture, &args.ask, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let ms = started.elapsed().as_millis() as u64;
    let result = json!({
        "answer": answer,
        "ask": args.ask,
        "model": source.config.name,
        "timing": { "see": ms },
    });
    super::print(cli.json, &result, &answer)
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let refuse = |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", path.display()));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let mut input = std::io::stdin().lock().take(LARGEST_FILE + 1);
        input.read_to_end(&mut bytes).map_err(|e| refuse(&e))?;
    } else {
        let file = std::fs::File::open(path).map_err(|e| refuse(&e))?;
        let mut file = file.take(LARGEST_FILE + 1);
        file.read_to_end(&mut bytes).map_err(|e| refuse(&e))?;
    }
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(refuse(&format_args!("more than {LARGEST_FILE} bytes")));
    }
    Ok(bytes)
}
