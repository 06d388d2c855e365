//! The model as a Hugging Face checkpoint: five files, in memory or in a directory.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lacuna::{DType, Element};
use safetensors::View;
use serde_json::json;

use super::NeedleOptions;
use super::geometry::{
    HEAD_DIM, HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_KV_HEADS, RMS_NORM_EPS, VOCAB_SIZE, rope_theta,
};
use super::matrix::Matrix;
use super::tokenizer::{tokenizer_config_json, tokenizer_json};
use super::vocabulary::{BEGIN, END};
use super::weights::{Layer, Weights};
use crate::{Error, Result};

/// A file of the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its name in the directory.
    pub name: &'static str,
    /// Its contents.
    pub contents: Vec<u8>,
}

/// What to do with a directory that holds something already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Existing {
    /// Leave it alone and report an error.
    #[default]
    Refuse,
    /// Put the model in its place. Everything that was in it is gone.
    Replace,
}

/// All files of a model.
pub(super) fn files(weights: &Weights, options: &NeedleOptions) -> Vec<CheckpointFile> {
    let file = |name, contents| CheckpointFile { name, contents };
    vec![
        file("config.json", config_json(options).into_bytes()),
        file("generation_config.json", generation_config_json().into_bytes()),
        file("model.safetensors", safetensors(weights, options.dtype)),
        file("tokenizer.json", tokenizer_json().into_bytes()),
        file("tokenizer_config.json", tokenizer_config_json(options.max_len).into_bytes()),
    ]
}

fn config_json(options: &NeedleOptions) -> String {
    let dtype = match options.dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    };
    pretty(&json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": options.max_len,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": NUM_HEADS,
        "num_hidden_layers": options.num_layers,
        "num_key_value_heads": NUM_KV_HEADS,
        "rms_norm_eps": RMS_NORM_EPS,
        "rope_scaling": null,
        "rope_theta": rope_theta(options.max_len),
        "tie_word_embeddings": false,
        "torch_dtype": dtype,
        "use_cache": true,
        "vocab_size": VOCAB_SIZE,
    }))
}

fn generation_config_json() -> String {
    pretty(&json!({ "bos_token_id": BEGIN, "do_sample": false, "eos_token_id": END }))
}

fn pretty(json: &serde_json::Value) -> String {
    serde_json::to_string_pretty(json).expect("JSON values can be written") + "\n"
}

/// One tensor of the safetensors file.
struct Tensor {
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for Tensor {
    fn dtype(&self) -> safetensors::Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }
    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

fn safetensors(weights: &Weights, dtype: DType) -> Vec<u8> {
    let tensor = |shape: &[usize], data: &[f64]| {
        let (dtype, bytes) = match dtype {
            DType::F32 => (safetensors::Dtype::F32, little_endian(data, f32::to_le_bytes)),
            DType::Bf16 => (safetensors::Dtype::BF16, little_endian(data, half::bf16::to_le_bytes)),
            DType::F16 => (safetensors::Dtype::F16, little_endian(data, half::f16::to_le_bytes)),
        };
        Tensor { dtype, shape: shape.to_vec(), bytes }
    };
    let matrix = |m: &Matrix| tensor(&[m.rows, m.cols], &m.data);
    let norm = || tensor(&[HIDDEN], &[1.0; HIDDEN]);

    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), matrix(&weights.embed_tokens)),
        ("model.norm.weight".to_owned(), norm()),
        ("lm_head.weight".to_owned(), matrix(&weights.lm_head)),
    ];
    for (i, layer) in weights.layers.iter().enumerate() {
        let Layer { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj } = layer;
        let mut add = |name: &str, tensor| tensors.push((format!("model.layers.{i}.{name}.weight"), tensor));
        add("input_layernorm", norm());
        add("self_attn.q_proj", matrix(q_proj));
        add("self_attn.k_proj", matrix(k_proj));
        add("self_attn.v_proj", matrix(v_proj));
        add("self_attn.o_proj", matrix(o_proj));
        add("post_attention_layernorm", norm());
        add("mlp.gate_proj", matrix(gate_proj));
        add("mlp.up_proj", matrix(up_proj));
        add("mlp.down_proj", matrix(down_proj));
    }
    // `transformers` refuses a file that does not say which framework's layout it has.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(tensors, Some(metadata)).expect("names are distinct and sizes agree with shapes")
}

fn little_endian<T: Element, const N: usize>(data: &[f64], to_le_bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    data.iter().flat_map(|&x| to_le_bytes(T::from_f64(x))).collect()
}

/// Writes the files into `dir`, all or nothing: they are written and synced beside it, under a temporary name that is
/// cleaned up on failure, and take their place in one rename.
pub(super) fn write_directory(dir: &Path, files: &[CheckpointFile], existing: Existing) -> Result<()> {
    let occupied = is_occupied(dir)?;
    if occupied && existing == Existing::Refuse {
        return Err(Error::NotEmpty { path: dir.to_owned() });
    }

    let parent = parent_of(dir);
    fs::create_dir_all(&parent).map_err(|e| Error::io("create", &parent, e))?;
    let temporary = |suffix: &str| {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(suffix)
            .tempdir_in(&parent)
            .map_err(|e| Error::io("create a directory in", &parent, e))
    };

    let new = temporary(".new")?;
    for file in files {
        let path = new.path().join(file.name);
        write_synced(&path, &file.contents).map_err(|e| Error::io("write", dir.join(file.name), e))?;
    }
    make_readable(new.path()).map_err(|e| Error::io("set the permissions of", dir, e))?;

    // A rename replaces an empty directory; a full one is moved aside first, and back if the rename fails.
    if occupied {
        let old = temporary(".old")?;
        let aside = old.path().join("replaced");
        fs::rename(dir, &aside).map_err(|e| Error::io("replace", dir, e))?;
        if let Err(error) = fs::rename(new.path(), dir) {
            fs::rename(&aside, dir).map_err(|e| Error::io("restore", dir, e))?;
            return Err(Error::io("write", dir, error));
        }
    } else {
        fs::rename(new.path(), dir).map_err(|e| Error::io("write", dir, e))?;
    }
    let _ = new.keep(); // It is `dir` now: nothing to clean up.
    Ok(())
}

/// Whether there is something in the directory. A path that is not there holds nothing; one that is no directory is
/// an error.
fn is_occupied(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("write to", dir, e)),
    }
}

fn parent_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn write_synced(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Temporary directories are private to their owner; a model need not be.
#[cfg(unix)]
fn make_readable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn make_readable(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: CheckpointFile = CheckpointFile { name: "good", contents: Vec::new() };
    /// Cannot be written: the directory it lies in is not there.
    const BAD: CheckpointFile = CheckpointFile { name: "missing/bad", contents: Vec::new() };

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn writes_into_a_new_or_empty_directory() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b/model");
        write_directory(&dir, &[GOOD], Existing::Refuse).unwrap();
        assert_eq!(names(&dir), ["good"]);
        let empty = home.path().join("empty");
        fs::create_dir(&empty).unwrap();
        write_directory(&empty, &[GOOD], Existing::Refuse).unwrap();
        assert_eq!(names(&empty), ["good"]);
        assert_eq!(names(home.path()), ["a", "empty"]);
    }

    #[test]
    fn refuses_what_is_not_empty_unless_told() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("model");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("precious"), "x").unwrap();
        let error = write_directory(&dir, &[GOOD], Existing::Refuse).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(names(&dir), ["precious"]);
        write_directory(&dir, &[GOOD], Existing::Replace).unwrap();
        assert_eq!(names(&dir), ["good"]);
        assert_eq!(names(home.path()), ["model"]);
    }

    #[test]
    fn refuses_a_path_that_is_a_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, "x").unwrap();
        for existing in [Existing::Refuse, Existing::Replace] {
            assert!(write_directory(&path, &[GOOD], existing).is_err());
        }
        assert_eq!(fs::read(&path).unwrap(), b"x");
    }

    #[test]
    fn a_failed_write_leaves_everything_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("model");
        assert!(write_directory(&dir, &[GOOD, BAD], Existing::Refuse).is_err());
        assert!(names(home.path()).is_empty());

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("precious"), "x").unwrap();
        assert!(write_directory(&dir, &[GOOD, BAD], Existing::Replace).is_err());
        assert_eq!(names(&dir), ["precious"]);
        assert_eq!(names(home.path()), ["model"]);
    }
}
