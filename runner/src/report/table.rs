//! Aligned columns of text.

/// The side of its column that a cell keeps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// How a cell looks on a terminal with colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Something went as it should.
    Good,
    /// Something did not.
    Bad,
    /// Less important than the rest.
    Dim,
}

impl Style {
    /// `text` with the escape codes of the style around it, where `colour` is on.
    pub fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            _ if !colour || text.is_empty() => return text.to_owned(),
            Self::Plain => return text.to_owned(),
            Self::Good => "32",
            Self::Bad => "31",
            Self::Dim => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A table: a header, and rows whose cells line up under it. A row may have lines of its own below it.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: Vec<(String, Style)>,
    notes: Vec<String>,
}

/// Blanks between columns.
const GAP: &str = "  ";

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Appends a row, one cell for each column.
    ///
    /// # Panics
    /// With another number of cells.
    pub fn row(&mut self, cells: impl Into<Vec<(String, Style)>>) {
        let cells = cells.into();
        assert_eq!(cells.len(), self.columns.len(), "one cell for each column");
        self.rows.push(Row { cells, notes: Vec::new() });
    }

    /// Puts a line below the last row, as it is.
    pub fn note(&mut self, line: String) {
        if let Some(row) = self.rows.last_mut() {
            row.notes.push(line);
        }
    }

    /// The table as lines of text, with escape codes only where `colour` is on.
    pub fn render(&self, colour: bool) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row.cells[column].0));
                cells.chain([width(self.columns[column].0)]).max().unwrap_or(0)
            })
            .collect();
        let titles: Vec<_> =
            self.columns.iter().map(|&(title, _)| (title.to_owned(), Style::Plain)).collect();
        let rule: Vec<_> = widths.iter().map(|&w| ("-".repeat(w), Style::Dim)).collect();
        let mut out = self.line(&titles, &widths, colour) + &self.line(&rule, &widths, colour);
        for row in &self.rows {
            out += &self.line(&row.cells, &widths, colour);
            row.notes.iter().for_each(|note| out += &format!("{note}\n"));
        }
        out
    }

    fn line(&self, cells: &[(String, Style)], widths: &[usize], colour: bool) -> String {
        let mut line = String::new();
        for (i, ((text, style), &(_, align))) in cells.iter().zip(&self.columns).enumerate() {
            let blank = " ".repeat(widths[i] - width(text));
            let last = i + 1 == cells.len();
            line += if i > 0 { GAP } else { "" };
            match align {
                Align::Right => line += &(blank + &style.paint(text, colour)),
                // No blanks at the end of a line.
                Align::Left if last => line += &style.paint(text, colour),
                Align::Left => line += &(style.paint(text, colour) + &blank),
            }
        }
        line + "\n"
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table =
            Table::new(&[("pattern", Align::Left), ("density", Align::Right), ("verdict", Align::Left)]);
        table.row([
            ("dense".into(), Style::Plain),
            ("100%".into(), Style::Plain),
            ("as expected".into(), Style::Good),
        ]);
        table.note("  4711".into());
        table.row([
            ("xattention".into(), Style::Plain),
            ("9.31%".into(), Style::Dim),
            ("no".into(), Style::Bad),
        ]);
        table
    }

    #[test]
    fn columns_line_up() {
        let want = "\
pattern     density  verdict
----------  -------  -----------
dense          100%  as expected
  4711
xattention    9.31%  no
";
        assert_eq!(table().render(false), want);
    }

    #[test]
    fn colour_changes_nothing_but_the_escape_codes() {
        let mut text = table().render(true);
        assert!(text.contains("\x1b[32mas expected\x1b[0m"));
        for code in ["\x1b[0m", "\x1b[2m", "\x1b[31m", "\x1b[32m"] {
            text = text.replace(code, "");
        }
        assert_eq!(text, table().render(false));
    }
}
