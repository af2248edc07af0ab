//! A serial line.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};
use rustix::termios::{self, OptionalActions};

/// How long a frame may take to be written: a line that takes nothing is a broken one.
const WRITE: Duration = Duration::from_secs(1);

/// An open line, raw and for this program alone.
#[derive(Debug)]
pub(super) struct Line(OwnedFd);

impl Line {
    /// Opens a line of so many bits a second.
    pub(super) fn open(path: &Path, baud: u32) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))?;
        if !termios::isatty(&fd) {
            return Err(Error::new(ErrorKind::InvalidInput, "it is no serial line"));
        }
        termios::ioctl_tiocexcl(&fd)?;
        let mut modes = termios::tcgetattr(&fd)?;
        modes.make_raw();
        modes.set_speed(baud)?;
        termios::tcsetattr(&fd, OptionalActions::Flush, &modes)?;
        Ok(Line(fd))
    }

    /// Waits for bytes, for at most this long. Returns how many came.
    pub(super) fn read(&self, bytes: &mut [u8], wait: Duration) -> Result<usize> {
        if !self.ready(PollFlags::IN, wait)? {
            return Ok(0);
        }
        match retry_on_intr(|| rustix::io::read(&self.0, &mut *bytes)) {
            Ok(0) => Err(Error::new(
                ErrorKind::UnexpectedEof,
                "the line was unplugged",
            )),
            Err(Errno::AGAIN) => Ok(0),
            read => Ok(read?),
        }
    }

    /// Writes all bytes.
    pub(super) fn write(&self, mut bytes: &[u8]) -> Result<()> {
        let end = Instant::now() + WRITE;
        while !bytes.is_empty() {
            match retry_on_intr(|| rustix::io::write(&self.0, bytes)) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::AGAIN) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.ready(PollFlags::OUT, left)? {
                        return Err(Error::new(ErrorKind::TimedOut, "the line takes nothing"));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn ready(&self, flags: PollFlags, wait: Duration) -> Result<bool> {
        let wait = Timespec::try_from(wait).map_err(Error::other)?;
        let mut fds = [PollFd::new(&self.0, flags)];
        match poll(&mut fds, Some(&wait)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(e) => Err(e.into()),
        }
    }
}
