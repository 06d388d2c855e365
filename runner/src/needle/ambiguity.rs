//! Whether a prompt has one answer for a model that sees seven tokens.
//!
//! The constructed model continues with the token that followed the last seven tokens wherever they stood before.
//! That is right exactly when, at every step of an answer, those seven tokens stand before answer tokens in one
//! place, or in several that go on alike. Keys are distinct, so the first step nearly always is; but the digits of a
//! value may happen to follow the same seven tokens in another needle, above all those of a UUID, which are tokens of
//! their own.

use std::collections::HashMap;

use super::geometry::SLOTS;
use super::prompt::Prompt;
use super::vocabulary::VOCABULARY;

/// The last tokens that the retrieval head compares.
type Window = [u32; SLOTS];

/// A step of an answer at which the seven tokens before it do not tell how to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ambiguity {
    /// The question.
    pub question: usize,
    /// The token of its answer, counted from 0.
    pub step: usize,
    /// The token that would be right.
    pub expected: u32,
    /// What follows those seven tokens elsewhere; `None` if nothing that an answer can be made of does.
    pub found: Option<u32>,
}

/// The first ambiguity of a prompt in the tokens of the constructed model.
pub(super) fn find(prompt: &Prompt) -> Option<Ambiguity> {
    let tokens = prompt.tokens.as_slice();
    let answers: Vec<&[u32]> =
        prompt.questions.iter().map(|question| prompt.answer_tokens(question)).collect();

    // The windows that matter: question and step by the tokens before the step.
    let mut steps: HashMap<Window, Vec<(usize, usize)>> = HashMap::new();
    for (q, (question, answer)) in prompt.questions.iter().zip(&answers).enumerate() {
        let prefix = &tokens[(question.position + 1).saturating_sub(SLOTS)..=question.position];
        let text = [prefix, answer].concat();
        for (step, window) in text.windows(SLOTS).take(answer.len()).enumerate() {
            let window = window.try_into().expect("windows have this length");
            steps.entry(window).or_default().push((q, step));
        }
    }

    // What follows them in the prompt, as far as the question can see: later prefixes begin with a newline, which
    // answers can hold. An answer's own tokens follow windows too, but then its later step has the same window and is
    // found in the needle.
    let mut found: HashMap<(usize, usize), Vec<u32>> = HashMap::new();
    for (i, window) in tokens.windows(SLOTS).enumerate() {
        let Some(&next) = tokens.get(i + SLOTS) else { break };
        if !VOCABULARY.is_answer_token(next) {
            continue;
        }
        let window: &Window = window.try_into().expect("windows have this length");
        for &(q, step) in steps.get(window).into_iter().flatten() {
            if i + SLOTS <= prompt.questions[q].position {
                found.entry((q, step)).or_default().push(next);
            }
        }
    }

    let all_steps =
        answers.iter().enumerate().flat_map(|(q, answer)| (0..answer.len()).map(move |step| (q, step)));
    all_steps.into_iter().find_map(|(question, step)| {
        let expected = answers[question][step];
        let ambiguity = |found| Some(Ambiguity { question, step, expected, found });
        match found.get(&(question, step)) {
            None => ambiguity(None),
            Some(found) => {
                found.iter().find(|next| **next != expected).and_then(|next| ambiguity(Some(*next)))
            }
        }
    })
}
