//! A sweep's cells as lines of text.

use std::time::Duration;

use lacuna_runner::attn::format_length;
use lacuna_runner::batch::CellSummary;
use lacuna_runner::report::{
    Align, Style, Table, format_count, format_density, format_duration, format_speedup,
};

/// What became of the cells; the files have more columns.
pub fn text(cells: &[CellSummary], samples: u64, colour: bool) -> String {
    let mut table = Table::new(&[
        ("length", Align::Right),
        ("attention", Align::Left),
        ("right", Align::Right),
        ("prefill", Align::Right),
        ("speed-up", Align::Right),
        ("density", Align::Right),
        ("kept", Align::Right),
    ]);
    for cell in cells {
        let known = |value: Option<f64>, format: &dyn Fn(f64) -> String| {
            (value.map_or("-".into(), format), Style::Plain)
        };
        let style = match cell.right == cell.asked {
            true if cell.asked > 0 => Style::Good,
            _ => Style::Plain,
        };
        table.row([
            (format_length(cell.cell.length), Style::Plain),
            (cell.cell.attn.clone(), Style::Plain),
            (format!("{}/{}", cell.right, cell.asked), style),
            known(cell.prefill_seconds, &|x| format_duration(Duration::from_secs_f64(x))),
            known(cell.speedup, &format_speedup),
            known(cell.density, &format_density),
            known(cell.kept_tokens, &|x| format_count(x.round() as usize)),
        ]);
        if cell.failed > 0 {
            table.note(format!("  {} of {} samples failed", cell.failed, cell.failed + cell.asked));
        }
    }
    let dense = match cells.iter().any(|cell| cell.speedup.is_some()) {
        true => ",\nspeed-up: over dense attention",
        false => "",
    };
    let of = format!(
        "\n{samples} samples of each length at most; prefill: the median to the first token{dense}\n"
    );
    table.render(colour) + &of
}

/// The cells that are to be run, and how much of each is there.
pub fn plan(cells: &[CellSummary], samples: u64) -> String {
    let mut table = Table::new(&[
        ("length", Align::Right),
        ("attention", Align::Left),
        ("samples", Align::Right),
        ("there", Align::Right),
    ]);
    for cell in cells {
        table.row([
            (format_length(cell.cell.length), Style::Plain),
            (cell.cell.attn.clone(), Style::Plain),
            (samples.to_string(), Style::Plain),
            ((cell.asked + cell.failed).to_string(), Style::Plain),
        ]);
    }
    table.render(false) + &format!("\n{} cells\n", cells.len())
}
