//! Methods whose first rank runs all passes, each of which depends on the one before; the keys and values that are left are then
//! dealt out.

use std::ops::Range;

use lacuna::cpu::top_k::top_k;

use super::prefill::Run;
use super::token_list::TokenList;
use crate::Result;
use crate::model::{ColumnMass, KvSession, PassOptions, PassOutput};

/// Shards that the kept tokens are cut into, for any number of ranks: so the numbers do not depend on it. More ranks than these
/// hold nothing.
const SHARDS: usize = 16;

impl<'m> Run<'m, '_> {
    /// Lets rank 0 do `work`, which is so many [`Run::next_pass`]es. The other ranks wait for each of them, and get nothing.
    pub fn on_first_rank(
        &mut self,
        passes: usize,
        work: impl FnOnce(&mut Self) -> Result<Box<dyn KvSession + 'm>>,
    ) -> Result<Option<Box<dyn KvSession + 'm>>> {
        if self.comm.rank() > 0 {
            (0..passes).try_for_each(|_| self.step())?;
            return Ok(None);
        }
        self.announce(passes);
        let session = work(self)?;
        debug_assert_eq!(self.report.passes, passes, "the other ranks count on it");
        Ok(Some(session))
    }

    /// The next pass of [`Run::on_first_rank`]: `list` after all that is cached.
    pub fn next_pass<'p>(
        &mut self,
        session: &mut dyn KvSession,
        list: &'p TokenList,
        options: PassOptions<'p>,
    ) -> Result<PassOutput> {
        let output = self.pass(session, &list.tokens, &list.position_ids, options)?;
        self.step()?;
        Ok(output)
    }

    /// Tokens to make room for on rank 0, where the passes need `work` at a time and `kept` are left: with one rank, the query and
    /// the answer come into the same session.
    pub fn capacity(&self, work: usize, kept: usize) -> usize {
        let room = if self.comm.world_size() == 1 { self.room() } else { 0 };
        work.max(kept + room)
    }
}

/// Tokens of a shard where `kept` are kept.
pub(super) fn shard_len(kept: usize) -> usize {
    kept.div_ceil(SHARDS).max(1)
}

/// A pass that tells the attention that `columns` receive from `rows`.
pub(super) fn mass<'p>(rows: Range<usize>, columns: Range<usize>) -> PassOptions<'p> {
    PassOptions { column_mass: Some(ColumnMass { rows, columns }), ..Default::default() }
}

/// The places of the `k` largest of a list of scores, which begins at `first`: ascending, ties to the lowest, all of them where
/// there are fewer than `k`, none for a `k` of 0.
pub(super) fn largest(scores: &[f32], k: usize, first: usize) -> Result<Vec<usize>> {
    if k == 0 {
        return Ok(Vec::new());
    }
    Ok(top_k(scores, k, None)?.into_iter().map(|i| first + i as usize).collect())
}
