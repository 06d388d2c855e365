//! A file of records, looked through before and read again.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::formats::Format;
use super::lines::{Line, Lines};
use super::records::{Index, Record};
use crate::{Error, Result};

/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// What to do about a line that is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadLine {
    /// Nothing is run. Of standard input, which cannot be read twice, nothing more is run.
    #[default]
    Fail,
    /// It is passed over, and its number reported.
    Skip,
}

/// By what samples are known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// By their index: every record has one, and no two the same.
    Index,
    /// By their line.
    Line,
}

/// The records of a file.
pub struct Input<R> {
    lines: Lines<R>,
    format: Option<Format>,
    /// The samples that are asked for.
    range: Range<u64>,
    /// Samples read.
    read: u64,
}

/// One line that is not blank.
#[derive(Debug)]
pub struct Sample {
    /// Its line, counted from 1.
    pub line: u64,
    /// Its bytes in the file.
    pub bytes: u64,
    /// The record, or why it is none.
    pub record: Result<(Record, Format), Error>,
}

/// What a look through a file finds.
#[derive(Debug)]
pub struct Outline {
    /// Samples asked for, the bad ones left out.
    pub samples: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The format of the first good record.
    pub format: Option<Format>,
    /// By what samples are known again.
    pub keys: Keys,
    /// The first line asked for that is bad.
    pub bad: Option<Error>,
    /// How many of those asked for are.
    pub num_bad: u64,
}

impl Input<BufReader<File>> {
    /// Opens a file. Where `format` is `None`, that of the first good record is that of all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, format: Option<Format>, range: Range<u64>) -> Result<Self> {
        let failed = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.is_dir() {
            return Err(failed(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Self::new(BufReader::with_capacity(BUFFER_BYTES, file), path, format, range))
    }
}

impl<R: BufRead> Input<R> {
    /// Reads the samples in `range`, counted from 0, of `source`; errors name it `path`.
    pub fn new(source: R, path: impl Into<PathBuf>, format: Option<Format>, range: Range<u64>) -> Self {
        Self { lines: Lines::new(source, path), format, range, read: 0 }
    }

    /// What errors name.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    /// The next sample asked for; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_sample(&mut self) -> Result<Option<Sample>> {
        while self.read < self.range.end {
            match self.step()? {
                None => break,
                Some(sample) if self.range.contains(&(self.read - 1)) => return Ok(Some(sample)),
                Some(_) => (),
            }
        }
        Ok(None)
    }

    /// The next line that is not blank, asked for or not.
    fn step(&mut self) -> Result<Option<Sample>> {
        let path = self.lines.path().to_owned();
        while let Some(Line { number, len, text, .. }) = self.lines.next_line()? {
            let record = match text {
                Ok(text) if text.trim_ascii().is_empty() => continue,
                Ok(text) => Record::parse(text, self.format),
                Err(reason) => Err(reason),
            };
            self.read += 1;
            if let Ok((_, format)) = record {
                self.format = Some(format);
            }
            let record =
                record.map_err(|reason| Error::malformed(&path, format_args!("line {number}: {reason}")));
            return Ok(Some(Sample { line: number, bytes: len, record }));
        }
        Ok(None)
    }

    /// Looks through the whole file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn outline(mut self) -> Result<Outline> {
        let mut outline =
            Outline { samples: 0, bytes: 0, format: None, keys: Keys::Index, bad: None, num_bad: 0 };
        let mut seen = HashSet::<Index>::new();
        while let Some(sample) = self.step()? {
            let asked_for = self.range.contains(&(self.read - 1));
            match sample.record {
                Ok((record, format)) => {
                    outline.format.get_or_insert(format);
                    if !record.index.is_some_and(|index| seen.insert(index)) {
                        outline.keys = Keys::Line;
                    }
                    outline.samples += u64::from(asked_for);
                    outline.bytes += if asked_for { sample.bytes } else { 0 };
                }
                Err(e) if asked_for => {
                    outline.bad.get_or_insert(e);
                    outline.num_bad += 1;
                }
                Err(_) => (),
            }
        }
        Ok(outline)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn input(text: &[u8], range: Range<u64>) -> Input<Cursor<Vec<u8>>> {
        Input::new(Cursor::new(text.to_vec()), "in.jsonl", None, range)
    }

    fn lines(text: &[u8], range: Range<u64>) -> Vec<(u64, Result<(), String>)> {
        let mut input = input(text, range);
        let mut all = Vec::new();
        while let Some(sample) = input.next_sample().unwrap() {
            all.push((sample.line, sample.record.map(drop).map_err(|e| e.to_string())));
        }
        all
    }

    const FILE: &[u8] =
        b"\xef\xbb\xbf{\"prompt\":\"a\",\"index\":1}\r\n\n  \nnonsense\n{\"prompt\":\"b\",\"index\":2}\n\
                          {\"input\":\"c\",\"outputs\":[]}\n{\"prompt\":\"d\",\"index\":3}";

    #[test]
    fn lines_are_numbered_and_blank_ones_are_no_samples() {
        let all = lines(FILE, 0..u64::MAX);
        assert_eq!(all.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 4, 5, 6, 7]);
        assert_eq!(all[1].1, Err("in.jsonl: line 4: not JSON: expected ident in column 2".into()));
        assert_eq!(all[3].1, Err("in.jsonl: line 6: a prompt record needs prompt".into()));
        assert!([0, 2, 4].iter().all(|&i| all[i].1.is_ok()));
        assert_eq!(lines(FILE, 1..3), all[1..3]);
        assert_eq!(lines(FILE, 4..9), all[4..]);
        assert_eq!(lines(FILE, 9..12), []);
        assert_eq!(lines(b"", 0..9), []);
    }

    #[test]
    fn an_outline_counts_what_is_asked_for() {
        let outline = input(FILE, 0..2).outline().unwrap();
        assert_eq!((outline.samples, outline.num_bad, outline.keys), (1, 1, Keys::Index));
        assert_eq!(outline.format, Some(Format::Prompt));
        assert!(outline.bad.unwrap().to_string().contains("line 4"));
        let outline = input(FILE, 2..3).outline().unwrap();
        assert_eq!((outline.samples, outline.bytes, outline.num_bad), (1, 25, 0));
        let twice = b"{\"prompt\":\"a\",\"index\":1}\n{\"prompt\":\"b\",\"index\":1}\n";
        assert_eq!(input(twice, 0..9).outline().unwrap().keys, Keys::Line);
        assert_eq!(input(b"{\"prompt\":\"a\"}", 0..9).outline().unwrap().keys, Keys::Line);
    }

    proptest! {
        #[test]
        fn any_bytes_give_samples_or_reasons(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (line, record) in lines(&bytes, 0..u64::MAX) {
                if let Err(reason) = record {
                    let start = format!("in.jsonl: line {line}: ");
                    prop_assert!(reason.starts_with(&start));
                }
            }
            let _ = input(&bytes, 0..u64::MAX).outline();
        }
    }
}
