//! Two ends of a line that loses, doubles and damages bytes: every message arrives once and in order.

use kinglet_link::{LONGEST_FRAME, Link, Millis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

type End = Link<u32, u32, 8>;

/// How likely each of these happens to a byte.
#[derive(Clone, Copy)]
struct Noise {
    lost: f64,
    doubled: f64,
    flipped: f64,
}

impl Noise {
    const NONE: Self = Noise {
        lost: 0.0,
        doubled: 0.0,
        flipped: 0.0,
    };

    fn pass(self, byte: u8, line: &mut Vec<u8>, random: &mut ChaCha8Rng) {
        if random.random_bool(self.lost) {
            return;
        }
        let mut byte = byte;
        if random.random_bool(self.flipped) {
            byte ^= 1 << random.random_range(0..8);
        }
        line.push(byte);
        if random.random_bool(self.doubled) {
            line.push(byte);
        }
    }
}

/// Moves all that is due one way; returns what was heard.
fn carry(
    from: &mut End,
    to: &mut End,
    now: Millis,
    noise: Noise,
    random: &mut ChaCha8Rng,
) -> Vec<u32> {
    let (mut line, mut out) = (Vec::new(), [0; LONGEST_FRAME]);
    while let Some(frame) = from.transmit(now, &mut out) {
        frame.iter().for_each(|&b| noise.pass(b, &mut line, random));
    }
    let heard = line.into_iter().filter_map(|b| to.receive(b, now));
    heard.collect()
}

#[test]
fn messages_arrive_once_and_in_order_over_a_noisy_line() {
    let mut again = 0;
    for seed in 0..200 {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let level = random.random_range(0.0..0.02);
        let noise = Noise {
            lost: level,
            doubled: level,
            flipped: level,
        };
        let (mut board, mut companion) = (End::new(random.random()), End::new(random.random()));
        let (mut said, mut heard) = ([0, 0], [Vec::new(), Vec::new()]);
        let mut now = 0;
        while heard.iter().any(|h| h.len() < 100) {
            for (end, said) in [&mut board, &mut companion].into_iter().zip(&mut said) {
                if *said < 100 && random.random_bool(0.3) && end.send(*said).is_ok() {
                    *said += 1;
                }
            }
            heard[0].extend(carry(&mut board, &mut companion, now, noise, random));
            heard[1].extend(carry(&mut companion, &mut board, now, noise, random));
            now += 10;
            assert!(now < 10_000_000, "seed {seed} gets stuck");
        }
        for heard in heard {
            assert_eq!(heard, (0..100).collect::<Vec<_>>(), "seed {seed}");
        }
        again += board.counters().again + companion.counters().again;
    }
    println!("200 lines, 40,000 messages, {again} frames sent again");
    assert!(again > 1000, "the line was noisy: {again}");
}

#[test]
fn an_end_that_starts_anew_is_heard_again() {
    let random = &mut ChaCha8Rng::seed_from_u64(0);
    let (mut board, mut companion) = (End::new(1), End::new(2));
    for n in 0..5 {
        companion.send(n).unwrap();
        let heard = carry(&mut companion, &mut board, 0, Noise::NONE, random);
        assert_eq!(heard, [n]);
        carry(&mut board, &mut companion, 0, Noise::NONE, random);
    }
    // Another session, and by bad luck the same one.
    for session in [3, 3] {
        companion = End::new(session);
        for n in [7, 8] {
            companion.send(n).unwrap();
            let heard = carry(&mut companion, &mut board, 0, Noise::NONE, random);
            assert_eq!(heard, [n], "session {session}");
            carry(&mut board, &mut companion, 0, Noise::NONE, random);
        }
    }
    assert_eq!(companion.waiting(), 0);
    assert_eq!(board.counters().beginnings, 3);
}

#[test]
fn numbers_go_round_without_a_gap() {
    let random = &mut ChaCha8Rng::seed_from_u64(0);
    let (mut board, mut companion) = (End::new(1), End::new(2));
    for n in 0..140_000 {
        board.send(n).unwrap();
        let heard = carry(&mut board, &mut companion, 0, Noise::NONE, random);
        assert_eq!(heard, [n]);
        carry(&mut companion, &mut board, 0, Noise::NONE, random);
    }
}

#[test]
fn a_silent_end_is_asked_ever_more_rarely() {
    let mut board = End::new(1);
    board.send(1).unwrap();
    let (mut frames, mut out) = (0, [0; LONGEST_FRAME]);
    for now in 0..60_000 {
        if board.transmit(now, &mut out).is_some() {
            frames += 1;
            assert!(board.due() > Some(now));
        }
    }
    assert!((30..40).contains(&frames), "{frames} frames in a minute");
    assert_eq!(board.heard(), None);
    for n in 0..7 {
        board.send(n).unwrap();
    }
    assert!(board.send(9).is_err(), "the queue is bounded");
}

#[test]
fn noise_alone_says_nothing() {
    let random = &mut ChaCha8Rng::seed_from_u64(1);
    let mut board = End::new(1);
    for now in 0..1_000_000 {
        assert_eq!(board.receive(random.random(), now), None);
    }
    assert_eq!(board.counters().received, 0);
    assert!(board.counters().damaged > 1000);
    let mut out = [0; LONGEST_FRAME];
    assert!(board.transmit(0, &mut out).is_none(), "nothing is owed");
}
