//! Checkpoints of random weights, in a temporary directory.
#![allow(dead_code)] // every test binary uses its own part

pub mod context;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lacuna::DType;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// The golden checkpoints.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A golden checkpoint and what `transformers` says of it.
pub struct Golden {
    pub dir: std::path::PathBuf,
    pub tokens: Vec<u32>,
    pub position_ids: Vec<u32>,
    /// `[tokens, vocab_size]`
    pub logits: Vec<f32>,
}

/// Reads one.
pub fn golden(name: &str) -> Golden {
    let dir = golden_dir().join(name);
    let json: Value = serde_json::from_slice(&std::fs::read(dir.join("golden.json")).unwrap()).unwrap();
    let list = |key: &str| -> Vec<u32> {
        json[key].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let file = std::fs::read(dir.join("logits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&file).unwrap();
    let logits = file.tensor("logits").unwrap();
    let logits = logits.data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
    Golden { tokens: list("tokens"), position_ids: list("position_ids"), logits, dir }
}

/// A small configuration: GQA 2, untied.
pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 258,
        "torch_dtype": "float32",
    })
}

pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Random weights for [`config`] or a variant of it.
pub fn tensors(config: &Value, seed: u64) -> Tensors {
    let dim = |key: &str| config[key].as_u64().unwrap() as usize;
    let (hidden, intermediate, vocab) = (dim("hidden_size"), dim("intermediate_size"), dim("vocab_size"));
    let q = dim("num_attention_heads") * dim("head_dim");
    let kv = dim("num_key_value_heads") * dim("head_dim");
    let mut shapes = vec![
        ("model.embed_tokens".to_owned(), vec![vocab, hidden]),
        ("model.norm".to_owned(), vec![hidden]),
        ("lm_head".to_owned(), vec![vocab, hidden]),
    ];
    for layer in 0..dim("num_hidden_layers") {
        for (name, shape) in [
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("mlp.gate_proj", vec![intermediate, hidden]),
            ("mlp.up_proj", vec![intermediate, hidden]),
            ("mlp.down_proj", vec![hidden, intermediate]),
            ("input_layernorm", vec![hidden]),
            ("post_attention_layernorm", vec![hidden]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}"), shape));
        }
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let len = shape.iter().product();
            // Matrices keep the size of what passes through them; norms are about 1.
            let (centre, spread) = match shape[..] {
                [_, columns] => (0.0, 2.0 / (columns as f32).sqrt()),
                _ => (1.0, 0.3),
            };
            let data = (0..len).map(|_| centre + spread * (rng.random::<f32>() * 2.0 - 1.0)).collect();
            (format!("{name}.weight"), (shape, data))
        })
        .collect()
}

/// The bytes of one safetensors file.
pub fn serialize<'a>(
    tensors: impl IntoIterator<Item = (&'a String, &'a (Vec<usize>, Vec<f32>))>,
    dtype: DType,
) -> Vec<u8> {
    let (stored, bytes): (Dtype, fn(f32) -> Vec<u8>) = match dtype {
        DType::F32 => (Dtype::F32, |x| x.to_le_bytes().to_vec()),
        DType::Bf16 => (Dtype::BF16, |x| bf16::from_f32(x).to_le_bytes().to_vec()),
        DType::F16 => (Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec()),
    };
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, (shape, data))| {
            (name.clone(), shape.clone(), data.iter().flat_map(|&x| bytes(x)).collect())
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(stored, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// Writes a checkpoint of one file.
pub fn write_checkpoint(dir: &Path, config: &Value, tensors: &Tensors, dtype: DType) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("model.safetensors"), serialize(tensors, dtype)).unwrap();
}

/// Writes a checkpoint of `shards` files, tensors dealt out in turn.
pub fn write_sharded(dir: &Path, config: &Value, tensors: &Tensors, shards: usize) {
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut weight_map = serde_json::Map::new();
    for shard in 0..shards {
        let file = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let part: Vec<_> = tensors.iter().skip(shard).step_by(shards).collect();
        for (name, _) in &part {
            weight_map.insert((*name).clone(), Value::String(file.clone()));
        }
        std::fs::write(dir.join(&file), serialize(part, DType::F32)).unwrap();
    }
    let index = json!({"metadata": {}, "weight_map": weight_map});
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// A checkpoint of [`config`] with random weights.
pub fn random_checkpoint(seed: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &tensors(&config(), seed), DType::F32);
    dir
}

/// Random tokens of [`config`]'s vocabulary, no special ones.
pub fn random_tokens(len: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.next_u32() % 256).collect()
}

/// Writes a `tokenizer.json` whose tokens are the 256 bytes, in GPT-2's spelling, and three special ones: 256 `<begin>`,
/// 257 `<pad>`, 258 `<end>`. Returns its path.
pub fn write_byte_tokenizer(dir: &Path) -> PathBuf {
    let mut vocab = serde_json::Map::new();
    let mut shifted = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let spelled = if printable {
            byte as u32
        } else {
            shifted += 1;
            shifted - 1
        };
        vocab.insert(char::from_u32(spelled).unwrap().to_string(), json!(byte));
    }
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(256, "<begin>"), special(257, "<pad>"), special(258, "<end>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let path = dir.join("tokenizer.json");
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    path
}

/// The largest error over the largest magnitude; NaN counts as infinite.
pub fn relative_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = got.iter().zip(want).fold(0.0f32, |m, (g, w)| {
        let e = (g - w).abs();
        if e.is_nan() { f32::INFINITY } else { m.max(e) }
    });
    worst / scale
}
