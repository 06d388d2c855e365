//! `config.json` and `generation_config.json`: both styles, defaults, what is refused and how it is said.

mod common;

use std::path::{Path, PathBuf};

use common::config;
use lacuna::DType;
use lacuna_runner::model::{Config, GenerationConfig, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(value: &Value) -> Result<Config, String> {
    parse_bytes(value.to_string().as_bytes())
}

fn parse_bytes(bytes: &[u8]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    std::fs::write(&path, bytes).unwrap();
    Config::from_file(&path).map_err(|e| e.to_string().replace(&format!("{}: ", path.display()), ""))
}

/// [`config`] with a key set, or removed by null.
fn with(key: &str, value: Value) -> Value {
    let mut config = config();
    config[key] = value;
    config
}

#[test]
fn absent_keys_take_the_defaults_of_transformers() {
    let config = parse(&json!({
        "model_type": "llama", "vocab_size": 10, "hidden_size": 48, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 6,
        "head_dim": null, "rope_scaling": null, "eos_token_id": null, "sliding_window": null,
    }))
    .unwrap();
    assert_eq!((config.num_key_value_heads, config.head_dim), (6, 8));
    assert_eq!((config.rms_norm_eps, config.max_position_embeddings), (1e-6, 2048));
    assert!(!config.attention_bias && !config.mlp_bias && !config.tie_word_embeddings);
    assert_eq!((config.rope.theta, config.rope.scaling), (10000.0, RopeScaling::Default));
    assert_eq!((config.dtype, config.bos_token_id, config.eos_token_ids), (None, None, vec![]));
}

#[test]
fn llama_3_1_reads_alike_in_both_styles() {
    let mut old = with("rope_theta", json!(500000.0));
    old["rope_scaling"] = json!({
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    });
    old["eos_token_id"] = json!([128001, 128008, 128009]);
    old["torch_dtype"] = json!("bfloat16");
    let mut new = with("rope_parameters", old["rope_scaling"].clone());
    new["rope_parameters"]["rope_theta"] = json!(500000.0);
    new["eos_token_id"] = old["eos_token_id"].clone();
    new["torch_dtype"] = Value::Null;
    new["dtype"] = json!("bfloat16");
    let old = parse(&old).unwrap();
    assert_eq!(old, parse(&new).unwrap());
    assert_eq!(old.rope.theta, 500000.0);
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    assert_eq!((old.rope.scaling, old.dtype), (llama3, Some(DType::Bf16)));
    assert_eq!(old.eos_token_ids, [128001, 128008, 128009]);
}

#[test]
fn linear_scaling_reads_under_its_older_key() {
    let config = parse(&with("rope_scaling", json!({"type": "linear", "factor": 4}))).unwrap();
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn names_what_it_does_not_do() {
    for (key, value, message) in [
        ("model_type", json!("qwen2"), "model_type = \"qwen2\" is not supported, only \"llama\""),
        (
            "architectures",
            json!(["LlamaForSequenceClassification"]),
            "architectures = [\"LlamaForSequenceClassification\"] is not supported, only [\"LlamaForCausalLM\"]",
        ),
        ("hidden_act", json!("gelu"), "hidden_act = \"gelu\" is not supported, only \"silu\""),
        (
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 4.0}),
            "rope_scaling.rope_type = \"yarn\" is not supported, only \"default\", \"linear\" or \"llama3\"",
        ),
        (
            "rope_scaling",
            json!({"type": "dynamic", "factor": 4.0}),
            "rope_scaling.type = \"dynamic\" is not supported, only \"default\", \"linear\" or \"llama3\"",
        ),
        ("sliding_window", json!(4096), "sliding_window = 4096 is not supported, only null"),
        ("use_sliding_window", json!(true), "use_sliding_window = true is not supported, only false"),
        (
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            "layer_types = [\"full_attention\",\"sliding_attention\"] is not supported, only \"full_attention\" everywhere",
        ),
        (
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "quantization_config = {\"quant_method\":\"gptq\"} is not supported, only plain bf16, f16 or f32 weights",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
            "rope_parameters.partial_rotary_factor = 0.5 is not supported, only 1",
        ),
        (
            "torch_dtype",
            json!("float8_e4m3fn"),
            "torch_dtype = \"float8_e4m3fn\" is not supported, only \"bfloat16\", \"float16\" or \"float32\"",
        ),
    ] {
        assert_eq!(parse(&with(key, value)).unwrap_err(), message);
    }
}

#[test]
fn names_the_key_whose_value_makes_no_sense() {
    for (key, value, message) in [
        ("hidden_size", Value::Null, "hidden_size must be present, got nothing"),
        ("hidden_size", json!(-4), "hidden_size must be an integer in 1..=16777216, got -4"),
        ("hidden_size", json!(1e30), "hidden_size must be an integer in 1..=16777216, got 1e+30"),
        ("vocab_size", json!("big"), "vocab_size must be an integer in 1..=16777216, got \"big\""),
        ("num_hidden_layers", json!(0), "num_hidden_layers must be an integer in 1..=4096, got 0"),
        (
            "num_key_value_heads",
            json!(3),
            "num_key_value_heads must be a divisor of num_attention_heads (4), got 3",
        ),
        ("head_dim", json!(15), "head_dim must be even and at most 256, got 15"),
        ("head_dim", json!(512), "head_dim must be an integer in 1..=256, got 512"),
        (
            "num_attention_heads",
            json!(16777216),
            "num_attention_heads must be at most 1048576 with head_dim 16, got 16777216",
        ),
        ("rms_norm_eps", json!("1e-5"), "rms_norm_eps must be a number in [0, 1], got \"1e-5\""),
        ("rope_theta", json!(0), "rope_theta must be a positive number, got 0"),
        ("attention_bias", json!(1), "attention_bias must be a boolean, got 1"),
        ("eos_token_id", json!([1, -1]), "eos_token_id must be a token id or a list of them, got [1,-1]"),
        ("rope_scaling", json!([1]), "rope_scaling must be an object, got [1]"),
        ("rope_scaling", json!({"factor": 2.0}), "rope_scaling.rope_type must be present, got nothing"),
        ("rope_scaling", json!({"type": "linear"}), "rope_scaling.factor must be present, got nothing"),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 0.5}),
            "rope_scaling.factor must be a number of at least 1, got 0.5",
        ),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4, "original_max_position_embeddings": 8}),
            "rope_scaling.high_freq_factor must be above low_freq_factor (4), got 4",
        ),
    ] {
        assert_eq!(parse(&with(key, value)).unwrap_err(), message);
    }
    let mut config = config();
    config["head_dim"] = Value::Null;
    config["hidden_size"] = json!(33);
    assert_eq!(
        parse(&config).unwrap_err(),
        "hidden_size must be a multiple of num_attention_heads (4), got 33"
    );
}

#[test]
fn says_where_a_file_is_no_json() {
    assert_eq!(
        parse_bytes(b"{\"model_type\": \"llama\",\n  oops").unwrap_err(),
        "invalid JSON: key must be a string at line 2 column 3"
    );
    assert_eq!(parse_bytes(b"[]").unwrap_err(), "expected a JSON object, got a list");
    let absent = Path::new("no/such/config.json");
    let error = Config::from_file(absent).unwrap_err().to_string();
    assert!(error.starts_with("cannot read no/such/config.json: "), "{error}");
}

fn generation_config(text: &str) -> Result<GenerationConfig, String> {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("generation_config.json");
    std::fs::write(&path, text).unwrap();
    GenerationConfig::from_file(&path)
        .map_err(|e| e.to_string().replace(&format!("{}: ", path.display()), ""))
}

#[test]
fn generation_config_is_optional_and_checked() {
    let absent = GenerationConfig::from_file(Path::new("no/such/generation_config.json")).unwrap();
    assert_eq!(absent, GenerationConfig::default());
    let config =
        generation_config(r#"{"eos_token_id": [5, 3], "top_k": 50, "top_p": 0.9, "temperature": 0.6}"#);
    let config = config.unwrap();
    assert_eq!((config.eos_token_ids, config.top_k), (vec![5, 3], Some(50)));
    assert_eq!((config.top_p, config.temperature), (Some(0.9), Some(0.6)));
    assert_eq!(generation_config(r#"{"top_p": 2}"#).unwrap_err(), "top_p must be in [0, 1], got 2");
}

/// Any JSON value, huge numbers among them.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0u64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof!["[a-z3]{0,8}", Just("linear".to_owned()), Just("llama3".to_owned())]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("type".to_owned()),
                    Just("rope_type".to_owned()),
                    Just("factor".to_owned()),
                    Just("rope_theta".to_owned())
                ],
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const KEYS: [&str; 20] = [
    "model_type",
    "architectures",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "eos_token_id",
    "bos_token_id",
    "torch_dtype",
    "attention_bias",
    "layer_types",
    "sliding_window",
];

proptest! {
    #[test]
    fn any_values_are_read_or_refused(changes in prop::collection::vec((0..KEYS.len(), any_value()), 1..5)) {
        let mut config = config();
        for (key, value) in changes {
            config[KEYS[key]] = value;
        }
        if let Ok(config) = parse(&config) {
            // What is read can be computed with.
            prop_assert!(config.q_size() > 0 && config.head_dim % 2 == 0);
            prop_assert!(config.num_attention_heads % config.num_key_value_heads == 0);
        }
    }

    #[test]
    fn damaged_bytes_are_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        let mut bytes = config().to_string().into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        let _ = parse_bytes(&bytes);
    }
}
