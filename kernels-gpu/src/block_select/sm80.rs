//! Kernels for compute capability 8.0 and later.

use core::num::NonZeroU32;

use super::rule::{Row, range_bits};
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::block_grid::BlockGrid;
use crate::forward::Thread;
use crate::params::{BlockSelectParams, SearchSequence};
use crate::select::Cta;
use crate::tile_size::{BLOCK_SELECT_CTA_WARPS, BLOCK_SELECT_ROWS};

/// One row, and where its scores, bits and count lie.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) row: Row,
    scores: u64,
    /// Scores that the row has, of candidates and others.
    pub(super) stored: u32,
    pub(super) threshold: f32,
    bits: u64,
    /// Words of the row.
    pub(super) words: u32,
    count: u64,
}

/// The arrays of a launch, as kernel parameters.
#[derive(Clone, Copy)]
struct Arrays {
    scores: u64,
    sequences: *const SearchSequence,
    thresholds: u64,
    bits: u64,
    counts: u64,
}

impl Job {
    /// The `index`-th row from the last of a sequence and head; none if it has fewer.
    ///
    /// # Safety
    /// Launched as [`crate::kernel`] says.
    #[inline(always)]
    unsafe fn new(arrays: Arrays, params: &BlockSelectParams, index: u32) -> Option<Self> {
        let [_, head, b] = cta();
        // SAFETY: the caller's.
        unsafe {
            let sequence = arrays.sequences.add(b as usize).read();
            let block = NonZeroU32::new_unchecked(1 << params.block_shift);
            let (q_len, k_len) = (sequence.q_len, sequence.k_len);
            let grid = BlockGrid { q_len, k_len, block, causal: params.packed_causal != 0 };
            if index >= grid.m_blocks() {
                return None;
            }
            let m = grid.m_blocks() - 1 - index;
            let first = sequence.blocks + head as u64 * sequence.blocks_step + grid.offset(m);
            let mask_row = (sequence.mask_row + head * sequence.mask_row_step + m) as u64;
            let row = Row::new(params, q_len, k_len, m);
            let threshold = f32::from_bits(ld_global_b32(arrays.thresholds + 4 * head as u64));
            Some(Self {
                // At a threshold of 1 nothing is left to decide, whatever rounding says of the sums.
                row: Row { all: row.all || threshold >= 1.0, ..row },
                scores: arrays.scores + 4 * first,
                stored: grid.visible(m),
                threshold,
                bits: arrays.bits + 4 * mask_row * params.words as u64,
                words: params.words,
                count: arrays.counts + 4 * mask_row,
            })
        }
    }

    /// The score of block `n`.
    ///
    /// # Safety
    /// `n < stored`.
    #[inline(always)]
    pub(super) unsafe fn score(&self, n: u32) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(unsafe { ld_global_b32(self.scores + (4 * n) as u64) })
    }

    /// The word of the 32 blocks from `first` on, of which those in `taken` were taken by their scores.
    #[inline(always)]
    pub(super) fn word(&self, first: u32, taken: u32) -> u32 {
        if self.row.all {
            range_bits(first, 0, self.row.candidates)
        } else {
            taken | self.row.kept_bits(first)
        }
    }

    /// Stores word `index`.
    ///
    /// # Safety
    /// `index < words`; one thread does so.
    #[inline(always)]
    pub(super) unsafe fn store_word(&self, index: u32, word: u32) {
        // SAFETY: the caller's.
        unsafe { st_global_b32(self.bits + 4 * index as u64, word) }
    }

    /// Stores the number of blocks kept.
    ///
    /// # Safety
    /// One thread does so.
    #[inline(always)]
    pub(super) unsafe fn store_count(&self, count: u32) {
        // SAFETY: the caller's.
        unsafe { st_global_b32(self.count, count) }
    }
}

kernel! {
    fn block_select_warp(
        scores: u64,
        sequences: *const SearchSequence,
        thresholds: u64,
        bits: u64,
        counts: u64,
        params: BlockSelectParams,
    ) {
        let arrays = Arrays { scores, sequences, thresholds, bits, counts };
        // SAFETY: see `crate::kernel`; a warp leaves as a whole.
        unsafe {
            let thread = Thread::current();
            if let Some(job) = Job::new(arrays, &params, cta()[0] * BLOCK_SELECT_ROWS + thread.warp) {
                super::warp_row::select(&job, thread.lane);
            }
        }
    }
}

kernel! {
    fn block_select_cta(
        scores: u64,
        sequences: *const SearchSequence,
        thresholds: u64,
        bits: u64,
        counts: u64,
        params: BlockSelectParams,
    ) {
        let arrays = Arrays { scores, sequences, thresholds, bits, counts };
        // SAFETY: see `crate::kernel`; a CTA leaves as a whole.
        unsafe {
            if let Some(job) = Job::new(arrays, &params, cta()[0]) {
                super::cta_row::select(&job, Cta::<BLOCK_SELECT_CTA_WARPS>::new(dynamic_smem()));
            }
        }
    }
}
