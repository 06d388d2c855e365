//! What became of a sweep's cells: one for each kind of attention and length.

use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::fingerprint::Fingerprint;
use super::prediction::{Failed, round};
use crate::attn::{Attn, format_length};

/// One kind of attention at one length.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The attention, as on the command line.
    pub attn: String,
    /// The length.
    pub length: usize,
}

/// A line of the results: one sample of a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleResult {
    /// Where it belongs.
    #[serde(flatten)]
    pub cell: Cell,
    /// The sample, counted from 0.
    pub sample: u64,
    /// The answer; empty where it failed.
    pub pred: String,
    /// Right answers.
    pub outputs: Vec<String>,
    /// Whether the answer is right.
    pub right: bool,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<Failed>,
    /// What it took; `None` where it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost: Option<SampleCost>,
    /// [`Fingerprint`] of the model and the options.
    pub fingerprint: String,
    /// [`Fingerprint`] of the prompt.
    pub input_hash: String,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SampleCost {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the context that were kept.
    pub kept_tokens: usize,
    /// Tokens of the answer.
    pub output_tokens: usize,
    /// As [`Costs::density`](super::Costs::density).
    pub density: f64,
    /// Seconds to the answer's first token.
    pub prefill_seconds: f64,
    /// Of these, seconds in searches.
    pub search_seconds: f64,
    /// Of these, seconds in attention.
    pub attention_seconds: f64,
    /// Seconds from the answer's first token to its last.
    pub decode_seconds: f64,
}

impl SampleCost {
    /// Of an answer, its times in microseconds.
    pub fn new(answer: &Answer) -> Self {
        let costs = &answer.costs;
        let seconds = |time: std::time::Duration| round(time.as_secs_f64(), 1e6);
        Self {
            prompt_tokens: costs.context_tokens + costs.query_tokens,
            kept_tokens: costs.kept_tokens,
            output_tokens: answer.tokens.len(),
            density: costs.density,
            prefill_seconds: seconds(costs.prefill),
            search_seconds: seconds(costs.search),
            attention_seconds: seconds(costs.attention),
            decode_seconds: seconds(costs.decode),
        }
    }
}

impl SampleResult {
    /// A line of the results.
    ///
    /// # Errors
    /// Why it is none, as a phrase to stand after the name of the file and the number of the line.
    pub fn from_json(line: serde_json::Value) -> Result<Self, String> {
        serde_json::from_value(line).map_err(|e| format!("not a result of a sweep: {e}"))
    }

    /// Whether it was made by a run with this fingerprint.
    pub fn is_of(&self, fingerprint: Fingerprint) -> bool {
        self.fingerprint == fingerprint.to_string()
    }
}

/// A cell, its samples taken together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CellSummary {
    /// Which.
    #[serde(flatten)]
    pub cell: Cell,
    /// Samples with an answer.
    pub asked: usize,
    /// Those whose answer is right.
    pub right: usize,
    /// Samples without one.
    pub failed: usize,
    /// The median of the answered samples; `None` where there are none.
    pub prefill_seconds: Option<f64>,
    /// Dense attention's time to the first token at this length, over this one's.
    pub speedup: Option<f64>,
    /// The mean of the answered samples.
    pub density: Option<f64>,
    /// The mean of the answered samples.
    pub kept_tokens: Option<f64>,
    /// The mean of the answered samples' prompts.
    pub prompt_tokens: Option<f64>,
    /// Over all answered samples.
    pub decode_tokens_per_second: Option<f64>,
}

/// All cells of a grid, length by length, in the order of the kinds of attention.
pub fn summaries(attns: &[Attn], lengths: &[usize], results: &[SampleResult]) -> Vec<CellSummary> {
    let dense = Attn::dense().to_string();
    let mut all = Vec::new();
    for &length in lengths {
        let cells = attns.iter().map(|attn| Cell { attn: attn.to_string(), length });
        let mut row: Vec<CellSummary> = cells.map(|cell| summary(cell, results)).collect();
        let base = row.iter().find(|summary| summary.cell.attn == dense).and_then(|s| s.prefill_seconds);
        for summary in &mut row {
            summary.speedup = base.zip(summary.prefill_seconds).map(|(base, seconds)| base / seconds);
        }
        all.append(&mut row);
    }
    all
}

fn summary(cell: Cell, results: &[SampleResult]) -> CellSummary {
    let of_cell: Vec<&SampleResult> = results.iter().filter(|result| result.cell == cell).collect();
    let costs: Vec<SampleCost> = of_cell.iter().filter_map(|result| result.cost).collect();
    let mean = |value: fn(&SampleCost) -> f64| {
        (!costs.is_empty()).then(|| costs.iter().map(value).sum::<f64>() / costs.len() as f64)
    };
    let steps: usize = costs.iter().map(|cost| cost.output_tokens.saturating_sub(1)).sum();
    let decode_seconds: f64 = costs.iter().map(|cost| cost.decode_seconds).sum();
    CellSummary {
        asked: costs.len(),
        right: of_cell.iter().filter(|result| result.right).count(),
        failed: of_cell.iter().filter(|result| result.error.is_some()).count(),
        prefill_seconds: median(costs.iter().map(|cost| cost.prefill_seconds).collect()),
        speedup: None,
        density: mean(|cost| cost.density),
        kept_tokens: mean(|cost| cost.kept_tokens as f64),
        prompt_tokens: mean(|cost| cost.prompt_tokens as f64),
        decode_tokens_per_second: (steps > 0 && decode_seconds > 0.0).then(|| steps as f64 / decode_seconds),
        cell,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// The columns of [`csv`] and [`markdown`].
const COLUMNS: [&str; 10] = [
    "attn",
    "length",
    "right",
    "asked",
    "failed",
    "prefill_seconds",
    "speedup",
    "density",
    "kept_tokens",
    "decode_tokens_per_second",
];

impl CellSummary {
    fn fields(&self) -> [String; COLUMNS.len()] {
        let number = |x: Option<f64>, digits: usize| x.map(|x| format!("{x:.digits$}")).unwrap_or_default();
        [
            self.cell.attn.clone(),
            format_length(self.cell.length),
            self.right.to_string(),
            self.asked.to_string(),
            self.failed.to_string(),
            number(self.prefill_seconds, 6),
            number(self.speedup, 3),
            number(self.density, 6),
            number(self.kept_tokens, 1),
            number(self.decode_tokens_per_second, 1),
        ]
    }
}

/// Comma-separated values with a header, quoted where they hold a comma (RFC 4180). Numbers that are not known are empty.
pub fn csv(cells: &[CellSummary]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let mut out = COLUMNS.join(",") + "\n";
    for cell in cells {
        out += &(cell.fields().iter().map(quoted).collect::<Vec<_>>().join(",") + "\n");
    }
    out
}

/// A table in Markdown.
pub fn markdown(cells: &[CellSummary]) -> String {
    let row = |fields: &[String]| format!("| {} |\n", fields.join(" | "));
    let mut out = row(&COLUMNS.map(str::to_owned)) + "|---" + &"|---:".repeat(COLUMNS.len() - 1) + "|\n";
    for cell in cells {
        out += &row(&cell.fields().map(|field| field.replace('|', "\\|")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(attn: &str, length: usize, sample: u64, seconds: Option<f64>) -> SampleResult {
        let cost = |prefill_seconds| SampleCost {
            prompt_tokens: length,
            kept_tokens: length / 2,
            output_tokens: 5,
            density: 0.5,
            prefill_seconds,
            search_seconds: 0.0,
            attention_seconds: 0.0,
            decode_seconds: 2.0,
        };
        let error = Failed { kind: "too_long".into(), message: "no".into() };
        SampleResult {
            cell: Cell { attn: attn.into(), length },
            sample,
            pred: "x".into(),
            outputs: vec!["x".into()],
            right: seconds.is_some() && sample == 0,
            error: seconds.is_none().then_some(error),
            cost: seconds.map(cost),
            fingerprint: Fingerprint::default().to_string(),
            input_hash: String::new(),
        }
    }

    fn cells() -> Vec<CellSummary> {
        let attns: Vec<Attn> = ["streaming,local=1k", "dense"].map(|attn| attn.parse().unwrap()).into();
        let results = [
            result("dense", 512, 0, Some(4.0)),
            result("dense", 512, 1, Some(2.0)),
            result("dense", 512, 2, Some(9.0)),
            result("streaming,local=1k", 512, 0, Some(1.0)),
            result("streaming,local=1k", 512, 1, Some(3.0)),
            result("streaming,local=1k", 512, 2, None),
            result("streaming,local=1k", 1024, 0, Some(1.0)),
            result("elsewhere", 512, 0, Some(1.0)),
        ];
        summaries(&attns, &[512, 1024], &results)
    }

    #[test]
    fn cells_take_their_samples_together() {
        let cells = cells();
        assert_eq!(cells.len(), 4);
        let sparse = &cells[0];
        assert_eq!((sparse.asked, sparse.right, sparse.failed), (2, 1, 1));
        assert_eq!((sparse.prefill_seconds, sparse.speedup), (Some(2.0), Some(2.0)));
        assert_eq!((sparse.density, sparse.kept_tokens), (Some(0.5), Some(256.0)));
        assert_eq!(sparse.decode_tokens_per_second, Some(2.0));
        assert_eq!((cells[1].prefill_seconds, cells[1].speedup), (Some(4.0), Some(1.0)));
        // Without dense attention at that length there is nothing to compare with.
        assert_eq!((cells[2].asked, cells[2].speedup), (1, None));
        assert_eq!((cells[3].asked, cells[3].prefill_seconds), (0, None));
    }

    #[test]
    fn tables_have_a_row_for_each_cell() {
        let csv = csv(&cells());
        assert_eq!(csv.lines().count(), 5);
        assert_eq!(
            csv.lines().nth(1).unwrap(),
            "\"streaming,local=1k\",512,1,2,1,2.000000,2.000,0.500000,256.0,2.0"
        );
        assert_eq!(csv.lines().nth(4).unwrap(), "dense,1k,0,0,0,,,,,");
        let markdown = markdown(&cells());
        assert_eq!(markdown.lines().count(), 6);
        assert!(markdown.lines().all(|line| line.matches('|').count() == 11), "{markdown}");
    }

    #[test]
    fn results_are_read_back() {
        for seconds in [Some(1.25), None] {
            let result = result("dense", 512, 3, seconds);
            let line = serde_json::to_value(&result).unwrap();
            assert_eq!(line["attn"], "dense");
            assert_eq!(SampleResult::from_json(line).unwrap(), result);
        }
        let reason = SampleResult::from_json(serde_json::json!({"attn": "dense"})).unwrap_err();
        assert!(reason.starts_with("not a result of a sweep: "), "{reason}");
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
