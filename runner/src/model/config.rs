//! `config.json` of a Llama checkpoint.

use std::path::Path;

use lacuna::{DType, MAX_HEAD_DIM};
use serde_json::Value;

use super::json::{Fields, read_object};
use crate::Result;

// Far above any model, and small enough that products of two of them fit a `usize` with room to spare.
const MAX_DIM: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

/// The dimensions and switches of a Llama model, under the names `config.json` gives them.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Features of the residual stream.
    pub hidden_size: usize,
    /// Features inside the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads. Default: as many.
    pub num_key_value_heads: usize,
    /// Features of a head, even. Default: `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// Added to the mean square under the root of RMSNorm. Default 1e-6.
    pub rms_norm_eps: f64,
    /// Positions the model was made for. Default 2048.
    pub max_position_embeddings: usize,
    /// The q, k, v and o projections have biases. Default false.
    pub attention_bias: bool,
    /// The MLP's projections have biases. Default false.
    pub mlp_bias: bool,
    /// The output matrix is the embedding. Default false.
    pub tie_word_embeddings: bool,
    /// The rotary embedding.
    pub rope: RopeConfig,
    /// The type the weights were saved in, where the file says so.
    pub dtype: Option<DType>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
}

/// The rotary position embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies. Default 10000.
    pub theta: f64,
    /// What was done to them to reach further.
    pub scaling: RopeScaling,
}

/// How the rotary frequencies were stretched beyond the trained length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Frequencies that turn fewer times than this over the original length are low.
        low_freq_factor: f64,
        /// Frequencies that turn more times than this over the original length are high.
        high_freq_factor: f64,
        /// The original length.
        original_max_position_embeddings: f64,
    },
}

impl Config {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) and [`Error::Malformed`](crate::Error::Malformed) for an unreadable file,
    /// [`Error::InvalidConfig`](crate::Error::InvalidConfig) for a value that makes no sense,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a model or feature other than those of Llama 2, 3 and 3.1.
    pub fn from_file(path: &Path) -> Result<Self> {
        let map = read_object(path)?;
        let fields = Fields::new(path, &map);
        refuse_unsupported(&fields)?;
        let dim = |key: &str| fields.required(key, fields.size(key, MAX_DIM)?);
        let hidden_size = dim("hidden_size")?;
        let num_attention_heads = dim("num_attention_heads")?;
        let num_key_value_heads = fields.size("num_key_value_heads", MAX_DIM)?.unwrap_or(num_attention_heads);
        if !num_attention_heads.is_multiple_of(num_key_value_heads) {
            return Err(fields.invalid(
                "num_key_value_heads",
                format_args!("a divisor of num_attention_heads ({num_attention_heads})"),
                num_key_value_heads,
            ));
        }
        let head_dim = match fields.size("head_dim", MAX_HEAD_DIM)? {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(num_attention_heads) => hidden_size / num_attention_heads,
            None => {
                return Err(fields.invalid(
                    "hidden_size",
                    format_args!("a multiple of num_attention_heads ({num_attention_heads})"),
                    hidden_size,
                ));
            }
        };
        if head_dim % 2 != 0 || head_dim > MAX_HEAD_DIM {
            return Err(fields.invalid(
                "head_dim",
                format_args!("even and at most {MAX_HEAD_DIM}"),
                head_dim,
            ));
        }
        if num_attention_heads * head_dim > MAX_DIM {
            return Err(fields.invalid(
                "num_attention_heads",
                format_args!("at most {} with head_dim {head_dim}", MAX_DIM / head_dim),
                num_attention_heads,
            ));
        }
        Ok(Self {
            vocab_size: dim("vocab_size")?,
            hidden_size,
            intermediate_size: dim("intermediate_size")?,
            num_hidden_layers: fields
                .required("num_hidden_layers", fields.size("num_hidden_layers", MAX_LAYERS)?)?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: fields
                .number("rms_norm_eps", "a number in [0, 1]", |x| (0.0..=1.0).contains(&x))?
                .unwrap_or(1e-6),
            max_position_embeddings: fields
                .size("max_position_embeddings", u32::MAX as usize)?
                .unwrap_or(2048),
            attention_bias: fields.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.boolean("mlp_bias")?.unwrap_or(false),
            tie_word_embeddings: fields.boolean("tie_word_embeddings")?.unwrap_or(false),
            rope: rope(&fields)?,
            dtype: dtype(&fields)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
        })
    }

    /// Query heads times `head_dim`.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Key heads times `head_dim`.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

/// Names what the runner would otherwise get silently wrong.
fn refuse_unsupported(fields: &Fields) -> Result<()> {
    let model_type = fields.required("model_type", fields.get("model_type"))?;
    if model_type != "llama" {
        return Err(fields.unsupported("model_type", "\"llama\"", model_type));
    }
    if let Some(architectures) = fields.get("architectures") {
        let known = |a: &Value| a == "LlamaForCausalLM";
        if !architectures.as_array().is_some_and(|list| list.iter().all(known)) {
            return Err(fields.unsupported("architectures", "[\"LlamaForCausalLM\"]", architectures));
        }
    }
    if let Some(act) = fields.get("hidden_act").filter(|&a| a != "silu" && a != "swish") {
        return Err(fields.unsupported("hidden_act", "\"silu\"", act));
    }
    for key in ["quantization_config", "compression_config"] {
        if let Some(config) = fields.get(key) {
            return Err(fields.unsupported(key, "plain bf16, f16 or f32 weights", config));
        }
    }
    let windowed = fields.boolean("use_sliding_window")?;
    if windowed == Some(true) {
        return Err(fields.unsupported("use_sliding_window", "false", &Value::Bool(true)));
    }
    if let Some(window) = fields.get("sliding_window").filter(|_| windowed.is_none()) {
        return Err(fields.unsupported("sliding_window", "null", window));
    }
    if let Some(types) = fields.get("layer_types") {
        let full = |t: &Value| t == "full_attention";
        if !types.as_array().is_some_and(|list| list.iter().all(full)) {
            return Err(fields.unsupported("layer_types", "\"full_attention\" everywhere", types));
        }
    }
    Ok(())
}

/// Both styles: `rope_theta` with `rope_scaling`, and `rope_parameters` with all inside.
fn rope(fields: &Fields) -> Result<RopeConfig> {
    let positive = |fields: &Fields, key: &str| fields.number(key, "a positive number", |x| x > 0.0);
    let factor = |fields: &Fields, key: &str| {
        let factor = fields.number(key, "a number of at least 1", |x| x >= 1.0)?;
        fields.required(key, factor)
    };
    let parameters = fields.object("rope_parameters")?;
    let mut theta = positive(fields, "rope_theta")?;
    if let Some(parameters) = &parameters {
        theta = positive(parameters, "rope_theta")?.or(theta);
    }
    let theta = theta.unwrap_or(10000.0);
    let scaling = match parameters {
        Some(parameters) => Some(parameters),
        None => fields.object("rope_scaling")?,
    };
    for fields in [Some(fields), scaling.as_ref()].into_iter().flatten() {
        if let Some(part) = fields.get("partial_rotary_factor").filter(|v| v.as_f64() != Some(1.0)) {
            return Err(fields.unsupported("partial_rotary_factor", "1", part));
        }
    }
    let Some(fields) = scaling else {
        return Ok(RopeConfig { theta, scaling: RopeScaling::Default });
    };
    let key = if fields.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaling = match fields.string(key)? {
        // `transformers` leaves the type out of `rope_parameters` only where nothing is scaled.
        None if fields.get("factor").is_none() => RopeScaling::Default,
        None => return Err(fields.invalid("rope_type", "present", "nothing")),
        Some("default") => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear { factor: factor(&fields, "factor")? },
        Some("llama3") => {
            let low_freq_factor =
                fields.required("low_freq_factor", positive(&fields, "low_freq_factor")?)?;
            let high_freq_factor = fields.number(
                "high_freq_factor",
                &format!("above low_freq_factor ({low_freq_factor})"),
                |x| x > low_freq_factor,
            )?;
            RopeScaling::Llama3 {
                factor: factor(&fields, "factor")?,
                low_freq_factor,
                high_freq_factor: fields.required("high_freq_factor", high_freq_factor)?,
                original_max_position_embeddings: fields.required(
                    "original_max_position_embeddings",
                    fields.size("original_max_position_embeddings", u32::MAX as usize)?,
                )? as f64,
            }
        }
        Some(other) => {
            return Err(fields.unsupported(
                key,
                "\"default\", \"linear\" or \"llama3\"",
                &Value::String(other.to_owned()),
            ));
        }
    };
    Ok(RopeConfig { theta, scaling })
}

fn dtype(fields: &Fields) -> Result<Option<DType>> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match fields.string(key)? {
        None | Some("auto") => Ok(None),
        Some("float32") => Ok(Some(DType::F32)),
        Some("bfloat16") => Ok(Some(DType::Bf16)),
        Some("float16") => Ok(Some(DType::F16)),
        Some(other) => Err(fields.unsupported(
            key,
            "\"bfloat16\", \"float16\" or \"float32\"",
            &Value::String(other.to_owned()),
        )),
    }
}
