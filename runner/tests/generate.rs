//! Generation: streaming, end tokens, stop strings, limits.

mod common;

use std::ops::ControlFlow;

use common::*;
use lacuna_runner::generate::{
    FinishReason, GenerateOptions, Generation, SamplingOptions, eos_token_ids, generate,
};
use lacuna_runner::model::{self, Model, Tokenizer};
use proptest::prelude::*;
use serde_json::json;

struct Setup {
    _dir: tempfile::TempDir,
    model: Box<dyn Model>,
    tokenizer: Tokenizer,
}

fn setup(seed: u64) -> Setup {
    let dir = random_checkpoint(seed);
    let generation = json!({"eos_token_id": [258, 257], "do_sample": true, "temperature": 0.6, "top_p": 0.9});
    std::fs::write(dir.path().join("generation_config.json"), generation.to_string()).unwrap();
    let model = model::load(dir.path(), &Default::default(), &mut |_| ()).unwrap();
    let tokenizer = Tokenizer::from_file(&write_byte_tokenizer(dir.path())).unwrap();
    tokenizer.check(model.config()).unwrap();
    Setup { _dir: dir, model, tokenizer }
}

impl Setup {
    /// Also checks that what was streamed is the text.
    fn run(&self, options: &GenerateOptions) -> Generation {
        let prompt = random_tokens(20, 1);
        let mut session = self.model.session(200).unwrap();
        let mut streamed = String::new();
        let generation = generate(&mut *session, &self.tokenizer, &prompt, options, &mut (), &mut |text| {
            assert!(!text.is_empty());
            streamed.push_str(text);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(streamed, generation.text);
        generation
    }
}

fn sampled(max_new_tokens: usize) -> GenerateOptions {
    GenerateOptions {
        max_new_tokens,
        sampling: SamplingOptions { temperature: 1.5, ..Default::default() },
        ..Default::default()
    }
}

#[test]
fn the_streamed_text_is_the_decoded_text() {
    let setup = setup(21);
    let generation = setup.run(&sampled(120));
    assert_eq!((generation.finish_reason, generation.tokens.len()), (FinishReason::Length, 120));
    assert_eq!(generation.text, setup.tokenizer.decode(&generation.tokens, true).unwrap());
    assert_eq!(setup.run(&sampled(120)).tokens, generation.tokens);
    assert!(generation.decode_tokens_per_second() > 0.0);
}

#[test]
fn an_end_token_ends_the_text_and_is_not_in_it() {
    let setup = setup(22);
    let free = setup.run(&sampled(60));
    let end = free.tokens[30];
    let at = free.tokens.iter().position(|&t| t == end).unwrap();
    let generation = setup.run(&GenerateOptions { eos_token_ids: vec![end], ..sampled(60) });
    assert_eq!(generation.finish_reason, FinishReason::Eos);
    assert_eq!(generation.tokens, free.tokens[..=at]);
    assert_eq!(generation.text, setup.tokenizer.decode(&free.tokens[..at], true).unwrap());
    assert_eq!(eos_token_ids(setup.model.config(), setup.model.generation_config()), [257, 258]);
}

#[test]
fn a_stop_string_across_tokens_ends_the_text_before_it() {
    let setup = setup(23);
    let free = setup.run(&sampled(60));
    let stop: String = free.text.chars().skip(20).take(3).collect();
    assert!(stop.len() >= 3, "spans tokens, which are bytes");
    let generation = setup.run(&GenerateOptions { stop: vec![stop.clone()], ..sampled(60) });
    assert_eq!(generation.finish_reason, FinishReason::Stop);
    assert_eq!(generation.text, free.text[..free.text.find(&stop).unwrap()]);
}

#[test]
fn the_caller_can_break_off_and_limits_hold() {
    let setup = setup(24);
    let mut session = setup.model.session(24).unwrap();
    let prompt = random_tokens(20, 1);
    let mut calls = 0;
    let mut stop_at_once = |_: &str| {
        calls += 1;
        ControlFlow::Break(())
    };
    let options = sampled(60);
    let generation =
        generate(&mut *session, &setup.tokenizer, &prompt, &options, &mut (), &mut stop_at_once).unwrap();
    assert_eq!((generation.finish_reason, calls), (FinishReason::Cancelled, 1));
    // 4 more tokens fit the session; the last logits give a fifth.
    session.truncate(0).unwrap();
    let mut go_on = |_: &str| ControlFlow::Continue(());
    let generation =
        generate(&mut *session, &setup.tokenizer, &prompt, &options, &mut (), &mut go_on).unwrap();
    assert_eq!((generation.finish_reason, generation.tokens.len()), (FinishReason::Length, 5));
    let none = setup.run(&sampled(0));
    assert_eq!((none.tokens.len(), none.text.as_str()), (0, ""));
}

#[test]
fn tokens_before_the_prompt_count_as_seen() {
    let setup = setup(27);
    let sampling = SamplingOptions { repetition_penalty: 1e6, ..Default::default() };
    let run = |seen: Vec<u32>| {
        setup.run(&GenerateOptions {
            seen,
            max_new_tokens: 1,
            sampling: sampling.clone(),
            ..Default::default()
        })
    };
    let first = run(Vec::new()).tokens;
    let second = run(first.clone()).tokens;
    assert!(first.len() == 1 && second.len() == 1 && first != second, "{first:?}");
}

#[test]
fn sampling_of_the_models_makers() {
    let setup = setup(25);
    let options = SamplingOptions::from_model(setup.model.generation_config(), 7);
    assert_eq!(options, SamplingOptions { temperature: 0.6, top_p: 0.9, seed: 7, ..Default::default() });
}

#[test]
fn a_tokenizer_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = config();
    small["vocab_size"] = json!(257);
    write_checkpoint(dir.path(), &small, &tensors(&small, 26), lacuna::DType::F32);
    let model = model::load(dir.path(), &Default::default(), &mut |_| ()).unwrap();
    let tokenizer = Tokenizer::from_file(&write_byte_tokenizer(dir.path())).unwrap();
    assert_eq!(
        tokenizer.check(model.config()).unwrap_err().to_string(),
        "tokenizer must be of token ids below the model's vocab_size (257), got id 257 for \"<pad>\""
    );
    let path = dir.path().join("broken.json");
    std::fs::write(&path, "{\"version\": 1").unwrap();
    assert!(Tokenizer::from_file(&path).is_err());
    assert!(Tokenizer::from_file(&dir.path().join("absent.json")).is_err());
}

fn byte_tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::from_file(&write_byte_tokenizer(dir.path())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn streaming_any_text_gives_that_text(text in "[^\\pC\u{FFFD}]{0,40}") {
        let tokenizer = byte_tokenizer();
        let mut stream = tokenizer.stream(true);
        let mut got = String::new();
        for token in tokenizer.encode(&text, false).unwrap() {
            let piece = stream.step(token).unwrap();
            prop_assert!(!piece.contains(char::REPLACEMENT_CHARACTER));
            got += &piece;
        }
        got += &stream.finish().unwrap();
        prop_assert_eq!(got, text);
    }

    #[test]
    fn streaming_any_bytes_gives_their_decoded_text(tokens in prop::collection::vec(0u32..259, 0..60)) {
        let tokenizer = byte_tokenizer();
        let mut stream = tokenizer.stream(true);
        let mut got = String::new();
        for &token in &tokens {
            got += &stream.step(token).unwrap();
        }
        got += &stream.finish().unwrap();
        // How many U+FFFD a broken character yields depends on where it is cut.
        let clean = |s: &str| s.replace(char::REPLACEMENT_CHARACTER, "");
        prop_assert_eq!(clean(&got), clean(&tokenizer.decode(&tokens, true).unwrap()));
    }
}
