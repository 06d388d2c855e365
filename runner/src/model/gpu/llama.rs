//! The weights of a Llama model in device memory.

use bytemuck::Pod;
use lacuna::Element;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, gemm};

use super::decode::Decoder;
use super::operations::{Operations, matrix};
use super::session::LlamaSession;
use crate::Result;
use crate::model::rope::inv_freq;
use crate::model::tensors::{
    EMBED_TOKENS, FusedLinear, FusedLinears, INPUT_LAYERNORM, LM_HEAD, NORM, POST_ATTENTION_LAYERNORM,
    layer_tensor,
};
use crate::model::weight_source::WeightSource;
use crate::model::{Config, GenerationConfig, KvSession, LoadProgress, Model};

/// What the weights' memory is called.
const WEIGHTS: &str = "weights";

/// A Llama model whose weights and activations are `T`.
pub(crate) struct Llama<T: Element> {
    pub context: Context,
    /// What multiplies matrices.
    pub gemm: gemm::Backend,
    pub config: Config,
    pub generation_config: GenerationConfig,
    pub inv_freq: Vec<f64>,
    /// `[vocab_size, hidden_size]`
    pub embed_tokens: DeviceBuffer<T>,
    pub layers: Vec<DecoderLayer<T>>,
    pub norm: DeviceBuffer<T>,
    /// `None` where it is the embedding.
    pub lm_head: Option<DeviceBuffer<T>>,
}

pub(crate) struct DecoderLayer<T> {
    pub input_layernorm: DeviceBuffer<T>,
    /// The rows of q, k and v, one after the other.
    pub qkv_proj: Linear<T>,
    pub o_proj: Linear<T>,
    pub post_attention_layernorm: DeviceBuffer<T>,
    /// The rows of gate and up, one after the other.
    pub gate_up_proj: Linear<T>,
    pub down_proj: Linear<T>,
}

/// Gives the tensors of these names, one behind the other, so many elements in all.
type TensorSource<'a, T> = dyn FnMut(&[String], usize) -> Result<DeviceBuffer<T>> + 'a;

/// `y = x W^T + b`.
pub(crate) struct Linear<T> {
    /// `[out_features, in_features]`
    weight: DeviceBuffer<T>,
    /// `[out_features]`
    bias: Option<DeviceBuffer<T>>,
    pub out_features: usize,
    pub in_features: usize,
}

impl<T: Element + Pod> Linear<T> {
    pub fn weight(&self) -> lacuna::Result<DeviceView<'_, T>> {
        matrix(&self.weight, 0, self.out_features, self.in_features)
    }

    pub fn bias(&self) -> lacuna::Result<Option<DeviceView<'_, T>>> {
        self.bias.as_ref().map(|bias| matrix(bias, 0, 1, self.out_features)).transpose()
    }
}

impl<T: Element + Pod> Llama<T> {
    /// Reads all weights.
    pub fn load(
        context: &Context,
        gemm: gemm::Backend,
        weights: &WeightSource,
        config: Config,
        generation_config: GenerationConfig,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let mut bytes = 0;
        let mut host = Vec::new();
        Self::build(context, gemm, config, generation_config, &mut |names, _| {
            host.clear();
            for name in names {
                bytes += weights.read_into(name, &mut host)?;
                progress(LoadProgress { bytes, total_bytes: weights.size_bytes() });
            }
            Ok(DeviceBuffer::from_host(context, &host, WEIGHTS)?)
        })
    }

    /// The memory of all weights, and nothing in it.
    pub fn unread(context: &Context, gemm: gemm::Backend, config: Config) -> Result<Self> {
        Self::build(context, gemm, config, GenerationConfig::default(), &mut |_, len| {
            Ok(DeviceBuffer::uninit(context, len, WEIGHTS)?)
        })
    }

    /// Makes a model of what `tensor` gives.
    fn build(
        context: &Context,
        gemm: gemm::Backend,
        config: Config,
        generation_config: GenerationConfig,
        tensor: &mut TensorSource<'_, T>,
    ) -> Result<Self> {
        // What the device does not take is said before gigabytes are read.
        let gemm = Operations::<T>::new(context, gemm, &config, 1)?.gemm_backend();
        Decoder::<T>::new(context, &config, 1)?;
        let (hidden, vocab_size) = (config.hidden_size, config.vocab_size);
        let embed_tokens = tensor(&[EMBED_TOKENS.to_owned()], vocab_size * hidden)?;
        let linears = FusedLinears::new(&config);
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linear = |linear: &FusedLinear| -> Result<Linear<T>> {
                let (out_features, in_features) = (linear.out_features(), linear.in_features);
                let bias = linear.biases(layer).map(|names| tensor(&names, out_features)).transpose()?;
                let weight = tensor(&linear.weights(layer), out_features * in_features)?;
                Ok(Linear { weight, bias, out_features, in_features })
            };
            let qkv_proj = linear(&linears.qkv_proj)?;
            let o_proj = linear(&linears.o_proj)?;
            let gate_up_proj = linear(&linears.gate_up_proj)?;
            let down_proj = linear(&linears.down_proj)?;
            layers.push(DecoderLayer {
                input_layernorm: tensor(&[layer_tensor(layer, INPUT_LAYERNORM)], hidden)?,
                qkv_proj,
                o_proj,
                post_attention_layernorm: tensor(&[layer_tensor(layer, POST_ATTENTION_LAYERNORM)], hidden)?,
                gate_up_proj,
                down_proj,
            });
        }
        let norm = tensor(&[NORM.to_owned()], hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(tensor(&[LM_HEAD.to_owned()], vocab_size * hidden)?),
        };
        Ok(Self {
            context: context.clone(),
            gemm,
            inv_freq: inv_freq(&config.rope, config.head_dim),
            config,
            generation_config,
            embed_tokens,
            layers,
            norm,
            lm_head,
        })
    }

    /// The output matrix, `[vocab_size, hidden_size]`.
    pub fn lm_head(&self) -> lacuna::Result<DeviceView<'_, T>> {
        let weight = self.lm_head.as_ref().unwrap_or(&self.embed_tokens);
        matrix(weight, 0, self.config.vocab_size, self.config.hidden_size)
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

    fn gemm_backend(&self) -> Option<gemm::Backend> {
        Some(self.gemm)
    }

    fn session(&self, capacity: usize) -> Result<Box<dyn KvSession + '_>> {
        Ok(Box::new(LlamaSession::new(self, capacity)?))
    }
}
