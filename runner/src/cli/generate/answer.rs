//! What came out, and what it took.

use lacuna::Device;
use lacuna_runner::attn::Attn;
use lacuna_runner::generate::Generation;
use lacuna_runner::model::{Model, peak_memory_bytes};
use serde::Serialize;

use crate::cli::cost::{Cost, RankCost};
use crate::cli::prompt::PromptTokens;

/// The JSON of a command.
#[derive(Serialize)]
pub struct Answers {
    prompt_tokens: usize,
    /// Without a query all of the prompt.
    context_tokens: usize,
    device: String,
    dtype: String,
    /// What multiplies matrices on a GPU.
    gemm: Option<String>,
    ranks: usize,
    answers: Vec<Answer>,
    /// Of this process.
    peak_memory_bytes: Option<u64>,
}

/// One answer.
#[derive(Serialize)]
pub struct Answer {
    pub attn: String,
    pub text: String,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    #[serde(flatten)]
    pub cost: Cost,
    decode_tokens_per_second: f64,
    /// Of those ranks that took part, by rank.
    pub ranks: Vec<RankCost>,
}

impl Answers {
    pub fn new(
        model: &dyn Model,
        device: Device,
        prompt: &PromptTokens,
        ranks: usize,
        answers: Vec<Answer>,
    ) -> Self {
        Self {
            prompt_tokens: prompt.tokens.len(),
            context_tokens: prompt.context_len(),
            device: device.to_string(),
            dtype: model.dtype().to_string(),
            gemm: model.gemm_backend().map(|backend| backend.to_string()),
            ranks,
            answers,
            peak_memory_bytes: peak_memory_bytes(),
        }
    }
}

impl Answer {
    pub fn new(attn: &Attn, generation: Generation, cost: Cost, ranks: Vec<RankCost>) -> Self {
        Self {
            attn: attn.to_string(),
            finish_reason: generation.finish_reason.name(),
            decode_tokens_per_second: generation.decode_tokens_per_second(),
            text: generation.text,
            tokens: generation.tokens,
            cost,
            ranks,
        }
    }

    /// Generated tokens per second, where there was more than one.
    pub fn decode_rate(&self) -> Option<f64> {
        (self.tokens.len() > 1).then_some(self.decode_tokens_per_second)
    }

    /// Bytes of the keys and values of the context, on all ranks.
    pub fn kv_bytes(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.kv_bytes).sum()
    }
}
