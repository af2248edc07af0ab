//! The companion's firmware on an emulated microcontroller: an LM3S6965 of QEMU's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::Running;

/// How long the emulator may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where its pins can be read: port F, bit 0 (the wake line) and bit 2 (the board's power).
const WAKE: u32 = 0x4002_5004;
const POWER: u32 = 0x4002_5010;

/// A running microcontroller. It is stopped when it is dropped.
pub struct Microcontroller {
    _process: Running,
    _folder: TempDir,
    monitor: BufReader<UnixStream>,
}

impl Microcontroller {
    /// Starts the firmware that `KINGLET_FIRMWARE` names. Returns its serial line, too.
    pub fn start() -> (Self, UnixStream) {
        let firmware = std::env::var_os("KINGLET_FIRMWARE").expect("KINGLET_FIRMWARE names a file");
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| folder.path().join(name);
        let mut command = Command::new("qemu-system-arm");
        command
            .args(["-M", "lm3s6965evb", "-accel", "tcg", "-nographic"])
            .args(["-monitor", "none", "-chardev"])
            .arg(format!(
                "socket,id=line,path={},server=on,wait=off",
                socket("line").display()
            ))
            .args(["-serial", "chardev:line", "-qmp"])
            .arg(format!(
                "unix:{},server=on,wait=off",
                socket("qmp").display()
            ))
            .arg("-kernel")
            .arg(firmware)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let process = Running(command.spawn().expect("qemu-system-arm is installed"));
        let connect = |name: &str| {
            let end = Instant::now() + PATIENCE;
            loop {
                match UnixStream::connect(socket(name)) {
                    Ok(stream) => return stream,
                    Err(e) if Instant::now() > end => panic!("no {name} of the emulator: {e}"),
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        };
        let monitor = connect("qmp");
        monitor.set_read_timeout(Some(PATIENCE)).unwrap();
        let line = connect("line");
        let mut microcontroller = Microcontroller {
            _process: process,
            _folder: folder,
            monitor: BufReader::new(monitor),
        };
        microcontroller.ask("qmp_capabilities", json!({}));
        microcontroller.settle();
        (microcontroller, line)
    }

    /// Presses or releases the contact at input 0, which is low while it is pressed.
    pub fn press(&mut self, down: bool) {
        let key = json!({"type": "qcode", "data": "up"});
        let event = json!({"type": "key", "data": {"down": down, "key": key}});
        self.ask("input-send-event", json!({"events": [event]}));
    }

    /// Whether the board is to be awake.
    pub fn wake(&mut self) -> bool {
        self.word(WAKE) != 0
    }

    /// Whether the board's power is cut.
    pub fn power_cut(&mut self) -> bool {
        self.word(POWER) != 0
    }

    /// Resets the chip. Its memory stays as it is.
    pub fn reset(&mut self) {
        self.ask("system_reset", json!({}));
        std::thread::sleep(Duration::from_millis(200));
        self.settle();
    }

    /// Until its first edge the emulated pin is low.
    fn settle(&mut self) {
        self.press(true);
        self.press(false);
    }

    /// Stops the chip's clock, or lets it run.
    pub fn pause(&mut self, paused: bool) {
        self.ask(if paused { "stop" } else { "cont" }, json!({}));
    }

    fn word(&mut self, address: u32) -> u32 {
        let line = format!("xp /1wx {address:#x}");
        let text = self.ask("human-monitor-command", json!({"command-line": line}));
        let text = text.as_str().unwrap();
        let word = text.rsplit("0x").next().unwrap().trim();
        u32::from_str_radix(word, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.monitor.get_mut(), "{line}").unwrap();
        loop {
            let mut answer = String::new();
            self.monitor.read_line(&mut answer).unwrap();
            let mut answer: Value = serde_json::from_str(&answer).unwrap();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }
}
