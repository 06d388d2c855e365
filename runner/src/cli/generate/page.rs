//! Answers as text.

use std::time::Duration;

use lacuna_runner::context::Method;
use lacuna_runner::report::{
    Align, Style, Table, format_bytes, format_count, format_density, format_duration, format_rate,
    format_speedup,
};

use super::answer::Answer;
use crate::cli::cost::RankCost;
use crate::cli::prompt::PromptTokens;
use crate::cli::terminal;

impl Answer {
    /// One line about what it took; of several ranks, a line for each below it.
    pub fn summary(&self, prompt: &PromptTokens) -> String {
        let cost = &self.cost;
        let share = |seconds: f64| format_density(seconds / cost.prefill_seconds);
        let mut parts = vec![
            format!("{} prompt tokens", format_count(prompt.tokens.len())),
            format!("first token after {}", format_duration(Duration::from_secs_f64(cost.prefill_seconds))),
            format!(
                "prefill {}, of which attention {}, search {}",
                format_rate(cost.prefill_tokens_per_second),
                share(cost.attention_seconds),
                share(cost.search_seconds)
            ),
        ];
        parts.extend(self.decode_rate().map(|rate| format!("decode {}", format_rate(rate))));
        parts.push(format!("density {}", format_density(cost.density)));
        if cost.method != Method::Full {
            let passes: u64 = self.ranks.iter().map(|rank| rank.passes).max().unwrap_or(0);
            parts.push(format!(
                "kept {} of {} tokens ({}) in {passes} passes",
                format_count(cost.kept_tokens),
                format_count(prompt.context_len()),
                format_bytes(self.kv_bytes()),
            ));
        }
        let mut lines = String::new();
        match &self.ranks[..] {
            [rank] => parts.extend(rank.peak_memory_bytes.map(peak_memory)),
            ranks => ranks.iter().enumerate().for_each(|(i, rank)| lines += &format!("\n[{}]", rank.line(i))),
        }
        format!("[{}]{lines}", parts.join(", "))
    }
}

impl RankCost {
    fn line(&self, rank: usize) -> String {
        let mut line = format!(
            "rank {rank}: {} tokens in {} passes, keys and values {}",
            format_count(self.run_tokens as usize),
            self.passes,
            format_bytes(self.kv_bytes)
        );
        if let Some(bytes) = self.peak_memory_bytes {
            line += &format!(", {}", peak_memory(bytes));
        }
        line
    }
}

fn peak_memory(bytes: u64) -> String {
    format!("peak memory {}", format_bytes(bytes))
}

/// Characters of an answer that the table shows.
const ANSWER_WIDTH: usize = 76;

/// A table with a row for each answer, and the answer below it.
pub fn comparison(answers: &[Answer]) -> Table {
    let methods = answers.iter().any(|answer| answer.cost.method != Method::Full);
    let mut columns = vec![("attn", Align::Left), ("density", Align::Right)];
    if methods {
        columns.extend([("kept", Align::Right), ("KV", Align::Right)]);
    }
    columns.extend([
        ("search", Align::Right),
        ("attention", Align::Right),
        ("prefill", Align::Right),
        ("speed-up", Align::Right),
    ]);
    let mut table = Table::new(&columns);
    let base = answers.first().map_or(0.0, |answer| answer.cost.prefill_seconds);
    for answer in answers {
        let cost = &answer.cost;
        let time = |seconds: f64| format_duration(Duration::from_secs_f64(seconds));
        let mut cells = vec![answer.attn.clone(), format_density(cost.density)];
        if methods {
            cells.extend([format_count(cost.kept_tokens), format_bytes(answer.kv_bytes())]);
        }
        cells.extend([
            time(cost.search_seconds),
            time(cost.attention_seconds),
            time(cost.prefill_seconds),
            format_speedup(base / cost.prefill_seconds),
        ]);
        table.row(cells.into_iter().map(|cell| (cell, Style::Plain)).collect::<Vec<_>>());
        let text = terminal::one_line(&answer.text);
        let shown: String = text.chars().take(ANSWER_WIDTH).collect();
        let more = if shown.len() < text.len() { "..." } else { "" };
        table.note(format!("  {shown}{more}"));
        if let ranks @ [_, _, ..] = &answer.ranks[..] {
            ranks.iter().enumerate().for_each(|(i, rank)| table.note(format!("    {}", rank.line(i))));
        }
    }
    table
}
