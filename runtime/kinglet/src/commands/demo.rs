//! `kinglet demo`: the main job on one machine, for real: a broker on loopback, the agent with a
//! clip of frames as camera, and a second client that prints what comes through the broker and asks
//! for a drawing.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kinglet_agent::config::{CameraConfig, WatchConfig};
use kinglet_agent::link::Connection;
use kinglet_agent::{Agent, Config};
use kinglet_container::atomic;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use serde::Deserialize;
use serde_json::{Value, json};

use super::run::interrupted;
use crate::bar::Bar;
use crate::cli::{Cli, DemoArgs};
use crate::failure::{Failure, Outcome};
use crate::loader::load;

/// The clip's frames, made by `runtime/kinglet/build.rs` from runtime/assets/clip.
mod clip {
    include!(concat!(env!("OUT_DIR"), "/clip.rs"));
}

const DEVICE: &str = "demo";
/// Frames a second at which the clip is played.
const FRAME_RATE: u32 = 5;
const PROMPT: &str = "a burger on a blue background";
const SEED: u64 = 1;
const DRAW_ID: &str = "demo-drawing";
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Truth {
    ask: String,
    scenes: Vec<Scene>,
}

#[derive(Deserialize)]
struct Scene {
    answer: String,
}

pub(crate) fn run(cli: &Cli, args: &DemoArgs) -> Outcome {
    super::log("warn");
    if cli.json && args.events.is_none() {
        return Err(Failure::new(
            "--json needs --events N: without it the demo never ends",
        ));
    }
    let truth: Truth = serde_json::from_slice(clip::TRUTH)?;
    let folder = tempfile::tempdir()?;
    let frames = folder.path().join("clip");
    std::fs::create_dir(&frames)?;
    for (name, bytes) in clip::FRAMES {
        std::fs::write(frames.join(name), bytes)?;
    }
    let url = match &args.broker {
        Some(url) => url.clone(),
        None => start_broker()?,
    };
    let config = configuration(&url, &truth.ask);
    config.check()?;
    let device = args.compute.device.open()?;
    let engine = load(cli.model.as_deref(), &device, Arc::default())?;
    let model = engine.info.name.clone();

    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let agent = Agent::start(&config, folder.path(), &folder.path().join("state"), engine)?;
        let mut viewer = Viewer {
            quiet: cli.json,
            model: &model,
            wanted: args.events,
            truth: &truth,
            output: &args.output,
            events: Vec::new(),
            picture: None,
            asked: None,
            bar: Bar::new("drawing"),
        };
        let result = tokio::select! {
            result = viewer.watch(&config, &agent) => result,
            result = interrupted() => result,
        };
        drop(viewer.bar);
        agent.stop().await;
        result.map(|()| (viewer.events, viewer.picture))
    });
    // The broker's threads end with the process.
    runtime.shutdown_background();
    let (events, picture) = result?;
    if cli.json {
        super::print(true, &json!({ "events": events, "picture": picture }), "")?;
    }
    Ok(())
}

fn configuration(url: &str, ask: &str) -> Config {
    let source = format!("folder:clip?fps={FRAME_RATE}");
    Config {
        camera: vec![CameraConfig::new("clip", &source)],
        watch: vec![WatchConfig::new("who", "clip", "motion", ask)],
        ..Config::new(DEVICE, url)
    }
}

/// Starts a broker on a free port of loopback, in threads of its own.
fn start_broker() -> Outcome<String> {
    // The port is free when it is chosen; if somebody takes it in between, the broker says so.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let server = rumqttd::ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections: rumqttd::ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 16 << 20,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    let config = rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 16,
            max_outgoing_packet_count: 200,
            max_segment_size: 8 << 20,
            max_segment_count: 4,
            ..rumqttd::RouterConfig::default()
        },
        v5: Some([("demo".to_owned(), server)].into()),
        ..rumqttd::Config::default()
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            if let Err(e) = rumqttd::Broker::new(config).start() {
                tracing::error!("the demo's broker stopped: {e}");
            }
        })?;
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(listen).is_err() {
        if Instant::now() > deadline {
            return Err(Failure::new(format_args!(
                "the demo's broker does not answer on {listen}"
            )));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(format!("mqtt://{listen}"))
}

/// The second client: prints what comes through the broker.
struct Viewer<'a> {
    quiet: bool,
    /// The model's name.
    model: &'a str,
    wanted: Option<u64>,
    truth: &'a Truth,
    output: &'a Path,
    events: Vec<Value>,
    picture: Option<Value>,
    /// When the drawing was asked for.
    asked: Option<Instant>,
    bar: Bar,
}

impl Viewer<'_> {
    async fn watch(&mut self, config: &Config, agent: &Agent) -> Outcome {
        let address = config.broker.address()?;
        let mut options = MqttOptions::new("kinglet-demo-viewer", &address.host, address.port);
        options.set_max_packet_size(Some(16 << 20));
        let (client, mut events) = AsyncClient::new(options, 16);
        // First the subscription, then the agent's first event: nothing is missed.
        let subscribed = tokio::time::timeout(PATIENCE, subscribe(&client, &mut events)).await;
        let reason = match subscribed {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some("it does not answer".to_owned()),
        };
        if let Some(reason) = reason {
            return Err(Failure::new(format_args!(
                "no broker at {}: {reason}; start one there, or leave --broker out",
                config.broker.url
            )));
        }
        let connection = agent.connection();
        self.say(&format!(
            "camera \"clip\" at {FRAME_RATE} frames a second, broker {}, model {}; Ctrl-C ends",
            config.broker.url, self.model
        ))?;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    self.received(&client, &topic, &publish.payload)?;
                    if self.done() {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(e) => {
                    let reason = match &*connection.borrow() {
                        Connection::Down(reason) => reason.clone(),
                        Connection::Up => e.to_string(),
                    };
                    return Err(Failure::new(format_args!("the broker is gone: {reason}")));
                }
            }
        }
    }

    fn received(&mut self, client: &AsyncClient, topic: &str, payload: &[u8]) -> Outcome {
        let rest = topic.strip_prefix("kinglet/demo/").unwrap_or_default();
        match rest {
            "event" => {
                let event: Value = serde_json::from_slice(payload)?;
                self.event(event)?;
                if self.asked.is_none() {
                    self.asked = Some(Instant::now());
                    self.say(&format!("asking for a drawing: \"{PROMPT}\""))?;
                    let command =
                        json!({ "id": DRAW_ID, "args": { "prompt": PROMPT, "seed": SEED } });
                    let topic = format!("kinglet/{DEVICE}/command/draw");
                    let payload = command.to_string();
                    client.try_publish(topic, QoS::AtLeastOnce, false, payload)?;
                }
            }
            "image/demo-drawing" => {
                atomic::write(self.output, payload)?;
            }
            "result/demo-drawing" => {
                let result: Value = serde_json::from_slice(payload)?;
                self.result(result)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn event(&mut self, event: Value) -> Outcome {
        // The clip starts with the agent and every scene is looked at once, so events and scenes
        // have the same order.
        let scene = &self.truth.scenes[self.events.len() % self.truth.scenes.len()];
        let answer = event["answer"].as_str().unwrap_or_default();
        let verdict = if answer == scene.answer {
            "right".to_owned()
        } else {
            format!("wrong: it is {}", scene.answer)
        };
        self.say(&format!(
            "event {}  {}  {answer}  ({verdict}; {} ms)",
            event["seq"],
            event["at"].as_str().unwrap_or_default(),
            event["timing"]["see"]
        ))?;
        self.events.push(event);
        Ok(())
    }

    fn result(&mut self, result: Value) -> Outcome {
        if let (Some(step), Some(of)) = (result["step"].as_u64(), result["of"].as_u64()) {
            self.bar.show(step as usize, of as usize);
        } else if let Some(error) = result["error"].as_str() {
            return Err(Failure::new(format_args!("the drawing failed: {error}")));
        } else {
            self.bar = Bar::new("drawing");
            let ms = self.asked.map_or(0, |t| t.elapsed().as_millis());
            self.say(&format!("drawn in {ms} ms: {}", self.output.display()))?;
            self.picture = Some(json!({ "file": self.output, "result": result }));
        }
        Ok(())
    }

    fn done(&self) -> bool {
        let wanted = self.wanted.unwrap_or(u64::MAX);
        self.events.len() as u64 >= wanted && self.picture.is_some()
    }

    /// Prints a line; an error if nobody reads any more.
    fn say(&self, line: &str) -> Outcome {
        if !self.quiet {
            writeln!(std::io::stdout(), "{line}")?;
        }
        Ok(())
    }
}

async fn subscribe(
    client: &AsyncClient,
    events: &mut EventLoop,
) -> Result<(), rumqttc::v5::ConnectionError> {
    let mut asked = false;
    loop {
        match events.poll().await? {
            Event::Incoming(Packet::ConnAck(_)) if !asked => {
                let topic = format!("kinglet/{DEVICE}/#");
                asked = client.try_subscribe(topic, QoS::AtLeastOnce).is_ok();
            }
            Event::Incoming(Packet::SubAck(_)) => return Ok(()),
            _ => {}
        }
    }
}
