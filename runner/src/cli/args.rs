//! Options that several commands share.

use std::path::PathBuf;

use lacuna::{DType, Device};
use lacuna_runner::attn::{self, Attn};
use lacuna_runner::model::{self, Model, Tokenizer};

use super::failure::Outcome;
use super::progress::Progress;

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
    /// Type to compute in: auto (as the weights are stored), bf16, f16, f32
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = dtype, help_heading = "Model")]
    dtype: AutoDType,
    /// Where to compute: cpu
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device, help_heading = "Model")]
    device: Device,
}

/// A type, or that of the weights.
#[derive(Debug, Clone, Copy)]
pub struct AutoDType(pub Option<DType>);

fn dtype(text: &str) -> Result<AutoDType, String> {
    Ok(AutoDType(match text.to_ascii_lowercase().as_str() {
        "auto" => None,
        "bf16" | "bfloat16" => Some(DType::Bf16),
        "f16" | "float16" => Some(DType::F16),
        "f32" | "float32" => Some(DType::F32),
        _ => return Err("the types are auto, bf16, f16, f32".into()),
    }))
}

fn device(text: &str) -> Result<Device, String> {
    match text.to_ascii_lowercase().as_str() {
        "cpu" => Ok(Device::Cpu),
        _ => Err("the only device is cpu for a model; GPU kernels alone: lacuna demo --device".into()),
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

/// A pattern.
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
    /// Loads the weights in `dir`.
    pub fn load(&self, dir: &std::path::Path, progress: &Progress) -> Outcome<Box<dyn Model>> {
        let Device::Cpu = self.device else { unreachable!("`device` accepts no other") };
        let mut task = progress.task("loading the model", 0);
        Ok(model::load(dir, self.dtype.0, &mut |p| task.load(p))?)
    }
}

impl ModelArgs {
    /// Loads tokenizer and weights, and checks that they fit.
    pub fn load(&self, progress: &Progress) -> Outcome<(Box<dyn Model>, Tokenizer)> {
        let tokenizer = self.tokenizer.load(Some(&self.model))?;
        let model = self.compute.load(&self.model, progress)?;
        tokenizer.check(model.config())?;
        Ok((model, tokenizer))
    }
}
