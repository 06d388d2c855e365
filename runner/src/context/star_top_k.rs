//! DistInf's first version, as it was meant: tokens that receive most attention become anchors, block by block.
//!
//! Every step runs the anchors so far and a block, in their own places, and sums up the attention that each of them receives from
//! all of them, over all layers and heads. Tokens of the block that are among the `top_k` of that sum become anchors; older ones
//! that are among them too use up part of it. The keys and values of all anchors come from the last step. In a causal sum early
//! tokens come off well: more tokens see them.
//!
//! The published program cannot be run. Where it differs from its own description (attention that is not causal, chosen
//! indices that are off by the number of anchors, padding that is chosen), this follows the description.

use std::ops::Range;

use super::StarTopKOptions;
use super::deal::blocks;
use super::first_rank::{largest, mass, shard_len};
use super::prefill::Run;
use super::token_list::TokenList;
use crate::Result;
use crate::model::{KvSession, Session};

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>, options: &StarTopKOptions) -> Result<Box<dyn Session + 'm>> {
    let len = run.context.len();
    let block = options.block_size.unwrap_or(len.div_ceil(options.num_blocks));
    let blocks: Vec<_> = blocks(len, block).collect();
    let most = anchors_after(&blocks, options.top_k);
    let session = run.on_first_rank(blocks.len(), |run| encode(run, options, &blocks))?;
    run.share(session, shard_len(most), len)
}

/// The most anchors that there can be after some blocks.
fn anchors_after(blocks: &[Range<usize>], top_k: usize) -> usize {
    blocks.iter().map(|block| block.len().min(top_k)).sum()
}

/// Runs all steps, and keeps the anchors.
fn encode<'m>(
    run: &mut Run<'m, '_>,
    options: &StarTopKOptions,
    blocks: &[Range<usize>],
) -> Result<Box<dyn KvSession + 'm>> {
    let context = run.context;
    let work = |i: usize| anchors_after(&blocks[..i], options.top_k) + blocks[i].len();
    let work = (0..blocks.len()).map(work).max().unwrap_or(0);
    let kept = anchors_after(blocks, options.top_k);
    let mut session = run.session(run.capacity(work, kept))?;
    let mut anchors: Vec<u32> = Vec::with_capacity(kept);
    let mut rows = Vec::new();
    for block in blocks {
        session.truncate(0)?;
        let list =
            TokenList::default().chosen(context, &anchors).run(&context[block.clone()], block.start)?;
        let pass = mass(0..list.len(), 0..list.len());
        let scores = run.next_pass(&mut *session, &list, pass)?.column_mass;
        let past = anchors.len();
        rows = (0..past).collect();
        rows.extend(largest(&scores, options.top_k, 0)?.into_iter().filter(|&row| row >= past));
        anchors.extend(rows[past..].iter().map(|&row| list.position_ids[row]));
    }
    session.keep(&rows)?;
    Ok(session)
}
