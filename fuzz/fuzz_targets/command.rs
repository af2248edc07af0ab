//! Commands over MQTT.
#![no_main]

use kinglet_agent::command::{Envelope, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (String, Vec<u8>, Option<String>)| {
    let (name, payload, response_topic) = data;
    let envelope = Envelope {
        response_topic,
        correlation: None,
    };
    for name in [name.as_str(), "see", "draw"] {
        let topic = format!("kinglet/porch/command/{name}");
        let _ = parse(&topic, &payload, envelope.clone(), "new".to_owned());
    }
});
