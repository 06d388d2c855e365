//! What a pattern or a context method ought to find, known before it runs.

use std::collections::BTreeSet;

use lacuna::Pattern;
use lacuna_runner::attn::Attn;
use lacuna_runner::context::{
    AnchorContent, AnchorPositions, Method, SequentialTopKOptions, StarOptions, StarXMode,
};
use lacuna_runner::needle::{Prompt, Question};
use serde::Serialize;

/// Whether a pattern or a context method ought to answer a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expectation {
    /// Everything the answer needs is read for certain.
    Find,
    /// The row that asks does not read the fact.
    Miss,
    /// Neither is certain.
    Either,
}

/// Tokens that the needle model compares: a fact is recognised by the tokens before it.
const CONTEXT: usize = 7;

impl Expectation {
    /// By the rule of the context method, or of the pattern where the whole prompt runs under it.
    pub fn new(attn: &Attn, prompt: &Prompt, question: &Question) -> Self {
        match attn.method() {
            Method::Full => Self::of_pattern(attn.pattern(), prompt, question),
            // The parts that a method runs are more than a pattern's rule can speak of.
            method if *attn.pattern() == Pattern::Dense => Self::of_method(method, prompt, question),
            _ => Self::Either,
        }
    }

    /// By what an answer takes of the text: the rows of the fact read the [`CONTEXT`] tokens before them. The questions read all
    /// that was kept.
    fn of_method(method: &Method, prompt: &Prompt, question: &Question) -> Self {
        let find_if = |certain: bool| if certain { Self::Find } else { Self::Either };
        match method {
            Method::Ring => Self::Find,
            Method::Star(star) => find_if(star_reads(star, prompt, question)),
            Method::StarX(o) => {
                find_if(o.mode == StarXMode::ExactLse && star_reads(&o.star, prompt, question))
            }
            // All tokens are kept, in their order.
            Method::SequentialTopK(SequentialTopKOptions { top_k, block_size, .. }) => {
                find_if(top_k >= &(*block_size).min(prompt.query_start))
            }
            _ => Self::Either,
        }
    }

    /// By what an answer takes: the rows of the fact, and the row that asks, read the [`CONTEXT`] tokens before them,
    /// and the row that asks reads the first token of the fact's value. (The rest of the answer is decoded densely.)
    ///
    /// A fixed pattern reads by its rule. The searches weigh keys by what they look at of the attention; each is certain to
    /// find a fact where it looks at the row that asks and keeps room for it.
    fn of_pattern(pattern: &Pattern, prompt: &Prompt, question: &Question) -> Self {
        let row = question.position;
        let tokens = prompt.tokens.len();
        let answer = prompt.needles[question.needle].answer_tokens.clone();
        let context = |row: usize| row.saturating_sub(CONTEXT)..row;
        let find_if = |certain: bool| if certain { Self::Find } else { Self::Either };
        match pattern {
            Pattern::Dense => Self::Find,
            // Rows of the last block probe. Nearly all their attention goes to the first token, so that `gamma` is covered
            // early and the budget decides.
            Pattern::FlexPrefill(o) => {
                let room =
                    o.gamma == 1.0 || o.min_budget >= weighty_blocks(prompt, o.block_size) * o.block_size;
                find_if(room && tokens - row <= o.block_size)
            }
            // A column that one row reads alone has weight 1; at most `last_q` columns have that much.
            Pattern::VerticalSlash(o) => find_if(
                tokens - row <= o.last_q && o.vertical_size >= o.sink + o.last_q && o.recent > CONTEXT,
            ),
            // One pair in `stride` is looked at: only what is always kept is certain.
            Pattern::XAttention(o) => {
                let block = |token: usize| token / o.block_size;
                let always = |row: usize, key: usize| block(key) == 0 || block(key) == block(row);
                let context = answer.clone().chain([row]).all(|row| context(row).all(|key| always(row, key)));
                find_if(context && always(row, answer.start))
            }
            fixed => {
                let Some(reads) = rule(fixed, tokens) else { return Self::Either };
                if !reads(row, answer.start) {
                    return Self::Miss;
                }
                find_if(answer.chain([row]).all(|row| context(row).all(|key| reads(row, key))))
            }
        }
    }

    /// Whether a right or a wrong answer is as expected.
    pub fn allows(self, right: bool) -> bool {
        match self {
            Self::Find => right,
            Self::Miss => !right,
            Self::Either => true,
        }
    }
}

/// Whether all rows of a fact read what they need for certain: their own block, or a first block that is the anchor.
fn star_reads(star: &StarOptions, prompt: &Prompt, question: &Question) -> bool {
    let Some(block) = star.block_size else { return false };
    let usual = star.anchor == AnchorContent::First && star.anchor_positions == AnchorPositions::First;
    // With whole blocks for anchors, the second block reads all that stands before it.
    let anchored = usual && star.anchor_block_size.is_none_or(|anchor| anchor >= block);
    let together = |row: usize, key: usize| row / block == key / block || anchored && row / block == 1;
    let answer = prompt.needles[question.needle].answer_tokens.clone();
    let context = answer.into_iter().all(|row| together(row, row.saturating_sub(CONTEXT)));
    usual && !star.q_causal_on_remote && context
}

/// Key blocks that weigh for the rows that ask: those of the first token, which takes what attention finds nothing else,
/// of the facts, and of the questions themselves.
fn weighty_blocks(prompt: &Prompt, block: usize) -> usize {
    let facts = prompt.needles.iter().flat_map(|needle| needle.tokens.clone());
    let tokens = facts.chain([0]).chain(prompt.query_start..prompt.tokens.len());
    tokens.map(|token| token / block).collect::<BTreeSet<_>>().len()
}

/// The rule of a fixed pattern, for a row and a key before it: whether the blocks that hold them hold any pair that
/// the pattern is made of.
fn rule(pattern: &Pattern, tokens: usize) -> Option<Box<dyn Fn(usize, usize) -> bool>> {
    // The pair of two blocks whose distance is least: the first row and the last key.
    let nearest =
        |block: usize| move |row: usize, key: usize| (row / block * block, key / block * block + block - 1);
    let sink_and_local = move |block: usize, sink: usize, local: usize| {
        move |row: usize, key: usize| {
            let (first_row, last_key) = nearest(block)(row, key);
            key / block * block < sink || (local > 0 && first_row < last_key + local)
        }
    };
    Some(match *pattern {
        Pattern::AShape(o) => Box::new(sink_and_local(o.block_size, o.n_init, o.n_local)),
        Pattern::SinkAndLocal(o) => Box::new(sink_and_local(o.block_size, o.global_window, o.local_window)),
        Pattern::TriShape(o) => {
            let reads = sink_and_local(o.block_size, o.n_init, o.n_local);
            let last_row = move |row: usize| ((row / o.block_size + 1) * o.block_size).min(tokens) - 1;
            Box::new(move |row, key| last_row(row) + o.n_last >= tokens || reads(row, key))
        }
        Pattern::BlockDiagonal(o) => Box::new(move |row, key| {
            let (first_row, last_key) = nearest(o.block_size)(row, key);
            last_key / o.chunk_size >= first_row / o.chunk_size
        }),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::scaled::scaled;
    use lacuna::{AttentionOptions, AttentionShape, Selection, Seqlens, TensorView, pattern};

    /// The closed form against the masks that are really used.
    #[test]
    fn rules_are_those_of_the_masks() {
        let tokens = 1000;
        let shape = AttentionShape::new(1, 1, 16, Seqlens::single(tokens, tokens).unwrap()).unwrap();
        let zeros = vec![0.0f32; tokens * 16];
        let view = TensorView::thd(&zeros, tokens, 1, 16).unwrap();
        let mut compared = 0;
        for attn in scaled(tokens, 64, 4) {
            let Some(reads) = rule(attn.pattern(), tokens) else { continue };
            let mut plan = pattern::Plan::new(&shape, &AttentionOptions::default(), attn.pattern()).unwrap();
            let Selection::Blocks(mask) = plan.search(&view, &view).unwrap() else { panic!("{attn}") };
            for row in 0..tokens {
                for key in 0..=row {
                    let kept =
                        mask.row(0, 0, row / mask.block_m()).contains(&((key / mask.block_n()) as u32));
                    assert_eq!(reads(row, key), kept, "{attn}, row {row}, key {key}");
                }
            }
            compared += 1;
        }
        assert_eq!(compared, 4);
    }
}
