//! The constructed model answers its questions: through an independent forward pass in plain loops, for every basis,
//! type and haystack; and gives wrong answers when that pass is wrong.

mod needle_forward;

use lacuna::DType;
use lacuna_runner::needle::{
    Basis, END, Existing, Haystack, NeedleOptions, Prompt, PromptOptions, ValueKind, build, tokenizer, write,
};
use needle_forward::{Allowed, Cache, DENSE, Llama, Mistake};

const SEED: u64 = 20;

fn prompt(haystack: Haystack, value: ValueKind, num_tokens: usize, num_questions: usize) -> Prompt {
    PromptOptions {
        haystack,
        value,
        num_tokens,
        num_needles: num_questions + 1,
        num_questions,
        seed: SEED,
        ..Default::default()
    }
    .generate(&tokenizer())
    .unwrap()
}

/// One prefill; then every answer decoded from the cache rolled back to its question. Counts the right ones.
fn right_answers(model: &Llama, prompt: &Prompt, allowed: Allowed<'_>) -> usize {
    let mut cache = Cache::default();
    let hidden = model.forward(&prompt.tokens, &mut cache, allowed);
    let answers = prompt.questions.iter().filter(|question| {
        let expected = [prompt.answer_tokens(question), &[END]].concat();
        let mut cache = model.rolled_back(&cache, question.position + 1);
        let mut next = model.argmax(&hidden[question.position]);
        for step in 0.. {
            if next != expected[step] {
                return false;
            }
            if step + 1 == expected.len() {
                break;
            }
            next = model.argmax(&model.forward(&[next], &mut cache, DENSE)[0]);
        }
        true
    });
    answers.count()
}

#[test]
fn dense_attention_answers_every_question() {
    let numbers = |haystack| prompt(haystack, ValueKind::Number, 320, 3);
    let prompts = [
        numbers(Haystack::Noise),
        numbers(Haystack::Prose),
        numbers(Haystack::Needles),
        prompt(Haystack::Needles, ValueKind::Uuid, 400, 2),
    ];
    for basis in [Basis::Plain, Basis::Dense] {
        for dtype in [DType::F32, DType::Bf16] {
            let options = NeedleOptions { basis, dtype, ..Default::default() };
            let model = Llama::new(&build(&options).unwrap(), Mistake::None);
            for prompt in &prompts {
                let right = right_answers(&model, prompt, DENSE);
                assert_eq!(right, prompt.questions.len(), "{options:?}: {}", prompt.text);
            }
        }
    }
}

#[test]
fn other_options_answer_too() {
    let prompt = prompt(Haystack::Prose, ValueKind::Number, 320, 2);
    for options in [
        NeedleOptions { num_layers: 4, ..Default::default() },
        NeedleOptions { max_len: 512, seed: 1, ..Default::default() },
        NeedleOptions { max_len: 1 << 20, seed: 2, ..Default::default() },
        NeedleOptions { dtype: DType::F16, seed: 3, ..Default::default() },
    ] {
        let model = Llama::new(&build(&options).unwrap(), Mistake::None);
        assert_eq!(right_answers(&model, &prompt, DENSE), 2, "{options:?}");
    }
}

#[test]
fn a_longer_prompt_with_many_questions() {
    let prompt = prompt(Haystack::Needles, ValueKind::Number, 1024, 8);
    let model = Llama::new(&build(&NeedleOptions::default()).unwrap(), Mistake::None);
    assert_eq!(right_answers(&model, &prompt, DENSE), 8);
}

#[test]
fn every_mistake_gives_wrong_answers() {
    let prompt = prompt(Haystack::Prose, ValueKind::Number, 256, 3);
    let files = build(&NeedleOptions::default()).unwrap();
    for mistake in [
        Mistake::SwapGateAndUp,
        Mistake::NoRope,
        Mistake::BackwardRope,
        Mistake::InterleavedRope,
        Mistake::NoMlp,
        Mistake::NoNorm,
        Mistake::SwapKvHeads,
        Mistake::TransposedOutput,
    ] {
        assert_eq!(right_answers(&Llama::new(&files, mistake), &prompt, DENSE), 0, "{mistake:?}");
    }
}

/// What sparse attention is judged by: an answer is right exactly when the rows that predict it may read its tokens.
#[test]
fn an_answer_needs_its_tokens_and_no_others() {
    let prompt = prompt(Haystack::Needles, ValueKind::Number, 320, 3);
    let model = Llama::new(&build(&NeedleOptions::default()).unwrap(), Mistake::None);
    let answers: Vec<_> = prompt.needles.iter().map(|needle| needle.answer_tokens.clone()).collect();
    let is_answer = |key: usize| answers.iter().any(|answer| answer.contains(&key));
    let asks = |query: usize| query >= prompt.query_start;

    let lost: Allowed<'_> = &|layer, query, key| !(layer == 1 && asks(query) && is_answer(key));
    assert_eq!(right_answers(&model, &prompt, lost), 0);

    // In layer 1 the begin token, the answers and eight tokens back; in layer 0 those eight, which the slots are
    // filled from.
    let near = |query: usize, key: usize| query - key <= 8;
    let kept: Allowed<'_> =
        &|layer, query, key| near(query, key) || layer == 1 && (key == 0 || is_answer(key));
    assert_eq!(right_answers(&model, &prompt, kept), 3);
}

/// Writes a model, prompts and the logits of this forward pass for `needle_transformers.py` to compare, into the
/// directory that
/// `NEEDLE_DUMP` names.
#[test]
#[ignore = "writes files for tests/needle_transformers.py"]
fn dump_for_transformers() {
    let dir =
        std::path::PathBuf::from(std::env::var_os("NEEDLE_DUMP").expect("NEEDLE_DUMP names a directory"));
    for (name, dtype) in [("f32", DType::F32), ("bf16", DType::Bf16)] {
        let options = NeedleOptions { dtype, ..Default::default() };
        write(dir.join(name), &options, Existing::Replace).unwrap();
        let model = Llama::new(&build(&options).unwrap(), Mistake::None);
        let mut dump = Vec::new();
        for (haystack, value, num_tokens) in [
            (Haystack::Noise, ValueKind::Number, 1024),
            (Haystack::Prose, ValueKind::Number, 1024),
            (Haystack::Prose, ValueKind::Uuid, 1024),
            (Haystack::Needles, ValueKind::Number, 1024),
            (Haystack::Needles, ValueKind::Uuid, 1024),
            (Haystack::Prose, ValueKind::Number, 4096),
            (Haystack::Needles, ValueKind::Number, 4096),
        ] {
            let prompt = prompt(haystack, value, num_tokens, 3);
            let hidden = model.forward(&prompt.tokens, &mut Cache::default(), DENSE);
            let questions: Vec<_> = prompt
                .questions
                .iter()
                .map(|question| {
                    serde_json::json!({
                        "position": question.position,
                        "answer_tokens": prompt.answer_tokens(question),
                        "answer": prompt.answer(question),
                        "logits": model.logits(&hidden[question.position]),
                    })
                })
                .collect();
            dump.push(serde_json::json!({
                "name": format!("{haystack:?} {value:?} {num_tokens}"),
                "text": prompt.text, "tokens": prompt.tokens, "questions": questions,
            }));
        }
        std::fs::write(dir.join(format!("{name}.json")), serde_json::to_vec(&dump).unwrap()).unwrap();
    }
}
