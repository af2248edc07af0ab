//! Frames in a stream of bytes: `multipart/x-mixed-replace`, as cameras send it.
//!
//! RFC 2046 gives the form; cameras differ from it in the delimiter (with and without the two dashes
//! that the header leaves out, or another one than the header says), in line ends, and in whether a
//! part has a `Content-Length`. The delimiter is therefore learned from the first one that comes.

/// The longest line, delimiter or header, in bytes.
const LONGEST_LINE: usize = 1024;
/// The most bytes of one part's headers.
const LONGEST_HEADERS: usize = 8192;
/// The most bytes between two parts that are no delimiter.
const LONGEST_GAP: usize = 1 << 20;

/// Why a stream cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// The end came.
    #[error("the camera ended the stream")]
    End,
    /// No delimiter is found.
    #[error("the stream has no delimiter where a frame should end")]
    NoDelimiter,
    /// A part's headers do not end.
    #[error("a frame's headers have more than {LONGEST_HEADERS} bytes")]
    Headers,
    /// A part says a length that is no number.
    #[error("a frame's Content-Length is no number")]
    Length,
    /// A part is too large.
    #[error("a frame has more than {0} bytes")]
    TooLarge(usize),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Delimiter,
    Headers,
    Body { length: Option<usize> },
    End,
}

/// Takes bytes and gives frames.
#[derive(Debug)]
pub struct Multipart {
    /// The first delimiter that came, with its dashes.
    delimiter: Option<Vec<u8>>,
    /// What the header of the response says, without dashes.
    announced: Vec<u8>,
    largest: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that are done with.
    done: usize,
    /// Bytes after `done` in which no delimiter was found.
    searched: usize,
    /// Bytes since the last part that were no delimiter, or bytes of headers.
    passed: usize,
    length: Option<usize>,
    picture: bool,
    state: State,
}

impl Multipart {
    /// A reader of frames of at most `largest` bytes; `boundary` is that of the response's header,
    /// empty if it has none.
    pub fn new(boundary: &str, largest: usize) -> Self {
        Multipart {
            delimiter: None,
            announced: boundary.trim_start_matches('-').as_bytes().to_vec(),
            largest,
            buffer: Vec::new(),
            done: 0,
            searched: 0,
            passed: 0,
            length: None,
            picture: true,
            state: State::Delimiter,
        }
    }

    /// Takes bytes. Take all frames out with [`Multipart::next_frame`] before the next ones.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.done);
        self.done = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, none before more bytes come.
    ///
    /// # Errors
    /// [`MultipartError`]: nothing more can be read from this stream.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, MultipartError> {
        loop {
            let more = match self.state {
                State::Delimiter => self.delimiter()?,
                State::Headers => self.headers()?,
                State::Body { length } => match self.body(length)? {
                    Some(frame) if self.picture => return Ok(Some(frame)),
                    Some(_) => true,
                    None => false,
                },
                State::End => return Err(MultipartError::End),
            };
            if !more {
                return Ok(None);
            }
        }
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.done..).unwrap_or(&[])
    }

    /// The next line without its end, as a range of the buffer, and its length with the end.
    fn line(&self) -> Option<(std::ops::Range<usize>, usize)> {
        let rest = self.rest();
        let end = rest.iter().take(LONGEST_LINE).position(|b| *b == b'\n')?;
        let text = end - usize::from(end > 0 && rest.get(end - 1) == Some(&b'\r'));
        Some((self.done..self.done + text, end + 1))
    }

    fn delimiter(&mut self) -> Result<bool, MultipartError> {
        let Some((range, whole)) = self.line() else {
            // A long line is passed over in pieces.
            if self.rest().len() >= LONGEST_LINE {
                return self.pass(LONGEST_LINE);
            }
            return Ok(false);
        };
        let line = self.buffer.get(range).unwrap_or(&[]).trim_ascii_end();
        let state = match &self.delimiter {
            Some(delimiter) => match line.strip_prefix(&delimiter[..]) {
                Some(b"") => Some(State::Headers),
                Some(b"--") => Some(State::End),
                _ => None,
            },
            None => {
                let bare = line.trim_ascii_start();
                let named = !self.announced.is_empty() && bare == self.announced;
                if named || (bare.starts_with(b"--") && bare.len() > 2) {
                    self.delimiter = Some(line.to_vec());
                    Some(State::Headers)
                } else {
                    None
                }
            }
        };
        let Some(state) = state else {
            return self.pass(whole);
        };
        self.done += whole;
        self.passed = 0;
        self.length = None;
        self.picture = true;
        self.state = state;
        Ok(true)
    }

    fn pass(&mut self, bytes: usize) -> Result<bool, MultipartError> {
        self.done += bytes;
        self.passed += bytes;
        if self.passed > LONGEST_GAP {
            return Err(MultipartError::NoDelimiter);
        }
        Ok(true)
    }

    fn headers(&mut self) -> Result<bool, MultipartError> {
        let Some((range, whole)) = self.line() else {
            if self.rest().len() >= LONGEST_LINE {
                return Err(MultipartError::Headers);
            }
            return Ok(false);
        };
        let line = self.buffer.get(range).unwrap_or(&[]);
        let end = line.is_empty();
        if let Some(colon) = line.iter().position(|b| *b == b':') {
            let (name, value) = line.split_at(colon);
            let value = value.get(1..).unwrap_or(&[]).trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                let length = std::str::from_utf8(value)
                    .ok()
                    .and_then(|v| v.parse::<usize>().ok())
                    .ok_or(MultipartError::Length)?;
                if length > self.largest {
                    return Err(MultipartError::TooLarge(self.largest));
                }
                self.length = Some(length);
            } else if name.eq_ignore_ascii_case(b"content-type") {
                // Some cameras send news in text between the frames.
                let image = value.get(..6).unwrap_or(value);
                self.picture = image.eq_ignore_ascii_case(b"image/");
            }
        }
        self.done += whole;
        self.passed += whole;
        if self.passed > LONGEST_HEADERS {
            return Err(MultipartError::Headers);
        }
        if end {
            self.passed = 0;
            self.searched = 0;
            self.state = State::Body {
                length: self.length,
            };
        }
        Ok(true)
    }

    fn body(&mut self, length: Option<usize>) -> Result<Option<Vec<u8>>, MultipartError> {
        let rest = self.rest();
        let (frame, used) = match length {
            Some(length) => match rest.get(..length) {
                Some(frame) => (frame.to_vec(), length),
                None => return Ok(None),
            },
            None => {
                let delimiter = self.delimiter.as_deref().unwrap_or(b"--");
                let found = rest
                    .get(self.searched..)
                    .and_then(|part| find_line(part, delimiter));
                match found {
                    Some(at) => {
                        let end = self.searched + at;
                        let frame = rest.get(..end).unwrap_or(&[]);
                        let frame = frame.strip_suffix(b"\r").unwrap_or(frame).to_vec();
                        (frame, end + 1)
                    }
                    None => {
                        if rest.len() > self.largest {
                            return Err(MultipartError::TooLarge(self.largest));
                        }
                        // The delimiter may have begun.
                        self.searched = rest.len().saturating_sub(delimiter.len() + 1);
                        return Ok(None);
                    }
                }
            }
        };
        if frame.len() > self.largest {
            return Err(MultipartError::TooLarge(self.largest));
        }
        self.done += used;
        self.passed = 0;
        self.state = State::Delimiter;
        Ok(Some(frame))
    }
}

/// Where a line end stands that the delimiter follows.
fn find_line(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes.get(from..)?.iter().position(|b| *b == b'\n')?;
        if bytes.get(at + 1..)?.starts_with(delimiter) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// The boundary that a `Content-Type` says, empty if it says none; none if this is no multipart stream.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if !kind.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    let named = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    });
    Some(named.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All frames of a stream that comes in pieces of this size, and how it ended.
    fn frames(
        stream: &[u8],
        boundary: &str,
        piece: usize,
    ) -> (Vec<Vec<u8>>, Option<MultipartError>) {
        let mut multipart = Multipart::new(boundary, 100);
        let mut frames = Vec::new();
        for piece in stream.chunks(piece) {
            multipart.push(piece);
            loop {
                match multipart.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(e) => return (frames, Some(e)),
                }
            }
        }
        (frames, None)
    }

    #[test]
    fn every_manner_of_delimiter_is_understood_in_pieces_of_any_size() {
        let with_length = "--b\r\nContent-Type: image/jpeg\r\nContent-Length: 5\r\n\r\none\n1\r\n--b\r\ncontent-length:3\r\n\r\ntwo\r\n--b\r\n";
        let without = "--b\r\nContent-Type: image/jpeg\r\n\r\none\n1\r\n--b\r\n\r\ntwo\r\n--b\r\n";
        let newlines = without.replace('\r', "");
        let early = format!("some text\r\n\r\n{without}");
        let dashes = without.replace("--b", "b");
        let tight = with_length.replace("1\r\n--b", "1--b");
        let other = without.replace("--b", "--another");
        let spaces = without.replace("--b", "--b ");
        let text = without.replace(
            "--b\r\n\r\ntwo",
            "--b\r\nContent-Type: text/plain\r\n\r\nnews\r\n--b\r\n\r\ntwo",
        );
        for (stream, boundary) in [
            (with_length, "b"),
            (with_length, "--b"),
            (with_length, ""),
            (without, "b"),
            (&newlines, "b"),
            (&early, "b"),
            (&dashes, "b"),
            (&tight, "b"),
            (&other, "b"),
            (&spaces, "b"),
            (&text, "b"),
        ] {
            for piece in 1..=stream.len() {
                let (frames, error) = frames(stream.as_bytes(), boundary, piece);
                assert_eq!(frames, [&b"one\n1"[..], b"two"], "{stream} by {piece}");
                assert_eq!(error, None);
            }
        }
    }

    #[test]
    fn the_end_is_the_end() {
        let (frames, end) = frames(b"--b\n\none\n--b--\n--b\n\ntwo\n--b\n", "b", 7);
        assert_eq!((frames.len(), end), (1, Some(MultipartError::End)));
    }

    #[test]
    fn a_wrong_length_costs_frames_and_not_the_stream() {
        let stream = b"--b\nContent-Length: 1\n\none\n--b\nContent-Length: 7\n\ntwo\n--b\n\nthree\n--b\n\nfour\n--b\n";
        let (frames, error) = frames(stream, "b", 3);
        assert_eq!(error, None);
        assert_eq!(frames.last().unwrap(), b"four");
    }

    #[test]
    fn hostile_streams_end_in_words_and_within_bounds() {
        let large = [b"--b\n\n".to_vec(), vec![0; 200]].concat();
        let garbage = vec![b'x'; 2 * LONGEST_GAP];
        let lines = b"x\n".repeat(LONGEST_GAP);
        let headers = [b"--b\n".to_vec(), b"a: b\n".repeat(LONGEST_HEADERS)].concat();
        let header = [b"--b\n".to_vec(), vec![b'a'; 2 * LONGEST_LINE]].concat();
        for (stream, expected) in [
            (&large[..], MultipartError::TooLarge(100)),
            (
                b"--b\nContent-Length: 101\n\n",
                MultipartError::TooLarge(100),
            ),
            (b"--b\nContent-Length: -1\n\n", MultipartError::Length),
            (
                b"--b\nContent-Length: 99999999999999999999\n\n",
                MultipartError::Length,
            ),
            (&garbage, MultipartError::NoDelimiter),
            (&lines, MultipartError::NoDelimiter),
            (&headers, MultipartError::Headers),
            (&header, MultipartError::Headers),
        ] {
            assert_eq!(frames(stream, "b", 100).1, Some(expected));
        }
    }

    #[test]
    fn the_boundary_is_read_from_what_cameras_write() {
        for (text, expected) in [
            ("multipart/x-mixed-replace; boundary=\"a b\"", Some("a b")),
            ("Multipart/X-Mixed-Replace;boundary=--x", Some("--x")),
            ("multipart/x-mixed-replace; x=1; Boundary = y", Some("y")),
            ("multipart/x-mixed-replace", Some("")),
            ("image/jpeg", None),
        ] {
            assert_eq!(boundary(text).as_deref(), expected, "{text}");
        }
    }
}
