//! Progress on standard error, when it is a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
/// What is counted may grow far more often than anyone can read.
const OFTEN: Duration = Duration::from_millis(200);
/// Before that there is nothing to estimate from.
const ESTIMATED: Duration = Duration::from_secs(2);

/// A progress bar.
pub(crate) struct Bar {
    what: String,
    visible: bool,
    bytes: bool,
    shown: Option<(Instant, usize)>,
    /// When it was first shown, and what was done then: work of earlier runs says nothing of this one.
    began: Option<(Instant, usize)>,
}

impl Bar {
    /// A bar for `what`; it stays invisible where nobody looks.
    pub(crate) fn new(what: &str) -> Self {
        Bar {
            what: what.to_owned(),
            visible: std::io::stderr().is_terminal(),
            bytes: false,
            shown: None,
            began: None,
        }
    }

    /// A bar for something that is counted in bytes: it says how many there are.
    pub(crate) fn of_bytes(what: &str) -> Self {
        let mut bar = Self::new(what);
        bar.bytes = true;
        bar
    }

    /// Shows that `done` of `all` are done.
    pub(crate) fn show(&mut self, done: usize, all: usize) {
        let now = Instant::now();
        let (began, first) = *self.began.get_or_insert((now, done));
        let percent = 100 * done / all.max(1);
        let same = self.shown.is_some_and(|(at, shown)| {
            now - at < OFTEN && done < all || !self.bytes && shown == percent
        });
        if !self.visible || same {
            return;
        }
        self.shown = Some((now, percent));
        let full = WIDTH * percent.min(100) / 100;
        let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
        let counts = match self.bytes {
            true => counts(done, all, done.saturating_sub(first), now - began),
            false => String::new(),
        };
        eprint!("\r{} [{bar}] {percent:3} %{counts}\x1b[K", self.what);
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.visible && self.shown.is_some() {
            eprint!("\r\x1b[2K");
        }
    }
}

/// Bytes, bytes a second and the time that is left, if `new` bytes took so long.
fn counts(done: usize, all: usize, new: usize, took: Duration) -> String {
    let gigabytes = |bytes: usize| bytes as f64 / 1e9;
    let mut text = format!(", {:.2} of {:.2} GB", gigabytes(done), gigabytes(all));
    if took >= ESTIMATED && new > 0 {
        let speed = new as f64 / took.as_secs_f64();
        let left = all.saturating_sub(done) as f64 / speed;
        text += &format!(", {:.0} MB/s, {} left", speed / 1e6, time(left as u64));
    }
    text
}

fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_counts_only_what_this_run_did() {
        let took = Duration::from_secs(10);
        let text = counts(6_000_000_000, 8_000_000_000, 1_000_000_000, took);
        assert_eq!(text, ", 6.00 of 8.00 GB, 100 MB/s, 20 s left");
        assert_eq!(
            counts(1_000_000_000, 8_000_000_000, 1_000_000_000, Duration::ZERO),
            ", 1.00 of 8.00 GB"
        );
        assert_eq!(time(61), "2 min");
        assert_eq!(time(3660), "1 h 1 min");
    }
}
