//! The agent on an emulated board, with a real V4L2 driver behind its camera: the kernel's vivid, which
//! plays a test picture and every fault of a camera, and beside it an emulated microcontroller with the
//! companion's firmware: the whole chain.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use kinglet_model::Picture;
use kinglet_tests::board::Board;
use kinglet_tests::microcontroller::Microcontroller;
use kinglet_tests::wire::Wire;
use kinglet_tests::{Mosquitto, Viewer};
use serde_json::Value;

const STATUS: &str = "kinglet/board/status";

/// The next status after the camera has been taken up again.
fn taken_up(viewer: &Viewer) -> Value {
    loop {
        let status = viewer.json(STATUS);
        let camera = &status["sources"]["sensor"];
        println!("{camera}");
        if camera["reconnects"].as_u64() > Some(0) && camera["state"] == "delivering" {
            return camera.clone();
        }
    }
}

#[test]
#[ignore = "needs an emulated board: tools/check makes one and runs this"]
fn a_board_sees_is_woken_and_lives_through_faults() {
    let broker = Mosquitto::start();
    let viewer = Viewer::connect(broker.port, "viewer");
    // What it says of its companion comes between everything else.
    let news = Viewer::connect(broker.port, "news");
    let started = Instant::now();
    let (mut board, line) = Board::start(broker.port);
    let (mut chip, other) = Microcontroller::start();
    let wire = Wire::between(line, other);

    // A frame of the camera becomes an answer, and its picture comes with it.
    let picture = viewer.wait("picture", |p| p.topic.starts_with(b"kinglet/board/image/"));
    let event = viewer.json("kinglet/board/event");
    println!("{:.1?} after the start: {event}", started.elapsed());
    assert_eq!(event["camera"], "sensor");
    board.run("kinglet doctor | grep -q 'video0, vivid.*gives .*YUYV'");
    assert!(event["answer"].is_string());
    let picture = Picture::decode(&picture.payload).unwrap();
    assert_eq!((picture.width(), picture.height()), (640, 480));
    // The driver's test picture has eight bars. The left half of the first one is masked.
    let bar = |x: usize| {
        let at = (400 * 640 + x) * 3;
        [0, 1, 2].map(|c| i32::from(picture.rgb()[at + c]))
    };
    let expected = [
        [0, 0, 0],
        [191, 191, 0],
        [0, 191, 191],
        [0, 191, 0],
        [191, 0, 191],
        [191, 0, 0],
        [0, 0, 191],
        [0, 0, 0],
    ];
    for (i, expected) in expected.into_iter().enumerate() {
        let colour = bar(if i == 0 { 20 } else { i * 80 + 40 });
        let near = |(a, b): (i32, i32)| (a - b).abs() <= 20;
        assert!(
            colour.into_iter().zip(expected).all(near),
            "bar {i} is {colour:?} and not {expected:?}"
        );
    }
    assert!(bar(60).into_iter().all(|c| c > 150), "the mask has an end");

    // Damaged frames, lost frames, and the camera is pulled out.
    for _ in 0..3 {
        board.run("control /dev/video0 'Inject V4L2_BUF_FLAG_ERROR' 1");
        board.run("sleep 1");
    }
    board.run("control /dev/video0 'Percentage of Dropped Buffers' 50");
    board.run("sleep 3");
    board.run("control /dev/video0 'Percentage of Dropped Buffers' 0");
    board.run("control /dev/video0 Disconnect 1");

    // It is there again when nobody has it open any more, and frames become answers again.
    let camera = taken_up(&viewer);
    assert!(camera["errors"].as_u64().unwrap() >= 2, "{camera}");
    assert!(camera["dropped"].as_u64().unwrap() >= 2, "{camera}");
    let seq = |event: Value| event["seq"].as_u64().unwrap();
    let first = seq(viewer.json("kinglet/board/event"));
    assert_eq!(seq(viewer.json("kinglet/board/event")), first + 1);

    // An edge on the microcontroller's pin: the board takes a frame, answers and publishes.
    companion(&news, "connected");
    for _ in 0..3 {
        let pressed = Instant::now();
        woken(&viewer, &mut chip);
        println!("an answer {:.1?} after the edge", pressed.elapsed());
    }
    // A line that is cut is reported, and taken up again, with the wake that nobody heard.
    wire.cut(true);
    companion(&news, "silent");
    chip.press(true);
    std::thread::sleep(Duration::from_secs(1));
    chip.press(false);
    wire.cut(false);
    gate(&viewer);
    companion(&news, "connected");
    println!("{:.1?} in all", started.elapsed());
}

/// Waits until the companion's state in the status is this one.
fn companion(viewer: &Viewer, state: &str) {
    loop {
        let status = viewer.json(STATUS);
        println!("{}", status["companion"]);
        if status["companion"]["state"] == state {
            return;
        }
    }
}

/// The next event of the contact.
fn gate(viewer: &Viewer) -> Value {
    let event = viewer.wait("an event of the contact", |p| {
        let is_event = p.topic == "kinglet/board/event";
        is_event && String::from_utf8_lossy(&p.payload).contains("\"watch\":\"gate\"")
    });
    let event: Value = serde_json::from_slice(&event.payload).unwrap();
    println!("{event}");
    assert_eq!(event["trigger"]["input"], "gate");
    assert!(event["answer"].is_string());
    event
}

/// Presses the contact until the board has answered.
fn woken(viewer: &Viewer, chip: &mut Microcontroller) {
    chip.press(true);
    gate(viewer);
    chip.press(false);
    // Released for long enough, on a machine with much to do.
    std::thread::sleep(Duration::from_secs(1));
}
