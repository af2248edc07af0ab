//! ggml as a peer: the program in tools/peers/ggml, asked line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::{BenchError, Result};

pub(crate) struct Ggml {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Ggml {
    pub(crate) fn start(program: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| BenchError::Peer(format!("{}: {e}", program.display()));
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(fail)?;
        let missing = || BenchError::Peer("the peer has no pipes".to_owned());
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        Ok(Ggml {
            child,
            input,
            output,
        })
    }

    /// The seconds of a product in each of ggml's configurations.
    pub(crate) fn matmul(
        &mut self,
        format: &str,
        (m, k, n): (usize, usize, usize),
        copies: usize,
        threads: usize,
        repeats: usize,
    ) -> Result<Vec<(String, f64)>> {
        let fail = |e: std::io::Error| BenchError::Peer(e.to_string());
        writeln!(
            self.input,
            "{format} {m} {k} {n} {copies} {threads} {repeats}"
        )
        .map_err(fail)?;
        self.input.flush().map_err(fail)?;
        let mut line = String::new();
        if self.output.read_line(&mut line).map_err(fail)? == 0 {
            return Err(BenchError::Peer("the peer ended".to_owned()));
        }
        let one = |word: &str| {
            let (name, seconds) = word.rsplit_once('=')?;
            Some((name.to_owned(), seconds.parse().ok()?))
        };
        Ok(line.split_whitespace().filter_map(one).collect())
    }
}

impl Drop for Ggml {
    fn drop(&mut self) {
        // It ends when its input does; whatever happens, it must not stay.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
