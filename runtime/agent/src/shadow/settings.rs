//! What may be set from afar: what is looked for, how cameras are used, how much is kept. Never the broker,
//! keys, the state directory or the model, and no file of the device that its own configuration does not
//! name.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{ClassesConfig, Config, OutboxConfig, SchemaConfig, WatchConfig};

/// The most watches.
pub const MOST_WATCHES: usize = 32;
/// The bytes that the outbox may be set to.
pub const OUTBOX_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 30);

/// A configuration from afar. What is left out is as the device's own file has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSettings>,
    /// All watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Vec<WatchConfig>>,
    /// Cameras of the device's own file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub camera: Option<Vec<CameraSettings>>,
    /// The outbox.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbox: Option<OutboxSettings>,
}

/// What the device is part of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeviceSettings {
    /// Groups whose commands it follows.
    pub groups: Vec<String>,
}

/// How a camera is used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CameraSettings {
    /// Its name.
    pub name: String,
    /// Frames a second that are looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fps: Option<f64>,
    /// Rectangles `[x, y, width, height]`, in fractions of the picture, that nobody may see, beside those
    /// of the device's own file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mask: Vec<[f64; 4]>,
}

/// What the outbox may hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OutboxSettings {
    /// Bytes of messages that are kept while the broker is away.
    pub max_bytes: u64,
}

impl Settings {
    /// Reads settings.
    ///
    /// # Errors
    /// The reason in words, with the key that is wrong.
    pub fn read(config: Map<String, Value>) -> Result<Self, String> {
        let mut settings = Settings::default();
        let wrong = |key: &str, e: serde_json::Error| format!("{key}: {e}");
        for (key, value) in config {
            match &key[..] {
                "device" => settings.device = read(value).map_err(|e| wrong(&key, e))?,
                "watch" => settings.watch = read(value).map_err(|e| wrong(&key, e))?,
                "camera" => settings.camera = read(value).map_err(|e| wrong(&key, e))?,
                "outbox" => settings.outbox = read(value).map_err(|e| wrong(&key, e))?,
                _ => {
                    return Err(format!(
                        "{key}: it cannot be set from afar; device, watch, camera and outbox can"
                    ));
                }
            }
        }
        Ok(settings)
    }

    /// Everything that may be set, as a configuration has it.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let camera = |c: &crate::config::CameraConfig| CameraSettings {
            name: c.name.clone(),
            fps: c.fps,
            mask: c.mask.clone(),
        };
        Settings {
            device: Some(DeviceSettings {
                groups: config.device.groups.clone(),
            }),
            watch: Some(config.watch.clone()),
            camera: Some(config.camera.iter().map(camera).collect()),
            outbox: Some(OutboxSettings {
                max_bytes: config.outbox.max_bytes,
            }),
        }
    }

    /// A device's own configuration with these settings, checked.
    ///
    /// # Errors
    /// The reason in words.
    pub fn over(&self, own: &Config) -> Result<Config, String> {
        let mut config = own.clone();
        if let Some(DeviceSettings { groups }) = &self.device {
            config.device.groups.clone_from(groups);
        }
        if let Some(watches) = &self.watch {
            if watches.len() > MOST_WATCHES {
                let len = watches.len();
                return Err(format!(
                    "watch: {len} are too many; {MOST_WATCHES} are accepted"
                ));
            }
            watches.iter().try_for_each(|watch| own_files(watch, own))?;
            config.watch.clone_from(watches);
        }
        for settings in self.camera.iter().flatten() {
            let name = &settings.name;
            let camera = config.camera.iter_mut().find(|c| c.name == *name);
            let camera = camera.ok_or_else(|| format!("camera: this device has no \"{name}\""))?;
            camera.fps = settings.fps.or(camera.fps);
            for mask in &settings.mask {
                // What the device's own file masks stays so.
                if !camera.mask.contains(mask) {
                    camera.mask.push(*mask);
                }
            }
        }
        if let Some(OutboxSettings { max_bytes }) = self.outbox {
            if !OUTBOX_BYTES.contains(&max_bytes) {
                let (least, most) = (OUTBOX_BYTES.start(), OUTBOX_BYTES.end());
                return Err(format!(
                    "outbox.max_bytes: {max_bytes} is not accepted; {least} to {most} are"
                ));
            }
            config.outbox = OutboxConfig { max_bytes };
        }
        config.check().map_err(|e| e.to_string())?;
        Ok(config)
    }

    /// These settings with changes. Watches and cameras are changed by name: the keys that are given
    /// replace those that are there, null takes one away, and a new name is added.
    ///
    /// # Errors
    /// The reason in words.
    pub fn changed(&self, own: &Config, changes: &Map<String, Value>) -> Result<Self, String> {
        let now = self.over(own)?;
        let parts = |settings: &Settings| match serde_json::to_value(settings) {
            Ok(Value::Object(parts)) => parts,
            _ => Map::new(),
        };
        let (effective, mut changed) = (parts(&Settings::of(&now)), parts(self));
        for (key, change) in changes {
            let old = changed.get(key).or(effective.get(key)).cloned();
            let new = match (old, change) {
                (Some(Value::Array(old)), Value::Array(changes)) => {
                    // Cameras that stay as they are need not be named.
                    Value::Array(by_name(old, changes)?)
                }
                (Some(Value::Object(mut old)), Value::Object(change)) => {
                    merge(&mut old, change);
                    Value::Object(old)
                }
                (_, change) => change.clone(),
            };
            changed.insert(key.clone(), new);
        }
        Settings::read(changed)
    }
}

fn read<T: DeserializeOwned>(value: Value) -> Result<Option<T>, serde_json::Error> {
    serde_json::from_value(value)
}

/// Changes the members of a list by their names.
fn by_name(mut list: Vec<Value>, changes: &[Value]) -> Result<Vec<Value>, String> {
    for change in changes {
        let (Some(change), Some(name)) = (change.as_object(), change["name"].as_str()) else {
            return Err("every watch and camera that is to be changed has a name".to_owned());
        };
        let named = list.iter_mut().find(|old| old["name"] == *name);
        match named.and_then(Value::as_object_mut) {
            Some(old) => merge(old, change),
            None => list.push(Value::Object(change.clone())),
        }
    }
    Ok(list)
}

fn merge(old: &mut Map<String, Value>, change: &Map<String, Value>) {
    for (key, value) in change {
        if value.is_null() {
            old.remove(key);
        } else {
            old.insert(key.clone(), value.clone());
        }
    }
}

/// A watch from afar may name the files that the device's own watches name, and no others.
fn own_files(watch: &WatchConfig, own: &Config) -> Result<(), String> {
    let name = &watch.name;
    if let Some(SchemaConfig::File(file)) = &watch.schema
        && !own.watch.iter().any(|w| w.schema == watch.schema)
    {
        return Err(format!(
            "watch \"{name}\": schema: {file:?} is no file that this device's own watches name; a schema from afar stands there itself"
        ));
    }
    let examples = || own.watch.iter().flat_map(|w| &w.example);
    for example in &watch.example {
        let file = &example.picture;
        if !examples().any(|own| own.picture == *file) {
            return Err(format!(
                "watch \"{name}\": example: {file:?} is no file that this device's own watches name"
            ));
        }
    }
    for action in watch.steps.iter().flat_map(|steps| &steps.allow) {
        let mut own = own.watch.iter().filter_map(|w| w.steps.as_ref());
        if action.starts_with("output:") && !own.any(|steps| steps.allow.contains(action)) {
            return Err(format!(
                "watch \"{name}\": steps: {action:?} is not what this device's own watches may do"
            ));
        }
    }
    let names = |w: &WatchConfig| match &w.onnx.as_ref()?.classes {
        ClassesConfig::File(file) => Some(file.clone()),
        ClassesConfig::List(_) => None,
    };
    if let Some(file) = names(watch)
        && !own.watch.iter().any(|w| names(w).as_ref() == Some(&file))
    {
        return Err(format!(
            "watch \"{name}\": classes: {file:?} is no file that this device's own watches name"
        ));
    }
    if watch.when.starts_with("onnx:") && !own.watch.iter().any(|w| w.when == watch.when) {
        return Err(format!(
            "watch \"{name}\": when: {:?} is no file that this device's own watches name",
            watch.when
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn own() -> Config {
        let text = r#"
            [device]
            name = "porch"
            [broker]
            url = "mqtt://127.0.0.1"
            [[camera]]
            name = "door"
            source = "folder:a"
            mask = [[0.0, 0.0, 0.5, 0.5]]
            [[watch]]
            name = "who"
            camera = "door"
            when = "motion"
            ask = "who?"
            schema = "who.json"
            cooldown = "10s"
        "#;
        toml::from_str(text).unwrap()
    }

    fn settings(value: Value) -> Result<Config, String> {
        let Value::Object(config) = value else {
            panic!("an object")
        };
        Settings::read(config)?.over(&own())
    }

    #[test]
    fn settings_stand_over_the_devices_own_and_masks_are_added() {
        let config = settings(json!({
            "watch": [{"name": "n", "camera": "door", "when": "every:1h", "ask": "?",
                       "schema": {"type": "integer"}, "publish": ["answer", "picture"]}],
            "camera": [{"name": "door", "fps": 2, "mask": [[0.5, 0.5, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]]}],
            "outbox": {"max_bytes": 2_000_000},
        }))
        .unwrap();
        assert_eq!(config.watch.len(), 1);
        assert_eq!(config.camera[0].fps, Some(2.0));
        let masks = [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]];
        assert_eq!(config.camera[0].mask, masks);
        assert_eq!(config.outbox.max_bytes, 2_000_000);
        // What is reported may be desired.
        let same = Settings::of(&config).over(&own()).unwrap();
        assert_eq!(Settings::of(&same), Settings::of(&config));
        assert_eq!(settings(json!({})).unwrap().watch, own().watch);
    }

    #[test]
    fn what_may_not_be_set_is_refused_in_words() {
        let watch = |key: &str, value: Value| {
            let mut watch = json!({"name": "w", "camera": "door", "when": "motion", "ask": "?"});
            watch[key] = value;
            json!({"watch": [watch]})
        };
        let many: Vec<Value> = (0..33)
            .map(|n| json!({"name": n.to_string(), "camera": "door", "when": "motion", "ask": "?"}))
            .collect();
        for (value, words) in [
            (json!({"broker": {"url": "mqtt://elsewhere"}}), "broker"),
            (json!({"model": {"file": "x"}}), "model"),
            (json!({"commands": {"keys": []}}), "commands"),
            (json!({"camera": [{"name": "roof"}]}), "roof"),
            (
                json!({"camera": [{"name": "door", "source": "folder:/"}]}),
                "source",
            ),
            (json!({"camera": [{"name": "door", "fps": 0}]}), "fps"),
            (
                json!({"camera": [{"name": "door", "mask": [[0, 0, 2, 2]]}]}),
                "mask",
            ),
            (json!({"outbox": {"max_bytes": 1}}), "max_bytes"),
            (json!({"watch": many}), "too many"),
            (watch("schema", json!("/etc/shadow")), "/etc/shadow"),
            (
                watch("example", json!([{"picture": "x.png", "answer": 1}])),
                "x.png",
            ),
            (watch("when", json!("onnx:/etc/shadow")), "/etc/shadow"),
            (
                watch(
                    "steps",
                    json!({"ask": "Help.", "allow": ["output:light=on"]}),
                ),
                "output:light=on",
            ),
            (
                watch("onnx", json!({"classes": "/etc/shadow"})),
                "/etc/shadow",
            ),
            (watch("when", json!("noon")), "noon"),
            (watch("camera", json!("roof")), "roof"),
            (watch("colour", json!(1)), "colour"),
        ] {
            let refused = settings(value).unwrap_err();
            assert!(refused.contains(words), "{words}: {refused}");
        }
        settings(watch("schema", json!("who.json"))).unwrap();
    }

    #[test]
    fn changes_are_made_by_name_and_key() {
        let own = own();
        let changed = |settings: &Settings, changes: Value| {
            settings.changed(&own, changes.as_object().unwrap())
        };
        let first = changed(
            &Settings::default(),
            json!({"watch": [{"name": "who", "ask": "what?", "schema": null},
                             {"name": "day", "camera": "door", "when": "every:1h", "ask": "?"}]}),
        )
        .unwrap();
        let watches = first.watch.as_ref().unwrap();
        assert_eq!((&watches[0].ask[..], &watches[0].schema), ("what?", &None));
        assert_eq!(watches[0].cooldown, own.watch[0].cooldown);
        assert_eq!(watches[1].name, "day");
        assert_eq!(first.camera, None, "as the device's own file has it");
        let second = changed(&first, json!({"camera": [{"name": "door", "fps": 3}]})).unwrap();
        assert_eq!(second.watch, first.watch);
        assert_eq!(second.camera.unwrap()[0].fps, Some(3.0));
        let own_again = changed(&first, json!({"watch": null})).unwrap();
        assert_eq!(own_again, Settings::default());
        for (changes, words) in [
            (json!({"watch": [{"ask": "?"}]}), "name"),
            (json!({"watch": [{"name": "new"}]}), "camera"),
            (json!({"watch": 1}), "watch"),
            (json!({"broker": {}}), "broker"),
        ] {
            let refused = changed(&first, changes.clone()).unwrap_err();
            assert!(refused.contains(words), "{changes}: {refused}");
        }
    }
}
