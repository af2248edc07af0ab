//! Configurations from afar.
#![no_main]

use kinglet_agent::Config;
use kinglet_agent::config::{CameraConfig, WatchConfig};
use kinglet_agent::shadow::{Settings, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    let mut own = Config::new("porch", "mqtt://127.0.0.1");
    own.camera.push(CameraConfig::new("door", "folder:a"));
    own.watch
        .push(WatchConfig::new("who", "door", "motion", "?"));
    let mut net = WatchConfig::new("net", "door", "onnx:a.onnx", "?");
    let onnx = serde_json::json!({"classes": ["a"]});
    net.onnx = Some(serde_json::from_value(onnx).expect("it is one"));
    own.watch.push(net);
    let Ok((desired, _)) = parse(payload) else {
        return;
    };
    // As the command `set`, whose arguments look the same.
    if let Ok(changed) = Settings::default().changed(&own, &desired.config) {
        let _ = changed.over(&own);
    }
    let Ok(settings) = Settings::read(desired.config) else {
        return;
    };
    if let Ok(config) = settings.over(&own) {
        // What is reported can be desired.
        let reported = Settings::of(&config);
        let same = reported.over(&own).expect("it runs already");
        assert_eq!(Settings::of(&same), reported);
        assert_eq!(config.broker.url, own.broker.url);
    }
});
