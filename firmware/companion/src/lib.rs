//! When a microcontroller wakes a board, and when it cuts the board's power. Pure logic over embedded-hal's
//! traits: registers, interrupts and the clock are the binary's.
//!
//! `companion` everything together; `debounce` a level that lasts; `rule` when an input wakes; `watchdog` the
//! board's signs of life; `log` what is remembered while the board sleeps; `update` and `boot` new firmware in
//! two slots, and `flash` how they lie in the flash.
#![no_std]

#[cfg(test)]
extern crate std;

mod boot;
mod companion;
mod debounce;
mod flash;
mod log;
mod rule;
mod update;
mod watchdog;

pub use boot::{Boot, NoImage, boot};
pub use companion::{Companion, Identity, LightSensor, NoLight, Parts, Then};
pub use flash::{Layout, LayoutError, PAGE, Slot};
pub use log::ENTRIES;
pub use rule::MOST_COUNT;
pub use update::{NoUpdates, Slots, Updater};
