//! Text that is the same on every machine.
//!
//! rustc mangles into a name the hash of the crate it comes from, and for `core` that depends on where the toolchain lies.
//! A surviving panic function would then change the text from one machine to the next. The hashes go; the rest of a name
//! tells functions apart as before. LLVM's comments, a third of the lines, go too: they hold such names as well.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// The text without comments and blank lines, under a line that says what it is.
pub(crate) fn without_comments(ptx: &str, title: &str) -> String {
    let mut out = format!("// {title}\n");
    for line in ptx.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end()) {
        if !line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// The text with the hashes taken out of mangled names.
pub(crate) fn symbols(ptx: &str) -> Result<String> {
    let mut originals: BTreeMap<String, &str> = BTreeMap::new();
    let mut out = String::with_capacity(ptx.len());
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
    let mut rest = ptx;
    while let Some(start) = ["_R", "_ZN"].iter().filter_map(|mark| rest.find(mark)).min() {
        let begins = !rest[..start].ends_with(is_name);
        let length = rest[start..].find(|c| !is_name(c)).unwrap_or(rest.len() - start);
        let name = &rest[start..start + length];
        out.push_str(&rest[..start]);
        let short = if begins { without_hashes(name) } else { name.to_string() };
        out.push_str(&short);
        if let Some(other) = originals.insert(short, name).filter(|other| *other != name) {
            return Err(Error::Pass(format!("symbols {other} and {name} differ in their hashes alone")));
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    Ok(out)
}

fn without_hashes(name: &str) -> String {
    if name.starts_with("_ZN") {
        // Legacy mangling ends in `17h`, sixteen digits and `E`.
        let hash =
            name.len().checked_sub(20).and_then(|at| name.get(at..)).filter(|end| end.starts_with("17h"));
        return hash.map_or(name.to_string(), |hash| format!("{}E", &name[..name.len() - hash.len()]));
    }
    // v0 mangling names a crate `C`, `s` hash `_`, length, name.
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("Cs") {
        let tail = &rest[at + 2..];
        let hash = tail.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tail.len());
        let is_crate =
            tail[hash..].starts_with('_') && tail[hash + 1..].starts_with(|c: char| c.is_ascii_digit());
        out.push_str(&rest[..at + 1]);
        rest = if is_crate { &tail[hash + 1..] } else { &rest[at + 1..] };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::{symbols, without_comments};

    #[test]
    fn hashes_go_and_names_stay() {
        let text = "call.uni _RNvNtCsgF6eNkgmCmF_4core9panicking9panic_fmt, ();\n\
                    call.uni _RINvCs7DG_5probe3farNtCsgF6eNkgmCmF_4core4CellE, ();\n\
                    _ZN4core9panicking5panic17h0123456789abcdefE x_Rest _RNvC4name";
        let want = "call.uni _RNvNtC4core9panicking9panic_fmt, ();\n\
                    call.uni _RINvC5probe3farNtC4core4CellE, ();\n\
                    _ZN4core9panicking5panicE x_Rest _RNvC4name";
        assert_eq!(symbols(text).unwrap(), want);
    }

    #[test]
    fn symbols_may_not_fall_together() {
        assert!(symbols("_RNvCsa_1x1f _RNvCsb_1x1f").is_err());
    }

    #[test]
    fn comments_go_and_code_stays() {
        let text =
            "//\n// Generated\n\n.version 7.0\n$L1: // %bb.1\n\t// begin inline asm\n\tbar.sync 0;\n}\n";
        assert_eq!(without_comments(text, "what"), "// what\n.version 7.0\n$L1:\n\tbar.sync 0;\n}\n");
    }
}
