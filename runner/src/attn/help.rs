//! The registry as a page of text.

use std::fmt::Write;

use super::method::Field;
use super::registry::METHODS;

/// The width of a plain terminal.
const WIDTH: usize = 80;

/// Every pattern with its names, keys, accepted values and defaults, within 80 columns.
pub fn help() -> String {
    let mut page = String::from(
        "The patterns of --attn, written NAME[,KEY=VALUE...]. Keys are shown with their\n\
         defaults; a key shown without a value is a switch that naming turns on. Lengths\n\
         are tokens and take k and m: 16k is 16384. Case does not matter, - and _ are the\n\
         same.\n",
    );
    for method in METHODS {
        let aliases = match method.aliases {
            [] => String::new(),
            aliases => format!(" (or {})", aliases.join(", ")),
        };
        let _ = write!(page, "\n{}{aliases}\n  {}\n", method.name, method.doc);
        for key in method.keys {
            let (setting, accepts) = match key.field {
                Field::Switch { .. } => (key.name.to_owned(), String::new()),
                _ => (format!("{}={}", key.name, key.default(method)), format!(" ({})", key.accepts())),
            };
            let line = format!("    {setting:<18}  {}", key.doc);
            let gap = if line.len() + accepts.len() > WIDTH { format!("\n{:23}", "") } else { String::new() };
            let _ = writeln!(page, "{line}{gap}{accepts}");
        }
    }
    page.push_str("\nExample: --attn dense --attn flexprefill,gamma=0.95,min_budget=512\n");
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_and_key_fits_80_columns() {
        let page = help();
        for method in METHODS {
            assert!(page.contains(&format!("\n{}", method.name)));
            for key in method.keys {
                assert!(page.contains(&format!("\n    {}", key.name)), "{}", key.name);
            }
        }
        for line in page.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
