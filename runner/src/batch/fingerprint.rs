//! Whether two runs ask the same of the same model.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Bytes of each file of weights that count: its header and the first tensors.
const WEIGHT_BYTES: u64 = 1 << 20;

/// A hash of all that an answer depends on. It tells runs apart that differ by accident, not by design: FNV-1a, 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        let value = value.to_string();
        // Lengths in front, so that no two lists of settings are the same bytes.
        for text in [name, &value] {
            self.bytes(&(text.len() as u64).to_le_bytes());
            self.bytes(text.as_bytes());
        }
        self
    }

    /// Adds a file, whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn with_file(self, path: &Path) -> Result<Self> {
        self.with_start_of(path, u64::MAX)
    }

    fn with_start_of(mut self, path: &Path, max: u64) -> Result<Self> {
        let failed = |e| Error::io("read", path, e);
        let file = File::open(path).map_err(failed)?;
        self = self.with("length", file.metadata().map_err(failed)?.len());
        let mut file = file.take(max);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(self),
                n => self.bytes(&buffer[..n]),
            }
        }
    }

    /// Adds a model: its configuration and, of each file of weights, the length and the first MiB.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn with_model(mut self, dir: &Path) -> Result<Self> {
        for name in ["config.json", "generation_config.json", "model.safetensors.index.json"] {
            let path = dir.join(name);
            if path.exists() {
                self = self.with("file", name).with_file(&path)?;
            }
        }
        let failed = |e| Error::io("read", dir, e);
        let mut weights = Vec::<PathBuf>::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            weights.extend(Some(path).filter(|path| path.extension().is_some_and(|e| e == "safetensors")));
        }
        weights.sort();
        for path in weights {
            let name = path.file_name().unwrap_or_default().display();
            self = self.with("weights", name).with_start_of(&path, WEIGHT_BYTES)?;
        }
        Ok(self)
    }
}

/// 16 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_and_every_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        let model = || Fingerprint::default().with_model(dir.path()).unwrap();
        let mut seen = vec![Fingerprint::default()];
        for (name, text) in [
            ("config.json", "a"),
            ("config.json", "b"),
            ("model-1.safetensors", "x"),
            ("model-1.safetensors", "xy"),
            ("model-2.safetensors", "x"),
        ] {
            write(name, text);
            assert!(!seen.contains(&model()), "{name} {text}");
            assert_eq!(model(), model());
            seen.push(model());
        }
        write("notes.txt", "other files do not count");
        assert_eq!(seen.last(), Some(&model()));
        let ab = Fingerprint::default().with("a", "b");
        for other in [("a", "c"), ("ab", ""), ("", "ab"), ("b", "a")] {
            assert_ne!(Fingerprint::default().with(other.0, other.1), ab);
        }
        assert_eq!(Fingerprint::default().with("", "").to_string().len(), 16);
    }
}
