//! Checkpoints: one file and shards, types, what is missing or damaged and how it is said.

mod common;

use std::path::Path;

use common::*;
use lacuna::DType;
use lacuna_runner::model::{self, Checkpoint, ForwardOptions, LoadOptions, LoadProgress};
use proptest::prelude::*;
use serde_json::{Value, json};

fn logits(dir: &Path, dtype: Option<DType>) -> Vec<f32> {
    let model = model::load(dir, &LoadOptions { dtype, ..Default::default() }, &mut |_| ()).unwrap();
    let tokens = random_tokens(50, 1);
    let mut session = model.session(50).unwrap();
    session.forward(&tokens, &ForwardOptions::default(), &mut ()).unwrap().0
}

/// The error of loading `dir`, without the directory's own name.
fn error(dir: &Path) -> String {
    let e = model::load(dir, &Default::default(), &mut |_| ()).map(|_| ()).unwrap_err();
    e.to_string().replace(&format!("{}/", dir.display()), "").replace(&dir.display().to_string(), "DIR")
}

#[test]
fn shards_equal_one_file() {
    let tensors = tensors(&config(), 31);
    let one = tempfile::tempdir().unwrap();
    write_checkpoint(one.path(), &config(), &tensors, DType::F32);
    for shards in [1, 3, 20] {
        let dir = tempfile::tempdir().unwrap();
        write_sharded(dir.path(), &config(), &tensors, shards);
        assert_eq!(logits(dir.path(), None), logits(one.path(), None), "{shards} shards");
    }
}

#[test]
fn every_type_loads_in_every_type() {
    let tensors = tensors(&config(), 32);
    let exact = tempfile::tempdir().unwrap();
    write_checkpoint(exact.path(), &config(), &tensors, DType::F32);
    let want = logits(exact.path(), None);
    for stored in [DType::F32, DType::Bf16, DType::F16] {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), &config(), &tensors, stored);
        assert_eq!(model::load(dir.path(), &Default::default(), &mut |_| ()).unwrap().dtype(), stored);
        assert_eq!(logits(dir.path(), None), logits(dir.path(), Some(stored)));
        for compute in [DType::F32, DType::Bf16, DType::F16] {
            let error = relative_error(&logits(dir.path(), Some(compute)), &want);
            let coarsest = [stored, compute].contains(&DType::Bf16);
            let tolerance = if coarsest { 0.1 } else { 0.02 };
            assert!(error < tolerance, "{stored} in {compute}: {error}");
        }
    }
}

#[test]
fn tied_embeddings_need_no_output_matrix_and_tolerate_one() {
    let mut tied = config();
    tied["tie_word_embeddings"] = json!(true);
    let mut tensors = tensors(&config(), 33);
    let both = tempfile::tempdir().unwrap();
    write_checkpoint(both.path(), &tied, &tensors, DType::F32);
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), embedding);
    let untied = tempfile::tempdir().unwrap();
    write_checkpoint(untied.path(), &config(), &tensors, DType::F32);
    tensors.remove("lm_head.weight");
    let frequencies = (vec![8], vec![0.0; 8]);
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), frequencies);
    let one = tempfile::tempdir().unwrap();
    write_checkpoint(one.path(), &tied, &tensors, DType::F32);
    assert_eq!(logits(one.path(), None), logits(untied.path(), None));
    assert_eq!(logits(both.path(), None), logits(untied.path(), None));
}

#[test]
fn one_error_lists_all_that_does_not_fit() {
    let mut tensors = tensors(&config(), 34);
    tensors.remove("model.norm.weight");
    tensors.insert("model.extra.weight".to_owned(), (vec![2], vec![0.0; 2]));
    tensors.get_mut("lm_head.weight").unwrap().0 = vec![32, 259];
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &tensors, DType::F32);
    assert_eq!(
        error(dir.path()),
        "DIR: the tensors do not fit config.json: missing: model.norm.weight; unexpected: model.extra.weight; \
         wrong shape: lm_head.weight has [32, 259], expected [259, 32]"
    );
    let mut deep = config();
    deep["num_hidden_layers"] = json!(4);
    std::fs::write(dir.path().join("config.json"), deep.to_string()).unwrap();
    // 9 of each of two more layers, and the norm: 8 are named.
    assert!(error(dir.path()).contains(" and 11 more;"), "{}", error(dir.path()));
}

#[test]
fn a_wrong_element_type_is_named() {
    let tensors = tensors(&config(), 35);
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &tensors, DType::F32);
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = String::from_utf8_lossy(&bytes).into_owned();
    let at = header.find("\"F32\"").unwrap();
    bytes[at..at + 5].copy_from_slice(b"\"I32\"");
    std::fs::write(&path, bytes).unwrap();
    assert!(error(dir.path()).contains("wrong type: "), "{}", error(dir.path()));
    assert!(error(dir.path()).ends_with("is I32, expected BF16, F16 or F32"), "{}", error(dir.path()));
}

#[test]
fn damaged_files_are_described_in_one_sentence() {
    let dir = random_checkpoint(36);
    let path = dir.path().join("model.safetensors");
    let good = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(*good.first_chunk().unwrap()) as usize;
    let data = good.len() - 8 - header;
    let with = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        error(dir.path())
    };
    assert_eq!(with(&[]), "model.safetensors: truncated: 0 bytes are too few for a safetensors file");
    assert_eq!(
        with(&good[..100]),
        format!("model.safetensors: truncated: a header of {header} bytes, but only 92 bytes follow")
    );
    assert_eq!(
        with(&good[..good.len() - 5]),
        format!(
            "model.safetensors: truncated: the header describes {data} bytes of tensors, got {}",
            data - 5
        )
    );
    assert_eq!(
        with(&[&good[..], b"xy"].concat()),
        format!("model.safetensors: corrupt: the header describes {data} bytes of tensors, got {}", data + 2)
    );
    assert_eq!(
        with(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "model.safetensors: this is a Git LFS pointer, not the file: fetch it with `git lfs pull`"
    );
    assert_eq!(
        with(&[&u64::MAX.to_le_bytes()[..], &good[8..]].concat()),
        "model.safetensors: not a safetensors file: byte 0 announces a header of 18446744073709551615 bytes"
    );
    let mut broken = good.clone();
    broken[8] = b'[';
    assert!(with(&broken).starts_with("model.safetensors: corrupt header (bytes 8.."), "{}", with(&broken));
}

#[test]
fn weights_that_overflow_the_compute_type_are_named() {
    let mut tensors = tensors(&config(), 37);
    tensors.get_mut("model.norm.weight").unwrap().1[3] = 1e6;
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), &tensors, DType::F32);
    let e =
        model::load(dir.path(), &LoadOptions { dtype: Some(DType::F16), ..Default::default() }, &mut |_| ())
            .map(|_| ())
            .unwrap_err()
            .to_string();
    assert!(e.ends_with("model.norm.weight has a weight at index 3 that is not finite as f16"), "{e}");
    model::load(dir.path(), &LoadOptions { dtype: Some(DType::Bf16), ..Default::default() }, &mut |_| ())
        .unwrap();
}

#[test]
fn directories_without_safetensors_get_advice() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error(dir.path()).starts_with("cannot read config.json: "), "{}", error(dir.path()));
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    assert_eq!(
        error(dir.path()),
        "DIR: expected model.safetensors or model.safetensors.index.json, got a directory with neither"
    );
    std::fs::write(dir.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(error(dir.path()).starts_with("DIR: pytorch_model.bin is a pickled checkpoint"));
}

#[test]
fn an_index_is_checked_before_any_shard_is_opened() {
    let tensors = tensors(&config(), 38);
    let dir = tempfile::tempdir().unwrap();
    write_sharded(dir.path(), &config(), &tensors, 3);
    let index = dir.path().join("model.safetensors.index.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        std::fs::write(&index, value.to_string()).unwrap();
        error(dir.path())
    };
    for file in [
        "../model-00001-of-00003.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "model.bin",
        "a\\b.safetensors",
    ] {
        let e = with(&|v| v["weight_map"]["lm_head.weight"] = json!(file));
        assert_eq!(
            e,
            format!(
                "model.safetensors.index.json: weight_map.lm_head.weight must name a .safetensors file beside the \
                 index, got {}",
                json!(file)
            )
        );
    }
    assert_eq!(
        with(&|v| v["weight_map"] = json!([])),
        "model.safetensors.index.json: no object under the key weight_map"
    );
    assert_eq!(
        with(&|v| v["weight_map"]["lm_head.weight"] = json!("model-00009-of-00003.safetensors")),
        "model.safetensors.index.json: the shard model-00009-of-00003.safetensors it names does not exist"
    );
    let e = with(&|v| v["weight_map"]["lm_head.weight"] = json!("model-00002-of-00003.safetensors"));
    assert_eq!(
        e,
        "DIR: the tensors do not fit config.json: missing: lm_head.weight; absent from their shards: \
         lm_head.weight (in model-00002-of-00003.safetensors)"
    );
    let e = with(&|v| {
        v["weight_map"].as_object_mut().unwrap().remove("lm_head.weight");
    });
    assert_eq!(e, "DIR: the tensors do not fit config.json: missing: lm_head.weight");
}

#[test]
fn progress_counts_up_to_all_weights() {
    let dir = random_checkpoint(39);
    let mut seen: Vec<LoadProgress> = Vec::new();
    model::load(dir.path(), &Default::default(), &mut |p| seen.push(p)).unwrap();
    assert!(seen.windows(2).all(|w| w[0].bytes < w[1].bytes));
    let last = seen.last().unwrap();
    assert_eq!(last.total_bytes, Checkpoint::open(dir.path()).unwrap().size_bytes());
    // All but the header.
    assert!(last.bytes <= last.total_bytes && last.total_bytes - last.bytes < 4096);
}

#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let dir = random_checkpoint(40);
    let path = dir.path().join("config.json");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(error(dir.path()).starts_with("cannot read config.json: "), "{}", error(dir.path()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_damaged_safetensors_header_is_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        number in prop::option::of((any::<prop::sample::Index>(), any::<u64>())),
        len in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        // One tensor, so that the header is most of the file.
        let tensors = Tensors::from([("model.norm.weight".to_owned(), (vec![4], vec![1.0; 4]))]);
        let mut bytes = serialize(&tensors, DType::F32);
        if let Some((at, number)) = number {
            // A huge number in place of a digit.
            let digits: Vec<usize> = (8..bytes.len()).filter(|&i| bytes[i].is_ascii_digit()).collect();
            let at = digits[at.index(digits.len())];
            bytes.splice(at..at + 1, number.to_string().into_bytes());
            let grown = bytes.len() as u64 - 8 - 16;
            bytes[..8].copy_from_slice(&grown.to_le_bytes());
        }
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors"), &bytes).unwrap();
        std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        prop_assert!(model::load(dir.path(), &Default::default(), &mut |_| ()).is_err(), "most tensors are missing");
    }

    #[test]
    fn a_damaged_index_is_read_or_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        len in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
        let tensors = Tensors::from([("model.norm.weight".to_owned(), (vec![4], vec![1.0; 4]))]);
        std::fs::write(dir.path().join("a.safetensors"), serialize(&tensors, DType::F32)).unwrap();
        let mut bytes = json!({"weight_map": {"model.norm.weight": "a.safetensors"}}).to_string().into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        std::fs::write(dir.path().join("model.safetensors.index.json"), &bytes).unwrap();
        prop_assert!(model::load(dir.path(), &Default::default(), &mut |_| ()).is_err(), "most tensors are missing");
    }
}
