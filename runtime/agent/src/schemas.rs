//! JSON Schemas of the payloads, made from their types and kept in docs/schemas. `KINGLET_BLESS=1` writes
//! them anew.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::command::{CancelArgs, DrawArgs, EditArgs, SeeArgs, SnapshotArgs};
use crate::message::{Event, Reply, Stamped, Status};
use crate::operation::Health;
use crate::output::OutputState;
use crate::shadow::{DeviceSettings, OutboxSettings, Reported, Settings};
use crate::signed;
use crate::update::back::Back;
use crate::update::manifest::Manifest;
use crate::update::{Asked, Progress};

/// A command.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)] // It is there for its schema.
struct Command<A> {
    /// 1 to 64 letters, digits, - and _. A command that comes twice with one id is done once.
    id: Option<String>,
    /// RFC 3339. Afterwards it is not done any more.
    expires: Option<String>,
    args: A,
}

/// A configuration that somebody wants a device to have.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)] // It is there for its schema.
struct Desired {
    /// Higher than the one that is reported.
    version: u64,
    config: Settings,
}

/// What is to be changed; null takes a key away.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[allow(dead_code)] // It is there for its schema.
struct Set {
    device: Option<DeviceSettings>,
    watch: Option<Vec<Named>>,
    camera: Option<Vec<Named>>,
    outbox: Option<OutboxSettings>,
}

/// A watch or a camera, with the keys that are to be changed.
#[derive(JsonSchema)]
#[allow(dead_code)] // It is there for its schema.
struct Named {
    name: String,
    #[serde(flatten)]
    keys: BTreeMap<String, Value>,
}

fn sent<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<T>()
}

fn read<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.into_generator().into_root_schema_for::<T>()
}

fn taken_whole<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    settings.into_generator().into_root_schema_for::<T>()
}

fn taken<A: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Command<A>>();
    schema.insert("title".to_owned(), A::schema_name().into());
    schema
}

/// A command whose arguments may all be left out.
fn without<A: JsonSchema>() -> Schema {
    let mut schema = taken::<A>();
    schema.remove("required");
    schema
}

#[test]
fn the_schemas_in_docs_are_those_of_the_types() {
    let schemas = BTreeMap::from([
        ("event", sent::<Stamped<'static, Event>>()),
        ("health", sent::<Health>()),
        ("output", sent::<Stamped<'static, OutputState>>()),
        ("result", sent::<Stamped<'static, Reply>>()),
        ("status", sent::<Stamped<'static, Status>>()),
        ("job", taken_whole::<Asked>()),
        ("job-progress", sent::<Progress>()),
        ("rollback", taken_whole::<Back>()),
        ("manifest", taken_whole::<Manifest>()),
        ("shadow-desired", read::<Desired>()),
        ("shadow-reported", sent::<Reported>()),
        ("signed", read::<signed::Payload>()),
        ("signed-text", read::<signed::Order>()),
        ("command-set", without::<Set>()),
        ("command-cancel", taken::<CancelArgs>()),
        ("command-draw", taken::<DrawArgs>()),
        ("command-edit", taken::<EditArgs>()),
        ("command-see", without::<SeeArgs>()),
        ("command-snapshot", without::<SnapshotArgs>()),
    ]);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schemas");
    let bless = std::env::var_os("KINGLET_BLESS").is_some();
    for (name, schema) in &schemas {
        let file = folder.join(format!("{name}.json"));
        let text = serde_json::to_string_pretty(schema).unwrap() + "\n";
        if bless {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, text).unwrap();
        } else {
            let kept = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(kept, text, "{name}.json; KINGLET_BLESS=1 writes it anew");
        }
    }
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, schemas.len(), "a schema of no type is left over");
}
