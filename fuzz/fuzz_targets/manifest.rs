//! Jobs and manifests of new models: what is read is sound, and no stranger's signature counts.
#![no_main]

use kinglet_agent::keys::PublicKey;
use kinglet_agent::update::Asked;
use kinglet_agent::update::back::Back;
use kinglet_agent::update::manifest::{Keys, Manifest};
use libfuzzer_sys::fuzz_target;

/// Some key that nobody here can sign with.
const KEY: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fuzz_target!(|data: &[u8]| {
    let key: PublicKey = KEY.parse().expect("it is a key");
    let keys = Keys {
        keys: vec![key],
        threshold: 1,
    };
    match kinglet_agent::update::parse(data) {
        Ok(Asked::Install(job)) => assert!(Manifest::open(&job.manifest, &keys).is_err()),
        Ok(Asked::Back(job)) => assert!(Back::open(&job.rollback, &keys).is_err()),
        Err(_) => {}
    }
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(back) = Back::parse(text) {
        assert!(back.check().is_ok() && back.expiry().is_ok());
    }
    if let Ok(manifest) = Manifest::parse(text) {
        for file in &manifest.files {
            assert!(!file.path.contains(['/', '\\', '\0']) && !file.path.starts_with('.'));
        }
        assert!(manifest.check().is_ok() && manifest.expiry().is_ok());
        let again = serde_json::to_string(&manifest).expect("it is JSON");
        assert_eq!(Manifest::parse(&again).as_ref(), Ok(&manifest));
    }
});
