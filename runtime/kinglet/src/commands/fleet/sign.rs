//! `kinglet fleet sign`: what a new model is, signed.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::Args;
use kinglet_agent::keys::{PrivateKey, PublicKey};
use kinglet_agent::period::Period;
use kinglet_agent::update::manifest::{File, Keys, Manifest, PURPOSE, Signed, Smoke};
use serde_json::json;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::paper::{self, Reader};
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The model, a GGUF file; or with --add a signed manifest, which gets another signature.
    pub(crate) file: PathBuf,
    /// A key that signs (kinglet fleet key makes one); may be given several times.
    #[arg(long, value_name = "KEY.pem", required = true)]
    pub(crate) sign_with: Vec<PathBuf>,
    /// The signed manifest to write.
    #[arg(short, long, value_name = "MANIFEST.json")]
    pub(crate) output: PathBuf,
    /// Add signatures to a manifest that is signed already.
    #[arg(long, conflicts_with_all = ["version", "name", "picture", "ask", "expect", "signer", "allow_downgrade"])]
    pub(crate) add: bool,
    /// Grows with every model that is given out.
    #[arg(long, value_name = "N", required_unless_present = "add")]
    pub(crate) version: Option<u64>,
    /// What people call the model; left out: its file's name.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// How long it may be installed.
    #[arg(long, value_name = "TIME", default_value = "720h")]
    pub(crate) good_for: Period,
    /// It may take the place of a higher version.
    #[arg(long)]
    pub(crate) allow_downgrade: bool,
    /// The oldest program that can run it, as 0.1.0.
    #[arg(long, value_name = "VERSION")]
    pub(crate) minimum_program: Option<String>,
    /// A picture that the model must understand before it stays.
    #[arg(long, value_name = "IMAGE", requires = "expect")]
    pub(crate) picture: Option<PathBuf>,
    /// What it is asked about the picture.
    #[arg(long, value_name = "QUESTION", default_value = kinglet_agent::command::DEFAULT_QUESTION)]
    pub(crate) ask: String,
    /// What its answer must contain.
    #[arg(long, value_name = "TEXT", requires = "picture")]
    pub(crate) expect: Option<String>,
    /// How long the answer may take.
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(crate) within: Period,
    /// From the next manifest on, signatures of this key count, and of no others but those named here; may be
    /// given several times.
    #[arg(long, value_name = "ed25519:...")]
    pub(crate) signer: Vec<PublicKey>,
    /// How many of them are needed.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "signer")]
    pub(crate) threshold: usize,
}

pub(crate) fn run(cli: &Cli, args: &SignArgs) -> Outcome {
    let keys = args.sign_with.iter().map(|path| paper::read_key(path));
    let keys: Vec<PrivateKey> = keys.collect::<Outcome<_>>()?;
    let signed = if args.add {
        let mut signed = read(&args.file)?.0;
        keys.iter().for_each(|key| signed.add(PURPOSE, key));
        signed
    } else {
        let manifest = manifest(args)?;
        manifest.check().map_err(Failure::new)?;
        manifest.sign(&keys).map_err(Failure::new)?
    };
    let text = serde_json::to_string_pretty(&signed)? + "\n";
    paper::write(&args.output, Reader::Anybody, &text)?;
    let result = json!({ "file": args.output, "signatures": signed.signatures.len() });
    crate::commands::print(cli.json, &result, &args.output.display().to_string())
}

/// Reads a signed manifest. Who has signed it is not looked at.
pub(crate) fn read(path: &Path) -> Outcome<(Signed, Manifest)> {
    let refuse = |e: String| Failure::new(format_args!("{}: {e}", path.display()));
    let bytes = crate::commands::read(path)?;
    let signed: Signed = serde_json::from_slice(&bytes)
        .map_err(|e| refuse(format!("it is no signed manifest: {e}")))?;
    let manifest = Manifest::parse(&signed.signed).map_err(refuse)?;
    Ok((signed, manifest))
}

fn manifest(args: &SignArgs) -> Outcome<Manifest> {
    // What devices would refuse is not signed.
    let source = crate::model::open(Some(&args.file))?;
    let refuse =
        |e: &dyn std::fmt::Display| Failure::new(format_args!("{}: {e}", args.file.display()));
    let path = args.file.file_name().and_then(|n| n.to_str());
    let path = path
        .ok_or_else(|| refuse(&"its name is no text"))?
        .to_owned();
    let mut file = std::fs::File::open(&args.file).map_err(|e| refuse(&e))?;
    let mut hash = Sha256::new();
    let length = std::io::copy(&mut file, &mut hash).map_err(|e| refuse(&e))?;
    let sha256 = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let expires = OffsetDateTime::now_utc() + args.good_for.0;
    let expires = expires.replace_nanosecond(0).map_err(Failure::new)?;
    let smoke = match (&args.picture, &args.expect) {
        (Some(picture), Some(expect)) => Some(Smoke {
            picture: base64::engine::general_purpose::STANDARD
                .encode(crate::commands::read(picture)?),
            ask: args.ask.clone(),
            expect: expect.clone(),
            within_ms: args.within.0.as_millis() as u64,
        }),
        _ => None,
    };
    let keys = (!args.signer.is_empty()).then(|| Keys {
        keys: args.signer.clone(),
        threshold: args.threshold,
    });
    Ok(Manifest {
        name: args.name.clone().unwrap_or(source.config.name),
        version: args.version.unwrap_or_default(),
        minimum_program: args.minimum_program.clone(),
        expires: expires.format(&Rfc3339).map_err(Failure::new)?,
        allow_downgrade: args.allow_downgrade,
        files: vec![File {
            path,
            length,
            sha256,
        }],
        smoke,
        keys,
    })
}
