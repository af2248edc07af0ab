//! `kinglet fleet see` and `set`: commands that are answered in words.

use serde_json::{Map, Value};

use super::ask::{Answers, Ask, Target, ask};
use super::broker::Broker;
use super::cli::{SeeArgs, SetArgs};
use super::text::plain;
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

/// Characters of an answer of many.
const LONGEST_ANSWER: usize = 2000;

pub(crate) async fn run(cli: &Cli, broker: &mut Broker, args: &SeeArgs) -> Outcome {
    let mut given = Map::new();
    if let Some(question) = &args.ask {
        given.insert("ask".to_owned(), question.clone().into());
    }
    if let Some(camera) = &args.camera {
        given.insert("camera".to_owned(), camera.clone().into());
    }
    if let Some(watch) = &args.watch {
        given.insert("watch".to_owned(), watch.clone().into());
    }
    if let Some(path) = &args.schema {
        let refuse = |e| Failure::new(format_args!("{}: {e}", path.display()));
        let schema = serde_json::from_slice(&crate::commands::read(path)?).map_err(refuse)?;
        given.insert("schema".to_owned(), schema);
    }
    let request = Ask {
        target: Target::of(args.device.as_ref(), args.group.as_ref()),
        command: "see",
        args: given,
        within: args.order.within.0,
        sign_with: args.order.sign_with.as_deref(),
        picture: false,
    };
    let answers = ask(broker, &request).await?;
    print(cli, &request.target, &answers)
}

pub(crate) async fn set(cli: &Cli, broker: &mut Broker, args: &SetArgs) -> Outcome {
    let request = Ask {
        target: Target::of(args.device.as_ref(), args.group.as_ref()),
        command: "set",
        args: args.change.clone(),
        within: args.order.within.0,
        sign_with: args.order.sign_with.as_deref(),
        picture: false,
    };
    let answers = ask(broker, &request).await?;
    print(cli, &request.target, &answers)
}

/// The answer of the one that was asked, or a line for each of many; then what went wrong.
fn print(cli: &Cli, target: &Target, answers: &Answers) -> Outcome {
    let good = answers.given.iter().filter(|(_, a)| a.error().is_none());
    let lines = good.map(|(device, answer)| {
        let text = plain(&words(answer.reply.as_ref()), LONGEST_ANSWER);
        match target {
            Target::Device(_) => text,
            Target::Group(_) => format!("{device}: {text}"),
        }
    });
    let lines: Vec<String> = lines.collect();
    if cli.json || !lines.is_empty() {
        crate::commands::print(cli.json, &answers.json(), &lines.join("\n"))?;
    }
    answers.verdict()
}

/// What came out: a text as it is, all else as JSON.
fn words(reply: Option<&Value>) -> String {
    let result = reply.map_or(&Value::Null, |reply| &reply["result"]);
    let answer = result.get("answer").unwrap_or(result);
    answer
        .as_str()
        .map_or_else(|| answer.to_string(), str::to_owned)
}
