//! What is built: the same bytes for the same options, a complete checkpoint, and no nonsense.

use lacuna::DType;
use lacuna_runner::needle::{Basis, Existing, NeedleModel, NeedleOptions, build, write};
use safetensors::SafeTensors;

/// The share of zeros among a tensor's elements.
fn zeros(model: &NeedleModel, name: &str) -> f64 {
    let tensors = SafeTensors::deserialize(model.file("model.safetensors").unwrap()).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    let elements = tensor.data().as_chunks::<4>().0;
    elements.iter().filter(|x| f32::from_le_bytes(**x) == 0.0).count() as f64 / elements.len() as f64
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let options = NeedleOptions::default();
    let model = build(&options).unwrap();
    assert_eq!(model, build(&options).unwrap());
    let other = build(&NeedleOptions { seed: 1, ..options }).unwrap();
    for file in &model.files {
        let is_weights = file.name == "model.safetensors";
        assert_eq!(other.file(file.name).unwrap() != file.contents, is_weights, "{}", file.name);
    }
}

#[test]
fn a_dense_basis_leaves_no_zeros_and_a_plain_one_mostly_zeros() {
    let model = |basis| build(&NeedleOptions { basis, dtype: DType::F32, ..Default::default() }).unwrap();
    let (plain, dense) = (model(Basis::Plain), model(Basis::Dense));
    for name in ["model.embed_tokens", "model.layers.1.self_attn.v_proj", "model.layers.0.mlp.down_proj"] {
        let name = format!("{name}.weight");
        assert!(zeros(&plain, &name) > 0.9, "{name}");
    }
    assert_eq!(zeros(&dense, "model.embed_tokens.weight"), 0.0);
    // Heads that ask for nothing and MLP units that nothing uses stay empty in any basis.
    assert_eq!(zeros(&dense, "model.layers.0.self_attn.o_proj.weight"), 1.0 / 8.0);
    assert_eq!(zeros(&dense, "model.layers.1.self_attn.o_proj.weight"), 7.0 / 8.0);
}

#[test]
fn the_checkpoint_is_that_of_a_llama_with_3_8_million_parameters() {
    let model = build(&NeedleOptions { num_layers: 3, dtype: DType::F16, ..Default::default() }).unwrap();
    let tensors = SafeTensors::deserialize(model.file("model.safetensors").unwrap()).unwrap();
    assert_eq!(tensors.len(), 3 + 3 * 9);
    let in_layer_2 = |name: &str| name.starts_with("model.layers.2.");
    let parameters: usize = tensors
        .iter()
        .filter(|(name, _)| !in_layer_2(name))
        .map(|(_, tensor)| tensor.shape().iter().product::<usize>())
        .sum();
    assert!((3_700_000..3_900_000).contains(&parameters), "{parameters}");
    let config: serde_json::Value = serde_json::from_slice(model.file("config.json").unwrap()).unwrap();
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["num_hidden_layers"], 3);
    assert_eq!(config["torch_dtype"], "float16");
    assert_eq!(config["rope_theta"], 1e24);
    assert_eq!(config["max_position_embeddings"], 131072);
}

#[test]
fn a_written_directory_holds_the_built_files_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    let options = NeedleOptions::default();
    write(&dir, &options, Existing::Refuse).unwrap();
    let model = build(&options).unwrap();
    for file in &model.files {
        assert_eq!(std::fs::read(dir.join(file.name)).unwrap(), file.contents, "{}", file.name);
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 5);
    assert_eq!(model.files.len(), 5);
    assert!(write(&dir, &options, Existing::Refuse).is_err());
    write(&dir, &options, Existing::Replace).unwrap();
}

#[test]
fn options_out_of_range_are_refused() {
    for (options, name) in [
        (NeedleOptions { num_layers: 1, ..Default::default() }, "num_layers"),
        (NeedleOptions { num_layers: 1000, ..Default::default() }, "num_layers"),
        (NeedleOptions { max_len: 0, ..Default::default() }, "max_len"),
        (NeedleOptions { max_len: usize::MAX, ..Default::default() }, "max_len"),
    ] {
        assert!(build(&options).unwrap_err().to_string().starts_with(name), "{options:?}");
    }
}
