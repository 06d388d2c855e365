//! Options that several commands share.

use std::path::PathBuf;

use lacuna::gpu::gemm;
use lacuna::{DType, Device};
use lacuna_runner::attn::{self, Attn};
use lacuna_runner::comm::launcher::Launched;
use lacuna_runner::context::Method;
use lacuna_runner::model::{self, Config, LoadFormat, LoadOptions, Model, PlanOptions, Tokenizer};

use super::failure::Outcome;
use super::progress::Progress;
use super::prompt::Prompt;

/// Which model, and how to run it.
#[derive(clap::Args)]
pub struct ModelArgs {
    /// A model directory in Hugging Face format (Llama)
    #[arg(short, long, value_name = "DIR", help_heading = "Model")]
    pub model: PathBuf,
    #[command(flatten)]
    pub tokenizer: TokenizerArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Which tokenizer, where it is not the model's own.
#[derive(clap::Args)]
pub struct TokenizerArgs {
    /// A tokenizer.json other than the model's own
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    pub tokenizer: Option<PathBuf>,
}

/// What to compute in, and where.
#[derive(clap::Args)]
pub struct ComputeArgs {
    /// Where the weights come from: auto (safetensors in DIR), or dummy (random numbers, to measure speed: config.json is
    /// enough)
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = load_format, help_heading = "Model")]
    load_format: LoadFormat,
    /// Type to compute in: auto (as the weights are stored), bf16, f16, f32
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = dtype, help_heading = "Model")]
    dtype: AutoDType,
    /// Where to compute: cpu, cuda, cuda:N, emulated (the GPU kernels on this machine's processor, slowly). Under mpirun or srun
    /// cuda is the GPU of the rank's number on its host
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device, help_heading = "Model")]
    device: Device,
    /// What multiplies matrices on a GPU: auto, cublaslt (where it is installed), own
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Model")]
    gemm: gemm::Backend,
}

/// A type, or that of the weights.
#[derive(Debug, Clone, Copy)]
pub struct AutoDType(pub Option<DType>);

/// A type, or auto.
pub fn dtype(text: &str) -> Result<AutoDType, String> {
    Ok(AutoDType(match text.to_ascii_lowercase().as_str() {
        "auto" => None,
        "bf16" | "bfloat16" => Some(DType::Bf16),
        "f16" | "float16" => Some(DType::F16),
        "f32" | "float32" => Some(DType::F32),
        _ => return Err("the types are auto, bf16, f16, f32".into()),
    }))
}

/// A device; one without a number is that of this process among those on its host.
fn device(text: &str) -> Result<Device, String> {
    let device = text.parse()?;
    let launched = Launched::detect().map_err(|e| e.to_string())?;
    Ok(own_device(device, text, launched.and_then(|launched| launched.local_rank)))
}

fn own_device(device: Device, text: &str, local_rank: Option<usize>) -> Device {
    match (device, local_rank) {
        (Device::Cuda(_), Some(local_rank)) if !text.contains(':') => Device::Cuda(local_rank),
        (device, _) => device,
    }
}

/// Dummy weights are always the same.
const DUMMY_SEED: u64 = 0;

fn load_format(text: &str) -> Result<LoadFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(LoadFormat::Auto),
        "dummy" => Ok(LoadFormat::Dummy { seed: DUMMY_SEED }),
        _ => Err("the formats are auto and dummy".into()),
    }
}

/// A type to store weights in.
pub fn stored_dtype(text: &str) -> Result<DType, String> {
    dtype(text)?.0.ok_or_else(|| "the types are bf16, f16, f32".into())
}

/// A number of tokens.
pub fn length(text: &str) -> Result<usize, String> {
    attn::parse_length(text).map_err(|expected| format!("must be {expected}"))
}

/// A number of tokens that is not 0.
pub fn positive_length(text: &str) -> Result<usize, String> {
    match length(text)? {
        0 => Err("must be at least 1".into()),
        n => Ok(n),
    }
}

/// A context method, a pattern, or both.
pub fn attn(text: &str) -> Result<Attn, String> {
    text.parse().map_err(|e: attn::ParseAttnError| e.to_string())
}

impl TokenizerArgs {
    /// Reads the tokenizer: the file given, or that of the model.
    pub fn load(&self, model: Option<&std::path::Path>) -> lacuna_runner::Result<Tokenizer> {
        match (&self.tokenizer, model) {
            (Some(file), _) => Tokenizer::from_file(file),
            (None, model) => Tokenizer::from_file(&model.unwrap_or(".".as_ref()).join("tokenizer.json")),
        }
    }
}

impl ComputeArgs {
    /// As the library takes them.
    pub fn options(&self) -> LoadOptions {
        LoadOptions { dtype: self.dtype.0, device: self.device, gemm: self.gemm, format: self.load_format }
    }

    /// Loads the weights in `dir`.
    pub fn load(&self, dir: &std::path::Path, progress: &Progress) -> lacuna_runner::Result<Box<dyn Model>> {
        let mut task = progress.task("loading the model", 0);
        model::load(dir, &self.options(), &mut |p| task.load(p))
    }
}

impl ModelArgs {
    /// Reads `config.json`.
    pub fn config(&self) -> lacuna_runner::Result<Config> {
        Config::from_file(&self.model.join("config.json"))
    }

    /// Reads the tokenizer, and checks that it fits. Random tokens have one that spells ids.
    pub fn tokenizer(&self, config: &Config, prompt: &Prompt) -> lacuna_runner::Result<Tokenizer> {
        if let Prompt::Random(_) = prompt {
            return Tokenizer::of_ids(config.vocab_size);
        }
        let tokenizer = self.tokenizer.load(Some(&self.model))?;
        tokenizer.check(config)?;
        Ok(tokenizer)
    }

    /// Loads the weights, for a prompt and an answer of so many tokens under any of `attns`: what a GPU has no memory for is
    /// refused before they are read. What context methods take is not foreseen: they find out as they go.
    pub fn load(
        &self,
        config: &Config,
        [tokens, max_new_tokens]: [usize; 2],
        attns: &[Attn],
        progress: &Progress,
    ) -> Outcome<Box<dyn Model>> {
        if let Some(context) = self.compute.device.context()? {
            for attn in attns.iter().filter(|attn| *attn.method() == Method::Full) {
                let options = PlanOptions {
                    tokens,
                    max_new_tokens,
                    pattern: attn.pattern().clone(),
                    thresholds: attn.thresholds().cloned(),
                    // Either of the types that GPUs take; the weights, which have not been looked at, may say which.
                    dtype: self.compute.dtype.0.unwrap_or(DType::Bf16),
                    device: context.info().clone(),
                    memory_bytes: Some(context.memory()?.free),
                };
                model::plan(config, &options)?.check()?;
            }
        }
        Ok(self.compute.load(&self.model, progress)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_host_have_a_gpu_each_unless_one_is_named() {
        let chosen = |text: &str, local_rank| own_device(text.parse().unwrap(), text, local_rank);
        assert_eq!(chosen("cuda", Some(2)), Device::Cuda(2));
        assert_eq!(chosen("cuda", None), Device::Cuda(0));
        assert_eq!(chosen("cuda:1", Some(2)), Device::Cuda(1));
        assert_eq!(chosen("cpu", Some(2)), Device::Cpu);
    }
}
