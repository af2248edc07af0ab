//! `kinglet fleet enrol`: what a new device, or a new operator, needs.

use std::path::Path;

use kinglet_agent::config::BrokerConfig;
use kinglet_agent::topic::Topics;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use super::broker::in_words;
use super::cli::{BrokerArgs, EnrolArgs};
use super::paper::{self, Reader};
use crate::cli::Cli;
use crate::failure::{Failure, Outcome};

const KEY: &str = "key.pem";
const REQUEST: &str = "request.pem";
const CERTIFICATE: &str = "certificate.pem";
const AUTHORITIES: &str = "ca.pem";
const CONFIGURATION: &str = "kinglet.toml";
const ACCESS: &str = "acl";

pub(crate) fn run(cli: &Cli, broker: &BrokerArgs, args: &EnrolArgs) -> Outcome {
    let Some(broker) = broker.config() else {
        let reason = "which broker? --broker mqtts://HOST:PORT, or KINGLET_BROKER, names one";
        return Err(Failure::new(reason));
    };
    let tls = broker.address().map_err(in_words)?.tls;
    if !tls && broker.ca.is_some() {
        let reason = "--ca is of no use on a plain connection; --broker mqtts://... encrypts it";
        return Err(Failure::new(reason));
    }
    let authorities = broker
        .ca
        .as_deref()
        .map(crate::commands::read)
        .transpose()?;
    let folder = &args.output;
    let refuse = |e| Failure::new(format_args!("{}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(refuse)?;
    let mut files = Vec::new();
    let mut write = |name: &str, reader, text: &str| {
        let path = folder.join(name);
        paper::write(&path, reader, text)?;
        files.push(path);
        Outcome::Ok(())
    };
    if tls {
        let key = KeyPair::generate()?;
        write(KEY, Reader::Owner, &key.serialize_pem())?;
        write(REQUEST, Reader::Anybody, &request(&args.name, &key)?)?;
        if let Some(authorities) = &authorities {
            let text = std::str::from_utf8(authorities)
                .map_err(|_| Failure::new("--ca: it holds no certificate in PEM"))?;
            write(AUTHORITIES, Reader::Anybody, text)?;
        }
    }
    if args.operator {
        write(ACCESS, Reader::Anybody, &operator_access(&args.name))?;
    } else {
        write(ACCESS, Reader::Anybody, &device_access(args))?;
        let text = configuration(&broker, tls, args);
        write(CONFIGURATION, Reader::Anybody, &text)?;
    }
    let lines = files
        .iter()
        .map(|file| format!("{}  {}", file.display(), about(file)));
    let lines: Vec<String> = lines.collect();
    let result = json!({ "name": args.name, "files": files });
    crate::commands::print(cli.json, &result, &lines.join("\n"))
}

fn about(file: &Path) -> &'static str {
    match file.file_name().and_then(|name| name.to_str()) {
        Some(KEY) => "its private key, which goes nowhere else",
        Some(REQUEST) => "for the authority, whose answer is to be certificate.pem beside it",
        Some(AUTHORITIES) => "whom it believes who the broker is",
        Some(CONFIGURATION) => "for kinglet run; cameras and watches are still missing",
        _ => "lines for mosquitto's acl_file",
    }
}

/// A request in PEM for a certificate whose common name is the user's.
fn request(name: &str, key: &KeyPair) -> Outcome<String> {
    // With extensions it becomes a certificate of version 3, which TLS needs.
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params.serialize_request(key)?.pem()?)
}

/// What `kinglet run` reads. Nothing in it needs quoting but what is quoted here: names are checked, and
/// an address that could be read holds no quotes.
fn configuration(broker: &BrokerConfig, tls: bool, args: &EnrolArgs) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: Vec<String>| {
        let texts: Vec<String> = texts.iter().map(|t| quoted(t)).collect();
        format!("[{}]", texts.join(", "))
    };
    let mut text = format!("[device]\nname = {}\n", quoted(&args.name));
    if !args.group.is_empty() {
        text += &format!("groups = {}\n", list(args.group.clone()));
    }
    text += &format!("\n[broker]\nurl = {}\n", quoted(&broker.url));
    if tls {
        if broker.ca.is_some() {
            text += &format!("ca = \"{AUTHORITIES}\"\n");
        }
        text += &format!("certificate = \"{CERTIFICATE}\"\nkey = \"{KEY}\"\n");
    } else if broker.allow_insecure {
        text += "allow_insecure = true\n";
    }
    if !args.signer.is_empty() {
        let keys = args.signer.iter().map(ToString::to_string).collect();
        text += &format!("\n[commands]\nkeys = {}\n", list(keys));
    }
    if args.homeassistant {
        text += "\n[homeassistant]\n";
    }
    text
}

/// A device's topics, and no others.
fn device_access(args: &EnrolArgs) -> String {
    let topics = Topics::new(&args.name);
    let mut text = format!("user {}\n", args.name);
    let groups: Vec<_> = args.group.iter().chain(&args.may_join).cloned().collect();
    for topic in topics.subscriptions(&groups) {
        text += &format!("topic read {topic}\n");
    }
    let written = [
        topics.status(),
        topics.event(),
        topics.image("+"),
        topics.latest("+"),
        topics.output("+"),
        topics.result("+"),
        topics.reported(),
        topics.job_progress("+"),
    ];
    for topic in written {
        text += &format!("topic write {topic}\n");
    }
    if args.homeassistant {
        // Its own entities, and nobody else's.
        text += &format!(
            "topic write homeassistant/+/kinglet-{}/+/config\n",
            args.name
        );
    }
    text + "topic write kinglet/fleet/reply/+\n"
}

/// What `kinglet fleet` reads and writes.
fn operator_access(name: &str) -> String {
    let all = Topics::new("+");
    let read = [
        all.status(),
        all.event(),
        all.image("+"),
        all.latest("+"),
        all.output("+"),
        all.reported(),
        all.job_progress("+"),
    ];
    let mut text = format!("user {name}\n");
    for topic in read {
        text += &format!("topic read {topic}\n");
    }
    for topic in all.subscriptions(&["+".to_owned()]) {
        text += &format!("topic write {topic}\n");
    }
    text + "topic readwrite kinglet/fleet/reply/+\n"
}
