//! From a prompt to a text: prefill, then one token after the other.

mod sampling;
mod stop;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use lacuna::{Pattern, ThresholdTable};

pub use sampling::{Sampler, SamplingOptions};
pub use stop::StopStrings;

use crate::model::{Config, ForwardOptions, ForwardReport, GenerationConfig, Observer, Session, Tokenizer};
use crate::{Error, Result};

/// How to generate.
#[derive(Debug, Clone, Default)]
pub struct GenerateOptions {
    /// The attention pattern of the prompt's prefill; decoding is dense. Default dense.
    pub pattern: Pattern,
    /// As [`ForwardOptions::thresholds`].
    pub thresholds: Option<ThresholdTable>,
    /// Tokens before the prompt, cached or not, that count as seen where repetition is penalised. Default none.
    pub seen: Vec<u32>,
    /// The most tokens to generate. Default 0: the prefill alone.
    pub max_new_tokens: usize,
    /// Tokens that end the text; see [`eos_token_ids`].
    pub eos_token_ids: Vec<u32>,
    /// Texts that end the text, and are left out of it.
    pub stop: Vec<String>,
    /// How to choose tokens. Default greedy.
    pub sampling: SamplingOptions,
    /// Show special tokens in the text. Default false.
    pub show_special_tokens: bool,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The model ended it.
    Eos,
    /// A stop string came up.
    Stop,
    /// As many tokens as asked for, or as the model has positions.
    Length,
    /// The caller broke off.
    Cancelled,
}

impl FinishReason {
    /// `eos`, `stop`, `length` or `cancelled`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eos => "eos",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A generated text.
#[derive(Debug, Clone)]
pub struct Generation {
    /// The tokens, with the one that ended the text where one did.
    pub tokens: Vec<u32>,
    /// The text, without the stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What the prefill cost.
    pub prefill: ForwardReport,
    /// From the first generated token to the last.
    pub decode: Duration,
}

impl Generation {
    /// Generated tokens per second after the first, which the prefill yields; 0 where there are none.
    pub fn decode_tokens_per_second(&self) -> f64 {
        let steps = self.tokens.len().saturating_sub(1);
        if steps == 0 { 0.0 } else { steps as f64 / self.decode.as_secs_f64() }
    }
}

/// The tokens that end a text of this model: those of `generation_config.json` and those of `config.json`, ascending.
pub fn eos_token_ids(config: &Config, generation_config: &GenerationConfig) -> Vec<u32> {
    let mut ids = [&config.eos_token_ids[..], &generation_config.eos_token_ids[..]].concat();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Runs `prompt` after the tokens that `session` holds, then generates, handing each bit of text to `on_text` as it becomes
/// certain. The session keeps the prompt and all generated tokens but the last; [`Session::truncate`] takes them back.
///
/// A long context can be run by a method of its own before: [`context::prefill`](crate::context::prefill) gives the session, and
/// what is left to be run on it.
///
/// # Examples
/// ```no_run
/// use std::ops::ControlFlow;
///
/// use lacuna_runner::generate::{GenerateOptions, eos_token_ids, generate};
/// use lacuna_runner::model::{self, Tokenizer};
///
/// let dir = std::path::Path::new("llama-3.1-8b");
/// let model = model::load(dir, &Default::default(), &mut |_| ())?;
/// let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"))?;
/// let prompt = tokenizer.encode("The capital of France is", true)?;
/// let options = GenerateOptions {
///     max_new_tokens: 16,
///     eos_token_ids: eos_token_ids(model.config(), model.generation_config()),
///     ..Default::default()
/// };
/// let mut session = model.session(prompt.len() + options.max_new_tokens)?;
/// let generation = generate(&mut *session, &tokenizer, &prompt, &options, &mut (), &mut |text| {
///     print!("{text}");
///     ControlFlow::Continue(())
/// })?;
/// println!(" [{}]", generation.finish_reason.name());
/// # Ok::<(), lacuna_runner::Error>(())
/// ```
///
/// # Errors
/// As [`Session::forward`], and [`Error::InvalidArgument`] for sampling options out of range. The text ends with
/// [`FinishReason::Length`] rather than an error where the model's positions or the session's capacity are used up.
pub fn generate(
    session: &mut dyn Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    observer: &mut dyn Observer,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut sampler = Sampler::new(options.sampling.clone())?;
    let forward = ForwardOptions {
        pattern: options.pattern.clone(),
        thresholds: options.thresholds.clone(),
        ..Default::default()
    };
    let (logits, prefill) = session.forward(prompt, &forward, observer)?;

    let decode_start = Instant::now();
    let mut seen = [&options.seen, prompt].concat();
    let before = seen.len();
    let mut text = String::new();
    let mut stream = tokenizer.stream(!options.show_special_tokens);
    let mut stops = StopStrings::new(options.stop.iter().cloned());
    let mut emit = |piece: &str| {
        text.push_str(piece);
        if piece.is_empty() { ControlFlow::Continue(()) } else { on_text(piece) }
    };
    let mut finish_reason = FinishReason::Length;
    let mut token = None;
    while seen.len() - before < options.max_new_tokens {
        let next = match token {
            None => sampler.sample(&logits, &seen)?,
            Some(token) => match session.next_token(token, &mut sampler, &seen) {
                Ok(next) => next,
                Err(Error::TooLong { .. }) => break,
                Err(e) => return Err(e),
            },
        };
        seen.push(next);
        token = Some(next);
        if options.eos_token_ids.contains(&next) {
            finish_reason = FinishReason::Eos;
            break;
        }
        let (piece, stopped) = stops.push(&stream.step(next)?);
        if emit(&piece).is_break() {
            finish_reason = FinishReason::Cancelled;
            break;
        }
        if stopped {
            finish_reason = FinishReason::Stop;
            break;
        }
    }
    let decode = decode_start.elapsed();
    if matches!(finish_reason, FinishReason::Eos | FinishReason::Length) {
        // The rest may yet complete a stop string.
        let (piece, stopped) = stops.push(&stream.finish()?);
        let _ = emit(&piece);
        if stopped {
            finish_reason = FinishReason::Stop;
        } else {
            let _ = emit(&stops.finish());
        }
    }
    Ok(Generation { tokens: seen.split_off(before), text, finish_reason, prefill, decode })
}
