//! Progress on standard error, when it is a terminal.

use std::io::{IsTerminal, Write};

const WIDTH: usize = 30;

/// A progress bar.
pub(crate) struct Bar {
    what: String,
    visible: bool,
    shown: usize,
}

impl Bar {
    /// A bar for `what`; it stays invisible where nobody looks.
    pub(crate) fn new(what: &str) -> Self {
        Bar {
            what: what.to_owned(),
            visible: std::io::stderr().is_terminal(),
            shown: usize::MAX,
        }
    }

    /// Shows that `done` of `all` are done.
    pub(crate) fn show(&mut self, done: usize, all: usize) {
        let percent = 100 * done / all.max(1);
        if !self.visible || percent == self.shown {
            return;
        }
        self.shown = percent;
        let full = WIDTH * percent.min(100) / 100;
        let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
        eprint!("\r{} [{bar}] {percent:3} %", self.what);
        let _ = std::io::stderr().flush();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.visible && self.shown != usize::MAX {
            eprint!("\r\x1b[2K");
        }
    }
}
