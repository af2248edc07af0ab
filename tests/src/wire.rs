//! A serial line of a test's own between a board and its companion: it can be cut, and it can be noisy.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What happens to bytes on their way.
#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    /// Of a million bytes, how many are lost, how many doubled, how many have a flipped bit.
    noise: AtomicU32,
    passed: AtomicU64,
    disturbed: AtomicU64,
}

/// A line. It goes on for as long as the test runs.
#[derive(Debug, Clone)]
pub struct Wire(Arc<Line>);

impl Wire {
    /// A line between two open ends.
    pub fn between(one: impl Into<OwnedFd>, other: impl Into<OwnedFd>) -> Self {
        let (one, other) = (File::from(one.into()), File::from(other.into()));
        let wire = Wire(Arc::default());
        let back = (other.try_clone().unwrap(), one.try_clone().unwrap());
        for (seed, (from, to)) in [(one, other), back].into_iter().enumerate() {
            let line = Arc::clone(&wire.0);
            std::thread::spawn(move || pump(&line, from, to, seed as u64));
        }
        wire
    }

    /// A line whose other end is a terminal of this machine, where a program may open it.
    pub fn to_terminal(one: impl Into<OwnedFd>) -> (Self, PathBuf) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        (
            Wire::between(one, master),
            name.into_string().unwrap().into(),
        )
    }

    /// Nothing passes, or everything again.
    pub fn cut(&self, cut: bool) {
        self.0.cut.store(cut, Ordering::Relaxed);
    }

    /// So many of a million bytes are lost, as many doubled, and as many damaged.
    pub fn noise(&self, share: u32) {
        self.0.noise.store(share, Ordering::Relaxed);
    }

    /// How many bytes have passed, and how many of them were disturbed.
    pub fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.0.passed), read(&self.0.disturbed))
    }
}

fn pump(line: &Line, mut from: File, mut to: File, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = [0; 256];
    loop {
        let length = match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => length,
            // A terminal that nobody has open.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
        };
        if line.cut.load(Ordering::Relaxed) {
            continue;
        }
        let noise = line.noise.load(Ordering::Relaxed);
        let mut passed = Vec::new();
        for &byte in &bytes[..length] {
            let mut happens = || random.random_range(0..1_000_000) < noise;
            let (lost, doubled, flipped) = (happens(), happens(), happens());
            line.passed.fetch_add(1, Ordering::Relaxed);
            if lost || doubled || flipped {
                line.disturbed.fetch_add(1, Ordering::Relaxed);
            }
            if lost {
                continue;
            }
            let bit = u8::from(flipped) << random.random_range(0..8);
            passed.extend(std::iter::repeat_n(byte ^ bit, 1 + usize::from(doubled)));
        }
        if to.write_all(&passed).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
