//! What a prompt took to run.

use std::time::Duration;

use lacuna_runner::comm::Communicator;
use lacuna_runner::context::{Method, Report};
use lacuna_runner::model::{ForwardReport, Model, peak_memory_bytes};
use lacuna_runner::{Error, Result};
use serde::Serialize;

/// What the prompt took: its context by a method, then its query.
#[derive(Serialize)]
pub struct Cost {
    #[serde(skip)]
    pub method: Method,
    #[serde(skip)]
    mine: RankCost,
    /// Pairs of a query and a key that were computed, in units of those of one dense pass over the prompt.
    pub density: f64,
    /// Tokens of the context whose keys and values are kept for the answer.
    pub kept_tokens: usize,
    pub search_seconds: f64,
    pub attention_seconds: f64,
    pub prefill_seconds: f64,
    pub prefill_tokens_per_second: f64,
}

/// One rank's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RankCost {
    pub passes: u64,
    pub run_tokens: u64,
    /// Bytes of the keys and values of the context that lie here.
    pub kv_bytes: u64,
    /// Of the rank's process, which ranks that are threads share.
    pub peak_memory_bytes: Option<u64>,
}

impl Cost {
    /// Of a prompt of `tokens`, the first `context` of which its method ran, as `report` says; `last` is the pass over those after
    /// it, or over all.
    pub fn new(
        model: &dyn Model,
        method: &Method,
        [tokens, context]: [usize; 2],
        report: &Report,
        last: &ForwardReport,
    ) -> Self {
        let config = model.config();
        let bytes_per_token = 2
            * config.num_hidden_layers
            * config.num_key_value_heads
            * config.head_dim
            * model.dtype().size_bytes();
        let (density, kept_tokens, kv_bytes) = match method {
            Method::Full => (last.density(), context, (context * bytes_per_token) as u64),
            _ => {
                let done = report.density * pairs(context, 0)
                    + last.density() * pairs(last.tokens, report.kept_tokens);
                (done / pairs(tokens, 0), report.kept_tokens, report.kv_bytes)
            }
        };
        let total = report.total + last.total;
        let seconds = |duration: Duration| duration.as_secs_f64();
        Self {
            method: method.clone(),
            mine: RankCost {
                passes: report.passes as u64 + 1,
                run_tokens: (report.run_tokens + last.tokens) as u64,
                kv_bytes,
                peak_memory_bytes: peak_memory_bytes(),
            },
            density,
            kept_tokens,
            search_seconds: seconds(report.search + last.search()),
            attention_seconds: seconds(report.attention + last.attention()),
            prefill_seconds: seconds(total),
            prefill_tokens_per_second: tokens as f64 / seconds(total),
        }
    }

    /// That of every rank, by rank.
    pub fn of_ranks(&self, comm: &dyn Communicator) -> Result<Vec<RankCost>> {
        let RankCost { passes, run_tokens, kv_bytes, peak_memory_bytes } = self.mine;
        let mine = [passes, run_tokens, kv_bytes, peak_memory_bytes.unwrap_or(0)];
        let all = comm.all_gather(bytemuck::bytes_of(&mine))?;
        let read = |(rank, part): (usize, &Vec<u8>)| {
            let [passes, run_tokens, kv_bytes, peak] = bytemuck::try_pod_read_unaligned::<[u64; 4]>(part)
                .map_err(|_| Error::Rank { rank, what: "sent something other than four numbers".into() })?;
            let peak_memory_bytes = Some(peak).filter(|&bytes| bytes > 0);
            Ok(RankCost { passes, run_tokens, kv_bytes, peak_memory_bytes })
        };
        all.iter().enumerate().map(read).collect()
    }
}

/// The pairs of a query and a key that it sees, of `tokens` tokens after `past` others.
fn pairs(tokens: usize, past: usize) -> f64 {
    let (tokens, past) = (tokens as f64, past as f64);
    tokens * past + tokens * (tokens + 1.0) / 2.0
}
