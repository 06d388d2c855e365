//! The demo as a page of text.

use std::time::Duration;

use lacuna::Device;
use lacuna_runner::report::{
    Align, Style, Table, format_count, format_density, format_duration, format_speedup,
};

use super::{Answer, Demo, DemoArgs, Expectation, HiddenNeedle};
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
        let mut table = Table::new(&[
            ("pattern", Align::Left),
            ("found", Align::Right),
            ("density", Align::Right),
            ("prefill", Align::Right),
            ("speed-up", Align::Right),
            ("verdict", Align::Left),
        ]);
        for shown in &self.patterns {
            let (verdict, style) = match shown.as_expected {
                true => ("as expected", Style::Good),
                false => ("NOT as expected", Style::Bad),
            };
            table.row([
                (shown.name.into(), Style::Plain),
                (format!("{}/{}", shown.found, self.needles.len()), Style::Plain),
                (format_density(shown.density), Style::Plain),
                (format_duration(Duration::from_secs_f64(shown.prefill_seconds)), Style::Plain),
                (format_speedup(shown.speedup), Style::Plain),
                (verdict.into(), style),
            ]);
            for answers in shown.answers.chunks(ANSWERS_A_LINE) {
                let cells: Vec<String> = answers.iter().map(|answer| answer.cell(colour)).collect();
                table.note(format!("  {}", cells.join("  ").trim_end()));
            }
        }
        page += &table.render(colour);
        page += &format!(
            "\n\
             \u{2713} right   - out of the pattern's reach   ? not certain to be kept   \u{2717} missed\n\
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
            true => format!("Every pattern found what it should in {model}; {seconds} altogether."),
            false => format!("Not every pattern did as it should in {model}; {seconds} altogether."),
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
