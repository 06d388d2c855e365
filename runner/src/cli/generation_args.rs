//! How answers are generated: the choice of tokens, and their end.

use lacuna_runner::generate::{SamplingOptions, eos_token_ids};
use lacuna_runner::model::{Config, GenerationConfig};

use super::args;
use super::failure::{Failure, Outcome};

/// How to choose tokens.
#[derive(clap::Args)]
#[group(skip)]
pub struct SamplingArgs {
    /// 0 takes the likeliest token; higher is more random
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Sampling")]
    temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    top_p: Option<f32>,
    /// Choose among tokens with this share of the likeliest one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    min_p: Option<f32>,
    /// Make tokens that were there before less likely; 1: no
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    repeat_penalty: Option<f32>,
    /// How many of the last tokens count as there before; all unless given
    #[arg(long, value_name = "N", help_heading = "Sampling", value_parser = args::length)]
    repeat_last_n: Option<usize>,
    /// Seed of the random choices; 42 unless given
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// As the library takes them.
    pub fn options(&self) -> Outcome<SamplingOptions> {
        let default = SamplingOptions::default();
        let options = SamplingOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(default.repetition_penalty),
            repeat_last_n: self.repeat_last_n.or(default.repeat_last_n),
            seed: self.seed.unwrap_or(default.seed),
        };
        options.check().map_err(Failure::from_arguments)?;
        Ok(options)
    }
}

/// What ends an answer.
#[derive(clap::Args)]
#[group(skip)]
pub struct StoppingArgs {
    /// A text that ends the answer and is left out of it; may be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Stopping")]
    stop: Vec<String>,
    /// Such texts, with commas between them
    #[arg(long, value_name = "TEXTS", value_delimiter = ',', help_heading = "Stopping")]
    stop_words: Vec<String>,
    /// A token that ends the answer; may be repeated
    #[arg(long, value_name = "ID", help_heading = "Stopping")]
    stop_token_id: Vec<u32>,
    /// Go on when the model ends its answer
    #[arg(long, help_heading = "Stopping")]
    ignore_eos: bool,
}

impl StoppingArgs {
    /// The texts.
    pub fn texts(&self) -> Vec<String> {
        self.stop.iter().chain(&self.stop_words).filter(|text| !text.is_empty()).cloned().collect()
    }

    /// The tokens, the model's own among them.
    pub fn token_ids(&self, config: &Config, generation_config: &GenerationConfig) -> Vec<u32> {
        let mut ids = self.stop_token_id.clone();
        if !self.ignore_eos {
            ids.extend(eos_token_ids(config, generation_config));
        }
        ids
    }
}
