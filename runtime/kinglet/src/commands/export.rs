//! `kinglet export`: a container back to an original BAGEL directory.

use kinglet_model::directory;
use serde_json::json;

use crate::cli::{Cli, ExportArgs};
use crate::failure::Outcome;
use crate::model;

pub(crate) fn run(cli: &Cli, args: &ExportArgs) -> Outcome {
    let source = model::open(args.file.as_deref().or(cli.model.as_deref()))?;
    directory::write(&source, &args.output)?;
    let text = args.output.display().to_string();
    super::print(cli.json, &json!({ "output": args.output }), &text)
}
