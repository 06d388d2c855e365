//! Lines that are whole or not there.

use std::fs::{File, TryLockError};
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::lines::{Line, Lines};
use super::resume::OnExisting;
use crate::{Error, Result};

/// Appends lines of JSON, each in one write and at once. While it lives no other writer gets the file.
pub struct LineWriter {
    path: PathBuf,
    target: Target,
}

enum Target {
    File {
        file: File,
        /// Bytes of whole lines.
        len: u64,
    },
    /// A device or a pipe.
    Stream(Box<dyn Write + Send>),
}

impl LineWriter {
    /// Writes to standard output.
    pub fn stdout() -> Self {
        Self { path: "standard output".into(), target: Target::Stream(Box::new(std::io::stdout())) }
    }

    /// Opens a file, or makes it. What it holds is kept only under [`OnExisting::Resume`], where [`LineWriter::existing`] has to
    /// be called before the first line is written.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] where the file holds something and `on_existing` does not say what to do about it, where
    /// another writer has it, and where what is to be resumed is no regular file.
    pub fn open(path: &Path, on_existing: OnExisting) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        let refuse = |reason: &str| Err(Error::malformed(path, reason));
        let mut options = File::options();
        let writer = |target| Ok(Self { path: path.to_owned(), target });
        if std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            if on_existing == OnExisting::Resume {
                return refuse("only a regular file can be resumed");
            }
            return writer(Target::Stream(Box::new(options.write(true).open(path).map_err(failed)?)));
        }
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return refuse("another process writes to it"),
            // Not all file systems have locks.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => (),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
        }
        let len = file.metadata().map_err(failed)?.len();
        match on_existing {
            OnExisting::Refuse if len > 0 => return refuse("it exists; resume it or overwrite it"),
            OnExisting::Refuse | OnExisting::Resume => (),
            OnExisting::Overwrite => file.set_len(0).map_err(failed)?,
        }
        writer(Target::File { file, len: 0 })
    }

    /// Hands the lines that are there to `each`, by number, and cuts off a last one that is incomplete.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a line but the last that is no JSON, and for what `each` says of one.
    pub fn existing(&mut self, each: &mut dyn FnMut(Value) -> Result<(), String>) -> Result<()> {
        let Target::File { file, len } = &mut self.target else { return Ok(()) };
        let path = &self.path;
        let mut lines = Lines::new(BufReader::with_capacity(1 << 20, &*file), path.clone());
        let mut bad = None;
        *len = 0;
        while let Some(line) = lines.next_line()? {
            // Only the last line may be anything else than a whole one.
            if let Some(bad) = bad.take() {
                return Err(bad);
            }
            let Line { number, len: line_len, ended, text } = line;
            let at_line = |reason: String| Error::malformed(path, format_args!("line {number}: {reason}"));
            let value = match text {
                Ok(text) => serde_json::from_str(text).map_err(|e| format!("not a line of answers: {e}")),
                Err(reason) => Err(reason),
            };
            match value {
                Ok(value) if ended => {
                    each(value).map_err(at_line)?;
                    *len += line_len;
                }
                Ok(_) => bad = Some(at_line("it does not end".into())),
                Err(reason) => bad = Some(at_line(reason)),
            }
        }
        let failed = |e| Error::io("write", path.as_path(), e);
        file.set_len(*len).map_err(failed)?;
        file.seek(SeekFrom::Start(*len)).map_err(failed)?;
        Ok(())
    }

    /// Writes one line. Where that fails what was written of it is taken back.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let failed = |e| Error::io("write", self.path.as_path(), e);
        let mut line = serde_json::to_vec(value).map_err(|e| failed(e.into()))?;
        line.push(b'\n');
        match &mut self.target {
            Target::File { file, len } => {
                if let Err(e) = file.write_all(&line) {
                    let _ = file.set_len(*len);
                    return Err(failed(e));
                }
                *len += line.len() as u64;
                Ok(())
            }
            Target::Stream(stream) => stream.write_all(&line).and_then(|()| stream.flush()).map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn existing(path: &Path) -> Result<Vec<Value>> {
        let mut writer = LineWriter::open(path, OnExisting::Resume)?;
        let mut lines = Vec::new();
        writer.existing(&mut |line| {
            lines.push(line);
            Ok(())
        })?;
        writer.write(&json!({"new": true}))?;
        Ok(lines)
    }

    #[test]
    fn a_file_cut_anywhere_goes_on_after_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let whole = b"{\"a\":1}\n{\"a\":\"\xc3\xbc\"}\n3\n";
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(existing(&path).unwrap().len(), lines, "cut at {cut}");
            let kept: Vec<u8> =
                whole.split_inclusive(|&byte| byte == b'\n').take(lines).flatten().copied().collect();
            assert_eq!(std::fs::read(&path).unwrap(), [&kept[..], b"{\"new\":true}\n"].concat());
        }
    }

    #[test]
    fn only_the_last_line_may_be_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        std::fs::write(&path, b"1\n\0\0\0\0\n").unwrap();
        assert_eq!(existing(&path).unwrap(), [json!(1)]);
        for broken in ["1\nx\n2\n", "\n1\n", "1\n\u{0}\n2"] {
            std::fs::write(&path, broken).unwrap();
            let message = existing(&path).unwrap_err().to_string();
            assert!(message.contains("line ") && message.contains("not a line of answers"), "{message}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
        }
    }

    #[test]
    fn what_is_there_is_kept_unless_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let refused = |path: &Path, on_existing| {
            LineWriter::open(path, on_existing).err().map(|e| e.to_string()).unwrap_or_default()
        };
        let mut first = LineWriter::open(&path, OnExisting::Refuse).unwrap();
        first.write(&1).unwrap();
        assert!(refused(&path, OnExisting::Overwrite).contains("another process writes to it"));
        drop(first);
        assert!(refused(&path, OnExisting::Refuse).contains("resume it or overwrite it"));
        assert_eq!(std::fs::read(&path).unwrap(), b"1\n");
        LineWriter::open(&path, OnExisting::Overwrite).unwrap().write(&2).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"2\n");
        assert!(refused(dir.path(), OnExisting::Overwrite).starts_with("cannot write "));
        assert!(refused(&dir.path().join("no/out"), OnExisting::Refuse).starts_with("cannot write "));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn devices_are_written_to_and_not_resumed() {
        let null = Path::new("/dev/null");
        LineWriter::open(null, OnExisting::Refuse).unwrap().write(&1).unwrap();
        assert!(LineWriter::open(null, OnExisting::Resume).is_err());
        let mut full = LineWriter::open(Path::new("/dev/full"), OnExisting::Refuse).unwrap();
        assert!(full.write(&1).unwrap_err().to_string().starts_with("cannot write /dev/full"));
    }
}
