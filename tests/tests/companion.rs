//! The companion's firmware on an emulated microcontroller, first alone and then as the waker of an agent of this
//! machine. `KINGLET_FIRMWARE` names its file.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kinglet_link::{
    Capabilities, Fault, Hello, InputRule, LONGEST_FRAME, Link, Reset, Settings, ToBoard,
    ToCompanion, Update, UpdateFault, UpdateReply, Watchdog, What,
};
use kinglet_tests::microcontroller::Microcontroller;
use kinglet_tests::wire::Wire;
use kinglet_tests::{Mosquitto, Running, Viewer, device, kinglet};
use serde_json::Value;

/// How long an answer may take. Far more than it needs: machines are shared.
const PATIENCE: Duration = Duration::from_secs(30);

/// A board's end of the line.
struct Board {
    link: Link<ToCompanion, ToBoard, 8>,
    line: UnixStream,
    start: Instant,
}

impl Board {
    fn new(line: UnixStream, session: u16) -> Self {
        line.set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        Board {
            link: Link::new(session),
            line,
            start: Instant::now(),
        }
    }

    /// One turn: what was heard.
    fn turn(&mut self) -> Vec<ToBoard> {
        let now = self.start.elapsed().as_millis() as u64;
        let mut out = [0; LONGEST_FRAME];
        while let Some(frame) = self.link.transmit(now, &mut out) {
            self.line.write_all(frame).unwrap();
        }
        let mut bytes = [0; 256];
        let length = self.line.read(&mut bytes).unwrap_or(0);
        let bytes = bytes[..length].iter();
        bytes.filter_map(|&b| self.link.receive(b, now)).collect()
    }

    fn say(&mut self, message: ToCompanion) {
        self.link.send(message).unwrap();
    }

    /// Goes on until something is heard.
    fn hear<T>(&mut self, what: &str, wanted: impl Fn(&ToBoard) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(found) = self.turn().iter().find_map(&wanted) {
                return found;
            }
        }
        panic!("{what} is not heard");
    }

    fn settle(&mut self, settings: Settings) -> Result<(), Fault> {
        self.say(ToCompanion::Settings(settings));
        self.hear("an answer to settings", |m| match m {
            ToBoard::Settings(answer) => Some(*answer),
            _ => None,
        })
    }

    fn hello(&mut self) -> Hello {
        self.hear("hello", |m| match m {
            ToBoard::Hello(hello) => Some(*hello),
            _ => None,
        })
    }

    fn log(&mut self) -> Vec<What> {
        self.say(ToCompanion::ReadLog { from: 0 });
        let mut log = Vec::new();
        let end = Instant::now() + PATIENCE;
        loop {
            for message in self.turn() {
                match message {
                    ToBoard::Entry(entry) => log.push(entry.what),
                    ToBoard::LogEnd { .. } => return log,
                    _ => {}
                }
            }
            assert!(Instant::now() < end, "the log has no end");
        }
    }
}

/// The contact is low while it is pressed.
fn contact() -> InputRule {
    InputRule {
        active_low: true,
        ..InputRule::default()
    }
}

fn settings(watchdog: Option<Watchdog>) -> Settings {
    Settings {
        inputs: [contact()].into_iter().collect(),
        watchdog,
        report: 1,
    }
}

/// Presses the contact until that is noticed, and releases it: a press may be too short for an emulator that
/// shares its machine. Returns the wake's number.
fn press(chip: &mut Microcontroller, board: &mut Board) -> u32 {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        chip.press(true);
        let held = Instant::now();
        while held.elapsed() < Duration::from_secs(3) {
            for message in board.turn() {
                if let ToBoard::Wake(wake) = message {
                    chip.press(false);
                    std::thread::sleep(Duration::from_millis(100));
                    return wake.number;
                }
            }
        }
        chip.press(false);
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("the contact is not noticed");
}

/// Waits until it is so.
fn until(what: &str, mut is: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "{what} does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

#[test]
#[ignore = "needs firmware for an emulated microcontroller: tools/check builds it and runs this"]
fn firmware_wakes_a_board_and_watches_over_it() {
    let (mut chip, line) = Microcontroller::start();
    let (end, far) = UnixStream::pair().unwrap();
    let wire = Wire::between(line, far);
    let mut board = Board::new(end, 1);
    let began = Instant::now();
    board.say(ToCompanion::Hello);
    let hello = board.hello();
    let expected = Capabilities::LIGHT.and(Capabilities::POWER);
    assert_eq!((hello.capabilities, hello.inputs), (expected, 2));
    assert_eq!(hello.reset, Reset::Power);
    println!("hello after {:?}", began.elapsed());

    // Settings, and what it cannot do.
    assert_eq!(board.settle(settings(None)), Ok(()));
    let mut many = settings(None);
    many.inputs.extend([contact(); 2]);
    assert_eq!(board.settle(many), Err(Fault::Inputs));
    board.say(ToCompanion::Update(Update::Finish));
    let reply = board.hear("an answer about firmware", |m| match m {
        ToBoard::Update(reply) => Some(*reply),
        _ => None,
    });
    assert_eq!(reply, UpdateReply::Refused(UpdateFault::Unsupported));
    // Its converter gives it a value a little above the middle.
    let light = board.hear("light", |m| match m {
        ToBoard::Report(report) => report.light,
        _ => None,
    });
    assert!((0x8000..0x9000).contains(&light), "{light:#x}");

    // A board that sleeps is woken by the contact.
    board.say(ToCompanion::Sleep);
    until("sleep", || {
        board.turn();
        !chip.wake()
    });
    let pressed = Instant::now();
    chip.press(true);
    let wake = board.hear("a wake", |m| match m {
        ToBoard::Wake(wake) => Some(*wake),
        _ => None,
    });
    println!("woken {:?} after the edge", pressed.elapsed());
    assert_eq!((wake.number, wake.input, wake.count), (1, 0, 1));
    assert!(chip.wake());
    chip.press(false);

    // A noisy line: everything arrives once and in order all the same.
    let (before, disturbed) = wire.counts();
    wire.noise(2000);
    for i in 0..100 {
        assert_eq!(press(&mut chip, &mut board), i + 2);
    }
    wire.noise(0);
    let (bytes, damaged) = wire.counts();
    let counters = board.link.counters();
    println!(
        "noise: {} of {} bytes disturbed; 100 of 100 wakes once and in order; {counters:?}",
        damaged - disturbed,
        bytes - before
    );
    assert!(damaged - disturbed > 10 && counters.damaged > 3);

    // No sign of life: the power is cut, and comes back.
    let watchdog = Watchdog {
        patience: 1,
        start: 60,
        off: 1,
    };
    assert_eq!(board.settle(settings(Some(watchdog))), Ok(()));
    let signs = Instant::now();
    while signs.elapsed() < Duration::from_secs(3) {
        board.say(ToCompanion::Pet);
        until("a sign of life", || {
            board.turn();
            board.link.waiting() == 0
        });
        assert!(!chip.power_cut());
    }
    let cut = until("the power's cut", || chip.power_cut());
    let back = until("the power's return", || !chip.power_cut());
    println!("power cut {cut:?} after the last sign of life, for {back:?}");
    board.say(ToCompanion::Pet);
    let log = board.log();
    assert!(
        log.ends_with(&[What::PowerCut { time: 1 }, What::Alive]),
        "{log:?}"
    );

    // A chip that is reset says so, and begins anew.
    chip.reset();
    let hello = board.hello();
    assert_eq!(hello.reset, Reset::Restart);
    assert_eq!(board.settle(settings(None)), Ok(()));
    assert_eq!(board.log()[0], What::Started(Reset::Restart));
}

/// The next status whose companion is as wanted.
fn status(viewer: &Viewer, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = viewer.json("kinglet/porch/status");
        println!("{}", status["companion"]);
        if wanted(&status["companion"]) {
            return status["companion"].clone();
        }
        assert!(Instant::now() < end, "the companion is not {what}");
    }
}

#[test]
#[ignore = "needs firmware for an emulated microcontroller: tools/check builds it and runs this"]
fn a_contact_makes_an_agent_look() {
    let (mut chip, line) = Microcontroller::start();
    let (wire, terminal) = Wire::to_terminal(line);
    let broker = Mosquitto::start();
    let viewer = Viewer::connect(broker.port, "viewer");
    let folder = device(&format!("url = \"{}\"", broker.url()), "companion:gate");
    let config = folder.path().join("kinglet.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let companion = format!(
        "[companion]\ndevice = \"{}\"\nreport = \"1s\"\nwatchdog = {{ patience = \"4s\", start = \"60s\", off = \
         \"1s\" }}\n[[companion.input]]\nname = \"gate\"\nactive = \"low\"\n",
        terminal.display()
    );
    std::fs::write(&config, format!("{text}\n{companion}")).unwrap();
    let start = || {
        let mut command = kinglet(&["run", "--config", &config.to_string_lossy()]);
        Running::start(command.env("KINGLET_LOG", "info"))
    };
    let agent = start();
    let is = |state: &'static str| move |c: &Value| c["state"] == state;
    let companion = status(&viewer, "connected", is("connected"));
    assert_eq!(companion["firmware"], 1);

    // A contact, a frame, an answer; and no event without a contact.
    for expected in 1..=3 {
        let pressed = Instant::now();
        chip.press(true);
        let event = viewer.json("kinglet/porch/event");
        println!("an event {:?} after the edge: {event}", pressed.elapsed());
        assert_eq!(event["seq"], expected);
        assert_eq!(event["trigger"]["input"], "gate");
        assert!(
            event["trigger"]["light"]
                .as_f64()
                .is_some_and(|l| (0.5..0.6).contains(&l))
        );
        chip.press(false);
        std::thread::sleep(Duration::from_millis(500));
    }
    let silence = Duration::from_secs(2);
    assert!(viewer.nothing_for(silence, |p| p.topic == "kinglet/porch/event"));

    // A line that is cut is noticed; what happened meanwhile is told when it is whole again.
    wire.cut(true);
    status(&viewer, "silent", is("silent"));
    wire.cut(false);
    status(&viewer, "connected again", is("connected"));
    // Noise for a while.
    wire.noise(3000);
    chip.press(true);
    assert_eq!(viewer.json("kinglet/porch/event")["seq"], 4);
    chip.press(false);
    std::thread::sleep(Duration::from_secs(2));
    wire.noise(0);
    // A chip that is reset is set up again.
    chip.reset();
    std::thread::sleep(Duration::from_secs(2));
    chip.press(true);
    assert_eq!(viewer.json("kinglet/porch/event")["seq"], 5);
    chip.press(false);

    // An agent that ends in order says so: the board may sleep, with power.
    assert_eq!(agent.terminate(), Some(0));
    assert!(!chip.wake() && !chip.power_cut());
    // Woken while nobody listens: the agent that is started looks then.
    chip.press(true);
    until("the wake line", || chip.wake());
    let agent = start();
    assert_eq!(viewer.json("kinglet/porch/event")["seq"], 6);
    chip.press(false);

    // One that is killed leaves a board without signs of life: its power is cut.
    agent.kill();
    let cut = until("the power's cut", || chip.power_cut());
    println!("power cut {cut:?} after kill -9");
    until("the power's return", || !chip.power_cut());
}
