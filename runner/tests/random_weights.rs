//! Models of random weights, made from a `config.json` alone.

mod common;

use std::path::Path;

use common::*;
use lacuna::DType;
use lacuna_runner::Error;
use lacuna_runner::model::{self, Config, ForwardOptions, LoadFormat, LoadOptions, LogitRows, Model};
use serde_json::{Value, json};

/// A directory that holds a `config.json` and nothing else.
fn directory(config: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

fn load(dir: &Path, seed: u64, dtype: Option<DType>) -> Box<dyn Model> {
    let options = LoadOptions { dtype, format: LoadFormat::Dummy { seed }, ..Default::default() };
    model::load(dir, &options, &mut |_| ()).unwrap()
}

fn logits(model: &dyn Model, rows: &[usize]) -> Vec<f32> {
    let options = ForwardOptions { logits: LogitRows::These(rows), ..Default::default() };
    model.session(LEN).unwrap().forward(&random_tokens(LEN, 1), &options, &mut ()).unwrap().0
}

const LEN: usize = 60;

#[test]
fn a_seed_is_a_model() {
    let dir = directory(&config());
    let rows: Vec<usize> = (0..LEN).collect();
    let of = |seed| logits(&*load(dir.path(), seed, None), &rows);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
    // The compute type rounds the same weights.
    let exact = of(1);
    for (dtype, tolerance) in [(DType::Bf16, 0.1), (DType::F16, 0.02)] {
        let error = relative_error(&logits(&*load(dir.path(), 1, Some(dtype)), &rows), &exact);
        assert!(error > 0.0 && error < tolerance, "{dtype}: {error}");
    }
}

#[test]
fn files_that_are_there_are_not_read() {
    let dir = directory(&config());
    let alone = logits(&*load(dir.path(), 0, None), &[0]);
    std::fs::write(dir.path().join("model.safetensors"), "no such thing").unwrap();
    assert_eq!(logits(&*load(dir.path(), 0, None), &[0]), alone);
    let error = model::load(dir.path(), &LoadOptions::default(), &mut |_| ()).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
}

#[test]
fn the_type_is_that_of_the_options_or_of_the_configuration() {
    let mut config = config();
    for (named, dtype) in
        [(json!("float16"), DType::F16), (json!("bfloat16"), DType::Bf16), (Value::Null, DType::F32)]
    {
        config["torch_dtype"] = named;
        let dir = directory(&config);
        assert_eq!(load(dir.path(), 0, None).dtype(), dtype);
        assert_eq!(load(dir.path(), 0, Some(DType::Bf16)).dtype(), DType::Bf16);
    }
}

#[test]
fn activations_keep_their_size_through_many_layers() {
    let mut config = config();
    config["num_hidden_layers"] = json!(32);
    config["attention_bias"] = json!(true);
    for tied in [false, true] {
        config["tie_word_embeddings"] = json!(tied);
        let dir = directory(&config);
        let rows: Vec<usize> = (0..LEN).collect();
        let logits = logits(&*load(dir.path(), 3, Some(DType::F16)), &rows);
        let size = (logits.iter().map(|x| x * x).sum::<f32>() / logits.len() as f32).sqrt();
        assert!((0.5..2.0).contains(&size), "logits of size {size}");
        // Not one token says the same as another.
        assert_ne!(logits[..259], logits[259 * (LEN - 1)..]);
    }
}

#[test]
fn progress_counts_up_to_all_weights() {
    let dir = directory(&config());
    let mut seen = Vec::new();
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 0 }, ..Default::default() };
    model::load(dir.path(), &options, &mut |p| seen.push(p)).unwrap();
    assert!(seen.windows(2).all(|w| w[0].bytes < w[1].bytes));
    let last = seen.last().unwrap();
    let parameters = 2 * 259 * 32 + 32 + 2 * (2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 48 + 2 * 32);
    assert_eq!((last.bytes, last.total_bytes), (4 * parameters, 4 * parameters));
}

#[test]
fn the_configurations_to_measure_with_are_those_of_llama() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/configs");
    // Parameters of the published models.
    for (name, parameters) in [("llama_1b", 1_235_814_400u64), ("llama_8b", 8_030_261_248)] {
        let config = Config::from_file(&folder.join(name).join("config.json")).unwrap();
        let [hidden, vocab] = [config.hidden_size, config.vocab_size].map(|n| n as u64);
        let [q, kv, intermediate] =
            [config.q_size(), config.kv_size(), config.intermediate_size].map(|n| n as u64);
        let layer = 2 * hidden * (q + kv) + 3 * hidden * intermediate + 2 * hidden;
        let embeddings = if config.tie_word_embeddings { 1 } else { 2 };
        let got = embeddings * vocab * hidden + hidden + config.num_hidden_layers as u64 * layer;
        assert_eq!(got, parameters, "{name}");
        assert_eq!(config.dtype, Some(DType::Bf16));
    }
}
