//! Star Attention's first phase: blocks of the context, each behind an anchor, none of them reading another.
//!
//! Acharya, Jia, Ginsburg, "Star Attention: Efficient LLM Inference over Long Sequences", 2024 (arXiv 2411.17116), section 2.
//! The second phase, in which the query reads all blocks, is `sharded.rs`.

use std::ops::Range;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::deal::{blocks, deal};
use super::mix::{Exact, Heads};
use super::prefill::{Run, positions};
use super::sharded::{LocalShards, room};
use super::{AnchorContent, AnchorPositions, StarOptions};
use crate::Result;
use crate::model::{KvSession, PassOptions, Reads, Session};

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>, options: &StarOptions) -> Result<Box<dyn Session + 'm>> {
    let shards = encode(run, options)?;
    let position = run.context.len();
    if options.q_causal_on_remote {
        let mixer = Exact { comm: run.comm, heads: Heads::new(run.config()) };
        return shards.into_session(run, position, Box::new(mixer), true);
    }
    shards.into_exact_session(run, position)
}

/// Runs this rank's blocks, and keeps their keys and values: a shard for each.
pub(super) fn encode<'m>(run: &mut Run<'m, '_>, options: &StarOptions) -> Result<LocalShards<'m>> {
    let len = run.context.len();
    let block = options.block_size.unwrap_or(len.div_ceil(run.comm.world_size()));
    let all: Vec<_> = blocks(len, block).collect();
    let dealt = deal(all.len(), run.comm.rank(), run.comm.world_size());
    let first_shard = dealt.start;
    let mine = &all[dealt];
    let has_last = mine.last().is_some_and(|block| block.end == len);
    let local: usize = mine.iter().map(Range::len).sum();
    let anchor = Anchor::new(run, options, all[0].len());
    let behind = mine.iter().filter(|block| block.start > 0).count();

    // An anchor that serves several blocks stands at the front until all are done. Where it is the whole first block, and that
    // lies here, it is there anyway.
    let is_first_block = anchor.content == AnchorContent::First && anchor.len == all[0].len();
    let serves = anchor.len > 0 && anchor.shared && behind > 0;
    let front = if serves && !(is_first_block && mine[0].start == 0) { anchor.len } else { 0 };
    // Its copy, or itself, stands before each block; before the only block that may be the front itself.
    let copies = if front > 0 { mine.len() > 1 } else { behind > 0 };
    let work = front + local + if copies { anchor.len } else { 0 };
    let mut session = run.session(work.max(local + room(run, has_last)).max(1))?;
    run.announce(mine.len() + usize::from(front > 0));

    if front > 0 {
        let (tokens, at) = (anchor.tokens(run, 0)?, anchor.positions(0)?);
        run.pass(&mut *session, &tokens, &at, PassOptions::default())?;
    }
    let mut rows = Vec::with_capacity(mine.len());
    for block in mine {
        let base = session.len();
        let (tokens, at) = (&run.context[block.clone()], positions(block.start, block.len())?);
        let reads = |from| PassOptions { reads: Reads::Cached { from }, ..Default::default() };
        let before = if block.start == 0 || anchor.len == 0 {
            run.pass(&mut *session, tokens, &at, reads(base))?;
            0
        } else if !anchor.shared {
            let tokens = [&anchor.tokens(run, block.start)?, tokens].concat();
            let at = [anchor.positions(block.start)?, at].concat();
            run.pass(&mut *session, &tokens, &at, reads(base))?;
            anchor.len
        } else if base == front {
            run.pass(&mut *session, tokens, &at, reads(0))?;
            0
        } else {
            session.duplicate(0..anchor.len)?;
            run.pass(&mut *session, tokens, &at, reads(base))?;
            anchor.len
        };
        forget(&mut *session, base..base + before)?;
        rows.push(base - front..base - front + block.len());
    }
    forget(&mut *session, 0..front)?;
    Ok(LocalShards { session, rows, first_shard, has_last })
}

/// Forgets some of the cached tokens.
fn forget(session: &mut dyn KvSession, rows: Range<usize>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let keep: Vec<usize> = (0..rows.start).chain(rows.end..session.len()).collect();
    session.keep(&keep)
}

/// What stands before every block but the first.
struct Anchor {
    len: usize,
    content: AnchorContent,
    positions: AnchorPositions,
    /// Whether it is the same for all blocks, and run once.
    shared: bool,
    seed: u64,
}

impl Anchor {
    fn new(run: &Run, options: &StarOptions, first_block: usize) -> Self {
        let StarOptions { anchor: content, anchor_positions: positions, seed, .. } = *options;
        let len = match content {
            AnchorContent::None => 0,
            _ => options.anchor_block_size.unwrap_or(first_block).min(first_block),
        };
        let same = content != AnchorContent::Previous && positions == AnchorPositions::First;
        debug_assert!(len <= run.context.len());
        Self { len, content, positions, shared: same && !options.recompute_anchor, seed }
    }

    /// The tokens before the block that begins at `start`; a shared anchor's do not depend on it.
    fn tokens(&self, run: &Run, start: usize) -> Result<Vec<u32>> {
        let first = &run.context[..self.len];
        Ok(match self.content {
            AnchorContent::First => first.to_vec(),
            AnchorContent::None => Vec::new(),
            AnchorContent::Previous => run.context[start - self.len..start].to_vec(),
            AnchorContent::Constant => vec![first[0]; self.len],
            AnchorContent::Random => {
                let (mut rng, vocab_size) = (self.rng(0), run.config().vocab_size as u32);
                (0..self.len).map(|_| rng.random_range(0..vocab_size)).collect()
            }
            AnchorContent::Shuffled => {
                let mut tokens = first.to_vec();
                tokens.shuffle(&mut self.rng(0));
                tokens
            }
        })
    }

    /// Where they stand.
    fn positions(&self, start: usize) -> Result<Vec<u32>> {
        let first = match self.positions {
            AnchorPositions::First => 0,
            AnchorPositions::BeforeBlock => start - self.len,
            AnchorPositions::Random => self.rng(start as u64).random_range(0..=start - self.len),
        };
        positions(first, self.len)
    }

    /// The same numbers on every rank.
    fn rng(&self, stream: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(stream);
        rng
    }
}
