//! Prompts keep their promises: length, places, one answer to each question.

use std::sync::LazyLock;

use lacuna_runner::needle::{BEGIN, Haystack, Prompt, PromptOptions, ValueKind, tokenizer};
use proptest::prelude::*;
use tokenizers::Tokenizer;

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(tokenizer);

const HAYSTACKS: [Haystack; 3] = [Haystack::Noise, Haystack::Prose, Haystack::Needles];

fn decode(tokens: &[u32]) -> String {
    TOKENIZER.decode(tokens, true).unwrap()
}

/// Everything that a prompt says about itself, checked against its text.
fn check(prompt: &Prompt, options: &PromptOptions) {
    let singular = options.value.singular();
    let encoding = TOKENIZER.encode(prompt.text.as_str(), true).unwrap();
    assert_eq!(prompt.tokens, encoding.get_ids());
    assert_eq!(prompt.tokens[0], BEGIN);

    assert_eq!(prompt.needles.len(), options.num_needles);
    for needle in &prompt.needles {
        let sentence = format!("Record: the secret {singular} kept for {} is: {}.", needle.key, needle.value);
        assert_eq!(prompt.text.matches(&sentence).count(), 1);
        assert_eq!(decode(&prompt.tokens[needle.tokens.clone()]).trim_start(), sentence);
        assert_eq!(decode(&prompt.tokens[needle.value_tokens.clone()]).trim_start(), needle.value);
        assert_eq!(decode(&prompt.tokens[needle.answer_tokens.clone()]), format!(" {}.", needle.value));
        assert!(needle.answer_tokens.end <= prompt.query_start);
    }
    assert!(prompt.needles.is_sorted_by(|a, b| a.tokens.end <= b.tokens.start));

    assert_eq!(prompt.questions.len(), options.num_questions);
    let mut asked: Vec<_> = prompt.questions.iter().map(|question| question.needle).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), options.num_questions, "every question asks for another needle");
    for question in &prompt.questions {
        let needle = &prompt.needles[question.needle];
        let prefix = format!("\nRecord: the secret {singular} kept for {} is:", needle.key);
        assert_eq!(decode(&prompt.tokens[question.prefix_tokens.clone()]), prefix);
        assert_eq!(question.position + 1, question.prefix_tokens.end);
        assert_eq!(prompt.answer(question), needle.value);
    }
    assert_eq!(prompt.questions.last().unwrap().position + 1, prompt.tokens.len());
    assert!(decode(&prompt.tokens[prompt.query_start..]).starts_with("\nWhich secret "));
    assert!(prompt.query_start < prompt.questions[0].prefix_tokens.start);
    assert_eq!(prompt.ambiguity(), None);
}

#[test]
fn prompts_fill_their_length() {
    for haystack in HAYSTACKS {
        for num_tokens in [1024, 3000, 8192] {
            let options = PromptOptions {
                haystack,
                num_tokens,
                num_needles: 4,
                num_questions: 2,
                ..Default::default()
            };
            let prompt = options.generate(&TOKENIZER).unwrap();
            check(&prompt, &options);
            let len = prompt.tokens.len();
            assert!(
                len <= num_tokens && len as f64 >= 0.97 * num_tokens as f64,
                "{haystack:?}: {len} of {num_tokens}"
            );
        }
    }
}

#[test]
fn needles_go_where_they_are_told() {
    for haystack in HAYSTACKS {
        let depths = vec![100.0, 0.0, 50.0];
        let options = PromptOptions {
            haystack,
            num_needles: 3,
            num_questions: 3,
            depths: Some(depths),
            ..Default::default()
        };
        let prompt = options.generate(&TOKENIZER).unwrap();
        check(&prompt, &options);
        let [first, middle, last] = prompt.needles.as_slice() else { panic!() };
        assert!(
            prompt
                .text
                .contains(&format!("Keep them in mind.\nRecord: the secret number kept for {}", first.key))
        );
        assert_eq!((first.depth_percent, last.depth_percent), (0.0, 100.0));
        assert!((middle.depth_percent - 50.0).abs() < 1.0);
        assert!((middle.tokens.start as f64 / 2048.0 - 1.0).abs() < 0.05);
        assert_eq!(last.tokens.end, prompt.query_start);
    }
}

#[test]
fn seeds_tell_prompts_apart_and_repeat_them() {
    let prompt =
        |seed| PromptOptions { seed, num_tokens: 600, ..Default::default() }.generate(&TOKENIZER).unwrap();
    assert_eq!(prompt(4), prompt(4));
    assert_ne!(prompt(4).needles[0].value, prompt(5).needles[0].value);
}

#[test]
fn impossible_prompts_are_refused() {
    let refused = |options: PromptOptions| options.generate(&TOKENIZER).unwrap_err().to_string();
    let base = PromptOptions::default;
    assert!(refused(PromptOptions { num_needles: 0, ..base() }).contains("num_needles"));
    assert!(refused(PromptOptions { num_questions: 0, ..base() }).contains("num_questions"));
    assert!(refused(PromptOptions { num_questions: 2, ..base() }).contains("num_questions"));
    assert!(refused(PromptOptions { num_tokens: 40, ..base() }).contains("num_tokens"));
    assert!(refused(PromptOptions { num_needles: 100_000, ..base() }).contains("distinct keys"));
    assert!(refused(PromptOptions { depths: Some(vec![]), ..base() }).contains("depths"));
    for depth in [-1.0, 100.5, f64::NAN] {
        assert!(refused(PromptOptions { depths: Some(vec![depth]), ..base() }).contains("depths"));
    }
}

/// Two needles that share key and value's beginning, and then part: the model has a choice.
#[test]
fn ambiguity_is_found() {
    let options = PromptOptions { num_tokens: 400, num_needles: 2, num_questions: 2, ..Default::default() };
    let clean = options.generate(&TOKENIZER).unwrap();
    assert_eq!(clean.ambiguity(), None);

    // The second needle's sentence takes the place of the first one's key and value, all but its last digit.
    let mut twins = clean.clone();
    let [a, b] = [&clean.needles[0], &clean.needles[1]].map(|needle| needle.tokens.clone());
    assert_eq!(a.len(), b.len());
    twins.tokens.copy_within(b.start..b.end - 2, a.start);
    twins.tokens[a.end - 2] = TOKENIZER.token_to_id("0").unwrap();
    twins.tokens[b.end - 2] = TOKENIZER.token_to_id("1").unwrap();
    let question = clean.questions.iter().position(|question| question.needle == 1).unwrap();
    let ambiguity = twins.ambiguity().unwrap();
    assert!(ambiguity.question <= question);

    // A needle that is gone.
    let mut gone = clean.clone();
    gone.tokens[b.start..b.end - 4].fill(TOKENIZER.token_to_id("Ġthe").unwrap());
    let ambiguity = gone.ambiguity().unwrap();
    assert_eq!((ambiguity.question, ambiguity.step, ambiguity.found), (question, 0, None));
}

/// Asked for the same needle twice, the newline after the first prefix would be an answer to the second.
#[test]
fn a_repeated_question_is_ambiguous() {
    let options = PromptOptions { num_tokens: 400, num_needles: 2, num_questions: 2, ..Default::default() };
    let mut prompt = options.generate(&TOKENIZER).unwrap();
    let [first, second] = [0, 1].map(|q| prompt.questions[q].prefix_tokens.clone());
    assert_eq!(first.len(), second.len());
    prompt.tokens.copy_within(first, second.start);
    prompt.questions[1].needle = prompt.questions[0].needle;
    let ambiguity = prompt.ambiguity().unwrap();
    assert_eq!((ambiguity.question, ambiguity.step), (1, 0));
    assert_eq!(ambiguity.found, TOKENIZER.token_to_id("Ċ"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn prompts_are_what_they_say(
        haystack in prop::sample::select(HAYSTACKS.to_vec()),
        value in prop::sample::select(vec![ValueKind::Number, ValueKind::Uuid]),
        num_tokens in 400usize..2000,
        num_needles in 1usize..5,
        questions in 1usize..5,
        seed: u64,
    ) {
        let num_questions = questions.min(num_needles);
        let options =
            PromptOptions { haystack, value, num_tokens, num_needles, num_questions, seed, ..Default::default() };
        let prompt = options.generate(&TOKENIZER).unwrap();
        check(&prompt, &options);
        // Short by less than one sentence: at most 25 words, or a line with a UUID.
        prop_assert!(prompt.tokens.len() <= num_tokens && prompt.tokens.len() + 60 > num_tokens);
    }
}
