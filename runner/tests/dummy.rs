//! The program on a model that is a `config.json` alone: random weights, random prompts.

mod common;
#[path = "common/program.rs"]
mod program;

use common::config;
use program::{Run, lacuna, path};

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config().to_string()).unwrap();
    dir
}

fn generate(dir: &tempfile::TempDir, more: &[&str]) -> Run {
    let args =
        ["generate", "-m", path(dir.path()), "--load-format", "dummy", "--prompt-tokens", "300", "-n", "5"];
    lacuna(args.iter().chain(more).copied())
}

#[test]
fn random_prompts_are_answered_in_token_ids() {
    let dir = directory();
    let run = generate(&dir, &["--ignore-eos"]);
    let text = run.ok();
    let ids: Vec<u32> = text.split_whitespace().map(|id| id.parse().unwrap()).collect();
    assert!(ids.len() == 5 && ids.iter().all(|&id| id < 259), "{text}");
    assert!(run.stderr().starts_with("[300 prompt tokens, "), "{}", run.stderr());

    let json = generate(&dir, &["--ignore-eos", "--json", "-a", "dense", "-a", "streaming"]).json();
    assert_eq!(json["prompt_tokens"], 300);
    for answer in json["answers"].as_array().unwrap() {
        assert_eq!(answer["tokens"], serde_json::json!(ids));
        assert_eq!(answer["text"], text.trim());
        assert!(answer["prefill_tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(answer["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    // The prompt is another one under another seed, and the stop string is a number.
    assert_ne!(generate(&dir, &["--ignore-eos", "--seed", "7"]).ok(), text);
    let third = format!(" {}", ids[2]);
    assert_eq!(generate(&dir, &["--ignore-eos", "--stop", &third]).ok(), format!("{} {}\n", ids[0], ids[1]));
}

#[test]
fn a_mask_can_be_drawn_of_a_random_prompt() {
    let dir = directory();
    let args =
        ["mask", "-m", path(dir.path()), "--load-format", "dummy", "--prompt-tokens", "300", "-a", "dense"];
    let picture = lacuna(args).ok();
    assert!(picture.contains("layer 0, head 0, 300 tokens: kept 100% of this head"), "{picture}");
}

#[test]
fn what_does_not_go_together_is_said() {
    let dir = directory();
    for (more, says) in [
        (["-p", "x"], "--prompt <TEXT>"),
        (["-f", "x"], "--prompt-file <FILE>"),
        (["--tokenizer", "x"], "--tokenizer <FILE>"),
    ] {
        generate(&dir, &more).fails(2, &["'--prompt-tokens <N>'", says]);
    }
    generate(&dir, &["--dtype", "bf16", "--load-format", "gguf"]).fails(2, &["--load-format"]);
    let model = path(dir.path());
    lacuna(["generate", "-m", model, "--load-format", "npcache", "--prompt-tokens", "1"])
        .fails(2, &["the formats are auto and dummy"]);
    lacuna(["generate", "-m", model, "--load-format", "dummy", "--prompt-tokens", "0"])
        .fails(2, &["must be at least 1"]);
    // Weights there are none, nor a tokenizer.
    lacuna(["generate", "-m", model, "--prompt-tokens", "1"]).fails(1, &["expected model.safetensors"]);
    lacuna(["generate", "-m", model, "--load-format", "dummy", "-p", "x"]).fails(1, &["tokenizer.json"]);
    lacuna(["generate", "-m", model, "--load-format", "dummy"]).fails(2, &["or --prompt-tokens N"]);
    lacuna(["generate", "-m", model, "--load-format", "dummy", "--prompt-tokens", "5k"])
        .fails(1, &["max_position_embeddings"]);
}
