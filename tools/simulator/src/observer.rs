//! A client that reads along: statuses, events, gaps.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{Client, Event, MqttOptions};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What has been read.
#[derive(Default)]
struct Read {
    online: HashSet<String>,
    offline: HashSet<String>,
    /// By device, the numbers of its events.
    events: HashMap<String, HashSet<u64>>,
    arrived: u64,
    repeated: u64,
    /// Messages about jobs.
    progress: u64,
    lags: Vec<u64>,
}

/// What it comes to.
pub(crate) struct Summary {
    pub(crate) offline: usize,
    pub(crate) repeated: u64,
    /// Numbers below a device's last that did not come.
    pub(crate) lost: u64,
    lags: Vec<u64>,
}

impl Summary {
    /// The lag that this share of the events does not exceed, in milliseconds.
    pub(crate) fn lag(&self, share: f64) -> Option<u64> {
        let at = (self.lags.len().saturating_sub(1) as f64 * share) as usize;
        self.lags.get(at).copied()
    }
}

/// Reads along in a thread of its own.
pub(crate) struct Observer {
    read: Arc<Mutex<Read>>,
}

impl Observer {
    /// Connects to 127.0.0.1.
    pub(crate) fn start(port: u16) -> Self {
        let mut options = MqttOptions::new("observer", "127.0.0.1", port);
        options.set_keep_alive(Duration::from_secs(60));
        options.set_receive_maximum(Some(u16::MAX));
        let (client, mut connection) = Client::new(options, 16);
        let read = Arc::new(Mutex::new(Read::default()));
        let mine = Arc::clone(&read);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        let _ = client.try_subscribe("kinglet/+/status", QoS::AtMostOnce);
                        let _ = client.try_subscribe("kinglet/+/event", QoS::AtLeastOnce);
                        let _ = client.try_subscribe("kinglet/+/job/+", QoS::AtLeastOnce);
                    }
                    Ok(Event::Incoming(Packet::Publish(publish))) => lock(&mine).take(&publish),
                    Ok(_) => {}
                    Err(e) => {
                        eprintln!("observer: {e}");
                        return;
                    }
                }
            }
        });
        Observer { read }
    }

    /// Devices that have said that they are online.
    pub(crate) fn online(&self) -> usize {
        lock(&self.read).online.len()
    }

    /// Devices that have said that they leave, or of which the broker says so.
    pub(crate) fn offline(&self) -> usize {
        lock(&self.read).offline.len()
    }

    /// Events that have arrived, each once.
    pub(crate) fn events(&self) -> u64 {
        lock(&self.read).arrived
    }

    /// Messages about jobs that have arrived.
    pub(crate) fn progress(&self) -> u64 {
        lock(&self.read).progress
    }

    pub(crate) fn summary(&self) -> Summary {
        let read = lock(&self.read);
        let lost = |numbers: &HashSet<u64>| {
            let last = numbers.iter().max().copied().unwrap_or(0);
            last - numbers.len() as u64
        };
        let mut lags = read.lags.clone();
        lags.sort_unstable();
        Summary {
            offline: read.offline.len(),
            repeated: read.repeated,
            lost: read.events.values().map(lost).sum(),
            lags,
        }
    }
}

fn lock(read: &Mutex<Read>) -> MutexGuard<'_, Read> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read {
    fn take(&mut self, publish: &Publish) {
        let topic = String::from_utf8_lossy(&publish.topic).into_owned();
        if topic.contains("/job/") {
            self.progress += 1;
            return;
        }
        let Ok(payload) = serde_json::from_slice::<Value>(&publish.payload) else {
            return;
        };
        if topic.ends_with("/status") {
            let set = match payload["state"].as_str() {
                Some("online") => &mut self.online,
                _ => &mut self.offline,
            };
            set.insert(topic);
            return;
        }
        let Some(seq) = payload["seq"].as_u64() else {
            return;
        };
        if !self.events.entry(topic).or_default().insert(seq) {
            self.repeated += 1;
            return;
        }
        self.arrived += 1;
        let at = payload["at"].as_str().unwrap_or_default();
        if let Ok(at) = OffsetDateTime::parse(at, &Rfc3339) {
            let lag = OffsetDateTime::now_utc() - at;
            self.lags.push(lag.whole_milliseconds().max(0) as u64);
        }
    }
}
