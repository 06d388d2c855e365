//! The ring baseline: dense attention over a context that is dealt out over the ranks.
//!
//! Liu, Zaharia, Abbeel, "Ring Attention with Blockwise Transformers for Near-Infinite Context", 2023 (arXiv 2310.01889). The
//! answer is that of dense attention; memory is shared, and every layer's keys and values go round once. The query is answered
//! as under Star Attention.

use super::deal::{self, deal};
use super::prefill::{Run, positions};
use super::sharded::{LocalShards, room};
use super::{StarOptions, star};
use crate::Result;
use crate::model::{PassOptions, Reads, Session};

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>) -> Result<Box<dyn Session + 'm>> {
    let (len, rank, world_size) = (run.context.len(), run.comm.rank(), run.comm.world_size());
    if len < world_size {
        // Not a token for every rank: the first one takes all of it, as a single block.
        return star::prefill(run, &StarOptions { block_size: Some(len), ..Default::default() });
    }
    let mine = deal(len, rank, world_size);
    let has_last = rank + 1 == world_size;
    let mut session = run.session(mine.len() + room(run, has_last))?;
    run.announce(1);
    let at = positions(mine.start, mine.len())?;
    let options = PassOptions { reads: Reads::Ring(run.comm), ..Default::default() };
    run.pass(&mut *session, &run.context[mine.clone()], &at, options)?;
    let rows = deal::blocks(mine.len(), mine.len()).collect();
    LocalShards { session, rows, first_shard: rank, has_last }.into_exact_session(run, len)
}
