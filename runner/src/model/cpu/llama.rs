//! The weights of a Llama model in one compute type.

use bytemuck::Pod;
use lacuna::Element;

use super::linear::Linear;
use super::session::LlamaSession;
use crate::Result;
use crate::model::rope::inv_freq;
use crate::model::tensors::{
    EMBED_TOKENS, FusedLinear, FusedLinears, INPUT_LAYERNORM, LM_HEAD, NORM, POST_ATTENTION_LAYERNORM,
    layer_tensor,
};
use crate::model::weight_source::WeightSource;
use crate::model::{Config, GenerationConfig, KvSession, LoadProgress, Model};

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

impl<T: Element> Llama<T> {
    /// Reads all weights.
    pub fn load(
        weights: &WeightSource,
        config: Config,
        generation_config: GenerationConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let mut bytes = 0;
        let mut read = |names: &[String]| -> Result<Vec<T>> {
            let mut out = Vec::new();
            for name in names {
                bytes += weights.read_into(name, &mut out)?;
                progress(LoadProgress { bytes, total_bytes: weights.size_bytes() });
            }
            Ok(out)
        };
        let hidden = config.hidden_size;
        let embed_tokens = read(&[EMBED_TOKENS.to_owned()])?;
        let linears = FusedLinears::new(&config);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linear = |linear: &FusedLinear| -> Result<Linear<T>> {
                let bias = linear.biases(layer).map(|names| read(&names)).transpose()?;
                Linear::new(&read(&linear.weights(layer))?, bias, linear.in_features)
            };
            let qkv_proj = linear(&linears.qkv_proj)?;
            let o_proj = linear(&linears.o_proj)?;
            let gate_up_proj = linear(&linears.gate_up_proj)?;
            let down_proj = linear(&linears.down_proj)?;
            layers.push(DecoderLayer {
                input_layernorm: read(&[layer_tensor(layer, INPUT_LAYERNORM)])?,
                qkv_proj,
                o_proj,
                post_attention_layernorm: read(&[layer_tensor(layer, POST_ATTENTION_LAYERNORM)])?,
                gate_up_proj,
                down_proj,
            });
        }
        let norm = read(&[NORM.to_owned()])?;
        let lm_head = match config.tie_word_embeddings {
            true => Linear::new(&embed_tokens, None, hidden)?,
            false => Linear::new(&read(&[LM_HEAD.to_owned()])?, None, hidden)?,
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

impl<T: Element + Pod> Model for Llama<T> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    fn dtype(&self) -> lacuna::DType {
        T::DTYPE
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn KvSession + '_>> {
        Ok(Box::new(LlamaSession::new(self, capacity)?))
    }
}
