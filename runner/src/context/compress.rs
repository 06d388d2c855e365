//! DistInf's recursive compression engine: blocks run against what is cached, and what is cached is thinned out after each.
//!
//! A pass runs a block, in its place, and behind it the query, at the end of the whole context. The attention that the query pays
//! to each candidate, over all layers and heads, decides which of them stay. What stays is not run again: its keys and values
//! keep what they have read, tokens that are gone by now among it.
//!
//! Of the original this has the exact scores. Its selectors by locality-sensitive hashing of keys (frequency rank, MagicPIG's
//! baseline, and hybrids with exact scores) are not here.

use std::ops::Range;

use super::deal::blocks;
use super::first_rank::{largest, mass, shard_len};
use super::prefill::Run;
use super::token_list::TokenList;
use super::{CompressMode, CompressOptions};
use crate::Result;
use crate::model::{KvSession, Session};

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>, options: &CompressOptions) -> Result<Box<dyn Session + 'm>> {
    let len = run.context.len();
    let steps = steps(len, options);
    let kept = steps.last().map_or(0, Step::kept);
    let session = run.on_first_rank(steps.len(), |run| encode(run, &steps, kept))?;
    run.share(session, shard_len(kept), len)
}

/// What happens to the cache at a block. It holds `settled` rows that stay, then rows that may go.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    block: Range<usize>,
    /// Rows cached before it.
    past: usize,
    /// Rows that stay whatever comes, anchors of this block among them.
    settled: usize,
    /// Rows behind them of which the best stay.
    candidates: usize,
    /// How many of these.
    chosen: usize,
    /// Rows behind these, the last of the block, that stay for now.
    tail: usize,
}

impl Step {
    /// Rows cached after it.
    fn kept(&self) -> usize {
        self.settled + self.chosen + self.tail
    }
}

/// All steps: how many tokens are kept does not depend on which.
fn steps(len: usize, options: &CompressOptions) -> Vec<Step> {
    let protected = options.budget / options.protection_divisor;
    let global = options.budget - 2 * protected;
    let (mut past, mut settled) = (0, 0);
    let step = |block: Range<usize>| {
        let anchors = protected.saturating_sub(block.start).min(block.len());
        if anchors > 0 {
            // All that came before are anchors too.
            settled = past + anchors;
        }
        let tail = protected.min(block.len() - anchors);
        let candidates = past + block.len() - tail - settled;
        let step = Step { block, past, settled, candidates, chosen: candidates.min(global), tail };
        past = step.kept();
        if options.mode == CompressMode::Accumulate {
            settled += step.chosen;
        }
        step
    };
    blocks(len, options.block_size).map(step).collect()
}

/// Runs all blocks. `kept` tokens are left.
fn encode<'m>(run: &mut Run<'m, '_>, steps: &[Step], kept: usize) -> Result<Box<dyn KvSession + 'm>> {
    let (context, query) = (run.context, run.query);
    let work = steps.iter().map(|step| step.past + step.block.len() + query.len()).max().unwrap_or(0);
    let mut session = run.session(run.capacity(work, kept))?;
    for Step { block, past, settled, candidates, chosen, tail } in steps.iter().cloned() {
        let list =
            TokenList::default().run(&context[block.clone()], block.start)?.run(query, context.len())?;
        let pass = mass(block.len()..list.len(), settled..settled + candidates);
        let scores = run.next_pass(&mut *session, &list, pass)?.column_mass;
        let end = past + block.len();
        let chosen = largest(&scores, chosen, settled)?;
        let rows: Vec<usize> = (0..settled).chain(chosen).chain(end - tail..end).collect();
        session.keep(&rows)?;
    }
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(block_size: usize, budget: usize, divisor: usize, mode: CompressMode) -> CompressOptions {
        CompressOptions { block_size, budget, protection_divisor: divisor, mode }
    }

    /// `(past, settled, candidates, chosen, tail)` of each step.
    fn sizes(len: usize, options: &CompressOptions) -> Vec<[usize; 5]> {
        let sizes = |s: Step| [s.past, s.settled, s.candidates, s.chosen, s.tail];
        steps(len, options).into_iter().map(sizes).collect()
    }

    #[test]
    fn accumulation_settles_what_it_chose_and_lets_the_tail_compete_once() {
        // 2 anchors, tails of 2, 4 of the rest.
        let got = sizes(25, &options(10, 8, 4, CompressMode::Accumulate));
        assert_eq!(got, [[0, 2, 6, 4, 2], [8, 6, 10, 4, 2], [12, 10, 5, 4, 2]]);
    }

    #[test]
    fn recursion_lets_all_but_the_anchors_compete_again() {
        let got = sizes(25, &options(10, 8, 4, CompressMode::Recursive));
        assert_eq!(got, [[0, 2, 6, 4, 2], [8, 2, 14, 4, 2], [8, 2, 9, 4, 2]]);
    }

    #[test]
    fn anchors_may_take_several_blocks_and_leave_no_tail() {
        let got = sizes(9, &options(3, 10, 2, CompressMode::Recursive));
        // 5 anchors: a block and most of the next; nothing is left for the others.
        assert_eq!(got, [[0, 3, 0, 0, 0], [3, 5, 0, 0, 1], [6, 5, 1, 0, 3]]);
    }

    #[test]
    fn the_cache_keeps_within_the_budget_and_the_context() {
        for len in [1, 7, 40] {
            for (block, budget, divisor) in
                [(1, 1, 2), (4, 3, 2), (7, 12, 4), (100, 9, 3), (6, 90, 2), (5, 20, 20), (5, 7, usize::MAX)]
            {
                for mode in [CompressMode::Accumulate, CompressMode::Recursive] {
                    let options = options(block, budget, divisor, mode);
                    let steps = steps(len, &options);
                    for step in &steps {
                        assert!(step.kept() <= step.past + step.block.len(), "{options:?}: {step:?}");
                        if mode == CompressMode::Recursive {
                            assert!(step.kept() <= budget, "{options:?}: {step:?}");
                        }
                    }
                    assert_eq!(steps.last().unwrap().block.end, len);
                }
            }
        }
    }
}
