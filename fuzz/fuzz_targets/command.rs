//! Commands over MQTT, signed ones too.
#![no_main]

use kinglet_agent::command::{Envelope, receive};
use kinglet_agent::signed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (String, Vec<u8>, Option<String>)| {
    let (name, payload, response_topic) = data;
    let envelope = Envelope {
        response_topic,
        correlation: None,
    };
    // What a signature would stand on, in a payload that holds it whole.
    let text = String::from_utf8_lossy(&payload);
    let key = format!("ed25519:{}", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    let sealed = serde_json::json!({ "signed": text, "key": key, "signature": name });
    let sealed = sealed.to_string().into_bytes();
    for name in [name.as_str(), "see", "draw", "set"] {
        let topic = format!("kinglet/porch/command/{name}");
        for payload in [&payload, &sealed] {
            let received = receive(&topic, payload, envelope.clone(), "new".to_owned());
            if let Ok(received) = received {
                if let Some(sealed) = &received.sealed {
                    let nobody = sealed.check(&topic, &[key.parse().expect("a public key")]);
                    assert!(nobody.is_err(), "nobody has this key");
                }
                let _ = received.command();
            }
        }
    }
    let _ = signed::read(&payload);
});
