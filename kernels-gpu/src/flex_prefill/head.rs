//! One head of one sequence, and where what belongs to it lies.

use core::num::NonZeroU32;

use crate::arch::global::ld_global_b32;
use crate::arch::math::div_rem;
use crate::arch::special_register::cta;
use crate::block_grid::BlockGrid;
use crate::params::{FlexHead, FlexPrefillParams, SearchSequence};
use crate::tile_size::WARP;

/// The head that a CTA works on: its grid is (x, query heads, sequences).
#[derive(Clone, Copy)]
pub(crate) struct Head {
    pub(crate) sequence: SearchSequence,
    /// Key blocks of the sequences before.
    blocks_before: u32,
    pub(crate) grid: BlockGrid,
    pub(crate) head: u32,
    /// The number of (sequence, head) in lists of them.
    pub(crate) index: u32,
    /// In numbers of blocks, the first of this sequence and head.
    pub(crate) first_block: u64,
    /// In numbers of words of 32 blocks, the same.
    pub(crate) first_word: u64,
}

impl Head {
    /// # Safety
    /// Launched as [`crate::kernel`] says, with a block of at least 1.
    #[inline(always)]
    pub(crate) unsafe fn current(
        sequences: *const SearchSequence,
        first_blocks: *const u32,
        params: &FlexPrefillParams,
    ) -> Self {
        let [_, head, b] = cta();
        // SAFETY: the caller's.
        let (sequence, blocks_before, block) = unsafe {
            let b = b as usize;
            (sequences.add(b).read(), first_blocks.add(b).read(), NonZeroU32::new_unchecked(params.block))
        };
        let grid = BlockGrid { q_len: sequence.q_len, k_len: sequence.k_len, block, causal: true };
        let heads = params.num_heads as u64;
        let (blocks, words) = (grid.n_blocks(), grid.n_blocks().div_ceil(WARP));
        // Sequences before cannot need more words than this: each rounds up once.
        let words_before = (blocks_before / WARP + b) as u64;
        Self {
            sequence,
            blocks_before,
            grid,
            head,
            index: b * params.num_heads + head,
            first_block: blocks_before as u64 * heads + head as u64 * blocks as u64,
            first_word: words_before * heads + head as u64 * words as u64,
        }
    }

    /// Words of a bit per key block.
    #[inline(always)]
    pub(crate) fn words(&self) -> u32 {
        self.grid.n_blocks().div_ceil(WARP)
    }

    /// Where the token scores of the head begin.
    #[inline(always)]
    pub(crate) fn scores(&self, params: &FlexPrefillParams) -> u64 {
        let search = &self.sequence;
        params.num_heads as u64 * search.k_start as u64 + self.head as u64 * search.k_len as u64
    }

    /// The row of mean keys of the sequence's first block.
    ///
    /// # Safety
    /// There are heads.
    #[inline(always)]
    pub(crate) unsafe fn mean_keys(&self, params: &FlexPrefillParams) -> u64 {
        // SAFETY: the caller's.
        let head_k = unsafe {
            if params.gqa_interleave != 0 {
                div_rem(self.head, params.num_heads_k).1
            } else {
                div_rem(self.head, params.group).0
            }
        };
        let blocks = self.grid.n_blocks() as u64;
        self.blocks_before as u64 * params.num_heads_k as u64 + head_k as u64 * blocks
    }

    /// Where the map's row of query block `m` begins, in entries.
    ///
    /// # Safety
    /// The sequence is searched: it has as many keys as queries, or more.
    #[inline(always)]
    pub(crate) unsafe fn map_row(&self, m: u32) -> u64 {
        // SAFETY: the caller's; lengths are below 2^30. What is for negative pasts need not be there.
        unsafe { core::hint::assert_unchecked(self.grid.k_len as i32 - self.grid.q_len as i32 >= 0) };
        self.grid.offset(m)
    }

    /// Where the map begins.
    #[inline(always)]
    pub(crate) fn map(&self) -> u64 {
        self.sequence.blocks + self.head as u64 * self.sequence.blocks_step
    }

    /// What was decided, [`FlexHead::kind`].
    ///
    /// # Safety
    /// `heads` is the list of decisions.
    #[inline(always)]
    pub(crate) unsafe fn kind(&self, heads: u64) -> u32 {
        // SAFETY: the caller's.
        unsafe { ld_global_b32(heads + self.index as u64 * size_of::<FlexHead>() as u64) }
    }
}
