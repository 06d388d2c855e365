//! The registries as a page of text.

use std::fmt::Write;

use super::entry::{Entry, Field, Key};
use super::{METHODS, PATTERNS};

/// The width of a plain terminal.
const WIDTH: usize = 80;
/// Where what is said of a key begins.
const INDENT: usize = 24;

/// Every context method and every pattern with its names, keys, accepted values and defaults, within 80 columns.
pub fn help() -> String {
    let mut page = String::from(
        "What --attn takes: METHOD+PATTERN, a context method and the pattern of its\n\
         passes, or either of them alone; each as NAME[,KEY=VALUE...]. Keys are shown\n\
         with their defaults; a key shown without a value is a switch that naming turns\n\
         on. Lengths are tokens and take k and m: 16k is 16384. Case does not matter,\n\
         - and _ are the same.\n\
         \n\
         CONTEXT METHODS: what is run of a long text, and kept for the query after it.\n\
         All but ring are approximations. The query is what --query says, or the last\n\
         --query-tokens of a prompt.\n",
    );
    METHODS.iter().for_each(|entry| write_entry(&mut page, entry));
    page.push_str("\nPATTERNS: which keys each query reads.\n");
    PATTERNS.iter().for_each(|entry| write_entry(&mut page, entry));
    page.push_str(
        "\nExamples: --attn dense --attn flexprefill,gamma=0.95,min_budget=512\n          \
         --attn star,block=4k --attn star,block=4k+xattention\n",
    );
    page
}

fn write_entry<T: Clone>(page: &mut String, entry: &Entry<T>) {
    let aliases = match entry.aliases {
        [] => String::new(),
        aliases => format!(" (or {})", aliases.join(", ")),
    };
    let _ = write!(page, "\n{}{aliases}\n  {}\n", entry.name, entry.doc);
    entry.keys.iter().for_each(|key| write_key(page, entry, key));
}

fn write_key<T: Clone>(page: &mut String, entry: &Entry<T>, key: &Key<T>) {
    let (setting, accepts) = match key.field {
        Field::Switch { .. } if key.default(entry) == "false" => (key.name.to_owned(), String::new()),
        Field::Seed { .. } => (format!("{}={}", key.name, key.default(entry)), String::new()),
        Field::Choice { choices, .. } => {
            let names: Vec<_> = choices.iter().map(|choice| choice.name).collect();
            (format!("{}={}", key.name, key.default(entry)), format!(" ({})", names.join(", ")))
        }
        _ => (format!("{}={}", key.name, key.default(entry)), format!(" ({})", key.accepts())),
    };
    let line = format!("    {setting:<18}  {}", key.doc);
    let explained = match &key.field {
        Field::Choice { choices, .. } if choices.iter().any(|choice| !choice.doc.is_empty()) => *choices,
        _ => &[],
    };
    if !explained.is_empty() {
        let _ = writeln!(page, "{line}:");
        for choice in explained {
            let _ = writeln!(page, "{:INDENT$}{}: {}", "", choice.name, choice.doc);
        }
        return;
    }
    let gap =
        if line.len() + accepts.len() > WIDTH { format!("\n{:1$}", "", INDENT - 1) } else { String::new() };
    let _ = writeln!(page, "{line}{gap}{accepts}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shows<T>(page: &str, entry: &Entry<T>) {
        assert!(page.contains(&format!("\n{}", entry.name)));
        for key in entry.keys {
            assert!(page.contains(&format!("\n    {}", key.name)), "{}", key.name);
        }
    }

    #[test]
    fn every_name_and_key_is_there_within_80_columns() {
        let page = help();
        METHODS.iter().for_each(|entry| shows(&page, entry));
        PATTERNS.iter().for_each(|entry| shows(&page, entry));
        for line in page.lines() {
            assert!(line.chars().count() <= WIDTH && line.trim_end() == line, "{line}");
        }
    }
}
