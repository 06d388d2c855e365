//! DistInf's second version: of each block the tokens to which the query attends most; then these alone, in their own places.
//!
//! For every block a pass over what was chosen before, the block and the query tells how much attention each token of the block
//! receives from the query, over all layers and heads; its `top_k` are chosen. One more pass over all that were chosen makes the
//! cache. The published program runs the chosen tokens again with every block. A token reads only those before it, so their keys
//! and values are the same each time: here they stay, and only those chosen last are run again, without the tokens between
//! them. Under a pattern, which sees a pass as a whole, that is another pass than one over all.

use std::ops::Range;

use super::deal::blocks;
use super::first_rank::{largest, mass, shard_len};
use super::prefill::Run;
use super::token_list::TokenList;
use super::{Positions, QueryPosition, SequentialTopKOptions};
use crate::Result;
use crate::model::{KvSession, PassOptions, Session};

pub(super) fn prefill<'m>(
    run: &mut Run<'m, '_>,
    options: &SequentialTopKOptions,
) -> Result<Box<dyn Session + 'm>> {
    let blocks: Vec<_> = blocks(run.context.len(), options.block_size).collect();
    let kept: usize = blocks.iter().map(|block| block.len().min(options.top_k)).sum();
    let position = match options.query_position {
        QueryPosition::ContextLen => run.context.len(),
        QueryPosition::CacheLen => kept,
    };
    let session = run.on_first_rank(blocks.len() + 1, |run| encode(run, options, &blocks, kept))?;
    run.share(session, shard_len(kept), position)
}

/// Runs all blocks, then what was chosen of them: `kept` tokens.
fn encode<'m>(
    run: &mut Run<'m, '_>,
    options: &SequentialTopKOptions,
    blocks: &[Range<usize>],
    kept: usize,
) -> Result<Box<dyn KvSession + 'm>> {
    let (context, query) = (run.context, run.query);
    let before = |block: usize| block * options.top_k.min(blocks[0].len());
    let work = |i: usize| before(i) + blocks[i].len() + query.len();
    let work = (0..blocks.len()).map(work).max().unwrap_or(0);
    let mut session = run.session(run.capacity(work, kept))?;
    let mut chosen: Vec<u32> = Vec::with_capacity(kept);
    // Of these, the tokens of blocks before the last are cached.
    let mut last: Vec<u32> = Vec::new();
    for block in blocks {
        let list = TokenList::default()
            .chosen(context, &last)
            .run(&context[block.clone()], block.start)?
            .run(query, context.len())?;
        let list = match options.positions {
            Positions::Original => list,
            Positions::Contiguous => list.contiguous(session.len())?,
        };
        let rows = list.len() - query.len()..list.len();
        let past = chosen.len();
        let pass = mass(rows, past..past + block.len());
        let scores = run.next_pass(&mut *session, &list, pass)?.column_mass;
        session.truncate(past)?;
        last = largest(&scores, options.top_k, block.start)?.into_iter().map(|i| i as u32).collect();
        chosen.extend_from_slice(&last);
    }
    let list = match options.positions {
        Positions::Original => TokenList::default().chosen(context, &last),
        // What is cached stands elsewhere.
        Positions::Contiguous => {
            session.truncate(0)?;
            TokenList::default().chosen(context, &chosen)
        }
    };
    run.next_pass(&mut *session, &list, PassOptions::default())?;
    Ok(session)
}
