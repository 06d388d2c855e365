//! What an image is made from, as one hash.

use std::fs;
use std::path::{Path, PathBuf};

use crate::pipeline::{self, read};
use crate::{Error, Result, sha256, toolchain};

/// The hash of everything that decides the PTX: the crate's `src`, the pinned compiler and the pipeline's flags. An image
/// whose manifest records the same hash is up to date, and no compiler needs to be asked.
pub fn source_hash(crate_dir: &Path) -> Result<String> {
    let mut text = format!("{}\n{}\n", toolchain::pinned(), pipeline::fingerprint());
    for name in source_files(crate_dir)? {
        // Checkouts differ in how lines end.
        let content = read(&crate_dir.join(&name))?.replace("\r\n", "\n");
        text.push_str(&format!("{name} {}\n{content}\n", content.len()));
    }
    Ok(sha256::hex(text.as_bytes()))
}

/// The crate's source files in order, relative to it and with forward slashes.
pub(crate) fn source_files(crate_dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        let path = crate_dir.join(&folder);
        for entry in fs::read_dir(&path).map_err(Error::io(&path))? {
            let entry = entry.map_err(Error::io(&path))?;
            let name = folder.join(entry.file_name());
            if entry.file_type().map_err(Error::io(&path))?.is_dir() {
                folders.push(name);
            } else if name.extension().is_some_and(|extension| extension == "rs") {
                found.push(name.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::write;

    #[test]
    fn the_hash_follows_names_and_contents_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = |crate_name: &str, name: &str| folder.path().join(crate_name).join(name);
        let fill = |crate_name: &str, files: &[(&str, &str)]| {
            files.iter().for_each(|(name, text)| write(&file(crate_name, name), text).unwrap());
            source_hash(&folder.path().join(crate_name)).unwrap()
        };
        let hash = fill("a", &[("src/lib.rs", "mod one;\n"), ("src/one/mod.rs", "//! One\n")]);
        assert_eq!(hash.len(), 64);
        assert_eq!(
            fill("b", &[("src/one/mod.rs", "//! One\r\n"), ("src/lib.rs", "mod one;\n"), ("notes", "")]),
            hash
        );
        assert_ne!(fill("c", &[("src/lib.rs", "mod one;\n"), ("src/one.rs", "//! One\n")]), hash);
        assert_ne!(fill("d", &[("src/lib.rs", "mod one; \n"), ("src/one/mod.rs", "//! One\n")]), hash);
        assert!(source_hash(&folder.path().join("none")).is_err());
    }
}
