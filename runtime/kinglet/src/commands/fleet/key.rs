//! `kinglet fleet key`: a key that signs commands.

use kinglet_agent::keys::PrivateKey;
use serde_json::json;

use super::cli::KeyArgs;
use super::paper::{self, Reader};
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

pub(crate) fn run(cli: &Cli, args: &KeyArgs) -> Outcome {
    let key = PrivateKey::generate().map_err(Failure::new)?;
    let pem = key.to_pem().map_err(Failure::new)?;
    paper::write(&args.output, Reader::Owner, &pem)?;
    let public = key.public().to_string();
    let result = json!({ "file": args.output, "public": public });
    crate::commands::print(cli.json, &result, &public)
}
