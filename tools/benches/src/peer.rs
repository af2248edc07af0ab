//! A peer as a program of its own (tools/peers), asked line by line.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{BenchError, Result};

pub(crate) struct Peer {
    /// Behind the names of its configurations.
    way: &'static str,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(program: &Path, arguments: &[&OsStr]) -> Result<Self> {
        Peer::run(program, Command::new(program).args(arguments), "")
    }

    /// The same with its weights in large pages where the system gives them: glibc's allocator asks for them.
    pub(crate) fn start_in_large_pages(program: &Path, arguments: &[&OsStr]) -> Result<Self> {
        let mut command = Command::new(program);
        let command = command.args(arguments);
        let command = command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        Peer::run(program, command, ",large-pages")
    }

    fn run(program: &Path, command: &mut Command, way: &'static str) -> Result<Self> {
        let fail = |e: std::io::Error| BenchError::Peer(format!("{}: {e}", program.display()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        let missing = || BenchError::Peer("the peer has no pipes".to_owned());
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Peer {
            way,
            child,
            input,
            output,
        })
    }

    /// Asks for one thing: the seconds of each of the peer's configurations.
    pub(crate) fn ask(&mut self, line: &str) -> Result<Vec<(String, f64)>> {
        let fail = |e: std::io::Error| BenchError::Peer(e.to_string());
        writeln!(self.input, "{line}").map_err(fail)?;
        self.input.flush().map_err(fail)?;
        let mut line = String::new();
        if self.output.read_line(&mut line).map_err(fail)? == 0 {
            return Err(BenchError::Peer("the peer ended".to_owned()));
        }
        let one = |word: &str| {
            let (name, seconds) = word.rsplit_once('=')?;
            Some((format!("{name}{}", self.way), seconds.parse().ok()?))
        };
        Ok(line.split_whitespace().filter_map(one).collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends when its input does; whatever happens, it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The best seconds of every configuration that was seen.
#[derive(Debug, Default)]
pub(crate) struct Best(Vec<(String, f64)>);

impl Best {
    pub(crate) fn take(&mut self, seen: Vec<(String, f64)>) {
        for (name, seconds) in seen {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, best)) => *best = best.min(seconds),
                None => self.0.push((name, seconds)),
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, s)| (name.as_str(), *s))
    }
}
