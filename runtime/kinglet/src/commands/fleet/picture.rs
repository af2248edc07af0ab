//! `kinglet fleet draw` and `snapshot`: commands that are answered with a picture.

use std::path::{Path, PathBuf};

use kinglet_container::atomic;
use kinglet_model::Picture;
use serde_json::{Map, Value, json};

use super::ask::{Ask, Target, ask};
use super::broker::Broker;
use super::cli::{DrawArgs, SnapshotArgs};
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

pub(crate) async fn draw(cli: &Cli, broker: &mut Broker, args: &DrawArgs) -> Outcome {
    let size = args.size.map(|(width, height)| format!("{width}x{height}"));
    let given = [
        ("prompt", Some(json!(args.prompt))),
        ("size", size.map(Value::from)),
        ("steps", args.steps.map(Value::from)),
        ("guidance", args.guidance.map(Value::from)),
        ("sampler", args.sampler.clone().map(Value::from)),
        ("seed", args.seed.map(Value::from)),
    ];
    let given = given
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let request = Ask {
        target: Target::of(args.device.as_ref(), args.group.as_ref()),
        command: "draw",
        args: given.collect(),
        within: args.within.0,
        sign_with: args.sign_with.as_deref(),
        picture: true,
    };
    get(cli, broker, &request, &args.output).await
}

pub(crate) async fn snapshot(cli: &Cli, broker: &mut Broker, args: &SnapshotArgs) -> Outcome {
    let mut given = Map::new();
    if let Some(camera) = &args.camera {
        given.insert("camera".to_owned(), camera.clone().into());
    }
    let request = Ask {
        target: Target::Device(args.device.clone()),
        command: "snapshot",
        args: given,
        within: args.order.within.0,
        sign_with: args.order.sign_with.as_deref(),
        picture: true,
    };
    get(cli, broker, &request, &args.output).await
}

async fn get(cli: &Cli, broker: &mut Broker, request: &Ask<'_>, output: &Path) -> Outcome {
    let answers = ask(broker, request).await?;
    let (mut files, mut complaints) = (Map::new(), Vec::new());
    for (device, answer) in &answers.given {
        let Some(bytes) = answer.picture.as_ref().filter(|_| answer.error().is_none()) else {
            continue;
        };
        let path = match &request.target {
            Target::Device(_) => output.to_owned(),
            Target::Group(_) => of_device(output, device),
        };
        // It comes from outside: what is written is a picture.
        match Picture::decode(bytes) {
            Ok(_) => atomic::write(&path, bytes)?,
            Err(e) => {
                complaints.push(format!("{device}: what it sent is no picture: {e}"));
                continue;
            }
        }
        files.insert(device.clone(), json!(path));
    }
    if cli.json || !files.is_empty() {
        let lines: Vec<&str> = files.values().filter_map(Value::as_str).collect();
        let mut result = answers.json();
        result["files"] = Value::Object(files.clone());
        crate::commands::print(cli.json, &result, &lines.join("\n"))?;
    }
    answers.verdict()?;
    match complaints.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(complaints.join("; "))),
    }
}

/// `OUT-DEVICE.png`
fn of_device(output: &Path, device: &str) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let name = match output.extension() {
        Some(ending) => format!("{stem}-{device}.{}", ending.to_string_lossy()),
        None => format!("{stem}-{device}"),
    };
    output.with_file_name(name)
}
