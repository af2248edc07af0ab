//! `kinglet fleet watch`: what the devices do, as it happens.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use kinglet_agent::wire::{Delivery, Received};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::broker::Broker;
use super::cli::WatchArgs;
use super::roster::{self, Roster};
use super::text::{columns, length, plain, since};
use crate::cli::Cli;
use crate::failure::Outcome;

/// How often the table is drawn anew.
const OFTEN: Duration = Duration::from_millis(250);
/// How long a broken connection rests.
const RETRY: Duration = Duration::from_secs(1);
/// Characters of an answer.
const ANSWER: usize = 48;
/// Characters of a name.
const NAME: usize = 24;
/// Rows and columns of a terminal that does not say.
const SCREEN: (usize, usize) = (24, 80);

/// What is shown of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Event {
    seq: u64,
    at: String,
    watch: String,
    answer: Value,
}

/// What is known of a device's events.
#[derive(Debug, Default)]
struct Events {
    last: Option<Event>,
    /// From the frame to its arrival here.
    lag: Option<Duration>,
    count: u64,
    lost: u64,
}

impl Events {
    /// Takes an event; returns whether it is new.
    fn take(&mut self, event: Event, lag: Option<Duration>) -> bool {
        if let Some(last) = self.last.as_ref().map(|last| last.seq) {
            // The first of all again is a device with new state; every other repeat is the same event.
            if event.seq <= last && event.seq != 1 {
                return false;
            }
            self.lost += event.seq.saturating_sub(last + 1);
        }
        self.count += 1;
        self.lag = lag;
        self.last = Some(event);
        true
    }
}

/// All devices.
#[derive(Default)]
struct Fleet {
    devices: Roster,
    events: BTreeMap<String, Events>,
    seen: u64,
    note: Option<String>,
}

pub(crate) async fn run(cli: &Cli, broker: &mut Broker, args: &WatchArgs) -> Outcome {
    let wanted = args.events.unwrap_or(u64::MAX);
    let live = !cli.json && std::io::stdout().is_terminal();
    let mut fleet = Fleet::default();
    subscribe(broker).await?;
    let mut drawn = Instant::now();
    while fleet.seen < wanted {
        match broker.next(drawn + OFTEN).await {
            Ok(Some(publish)) => {
                let line = fleet.take(&publish, cli.json);
                if let Some(line) = line.filter(|_| !live) {
                    writeln!(std::io::stdout(), "{line}")?;
                }
            }
            Ok(None) => {}
            Err(e) => {
                let note = format!("{e}; trying again");
                if live {
                    fleet.note = Some(note);
                    fleet.draw()?;
                } else {
                    eprintln!("kinglet: {note}");
                }
                *broker = again(broker).await;
                fleet.note = None;
            }
        }
        if live && drawn.elapsed() >= OFTEN {
            fleet.draw()?;
            drawn = Instant::now();
        } else if !live {
            drawn = Instant::now();
        }
    }
    if live {
        fleet.draw()?;
    }
    Ok(())
}

async fn subscribe(broker: &mut Broker) -> Outcome {
    let topics = ["kinglet/+/status".to_owned(), "kinglet/+/event".to_owned()];
    broker.subscribe(&topics[..1], Delivery::AtMostOnce).await?;
    broker.subscribe(&topics[1..], Delivery::AtLeastOnce).await
}

/// A new connection, as soon as there can be one.
async fn again(broker: &Broker) -> Broker {
    loop {
        tokio::time::sleep(RETRY).await;
        if let Ok(mut new) = broker.again().await
            && subscribe(&mut new).await.is_ok()
        {
            return new;
        }
    }
}

impl Fleet {
    /// Takes a message; returns a line about it, if there is something to say.
    fn take(&mut self, publish: &Received, as_json: bool) -> Option<String> {
        let topic = &publish.topic[..];
        let now = OffsetDateTime::now_utc();
        let Some(name) = topic
            .strip_prefix("kinglet/")
            .and_then(|t| t.strip_suffix("/event"))
        else {
            let before = roster::name(topic).and_then(|name| self.devices.get(name));
            let before = before.map(|d| d.status.state.clone());
            let name = roster::enter(&mut self.devices, publish)?;
            let state = self.devices.get(&name).map(|d| d.status.state.clone());
            if state == before {
                return None;
            }
            let state = state.unwrap_or_else(|| "forgotten".to_owned());
            return Some(match as_json {
                true => json!({ "device": name, "state": state }).to_string(),
                false => format!("{}  {}", plain(&name, 64), plain(&state, NAME)),
            });
        };
        let event: Event = serde_json::from_slice(&publish.payload).ok()?;
        let lag = since(&event.at, now);
        let of_device = self.events.entry(name.to_owned()).or_default();
        let (lost, seq) = (of_device.lost, event.seq);
        if !of_device.take(event, lag) {
            return None;
        }
        self.seen += 1;
        let lost = of_device.lost - lost;
        if as_json {
            let event: Value = serde_json::from_slice(&publish.payload).ok()?;
            let lag = lag.map(|lag| lag.as_millis() as u64);
            let line = json!({ "device": name, "event": event, "lag_ms": lag, "lost": lost });
            return Some(line.to_string());
        }
        let last = of_device.last.as_ref()?;
        let (watch, answer) = (plain(&last.watch, NAME), said(&last.answer, ANSWER));
        let lag = lag.map_or("-".to_owned(), length);
        let lost = match lost {
            0 => String::new(),
            n => format!("  ({n} lost before it)"),
        };
        Some(format!(
            "{}  event {seq}  {watch}: {answer}  lag {lag}{lost}",
            plain(name, 64)
        ))
    }

    /// The table, over the one before.
    fn draw(&self) -> Outcome {
        let mut out = std::io::stdout();
        let (height, width) = rustix::termios::tcgetwinsize(&out).map_or(SCREEN, |size| {
            (usize::from(size.ws_row), usize::from(size.ws_col))
        });
        let mut rows = columns(&self.rows(OffsetDateTime::now_utc()));
        let most = height.saturating_sub(2).max(2);
        if rows.len() > most {
            let more = rows.len() - most + 1;
            rows.truncate(most - 1);
            rows.push(format!("and {more} more devices"));
        }
        let mut screen = "\x1b[H".to_owned();
        let note = self.note.as_deref().unwrap_or("Ctrl-C ends");
        for row in rows.iter().map(String::as_str).chain([note]) {
            screen += &plain(row, width);
            screen += "\x1b[K\n";
        }
        screen += "\x1b[J";
        out.write_all(screen.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    fn rows(&self, now: OffsetDateTime) -> Vec<Vec<String>> {
        let head = [
            "DEVICE",
            "STATE",
            "MODEL",
            "TEMP",
            "EVENTS",
            "LOST",
            "LAG",
            "WHEN",
            "LAST EVENT",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let none = || "-".to_owned();
        let names = self.devices.keys().chain(self.events.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        for name in names {
            let status = self.devices.get(name).map(|d| &d.status);
            let events = self.events.get(name);
            let last = events.and_then(|e| e.last.as_ref());
            let said =
                last.map(|e| format!("{}: {}", plain(&e.watch, NAME), said(&e.answer, ANSWER)));
            let temperature = status.and_then(|s| s.temperature);
            rows.push(vec![
                plain(name, 64),
                status.map_or_else(none, |s| plain(&s.state, NAME)),
                status.map_or_else(none, |s| plain(&s.model.name, NAME)),
                temperature.map_or_else(none, |t| format!("{t:.0} °C")),
                events.map_or(0, |e| e.count).to_string(),
                events.map_or(0, |e| e.lost).to_string(),
                events.and_then(|e| e.lag).map_or_else(none, length),
                last.and_then(|e| since(&e.at, now))
                    .map_or_else(none, length),
                said.unwrap_or_else(none),
            ]);
        }
        rows
    }
}

fn said(answer: &Value, most: usize) -> String {
    match answer.as_str() {
        Some(text) => plain(text, most),
        None => plain(&answer.to_string(), most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_lost_repeats_are_not_and_a_new_beginning_is_one() {
        let mut events = Events::default();
        let mut take = |seq| {
            let event = Event {
                seq,
                ..Event::default()
            };
            events.take(event, None);
            (events.count, events.lost)
        };
        // What was before the first that is seen was not lost here.
        assert_eq!(take(7), (1, 0));
        assert_eq!(take(8), (2, 0));
        assert_eq!(take(8), (2, 0));
        assert_eq!(take(12), (3, 3));
        assert_eq!(take(1), (4, 3));
        assert_eq!(take(2), (5, 3));
    }
}
