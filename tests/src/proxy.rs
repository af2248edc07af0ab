//! What breaks the connection between a device and its broker, and reads along: only what the broker has
//! acknowledged here has arrived.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::Error;
use rumqttc::v5::mqttbytes::v5::Packet;

/// How often a connection looks whether it is still wanted.
const TURN: Duration = Duration::from_millis(10);
/// The largest packet that is understood.
const LARGEST: u32 = 64 << 20;

/// A message that the broker has acknowledged.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Bytes,
}

/// A proxy on a free port of loopback.
pub struct Proxy {
    /// Its port.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    broker: u16,
    frozen: AtomicBool,
    /// A connection of an older generation is cut.
    generation: AtomicU64,
    arrived: Mutex<Vec<Arrived>>,
    /// What was no MQTT.
    broken: Mutex<Option<String>>,
}

impl Proxy {
    /// Starts one before the broker on this port.
    pub fn start(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            broker,
            frozen: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            arrived: Mutex::new(Vec::new()),
            broken: Mutex::new(None),
        });
        let of_listener = Arc::clone(&shared);
        std::thread::spawn(move || {
            for device in listener.incoming().flatten() {
                // A broker that is not there: the device sees its connection end.
                if let Ok(broker) = TcpStream::connect((Ipv4Addr::LOCALHOST, of_listener.broker)) {
                    connect(&of_listener, device, broker);
                }
            }
        });
        Proxy { port, shared }
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Passes nothing on, while connections stay open, or goes on.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Ordering::SeqCst);
    }

    /// What the broker has acknowledged so far, repeats included.
    pub fn arrived(&self) -> Vec<Arrived> {
        let broken = self.shared.broken.lock().unwrap().clone();
        assert_eq!(broken, None, "the device or the broker speaks no MQTT");
        self.shared.arrived.lock().unwrap().clone()
    }
}

/// Messages that were sent on a connection and not acknowledged yet, by packet id.
type Underway = Arc<Mutex<HashMap<u16, Arrived>>>;

fn connect(shared: &Arc<Shared>, device: TcpStream, broker: TcpStream) {
    let underway = Underway::default();
    let generation = shared.generation.load(Ordering::SeqCst);
    for (from, to) in [(&device, &broker), (&broker, &device)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (shared, underway) = (Arc::clone(shared), Arc::clone(&underway));
        std::thread::spawn(move || {
            pump(&shared, generation, &from, &to, &underway);
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

/// Passes bytes on until one end closes or the connection is cut.
fn pump(
    shared: &Shared,
    generation: u64,
    mut from: &TcpStream,
    mut to: &TcpStream,
    underway: &Underway,
) {
    from.set_read_timeout(Some(TURN)).unwrap();
    let (mut buffer, mut unread) = (vec![0; 64 << 10], BytesMut::new());
    while shared.generation.load(Ordering::SeqCst) == generation {
        if shared.frozen.load(Ordering::SeqCst) {
            std::thread::sleep(TURN);
            continue;
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => read,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
            Err(_) => return,
        };
        unread.extend_from_slice(&buffer[..read]);
        read_along(shared, &mut unread, underway);
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn read_along(shared: &Shared, unread: &mut BytesMut, underway: &Underway) {
    loop {
        match Packet::read(unread, Some(LARGEST)) {
            Ok(Packet::Publish(publish)) => {
                let message = Arrived {
                    topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                    payload: publish.payload,
                };
                underway.lock().unwrap().insert(publish.pkid, message);
            }
            Ok(Packet::PubAck(ack)) => {
                if let Some(message) = underway.lock().unwrap().remove(&ack.pkid) {
                    shared.arrived.lock().unwrap().push(message);
                }
            }
            // A packet that ends after its length, a goodbye say, has been read too.
            Ok(_) | Err(Error::PayloadRequired) => {}
            Err(Error::InsufficientBytes(_)) => return,
            Err(e) => {
                *shared.broken.lock().unwrap() = Some(e.to_string());
                return;
            }
        }
    }
}
