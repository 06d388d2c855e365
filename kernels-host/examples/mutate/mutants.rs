//! Mutants of a kernel's PTX: the text with one line changed.

use std::fmt;
use std::ops::Range;

/// What a mutant changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A barrier, wait, commit, copy, shuffle, load or store is gone.
    Delete,
    /// A comparison takes or leaves equality, or tests for its opposite.
    Compare,
    /// An address is one access further on.
    Address,
    /// A guard is turned round.
    Guard,
    /// A wait leaves one group more under way.
    Wait,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Delete, Self::Compare, Self::Address, Self::Guard, Self::Wait];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Compare => "compare",
            Self::Address => "address",
            Self::Guard => "guard",
            Self::Wait => "wait",
        })
    }
}

/// One change to one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutant {
    /// Index of the line in the image.
    pub line: usize,
    pub kind: Kind,
    pub old: String,
    pub new: String,
}

/// The lines of a kernel in an image, from its `.entry` to its closing brace.
pub fn lines_of(image: &[&str], kernel: &str) -> Option<Range<usize>> {
    let entry = format!(".visible .entry {kernel}(");
    let start = image.iter().position(|line| *line == entry)?;
    let end = image[start..].iter().position(|line| *line == "}")?;
    Some(start..start + end + 1)
}

/// The image with kernels other than `kept` blanked out: line numbers stay.
pub fn only(image: &[&str], kept: &[Range<usize>]) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::with_capacity(image.len());
    for (at, line) in image.iter().enumerate() {
        inside |= line.starts_with(".visible .entry");
        let keep = !inside || kept.iter().any(|range| range.contains(&at));
        lines.push(if keep { (*line).to_owned() } else { String::new() });
        inside &= *line != "}";
    }
    lines
}

/// Opcodes whose absence something must notice.
const DELETED: [&str; 15] = [
    "bar.",
    "barrier.",
    "cp.async.",
    "shfl.",
    "ldmatrix.",
    "stmatrix.",
    "ld.global",
    "ld.shared",
    "st.global",
    "st.shared",
    "mma.",
    "atom.",
    "red.",
    "fence.",
    "membar.",
];

/// Opcodes whose addresses are shifted.
const ADDRESSED: [&str; 6] = ["ld.", "st.", "ldmatrix.", "stmatrix.", "cp.async.c", "atom."];

/// Every mutant of the lines in `range`.
pub fn of_lines(image: &[&str], range: Range<usize>) -> Vec<Mutant> {
    let mut mutants = Vec::new();
    for line in range {
        let old = image[line].trim();
        let mut push = |kind, new: String| mutants.push(Mutant { line, kind, old: old.to_owned(), new });
        let (guard, rest) = match old.strip_prefix('@').and_then(|s| s.split_once(char::is_whitespace)) {
            Some((guard, rest)) => (Some(guard), rest.trim_start()),
            None => (None, old),
        };
        let opcode = rest.split(|c: char| c.is_whitespace() || c == ';').next().unwrap_or("");
        if let Some(guard) = guard {
            push(
                Kind::Guard,
                match guard.strip_prefix('!') {
                    Some(predicate) => format!("@{predicate} {rest}"),
                    None => format!("@!{guard} {rest}"),
                },
            );
        }
        if DELETED.iter().any(|prefix| opcode.starts_with(prefix)) {
            push(Kind::Delete, String::new());
        }
        if let Some(swapped) = swap_compare(opcode) {
            push(Kind::Compare, old.replacen(opcode, &swapped, 1));
        }
        if opcode == "cp.async.wait_group"
            && let Some(groups) = rest[opcode.len()..].trim().trim_end_matches(';').trim().parse::<u32>().ok()
        {
            push(Kind::Wait, format!("{opcode} {};", groups + 1));
        }
        if ADDRESSED.iter().any(|prefix| opcode.starts_with(prefix)) {
            for bracket in brackets(old) {
                let shifted = shift(&old[bracket.clone()], access_bytes(opcode));
                push(Kind::Address, format!("{}{shifted}{}", &old[..bracket.start], &old[bracket.end..]));
            }
        }
    }
    mutants
}

/// `setp` with another relation.
fn swap_compare(opcode: &str) -> Option<String> {
    let rest = opcode.strip_prefix("setp.")?;
    let relation = rest.split('.').next()?;
    let swapped = match relation {
        "le" => "lt",
        "lt" => "le",
        "ge" => "gt",
        "gt" => "ge",
        "eq" => "ne",
        "ne" => "eq",
        "ls" => "lo",
        "lo" => "ls",
        "hs" => "hi",
        "hi" => "hs",
        _ => return None,
    };
    Some(format!("setp.{swapped}{}", &rest[relation.len()..]))
}

/// What stands between each pair of brackets.
fn brackets(text: &str) -> Vec<Range<usize>> {
    text.match_indices('[').filter_map(|(open, _)| Some(open + 1..open + text[open..].find(']')?)).collect()
}

/// An address `bytes` further on.
fn shift(address: &str, bytes: i64) -> String {
    match address.rsplit_once('+') {
        Some((base, offset)) if offset.trim().parse::<i64>().is_ok() => {
            format!("{base}+{}", offset.trim().parse::<i64>().unwrap_or(0) + bytes)
        }
        _ => format!("{address}+{bytes}"),
    }
}

/// Bytes that one lane moves: how far on the next access lies, aligned as the instruction needs it.
fn access_bytes(opcode: &str) -> i64 {
    let vector = match opcode.split('.').find_map(|part| part.strip_prefix('v')) {
        Some("2") => 2,
        Some("4") => 4,
        _ => 1,
    };
    let width = match opcode.rsplit('.').next().unwrap_or("") {
        "b8" | "u8" | "s8" => 1,
        "b16" if !opcode.contains("matrix") => 2,
        "b64" | "u64" | "s64" | "f64" => 8,
        "b32" | "u32" | "s32" | "f32" => 4,
        // ldmatrix and cp.async
        _ => 16,
    };
    vector * width
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutants(line: &str) -> Vec<(Kind, String)> {
        of_lines(&[line], 0..1).into_iter().map(|m| (m.kind, m.new)).collect()
    }

    #[test]
    fn each_kind_of_line_has_its_mutants() {
        use Kind::*;
        assert_eq!(mutants("\tbar.sync \t0;"), [(Delete, String::new())]);
        assert_eq!(
            mutants("cp.async.wait_group \t1;"),
            [(Delete, String::new()), (Wait, "cp.async.wait_group 2;".into())]
        );
        assert_eq!(mutants("\t@%p2 bra \t$L__BB21_2;"), [(Guard, "@!%p2 bra \t$L__BB21_2;".into())]);
        assert_eq!(
            mutants("@!%p2 st.global.b32 [%rd1], %r2;"),
            [
                (Guard, "@%p2 st.global.b32 [%rd1], %r2;".into()),
                (Delete, String::new()),
                (Address, "@!%p2 st.global.b32 [%rd1+4], %r2;".into()),
            ]
        );
        assert_eq!(mutants("setp.le.s32 %p1, %r1, %r2;"), [(Compare, "setp.lt.s32 %p1, %r1, %r2;".into())]);
        assert_eq!(
            mutants("cp.async.cg.shared.global [%r1+-32], [%rd2], 16, %r3;")[1..],
            [
                (Address, "cp.async.cg.shared.global [%r1+-16], [%rd2], 16, %r3;".into()),
                (Address, "cp.async.cg.shared.global [%r1+-32], [%rd2+16], 16, %r3;".into()),
            ]
        );
        assert_eq!(
            mutants("ld.param.b64 %rd1, [k_param_8+64];"),
            [(Address, "ld.param.b64 %rd1, [k_param_8+72];".into())]
        );
        assert_eq!(
            mutants("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1, %r2, %r3, %r4}, [%r5];")[1].1,
            "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r1, %r2, %r3, %r4}, [%r5+16];"
        );
        assert!(mutants("ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5];")[1].1.ends_with(" [%r5+16];"));
        for none in ["add.s32 %r1, %r2, %r3;", "// %bb.0:", "$L__BB21_2:", "ret;", "{ .reg .b32 tmp; }", ""] {
            assert_eq!(mutants(none), [], "{none}");
        }
    }

    #[test]
    fn kernels_are_cut_out_with_their_line_numbers() {
        let image = [
            ".version 7.0",
            ".visible .entry a(",
            ")",
            "{",
            "ret;",
            "}",
            "",
            ".visible .entry b(",
            "{",
            "ret;",
            "}",
        ];
        assert_eq!(lines_of(&image, "a"), Some(1..6));
        assert_eq!(lines_of(&image, "b"), Some(7..11));
        assert_eq!(lines_of(&image, "c"), None);
        let b = lines_of(&image, "b").into_iter().collect::<Vec<_>>();
        let kept = only(&image, &b);
        assert_eq!(kept.len(), image.len());
        assert!(kept[1..6].iter().all(String::is_empty));
        assert_eq!(kept[7..], image[7..]);
        assert_eq!(kept[0], image[0]);
    }
}
