//! The tensors of a Llama checkpoint.

use super::config::Config;

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
