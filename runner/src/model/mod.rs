//! Llama models from Hugging Face directories, and their forward pass.
//!
//! `cpu` and `gpu` hold the same model twice, file by file: on this machine's processor, and in device memory.

mod config;
mod cpu;
mod generation_config;
mod gpu;
mod json;
mod kv_session;
mod plan;
mod positions;
mod random_weights;
mod report;
mod rope;
mod session;
mod tensors;
mod tokenizer;
mod weight_source;
mod weights;

use std::path::Path;

use half::{bf16, f16};
use lacuna::gpu::{Context, gemm};
use lacuna::{DType, Device};

use crate::{Error, Result};
use weight_source::WeightSource;

pub use config::{Config, RopeConfig, RopeScaling};
pub use generation_config::GenerationConfig;
pub use kv_session::{
    ColumnMass, KvRows, KvSession, LayerInputs, PartialAttention, PassOptions, PassOutput, Reads, ShardMixer,
    Shards,
};
pub use plan::{Part, Plan, PlanOptions, plan, typical_device};
pub use report::{ForwardReport, LayerReport, peak_memory_bytes};
pub use session::{ForwardOptions, LogitRows, Observer, Session};
pub use tokenizer::{DecodeStream, Tokenizer};
pub use weight_source::LoadFormat;
pub use weights::Checkpoint;

/// A model ready to run: weights in memory, in one compute type.
///
/// # Examples
/// ```no_run
/// use lacuna_runner::model::{self, ForwardOptions, Tokenizer};
///
/// let dir = std::path::Path::new("llama-3.1-8b");
/// let model = model::load(dir, &Default::default(), &mut |_| ())?;
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
    /// What multiplies matrices on a GPU; `None` on the CPU.
    fn gemm_backend(&self) -> Option<gemm::Backend> {
        None
    }
    /// An empty context with room for `capacity` tokens, prompt and generated ones; its KV cache is allocated here.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] where the KV cache does not fit,
    /// [`Error::InvalidArgument`] for a capacity of 0.
    fn session(&self, capacity: usize) -> Result<Box<dyn KvSession + '_>>;
}

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights read.
    pub bytes: u64,
    /// Bytes of all files.
    pub total_bytes: u64,
}

/// How to load a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// The type to compute in. Default: the one that the weights are stored in.
    pub dtype: Option<DType>,
    /// Where to compute; GPUs take `bf16` and `f16`. Default: the CPU.
    pub device: Device,
    /// What multiplies matrices on a GPU. Default: cuBLASLt where it is installed, our own kernel elsewhere.
    pub gemm: gemm::Backend,
    /// What to load the weights from. Default: the directory's safetensors.
    pub format: LoadFormat,
}

/// Loads the Llama model in `dir` (`config.json`, `model.safetensors` or its shards, `generation_config.json`).
///
/// # Errors
/// One [`Error`] that says what is wrong with which file: see [`Config::from_file`] and [`Checkpoint`]; or
/// why the device cannot be used, or cannot hold this model.
pub fn load(
    dir: &Path,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    if let Some(context) = options.device.context()? {
        return load_on(&context, dir, options, progress);
    }
    let Files { config, generation_config, weights, dtype } = Files::open(dir, options)?;
    Ok(match dtype {
        DType::F32 => Box::new(cpu::Llama::<f32>::load(&weights, config, generation_config, progress)?),
        DType::Bf16 => Box::new(cpu::Llama::<bf16>::load(&weights, config, generation_config, progress)?),
        DType::F16 => Box::new(cpu::Llama::<f16>::load(&weights, config, generation_config, progress)?),
    })
}

/// As [`load`], on a device that is open already; [`LoadOptions::device`] counts for nothing.
///
/// # Errors
/// As [`load`].
pub fn load_on(
    context: &Context,
    dir: &Path,
    options: &LoadOptions,
    progress: &mut dyn FnMut(LoadProgress),
) -> Result<Box<dyn Model>> {
    let Files { config, generation_config, weights, dtype } = Files::open(dir, options)?;
    let gemm = options.gemm;
    Ok(match dtype {
        DType::Bf16 => {
            Box::new(gpu::Llama::<bf16>::load(context, gemm, &weights, config, generation_config, progress)?)
        }
        DType::F16 => {
            Box::new(gpu::Llama::<f16>::load(context, gemm, &weights, config, generation_config, progress)?)
        }
        DType::F32 => return Err(Error::invalid("dtype", "bf16 or f16 on a GPU", dtype)),
    })
}

/// A model's directory, opened and checked.
struct Files {
    config: Config,
    generation_config: GenerationConfig,
    weights: WeightSource,
    dtype: DType,
}

impl Files {
    fn open(dir: &Path, options: &LoadOptions) -> Result<Self> {
        let config = Config::from_file(&dir.join("config.json"))?;
        let generation_config = GenerationConfig::from_file(&dir.join("generation_config.json"))?;
        let (weights, dtype) = WeightSource::open(dir, options.format, &config, options.dtype)?;
        Ok(Self { config, generation_config, weights, dtype })
    }
}
