//! A score for every (query block, key block): what block selection reads.

use std::ops::Range;

use lacuna_core::{AttentionShape, Error, Result, Seqlens};

use crate::buffer::zeroed_vec;

/// Scores of all blocks, `f32 [sequence][head][m_block][n_block]`, blocks of `block_size` tokens counted from the start
/// of this call's queries and of the sequence's keys. Blocks that the causal mask hides score 0.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockScores {
    block_size: usize,
    num_heads: usize,
    seqlens: Seqlens,
    /// First score of each sequence, and the number of scores at the end.
    starts: Vec<usize>,
    scores: Vec<f32>,
}

impl BlockScores {
    /// All zero.
    ///
    /// # Errors
    /// When `block_size` is 0 or the number of scores overflows.
    pub fn zeros(shape: &AttentionShape, block_size: usize) -> Result<Self> {
        const OP: &str = "BlockScores";
        let starts = starts(OP, shape, block_size)?;
        let scores = zeroed_vec(OP, &[starts[starts.len() - 1]])?;
        Ok(Self { block_size, num_heads: shape.num_heads, seqlens: shape.seqlens.clone(), starts, scores })
    }

    /// How many scores there are for a shape.
    pub(crate) fn count(op: &'static str, shape: &AttentionShape, block_size: usize) -> Result<usize> {
        starts(op, shape, block_size).map(|starts| starts[starts.len() - 1])
    }

    /// From scores made elsewhere, in the same order.
    ///
    /// # Errors
    /// As [`BlockScores::zeros`], and when `scores` has the wrong length.
    pub fn from_vec(shape: &AttentionShape, block_size: usize, scores: Vec<f32>) -> Result<Self> {
        const OP: &str = "BlockScores";
        let starts = starts(OP, shape, block_size)?;
        if scores.len() != starts[starts.len() - 1] {
            return Err(Error::shape(OP, "scores", [starts[starts.len() - 1]], [scores.len()]));
        }
        Ok(Self { block_size, num_heads: shape.num_heads, seqlens: shape.seqlens.clone(), starts, scores })
    }

    /// Tokens of a block, of queries and of keys.
    pub fn block_size(&self) -> usize {
        self.block_size
    }

    /// Query heads.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// The lengths the scores were made for.
    pub fn seqlens(&self) -> &Seqlens {
        &self.seqlens
    }

    /// Query blocks of sequence `b`.
    pub fn m_blocks(&self, b: usize) -> usize {
        self.seqlens.seqlen_q(b).div_ceil(self.block_size)
    }

    /// Key blocks of sequence `b`.
    pub fn n_blocks(&self, b: usize) -> usize {
        self.seqlens.seqlen_k(b).div_ceil(self.block_size)
    }

    /// The scores of query block `m` over all key blocks.
    ///
    /// # Panics
    /// When the row does not exist, as slice indexing does.
    pub fn row(&self, b: usize, head: usize, m: usize) -> &[f32] {
        let start = self.row_start(b, head, m);
        &self.scores[start..start + self.n_blocks(b)]
    }

    /// The first score of a row.
    pub(super) fn row_start(&self, b: usize, head: usize, m: usize) -> usize {
        self.starts[b] + (head * self.m_blocks(b) + m) * self.n_blocks(b)
    }

    /// All scores.
    pub fn scores(&self) -> &[f32] {
        &self.scores
    }

    pub(crate) fn range(&self, b: usize) -> Range<usize> {
        self.starts[b]..self.starts[b + 1]
    }

    pub(super) fn scores_mut(&mut self) -> &mut [f32] {
        &mut self.scores
    }

    /// Refuses scores that were not made for `shape` and `block_size`.
    pub fn check(&self, op: &'static str, shape: &AttentionShape, block_size: usize) -> Result<()> {
        if self.num_heads != shape.num_heads || self.seqlens != shape.seqlens || self.block_size != block_size
        {
            return Err(Error::invalid(
                op,
                "scores",
                format_args!(
                    "made for {} heads, blocks of {block_size} and {:?}",
                    shape.num_heads, shape.seqlens
                ),
                format_args!(
                    "{} heads, blocks of {} and {:?}",
                    self.num_heads, self.block_size, self.seqlens
                ),
            ));
        }
        Ok(())
    }
}

/// First score of each sequence, and the number of scores at the end.
fn starts(op: &'static str, shape: &AttentionShape, block_size: usize) -> Result<Vec<usize>> {
    if block_size == 0 {
        return Err(Error::invalid(op, "block_size", "at least 1", block_size));
    }
    let mut starts = vec![0usize];
    for b in 0..shape.seqlens.batch() {
        let m_blocks = shape.seqlens.seqlen_q(b).div_ceil(block_size);
        let n_blocks = shape.seqlens.seqlen_k(b).div_ceil(block_size);
        let end = (shape.num_heads.checked_mul(m_blocks))
            .and_then(|rows| rows.checked_mul(n_blocks))
            .and_then(|n| n.checked_add(starts[b]))
            .ok_or_else(|| Error::TooLarge {
                op,
                what: "the number of block scores",
                limit: usize::MAX as u64,
                got: format!("{} heads x {m_blocks} x {n_blocks}", shape.num_heads),
            })?;
        starts.push(end);
    }
    Ok(starts)
}
