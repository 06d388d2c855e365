//! Lines of files of any size.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The longest line that is read: a million tokens of text take some 5 MB.
const MAX_LINE_BYTES: usize = 256 << 20;
/// What some editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The lines of a file, one in memory at a time, counted from 1. Line ends of either kind and a byte order mark are left out.
pub struct Lines<R> {
    source: R,
    path: PathBuf,
    number: u64,
    buffer: Vec<u8>,
}

/// One line.
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub number: u64,
    /// Bytes in the file, the line end included.
    pub len: u64,
    /// Whether a line end closes it: the last line may have none.
    pub ended: bool,
    /// The text, or why it is none.
    pub text: Result<&'a str, String>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `source`; errors name it `path`.
    pub fn new(source: R, path: impl Into<PathBuf>) -> Self {
        Self { source, path: path.into(), number: 0, buffer: Vec::new() }
    }

    /// What errors name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next line; `None` at the end. What is longer than 256 MiB is read past.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn next_line(&mut self) -> Result<Option<Line<'_>>> {
        self.buffer.clear();
        let mut len = 0u64;
        let mut ended = false;
        while !ended {
            let chunk = match self.source.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(Error::io("read", &self.path, e)),
            };
            if chunk.is_empty() {
                break;
            }
            let end = chunk.iter().position(|&byte| byte == b'\n');
            ended = end.is_some();
            let used = end.map_or(chunk.len(), |end| end + 1);
            let text = &chunk[..end.unwrap_or(used)];
            let room = (MAX_LINE_BYTES + 1).saturating_sub(self.buffer.len());
            self.buffer.extend_from_slice(&text[..text.len().min(room)]);
            len += used as u64;
            self.source.consume(used);
        }
        if len == 0 {
            return Ok(None);
        }
        self.number += 1;
        let mut bytes = &self.buffer[..];
        if self.number == 1 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let text = if self.buffer.len() > MAX_LINE_BYTES {
            Err(format!("longer than {} MiB", MAX_LINE_BYTES >> 20))
        } else {
            std::str::from_utf8(bytes).map_err(|e| {
                let at = e.valid_up_to();
                format!("not UTF-8 text: byte {:#04x} in column {}", bytes[at], at + 1)
            })
        };
        Ok(Some(Line { number: self.number, len, ended, text }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn lines(bytes: &[u8]) -> Vec<(u64, u64, Result<String, String>)> {
        // Chunks of three bytes: lines go on over their borders.
        let mut lines = Lines::new(std::io::BufReader::with_capacity(3, Cursor::new(bytes)), "x");
        let mut all = Vec::new();
        while let Some(Line { number, len, text, .. }) = lines.next_line().unwrap() {
            all.push((number, len, text.map(str::to_owned)));
        }
        all
    }

    #[test]
    fn line_ends_of_either_kind_and_a_mark_are_left_out() {
        let text = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"\n"), [(1, 1, text(""))]);
        assert_eq!(
            lines(b"\xef\xbb\xbfab\r\n\r\nc"),
            [(1, 7, text("ab")), (2, 2, text("")), (3, 1, text("c"))]
        );
        assert_eq!(lines("ü\n\u{feff}x\n".as_bytes()), [(1, 3, text("ü")), (2, 5, text("\u{feff}x"))]);
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let all = lines(b"ok\nab\xff\nok\n");
        assert_eq!(all[1].2, Err("not UTF-8 text: byte 0xff in column 3".into()));
        assert_eq!(all[2], (3, 3, Ok("ok".into())));
    }
}
