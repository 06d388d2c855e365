//! The table from lines of the shipped PTX to lines of Rust.
//!
//! The shipped text has no line directives: they would make it half as long again. LLVM writes the same module a second
//! time with them; this reads the places out of that copy, checks that its instructions are those of the shipped text,
//! and writes
//!
//! ```text
//! ptx-lines 1
//! file kernels-gpu/src/dense_attention/mod.rs
//! file kernels-gpu/src/arch/mma_sm80.rs
//! at 0:120
//! at 1:31 0
//! 214 1
//! 231
//! ```
//!
//! Files and places are numbered from 0 as they come. A place is `file:line`, then the place it was inlined into, if any.
//! Each row begins at a line of the PTX (counted from 1), gives the place of what stands there, and holds up to the next
//! row; a row without a place stands for text that no line of Rust asked for.

use std::fmt::Write;

use crate::{Error, Result};

/// File, line, and the place it was inlined into.
type Place = (usize, u32, Option<usize>);

/// Makes the table. `sources` are the files of the crate and of `core` as `.file` directives name them; they complete
/// the shortened names that calls are noted under.
pub(crate) fn table(shipped: &str, located: &str, sources: &[String]) -> Result<String> {
    let directives = file_directives(located);
    let mut places = Places { files: Vec::new(), all: Vec::new(), sources, directives: &directives };
    let mut located = located_lines(located, &mut places);
    let mut rows: Vec<(usize, Option<usize>)> = Vec::new();
    for (number, text) in code(shipped) {
        let place = match located.next() {
            Some((same, place)) if same == text => place,
            other => {
                let other = other.map_or("the end", |(text, _)| text);
                return Err(Error::Pass(format!(
                    "line {number} of the PTX is `{text}`, but `{other}` in the copy with line directives"
                )));
            }
        };
        if rows.last().is_none_or(|(_, last)| *last != place) {
            rows.push((number, place));
        }
    }
    if let Some((text, _)) = located.next() {
        return Err(Error::Pass(format!("the copy with line directives goes on with `{text}`")));
    }
    drop(located);
    let mut out = String::from("ptx-lines 1\n");
    for name in &places.files {
        let _ = writeln!(out, "file {name}");
    }
    for (file, line, caller) in &places.all {
        let caller = caller.map_or(String::new(), |caller| format!(" {caller}"));
        let _ = writeln!(out, "at {file}:{line}{caller}");
    }
    for (number, place) in rows {
        let place = place.map_or(String::new(), |place| format!(" {place}"));
        let _ = writeln!(out, "{number}{place}");
    }
    Ok(out)
}

/// The line of Rust that a line of PTX comes from, as `file:line`: the innermost outside of `core`.
pub(crate) fn source(table: &str, line: usize) -> Option<String> {
    let words = |start: &'static str| table.lines().filter_map(move |text| text.strip_prefix(start));
    let (files, places): (Vec<_>, Vec<_>) = (words("file ").collect(), words("at ").collect());
    let rows = table.lines().filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    let parse = |text: &str| text.parse::<usize>().ok();
    let number = |row: &&str| row.split(' ').next().and_then(parse);
    let row = rows.take_while(|row| number(row).is_some_and(|number| number <= line)).last()?;
    let mut place = row.split(' ').nth(1).and_then(parse);
    while let Some(at) = place {
        let mut parts = places.get(at)?.split([':', ' ']);
        let (file, line) = (parts.next().and_then(parse)?, parts.next()?);
        let name = files.get(file)?;
        if !name.starts_with("rust/") {
            return Some(format!("{name}:{line}"));
        }
        place = parts.next().and_then(parse);
    }
    None
}

/// Files and places, in the order of their first use.
struct Places<'a> {
    files: Vec<String>,
    all: Vec<Place>,
    sources: &'a [String],
    directives: &'a [(&'a str, &'a str)],
}

impl Places<'_> {
    /// The place of `.loc 1 43 26  // src/lib.rs:43:26 @[ src/call.rs:8:5 @[ src/top.rs:3:1 ] ]`; line 0 stands for none.
    fn read(&mut self, numbers: &str, comment: &str) -> Option<usize> {
        let mut words = numbers.split_whitespace();
        let (file, line) = (words.next()?, words.next()?.parse().ok().filter(|&line: &u32| line > 0)?);
        let (_, name) = *self.directives.iter().find(|(number, _)| *number == file)?;
        let mut caller = None;
        for call in comment.split("@[").skip(1).collect::<Vec<_>>().into_iter().rev() {
            // Name, line and column.
            let mut parts = call.trim_matches([' ', ']']).rsplitn(3, ':').skip(1);
            if let (Some(Ok(line)), Some(short)) = (parts.next().map(str::parse), parts.next()) {
                let file = self.file_of_short(short);
                caller = Some(self.place((file, line, caller)));
            }
        }
        let file = self.file(name);
        Some(self.place((file, line, caller)))
    }

    fn place(&mut self, place: Place) -> usize {
        index_or_push(&mut self.all, place)
    }

    fn file(&mut self, name: &str) -> usize {
        index_or_push(&mut self.files, name.strip_prefix("./").unwrap_or(name).to_string())
    }

    /// The file of a call, of which LLVM notes the last folder and the name.
    fn file_of_short(&mut self, short: &str) -> usize {
        let is_full =
            |name: &&str| name.strip_suffix(short).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
        let named = self.directives.iter().map(|(_, name)| name.strip_prefix("./").unwrap_or(name));
        let mut full: Vec<_> = self.sources.iter().map(String::as_str).chain(named).filter(is_full).collect();
        full.sort_unstable();
        full.dedup();
        let name = if let [only] = full[..] { only.to_string() } else { short.to_string() };
        self.file(&name)
    }
}

fn index_or_push<T: PartialEq>(all: &mut Vec<T>, new: T) -> usize {
    all.iter().position(|known| *known == new).unwrap_or_else(|| {
        all.push(new);
        all.len() - 1
    })
}

/// Lines of code with their numbers: no comments, no blank lines, and not the two lines in which the copies differ.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let bare = |line: &'_ str| -> usize { line.find("//").unwrap_or(line.len()) };
    text.lines()
        .enumerate()
        .map(move |(index, line)| (index + 1, line[..bare(line)].trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(".version") && !line.starts_with(".target"))
}

/// `.file 1 "name"`, wherever they stand.
fn file_directives(located: &str) -> Vec<(&str, &str)> {
    code(located)
        .filter_map(|(_, line)| line.strip_prefix(".file")?.trim().split_once([' ', '\t']))
        .map(|(number, name)| (number, name.trim().trim_matches('"')))
        .collect()
}

/// The lines of the copy that are code, each with the place in force.
fn located_lines<'a>(
    located: &'a str,
    places: &'a mut Places<'_>,
) -> impl Iterator<Item = (&'a str, Option<usize>)> {
    let mut place = None;
    located.lines().filter_map(move |line| {
        let (text, comment) = line.split_once("//").unwrap_or((line, ""));
        let text = text.trim();
        // `.local` is another word.
        if let Some(numbers) = text.strip_prefix(".loc").filter(|rest| rest.starts_with([' ', '\t'])) {
            place = places.read(numbers, comment);
            return None;
        }
        let made_for_lines = [".version", ".target", ".file", ".section", "$L__tmp", "$L__func_"];
        if text.is_empty() || made_for_lines.iter().any(|start| text.starts_with(start)) {
            return None;
        }
        // Outside of functions nothing is placed; the closing brace of one stands alone.
        if text == "}" && line.starts_with('}') {
            place = None;
        }
        Some((text, place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "\
.version 7.0
.target sm_80
.visible .entry k()
{
\t.local .b8 \t__local_depot0[16];
// %bb.0:
\tmov.u32 \t%r1, %tid.x;
\tadd.s32 \t%r1, %r1, 1;
\tst.global.b32 \t[%rd1], %r1;
\tret;
}
";

    const LOCATED: &str = "\
.version 7.0
.target sm_80
.visible .entry k()
{
\t.local .b8 \t__local_depot0[16];
\t.loc\t1 7 0 // src/lib.rs:7:0
$L__func_begin0:
// %bb.0:
\t.loc\t1 8 3 // src/lib.rs:8:3
\tmov.u32 \t%r1, %tid.x;
\t.loc\t2 40 9 // arch/mma.rs:40:9 @[ tile/mod.rs:12:1 @[ src/lib.rs:9:2 ] ]
\tadd.s32 \t%r1, %r1, 1;
$L__tmp0:
\t.loc\t1 0 2 // src/lib.rs:0:2
\tst.global.b32 \t[%rd1], %r1;
\t.loc\t1 9 5
\tret;
$L__func_end0:
}
\t.section .debug_macinfo { }
\t.file 1 \"./gpu/src/lib.rs\"
\t.file 2 \"./gpu/src/arch/mma.rs\"
";

    #[test]
    fn rows_name_the_instruction_then_its_callers() {
        let sources = ["gpu/src/lib.rs", "gpu/src/arch/mma.rs", "gpu/src/tile/mod.rs"].map(String::from);
        let table = table(SHIPPED, LOCATED, &sources).unwrap();
        assert_eq!(
            table,
            "ptx-lines 1\nfile gpu/src/lib.rs\nfile gpu/src/tile/mod.rs\nfile gpu/src/arch/mma.rs\n\
             at 0:7\nat 0:8\nat 0:9\nat 1:12 2\nat 2:40 3\n3\n7 1\n8 4\n9\n10 2\n11\n"
        );
    }

    #[test]
    fn a_line_leads_to_rust_outside_of_core() {
        let table = "ptx-lines 1\nfile src/lib.rs\nfile rust/core/ptr.rs\nat 0:7\nat 1:80 0\nat 1:90\n3\n5 0\n9 1\n20\n";
        let lines = [1, 4, 5, 8, 12, 20].map(|line| source(table, line));
        let seven = Some("src/lib.rs:7".to_string());
        assert_eq!(lines, [None, None, seven.clone(), seven.clone(), seven, None]);
    }

    #[test]
    fn other_instructions_are_an_error() {
        for (from, to) in [("%r1, 1;", "%r1, 2;"), ("\tret;\n", ""), ("\tret;\n", "\tret;\n\tret;\n")] {
            let error = table(SHIPPED, &LOCATED.replace(from, to), &[]).unwrap_err().to_string();
            assert!(error.contains("line directives"), "{error}");
        }
    }
}
