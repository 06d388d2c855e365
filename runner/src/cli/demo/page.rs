//! The demo as a page of text.

use std::time::Duration;

use lacuna::Device;
use lacuna_runner::report::{
    Align, Style, Table, format_count, format_density, format_duration, format_speedup,
};

use super::{Answer, Demo, DemoArgs, Expectation, HiddenNeedle, Shown};
use crate::cli::terminal;

/// Characters of an answer, and answers on a line of 80 columns.
const ANSWER_WIDTH: usize = 7;
const ANSWERS_A_LINE: usize = 7;

impl Demo {
    /// What was hidden, what every pattern found of it, and what to try next.
    pub fn page(&self, args: &DemoArgs, colour: bool) -> String {
        let depth = |needle: Option<&HiddenNeedle>| needle.map_or(0.0, |needle| needle.depth_percent);
        let mut page = format!(
            "A text of {} tokens hides {} facts, from {:.0}% to {:.0}% of its length. A small\n\
             Llama model reads text and questions under each pattern, in one prefill; the\n\
             answers are then decoded densely.\n\n",
            format_count(self.tokens),
            self.needles.len(),
            depth(self.needles.first()),
            depth(self.needles.last()),
        );
        page += &self.table(&self.patterns, false, colour);
        if !self.methods.is_empty() {
            let on = match self.ranks {
                1 => String::new(),
                ranks => format!(" on {ranks} ranks"),
            };
            page += &format!(
                "\nContext methods run the text in parts{on} and keep some of it; the\n\
                 questions then run densely over what was kept.\n\n"
            );
            page += &self.table(&self.methods, true, colour);
        }
        page += &format!(
            "\n\
             \u{2713} right   - out of reach   ? not certain to be kept   \u{2717} missed\n\
             Density: the share of the visible attention that was computed.\n\n\
             {}\n\
             Next: lacuna demo -a flexprefill,gamma=0.9 -a xattention,threshold=0.8\n      \
             lacuna model needle -o needle; lacuna mask --help; lacuna generate -a help\n",
            self.closing(args),
        );
        page
    }
}

impl Demo {
    /// A row for each, with what it answered below it; above context methods dense, that they are compared with.
    fn table(&self, rows: &[Shown], methods: bool, colour: bool) -> String {
        let mut columns = vec![
            (if methods { "method" } else { "pattern" }, Align::Left),
            ("found", Align::Right),
            ("density", Align::Right),
        ];
        if methods {
            columns.push(("kept", Align::Right));
        }
        columns.extend([("prefill", Align::Right), ("speed-up", Align::Right), ("verdict", Align::Left)]);
        let mut table = Table::new(&columns);
        let dense = self.patterns.first().filter(|_| methods);
        for shown in dense.into_iter().chain(rows) {
            let (verdict, style) = match shown.as_expected {
                true => ("as expected", Style::Good),
                false => ("NOT as expected", Style::Bad),
            };
            let cost = &shown.cost;
            let mut cells = vec![
                shown.name.clone(),
                format!("{}/{}", shown.found, self.needles.len()),
                format_density(cost.density),
            ];
            if methods {
                cells.push(format_count(cost.kept_tokens));
            }
            cells.push(format_duration(Duration::from_secs_f64(cost.prefill_seconds)));
            cells.push(format_speedup(shown.speedup));
            let mut cells: Vec<_> = cells.into_iter().map(|cell| (cell, Style::Plain)).collect();
            cells.push((verdict.into(), style));
            table.row(cells);
            if dense.is_some_and(|dense| std::ptr::eq(dense, shown)) {
                continue;
            }
            for answers in shown.answers.chunks(ANSWERS_A_LINE) {
                let cells: Vec<String> = answers.iter().map(|answer| answer.cell(colour)).collect();
                table.note(format!("  {}", cells.join("  ").trim_end()));
            }
        }
        table.render(colour)
    }

    fn closing(&self, args: &DemoArgs) -> String {
        let mut model = match &args.model {
            Some(dir) => dir.display().to_string(),
            None => "the needle model".into(),
        };
        if args.device != Device::Cpu {
            model += &format!(",\non {}", args.device);
        }
        let seconds = format_duration(Duration::from_secs_f64(self.seconds));
        match self.as_expected {
            true => format!("All found what they should in {model}; {seconds} altogether."),
            false => format!("Not all did as they should in {model}; {seconds} altogether."),
        }
    }
}

impl Answer {
    fn cell(&self, colour: bool) -> String {
        let text: String = terminal::one_line(&self.text).chars().take(ANSWER_WIDTH).collect();
        let (mark, style) = match (self.right, self.expected) {
            (true, _) => ('\u{2713}', Style::Good),
            (false, Expectation::Find) => ('\u{2717}', Style::Bad),
            (false, Expectation::Miss) => ('-', Style::Dim),
            (false, Expectation::Either) => ('?', Style::Dim),
        };
        style.paint(&format!("{mark} {text:<ANSWER_WIDTH$}"), colour)
    }
}
