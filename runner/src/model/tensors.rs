//! The tensors of a Llama checkpoint.

use super::config::Config;

/// The tensors outside the layers.
pub(crate) const EMBED_TOKENS: &str = "model.embed_tokens.weight";
pub(crate) const NORM: &str = "model.norm.weight";
pub(crate) const LM_HEAD: &str = "lm_head.weight";
/// The norms of a layer; see [`layer_tensor`].
pub(crate) const INPUT_LAYERNORM: &str = "input_layernorm.weight";
pub(crate) const POST_ATTENTION_LAYERNORM: &str = "post_attention_layernorm.weight";

/// The name of a layer's tensor.
pub(crate) fn layer_tensor(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}

/// A linear layer as it is multiplied: the rows of several projections of a checkpoint, one behind the other.
pub(crate) struct FusedLinear {
    /// Names within a layer, and output features.
    projections: Vec<(&'static str, usize)>,
    pub in_features: usize,
    /// Whether the projections have biases.
    bias: bool,
}

/// The linear layers of a decoder layer.
pub(crate) struct FusedLinears {
    pub qkv_proj: FusedLinear,
    pub o_proj: FusedLinear,
    pub gate_up_proj: FusedLinear,
    pub down_proj: FusedLinear,
}

impl FusedLinear {
    /// Output features of all projections.
    pub fn out_features(&self) -> usize {
        self.projections.iter().map(|(_, out_features)| out_features).sum()
    }

    /// The names of the weights in a layer.
    pub fn weights(&self, layer: usize) -> Vec<String> {
        self.tensors(layer, "weight")
    }

    /// The names of the biases in a layer, where there are any.
    pub fn biases(&self, layer: usize) -> Option<Vec<String>> {
        self.bias.then(|| self.tensors(layer, "bias"))
    }

    fn tensors(&self, layer: usize, kind: &str) -> Vec<String> {
        let name = |(name, _): &(&str, usize)| layer_tensor(layer, &format!("{name}.{kind}"));
        self.projections.iter().map(name).collect()
    }
}

impl FusedLinears {
    /// Those of a model of this configuration.
    pub fn new(config: &Config) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (q, kv) = (config.q_size(), config.kv_size());
        let attention =
            |projections, in_features| FusedLinear { projections, in_features, bias: config.attention_bias };
        let mlp = |projections, in_features| FusedLinear { projections, in_features, bias: config.mlp_bias };
        Self {
            qkv_proj: attention(
                vec![("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)],
                hidden,
            ),
            o_proj: attention(vec![("self_attn.o_proj", hidden)], q),
            gate_up_proj: mlp(vec![("mlp.gate_proj", intermediate), ("mlp.up_proj", intermediate)], hidden),
            down_proj: mlp(vec![("mlp.down_proj", hidden)], intermediate),
        }
    }
}

/// Name and shape of every tensor that a checkpoint of `config` has to hold.
pub(crate) fn expected_tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
    let hidden = config.hidden_size;
    let mut tensors =
        vec![(EMBED_TOKENS.to_owned(), vec![config.vocab_size, hidden]), (NORM.to_owned(), vec![hidden])];
    if !config.tie_word_embeddings {
        tensors.push((LM_HEAD.to_owned(), vec![config.vocab_size, hidden]));
    }
    let FusedLinears { qkv_proj, o_proj, gate_up_proj, down_proj } = FusedLinears::new(config);
    for layer in 0..config.num_hidden_layers {
        for linear in [&qkv_proj, &o_proj, &gate_up_proj, &down_proj] {
            for &(name, out_features) in &linear.projections {
                let tensor = |kind| layer_tensor(layer, &format!("{name}.{kind}"));
                tensors.push((tensor("weight"), vec![out_features, linear.in_features]));
                if linear.bias {
                    tensors.push((tensor("bias"), vec![out_features]));
                }
            }
        }
        for name in [INPUT_LAYERNORM, POST_ATTENTION_LAYERNORM] {
            tensors.push((layer_tensor(layer, name), vec![hidden]));
        }
    }
    tensors
}
