//! The weights of a Llama model in one compute type.

use lacuna::Element;

use super::config::Config;
use super::generation_config::GenerationConfig;
use super::linear::Linear;
use super::rope::inv_freq;
use super::session::{LlamaSession, Session};
use super::weights::Checkpoint;
use super::{LoadProgress, Model};
use crate::Result;

/// A Llama model whose weights and activations are `T`.
pub(crate) struct Llama<T: Element> {
    pub config: Config,
    pub generation_config: GenerationConfig,
    pub inv_freq: Vec<f64>,
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: Vec<T>,
    pub layers: Vec<DecoderLayer<T>>,
    pub norm: Vec<T>,
    pub lm_head: Linear<T>,
}

pub(crate) struct DecoderLayer<T: Element> {
    pub input_layernorm: Vec<T>,
    /// The rows of q, k and v, one after the other.
    pub qkv_proj: Linear<T>,
    pub o_proj: Linear<T>,
    pub post_attention_layernorm: Vec<T>,
    /// The rows of gate and up, one after the other.
    pub gate_up_proj: Linear<T>,
    pub down_proj: Linear<T>,
}

/// Name and shape of every tensor that a checkpoint of `config` has to hold.
pub(crate) fn expected_tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.q_size(), config.kv_size());
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![config.vocab_size, hidden]),
        ("model.norm.weight".to_owned(), vec![hidden]),
    ];
    if !config.tie_word_embeddings {
        tensors.push(("lm_head.weight".to_owned(), vec![config.vocab_size, hidden]));
    }
    for layer in 0..config.num_hidden_layers {
        for (name, out_features, in_features, bias) in [
            ("self_attn.q_proj", q, hidden, config.attention_bias),
            ("self_attn.k_proj", kv, hidden, config.attention_bias),
            ("self_attn.v_proj", kv, hidden, config.attention_bias),
            ("self_attn.o_proj", hidden, q, config.attention_bias),
            ("mlp.gate_proj", intermediate, hidden, config.mlp_bias),
            ("mlp.up_proj", intermediate, hidden, config.mlp_bias),
            ("mlp.down_proj", hidden, intermediate, config.mlp_bias),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![out_features, in_features]));
            if bias {
                tensors.push((format!("model.layers.{layer}.{name}.bias"), vec![out_features]));
            }
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![hidden]));
        }
    }
    tensors
}

impl<T: Element> Llama<T> {
    /// Reads all weights. `checkpoint` has passed [`Checkpoint::check`].
    pub fn load(
        checkpoint: &Checkpoint,
        config: Config,
        generation_config: GenerationConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let mut bytes = 0;
        let mut read = |names: &[String]| -> Result<Vec<T>> {
            let mut out = Vec::new();
            for name in names {
                bytes += checkpoint.read_into(name, &mut out)?;
                progress(LoadProgress { bytes, total_bytes: checkpoint.size_bytes() });
            }
            Ok(out)
        };
        let hidden = config.hidden_size;
        let embed_tokens = read(&["model.embed_tokens.weight".to_owned()])?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linear = |names: &[&str], in_features: usize, bias: bool| -> Result<Linear<T>> {
                let tensors = |kind: &str| -> Vec<String> {
                    names.iter().map(|name| format!("model.layers.{layer}.{name}_proj.{kind}")).collect()
                };
                let bias = if bias { Some(read(&tensors("bias"))?) } else { None };
                Linear::new(&read(&tensors("weight"))?, bias, in_features)
            };
            let (attention_bias, mlp_bias) = (config.attention_bias, config.mlp_bias);
            let qkv_proj = linear(&["self_attn.q", "self_attn.k", "self_attn.v"], hidden, attention_bias)?;
            let o_proj = linear(&["self_attn.o"], config.q_size(), attention_bias)?;
            let gate_up_proj = linear(&["mlp.gate", "mlp.up"], hidden, mlp_bias)?;
            let down_proj = linear(&["mlp.down"], config.intermediate_size, mlp_bias)?;
            let mut norm = |name: &str| read(&[format!("model.layers.{layer}.{name}.weight")]);
            layers.push(DecoderLayer {
                input_layernorm: norm("input_layernorm")?,
                qkv_proj,
                o_proj,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                gate_up_proj,
                down_proj,
            });
        }
        let norm = read(&["model.norm.weight".to_owned()])?;
        let lm_head = match config.tie_word_embeddings {
            true => Linear::new(&embed_tokens, None, hidden)?,
            false => Linear::new(&read(&["lm_head.weight".to_owned()])?, None, hidden)?,
        };
        Ok(Self {
            inv_freq: inv_freq(&config.rope, config.head_dim),
            config,
            generation_config,
            embed_tokens,
            layers,
            norm,
            lm_head,
        })
    }
}

impl<T: Element> Model for Llama<T> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    fn dtype(&self) -> lacuna::DType {
        T::DTYPE
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(LlamaSession::new(self, capacity)?))
    }
}
