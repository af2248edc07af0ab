//! An emulated AArch64 board with a camera, made by tests/board/build.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::program::Running;

/// How long the board may take to start, or to do what it is told: it is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running board. It is stopped when it is dropped.
pub struct Board {
    _process: Running,
    serial: ChildStdin,
    lines: Receiver<String>,
}

impl Board {
    /// Starts the board of the folder `KINGLET_BOARD`, whose agent connects to the broker at this port of
    /// this machine. Returns the other end of its USB adapter's serial line, too.
    pub fn start(port: u16) -> (Self, UnixStream) {
        let sockets = tempfile::tempdir().unwrap();
        let socket = sockets.path().join("line");
        let listener = UnixListener::bind(&socket).unwrap();
        let folder = std::env::var_os("KINGLET_BOARD").expect("KINGLET_BOARD names a folder");
        let folder = PathBuf::from(folder);
        let mut command = Command::new("qemu-system-aarch64");
        // Emulated even where it need not be: the processor is another one in any case.
        command
            .args(["-M", "virt", "-cpu", "cortex-a76", "-accel", "tcg"])
            .args(["-smp", "2", "-m", "512", "-nographic", "-no-reboot"])
            .args(["-netdev", "user,id=net"])
            // Nothing is started from the network, so it needs no boot ROM.
            .args(["-device", "virtio-net-pci,netdev=net,romfile="])
            .args(["-device", "qemu-xhci", "-chardev"])
            .arg(format!("socket,id=line,path={}", socket.display()))
            .args(["-device", "usb-serial,chardev=line"])
            .arg("-kernel")
            .arg(folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(folder.join("initrd.gz"))
            .arg("-append")
            .arg(format!(
                "console=ttyAMA0 quiet panic=-1 rdinit=/init kinglet.broker={port}"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().expect("qemu-system-aarch64 is installed");
        let (line, _) = listener.accept().unwrap();
        let serial = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                println!("board: {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let board = Board {
            _process: Running(process),
            serial,
            lines,
        };
        board.wait("BOARD: ready");
        (board, line)
    }

    /// Runs a command on the board; it must succeed.
    pub fn run(&mut self, command: &str) {
        writeln!(self.serial, "{command}").unwrap();
        let answer = self.wait(command);
        assert!(answer.contains("BOARD: 0 "), "{answer}");
    }

    /// The next line of the board that begins with BOARD and holds this.
    fn wait(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("the board does not say \"{text}\": {e}"));
            // What is typed is echoed.
            if line.contains("BOARD: ") && line.contains(text) {
                return line;
            }
        }
    }
}
