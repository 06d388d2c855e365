//! The table from PTX lines to Rust lines, as `ptx-builder` writes it next to the text.
//!
//! ```text
//! ptx-lines 1
//! file kernels-gpu/src/dense_attention/mod.rs
//! at 0:120
//! at 0:31 0
//! 214 1
//! 231
//! ```
//!
//! Files and places are numbered from 0 as they come. A place is `file:line`, then the place it was inlined into, if any.
//! A row gives the place of what stands at a PTX line and holds up to the next row; without a place nothing is known.

use crate::{ReadError, SourceLine};

/// File, line, and the place it was inlined into.
type Place = (usize, u32, Option<usize>);

/// The table of a module.
#[derive(Debug, Default)]
pub struct LineTable {
    files: Vec<String>,
    places: Vec<Place>,
    /// PTX line and place, ascending.
    rows: Vec<(u32, Option<usize>)>,
}

impl LineTable {
    /// Reads a table; an empty text is an empty table. Errors carry the line of the table.
    pub fn read(text: &str) -> Result<Self, ReadError> {
        let mut table = LineTable::default();
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let known = if i == 0 { (line == "ptx-lines 1").then_some(()) } else { table.add(line) };
            known.ok_or_else(|| {
                ReadError::new(
                    i as u32 + 1,
                    format!("`{line}` is no entry of a line table (which this is the line of)"),
                )
            })?;
        }
        Ok(table)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        if let Some(path) = line.strip_prefix("file ") {
            self.files.push(path.to_owned());
            return Some(());
        }
        let (place, line) = line.strip_prefix("at ").map_or((false, line), |line| (true, line));
        let mut words = line.split_whitespace();
        let first = words.next()?;
        let reference = words.next().map(str::parse::<usize>).transpose().ok()?;
        if reference.is_some_and(|place| place >= self.places.len()) || words.next().is_some() {
            return None;
        }
        if place {
            let (file, line) = first.split_once(':')?;
            let file = file.parse().ok().filter(|&file: &usize| file < self.files.len())?;
            self.places.push((file, line.parse().ok()?, reference));
        } else {
            let ptx_line = first.parse().ok()?;
            let ascends = self.rows.last().is_none_or(|&(last, _)| last < ptx_line);
            ascends.then(|| self.rows.push((ptx_line, reference)))?;
        }
        Some(())
    }

    /// The Rust line of a PTX line.
    pub fn find(&self, ptx_line: u32) -> Option<SourceLine> {
        let row = self.rows.partition_point(|&(line, _)| line <= ptx_line).checked_sub(1)?;
        let mut chain = Vec::new();
        let mut next = self.rows[row].1;
        while let Some(place) = next {
            let (file, line, caller) = self.places[place];
            chain.push((file, line));
            // A place refers to earlier ones only, so this ends.
            next = caller;
        }
        chain.into_iter().rev().fold(None, |inlined_into, (file, line)| {
            Some(SourceLine {
                file: self.files[file].clone(),
                line,
                inlined_into: inlined_into.map(Box::new),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_with_their_callers() {
        let text = "ptx-lines 1\nfile a.rs\nfile b.rs\nat 0:120\nat 1:31 0\n10 1\n12\n20 0\n";
        let table = LineTable::read(text).unwrap();
        assert_eq!(table.find(9), None);
        assert_eq!(table.find(11).unwrap().to_string(), "b.rs:31, inlined at a.rs:120");
        assert_eq!(table.find(12), None);
        assert_eq!(table.find(1000).unwrap().to_string(), "a.rs:120");
        assert_eq!(LineTable::read("").unwrap().find(1), None);
    }

    #[test]
    fn broken_tables_are_refused() {
        for text in
            ["nonsense", "ptx-lines 1\nat 0:1", "ptx-lines 1\n5 0", "ptx-lines 1\n5\n4", "ptx-lines 1\n5 x"]
        {
            assert!(LineTable::read(text).is_err(), "{text}");
        }
    }
}
