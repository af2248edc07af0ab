//! Frames in, answers out: the agent around any engine that sees and draws.
//!
//! # Layout
//! - [`config`]: what a user writes; unknown keys are refused by name.
//! - [`engine`]: the trait [`Engine`]: what the agent needs of a model.
//! - [`frame`]: [`Frame`], a picture of a camera.
//! - [`camera`]: sources of frames, one file a kind; [`slot`]: the newest frame, older ones are
//!   dropped and counted.
//! - [`trigger`]: when a frame is looked at, one file a kind (networks: a folder); [`schedule`]: times of the day; `gate`: hours,
//!   rests and rates that no trigger passes; [`watch`](mod@watch): what is asked then; `life`: what becomes
//!   of an event. [`period`]: lengths of time as users write them; `area`: parts of a picture.
//! - [`companion`]: the microcontroller that wakes the board.
//! - [`regime`]: what the device may do now, as hot as it is.
//! - [`steps`]: what may be done about what was seen; [`output`]: what may be switched.
//! - `lookout`: the thread of a watch.
//! - [`message`]: the payloads on the wire; [`topic`]: their topics; [`command`]: what is asked over
//!   MQTT, checked.
//! - [`outbox`]: messages on disk until the broker has them; `ballast`: room for a full disk.
//! - `inbox`: what becomes of messages that come in.
//! - [`groups`]: whose commands it follows beside its own.
//! - [`wire`]: connections in MQTT 5 and 3.1.1; [`link`]: the one task that talks to the broker; `held`: topics that it refuses; [`security`]: certificates, keys, passwords.
//! - [`keys`]: who may tell a device what to do: ed25519; [`state`]: what must survive a restart;
//!   [`clock`]: whether the time is known.
//! - [`signed`]: the format of signed commands; `orders`: which are obeyed; `nonces`: once each.
//! - [`operation`]: numbers for Prometheus, and whether all is well; `temperature`: how hot the board is.
//! - [`shadow`]: configuration from afar; `crew`: the threads that it starts and stops.
//! - `homeassistant`: what makes Home Assistant know the device.
//! - [`update`]: new models.
//! - `pending`: commands that wait, and may be called off.
//! - [`worker`]: the one thread that computes; [`attempts`]: drawings that are looked at and drawn again.
//! - [`agent`](mod@agent): [`Agent`], all of it wired together.
//! - [`error`]: what is refused.
//!
//! The agent knows no tensors and not which model sits behind [`Engine`].

pub mod agent;
mod area;
pub mod attempts;
mod ballast;
pub mod camera;
pub mod clock;
pub mod command;
pub mod companion;
pub mod config;
mod crew;
pub mod engine;
pub mod error;
pub mod frame;
mod gate;
pub mod groups;
mod held;
mod homeassistant;
mod inbox;
pub mod keys;
mod life;
pub mod link;
mod lookout;
pub mod message;
mod nonces;
pub mod operation;
mod orders;
pub mod outbox;
pub mod output;
mod pending;
pub mod period;
pub mod regime;
pub mod schedule;
#[cfg(test)]
mod schemas;
pub mod security;
pub mod shadow;
pub mod signed;
pub mod slot;
pub mod state;
pub mod steps;
mod temperature;
pub mod topic;
pub mod trigger;
pub mod update;
pub mod watch;
pub mod wire;
pub mod worker;

pub use agent::Agent;
pub use config::Config;
pub use engine::{
    DrawRequest, Engine, EngineError, Example, Form, ModelInfo, Progress, Question, Step,
};
pub use error::{AgentError, Result};
pub use frame::{Frame, Picture};
pub use regime::Regime;
