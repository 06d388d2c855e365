//! Llama models from Hugging Face directories, and their forward pass.

mod config;
mod forward;
mod generation_config;
mod json;
mod kv_cache;
mod linear;
mod llama;
mod report;
mod rms_norm;
mod rope;
mod session;
mod silu_mul;
mod tokenizer;
mod weights;

use std::path::Path;

use half::{bf16, f16};
use lacuna::DType;

use crate::{Error, Result};
use llama::Llama;

pub use config::{Config, RopeConfig, RopeScaling};
pub use generation_config::GenerationConfig;
pub use report::{ForwardReport, LayerReport, peak_memory_bytes};
pub use session::{ForwardOptions, LogitRows, Observer, Session};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use weights::Checkpoint;

/// A model ready to run: weights in memory, in one compute type.
///
/// # Examples
/// ```no_run
/// use lacuna_runner::model::{self, ForwardOptions, Tokenizer};
///
/// let dir = std::path::Path::new("llama-3.1-8b");
/// let model = model::load(dir, None, &mut |_| ())?;
/// let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"))?;
/// let prompt = tokenizer.encode("The capital of France is", true)?;
/// let mut session = model.session(prompt.len() + 16)?;
/// let options = ForwardOptions {
///     pattern: lacuna::Pattern::FlexPrefill(Default::default()),
///     ..Default::default()
/// };
/// let (logits, report) = session.forward(&prompt, &options, &mut ())?;
/// println!("{} logits at density {:.2}", logits.len(), report.density());
/// # Ok::<(), lacuna_runner::Error>(())
/// ```
pub trait Model: Send + Sync {
    /// The model's dimensions.
    fn config(&self) -> &Config;
    /// How its makers sample from it.
    fn generation_config(&self) -> &GenerationConfig;
    /// The compute type.
    fn dtype(&self) -> DType;
    /// An empty context with room for `capacity` tokens, prompt and generated ones; its KV cache is allocated here.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the KV cache does not fit, [`Error::InvalidArgument`] for a capacity of 0.
    fn session(&self, capacity: usize) -> Result<Box<dyn Session + '_>>;
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights read.
    pub bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// Loads the Llama model in `dir` (`config.json`, `model.safetensors` or its shards, `generation_config.json`) and
/// computes in
/// `dtype`, or in the type the weights are stored in.
///
/// # Errors
/// One [`Error`] that says what is wrong with which file: see [`Config::from_file`] and [`Checkpoint`].
pub fn load(
    dir: &Path,
    dtype: Option<DType>,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    let config = Config::from_file(&dir.join("config.json"))?;
    let generation_config = GenerationConfig::from_file(&dir.join("generation_config.json"))?;
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.check(&config)?;
    let dtype = dtype.or(checkpoint.dtype()).ok_or_else(|| Error::malformed(dir, "no weights"))?;
    Ok(match dtype {
        DType::F32 => Box::new(Llama::<f32>::load(&checkpoint, config, generation_config, progress)?),
        DType::Bf16 => Box::new(Llama::<bf16>::load(&checkpoint, config, generation_config, progress)?),
        DType::F16 => Box::new(Llama::<f16>::load(&checkpoint, config, generation_config, progress)?),
    })
}
