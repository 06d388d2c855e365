//! What the launchers of pattern searches have in common.

use std::num::NonZeroU32;

use lacuna_core::{AttentionShape, Error, Result};
use lacuna_kernels_gpu::block_grid::BlockGrid;
use lacuna_kernels_gpu::params::{Params, SearchSequence};

use crate::buffer::DeviceBuffer;
use crate::check;
use crate::context::Context;

/// The blocks of a ragged batch, and the table that tells kernels of them.
#[derive(Debug)]
pub(crate) struct SearchCall {
    /// One [`SearchSequence`] per sequence.
    pub(crate) sequences: DeviceBuffer<u8>,
    /// Rows of the block mask: query blocks of all heads and sequences.
    pub(crate) rows: usize,
    /// Blocks that some query sees, over all heads and sequences: the most entries of the mask.
    pub(crate) blocks: usize,
    /// The most query blocks, and the most key blocks, of any sequence.
    pub(crate) max_m_blocks: usize,
    pub(crate) max_n_blocks: usize,
}

impl SearchCall {
    /// Uploads the table of sequences.
    ///
    /// # Errors
    /// Those of [`SearchLayout::new`], and what the device refuses.
    pub(crate) fn new(
        context: &Context,
        op: &'static str,
        shape: &AttentionShape,
        block_size: usize,
        causal: bool,
    ) -> Result<Self> {
        let layout = SearchLayout::new(op, shape, block_size, causal)?;
        let table: Vec<u8> = layout.sequences.iter().flat_map(Params::as_bytes).copied().collect();
        Ok(Self {
            sequences: DeviceBuffer::from_host(context, &table, "table of sequences")?,
            rows: layout.rows,
            blocks: layout.blocks,
            max_m_blocks: layout.max_m_blocks,
            max_n_blocks: layout.max_n_blocks,
        })
    }
}

/// The same before it is uploaded.
#[derive(Debug)]
pub(crate) struct SearchLayout {
    pub(crate) sequences: Vec<SearchSequence>,
    pub(crate) rows: usize,
    pub(crate) blocks: usize,
    pub(crate) max_m_blocks: usize,
    pub(crate) max_n_blocks: usize,
}

impl SearchLayout {
    /// Counts rows and blocks.
    ///
    /// # Errors
    /// Lengths of 2^30 tokens or more, more than 2^32 rows or visible blocks.
    pub(crate) fn new(
        op: &'static str,
        shape: &AttentionShape,
        block_size: usize,
        causal: bool,
    ) -> Result<Self> {
        let block = NonZeroU32::new(check::to_u32(op, "block_size", block_size)?)
            .ok_or_else(|| Error::invalid(op, "block_size", "at least 1", 0))?;
        let heads = shape.num_heads;
        let (mut sequences, mut rows, mut blocks) = (Vec::new(), 0usize, 0u64);
        let (mut max_m_blocks, mut max_n_blocks) = (0, 0);
        let seqlens = &shape.seqlens;
        for b in 0..seqlens.batch() {
            let (q_len, k_len) = (seqlens.seqlen_q(b), seqlens.seqlen_k(b));
            let longest = q_len.max(k_len).max(block_size);
            if longest >= 1 << 30 {
                let what = "the number of tokens of a sequence, or of a block";
                return Err(Error::TooLarge { op, what, limit: (1 << 30) - 1, got: longest.to_string() });
            }
            let grid = BlockGrid { q_len: q_len as u32, k_len: k_len as u32, block, causal };
            let (m_blocks, visible) = (grid.m_blocks() as usize, grid.offset(grid.m_blocks()));
            sequences.push(SearchSequence {
                blocks,
                blocks_step: visible,
                q_start: seqlens.cu_seqlens_q()[b],
                q_len: q_len as u32,
                k_start: seqlens.cu_seqlens_k()[b],
                k_len: k_len as u32,
                mask_row: check::to_u32(op, "the number of rows of the block mask", rows)?,
                mask_row_step: m_blocks as u32,
            });
            rows = rows.saturating_add(m_blocks.saturating_mul(heads));
            blocks = blocks.saturating_add(visible.saturating_mul(heads as u64));
            max_m_blocks = max_m_blocks.max(m_blocks);
            max_n_blocks = max_n_blocks.max(grid.n_blocks() as usize);
        }
        check::to_u32(op, "the number of rows of the block mask", rows)?;
        check::to_u32(op, "the number of visible blocks", blocks as usize)?;
        Ok(Self { sequences, rows, blocks: blocks as usize, max_m_blocks, max_n_blocks })
    }
}
