//! `generation_config.json`: how the model's makers sample from it.

use std::path::Path;

use super::json::{Fields, read_object};
use crate::Result;

/// The parts of `generation_config.json` that a text generation can follow. All optional, as is the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Sample rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f32>,
    /// Sample among this many likeliest tokens.
    pub top_k: Option<usize>,
    /// Sample among the likeliest tokens that cover this probability.
    pub top_p: Option<f32>,
    /// Sample among tokens at least this likely, as a share of the likeliest.
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that were there already.
    pub repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads the file; one that does not exist says nothing.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Malformed`](crate::Error::Malformed) for an unreadable file,
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a value out of range.
    pub fn from_file(path: &Path) -> Result<Self> {
        if !path.try_exists().unwrap_or(true) {
            return Ok(Self::default());
        }
        let map = read_object(path)?;
        let fields = Fields::new(path, &map);
        let share = |key: &str| fields.number(key, "in [0, 1]", |x| (0.0..=1.0).contains(&x));
        Ok(Self {
            eos_token_ids: fields.token_ids("eos_token_id")?,
            do_sample: fields.boolean("do_sample")?,
            temperature: fields.number("temperature", "at least 0", |x| x >= 0.0)?.map(|x| x as f32),
            // 0 is how `transformers` writes "no limit".
            top_k: fields.number("top_k", "a count", |x| x >= 0.0 && x.fract() == 0.0)?.map(|k| k as usize),
            top_p: share("top_p")?.map(|x| x as f32),
            min_p: share("min_p")?.map(|x| x as f32),
            repetition_penalty: fields
                .number("repetition_penalty", "positive", |x| x > 0.0)?
                .map(|x| x as f32),
        })
    }
}
