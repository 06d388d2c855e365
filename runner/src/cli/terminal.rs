//! Standard output for data, standard error for the rest; neither may panic when it is closed.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::{Failure, Outcome};

/// Writes to standard output, at once.
pub fn print(text: &str) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

/// Writes a value to standard output as JSON, indented.
pub fn print_json(value: &impl Serialize) -> Outcome {
    let json =
        serde_json::to_string_pretty(value).map_err(|e| Failure::Other(format!("cannot write JSON: {e}")))?;
    print(&(json + "\n"))
}

/// Writes a line to standard error.
pub fn say(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether standard output shows colours: a terminal that is not dumb, and no `NO_COLOR` (<https://no-color.org>).
pub fn colour() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
    io::stdout().is_terminal() && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// Text on one line: control characters, line ends among them, escaped as in a string.
pub fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn one_line_has_no_control_characters() {
        assert_eq!(super::one_line("a\tb\r\nü\u{1b}[2J"), "a\\tb\\r\\nü\\u{1b}[2J");
    }
}
