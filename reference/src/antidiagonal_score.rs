//! The block scores of XAttention (Xu et al. 2025, arXiv 2503.16428).

use lacuna_core::{AttentionShape, Element, Error, Result, TensorView, XAttentionOptions};

use crate::{masked_attention::dot, probe::softmax};

/// A score for every (sequence, query head, query block, key block).
#[derive(Debug, Clone, PartialEq)]
pub struct BlockScores {
    num_heads: usize,
    /// First row of each sequence, and the number of rows.
    row_starts: Vec<usize>,
    m_blocks: Vec<usize>,
    rows: Vec<Vec<f64>>,
}

impl BlockScores {
    /// From rows in the order of a [`BlockMask`](lacuna_core::BlockMask): sequence, head, query block. A row has a score
    /// for every key block of its sequence.
    ///
    /// # Errors
    /// The wrong number of rows, or of scores in one.
    pub fn new(shape: &AttentionShape, block_size: usize, rows: Vec<Vec<f64>>) -> Result<Self> {
        let (mut row_starts, mut m_blocks) = (vec![0], Vec::new());
        for b in 0..shape.seqlens.batch() {
            m_blocks.push(shape.seqlens.seqlen_q(b).div_ceil(block_size));
            row_starts.push(row_starts[b] + shape.num_heads * m_blocks[b]);
        }
        let scores = Self { num_heads: shape.num_heads, row_starts, m_blocks, rows };
        scores.check("BlockScores::new", shape, block_size)?;
        Ok(scores)
    }

    /// Refuses scores that do not fit `shape` in blocks of `block_size`.
    pub(crate) fn check(&self, op: &'static str, shape: &AttentionShape, block_size: usize) -> Result<()> {
        let expected: Vec<usize> = (0..shape.seqlens.batch())
            .flat_map(|b| {
                let rows = shape.num_heads * shape.seqlens.seqlen_q(b).div_ceil(block_size);
                std::iter::repeat_n(shape.seqlens.seqlen_k(b).div_ceil(block_size), rows)
            })
            .collect();
        let got: Vec<usize> = self.rows.iter().map(Vec::len).collect();
        if self.num_heads == shape.num_heads && got == expected {
            Ok(())
        } else {
            Err(Error::shape(op, "scores", expected, got))
        }
    }

    /// The scores of one row.
    ///
    /// # Panics
    /// When the row does not exist.
    pub fn row(&self, b: usize, head: usize, m: usize) -> &[f64] {
        assert!(head < self.num_heads && m < self.m_blocks[b], "no head {head} or query block {m}");
        &self.rows[self.row_starts[b] + head * self.m_blocks[b] + m]
    }

    /// All rows, in the order sequence, head, query block.
    pub fn rows(&self) -> &[Vec<f64>] {
        &self.rows
    }
}

/// The sum over each block of an attention map between groups of `stride` tokens, whose logits are the mean logits of the
/// token pairs on the groups' anti-diagonal.
///
/// With `S = stride`, `P = seqlen_k - seqlen_q`: query group `i` holds rows `i S .. (i + 1) S`, key group `j` keys
/// `j S .. (j + 1) S`, each as far as they exist. The pairs of `(i, j)` are rows `i S + S - 1 - s` and keys `j S + s` for
/// `s` in `0..S`, where both exist. `L[i, j]` is the mean over the pairs of `scale * q . k / norm`. Group `i` sees group
/// `j` iff there is a pair and, when causal, `j S < P + (i + 1) S`. `p[i, :]` is the softmax of `L[i, :]` over what `i`
/// sees, and the score of a block is the sum of `p` over its groups: a row of blocks sums to its number of groups (less
/// those that see nothing). With `stride` 1 it is the block sum of the attention map itself.
///
/// Switches of [`XAttentionCompat`](lacuna_core::XAttentionCompat):
///
/// - `tail_group`: missing tokens are zero vectors, and every pair counts; `L` is divided by `S` always.
/// - `chunk_align_past`: with the lengths rounded up to multiples of the [chunk](lacuna_core::XAttentionOptions::chunk_size)
///   and their difference `off` in groups, group `i` sees group `j` iff `j <= off + i`, and nothing at all when
///   `off + i >= ceil(seqlen_k / S)`.
///
/// # Errors
/// `q` or `k` of another shape than `shape` says, options out of range.
pub fn antidiagonal_score<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &XAttentionOptions,
    causal: bool,
) -> Result<BlockScores> {
    const OP: &str = "antidiagonal_score";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    options.check(OP, shape)?;
    let (stride, compat) = (options.stride, options.compat);
    let groups_per_block = options.block_size / stride;
    let scale = shape.softmax_scale(options.softmax_scale) as f64 / options.norm as f64;
    let mut rows = Vec::new();
    for b in 0..shape.seqlens.batch() {
        let (q_start, k_start) = (shape.seqlens.q_range(b).start, shape.seqlens.k_range(b).start);
        let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
        let (groups_q, groups_k) = (seqlen_q.div_ceil(stride), seqlen_k.div_ceil(stride));
        let padded_past = padded_past(seqlen_q, seqlen_k, options) / stride as isize;
        let sees = |i: usize, j: usize| {
            let (i, j, s) = (i as isize, j as isize, stride as isize);
            if compat.chunk_align_past {
                padded_past + i < groups_k as isize && (!causal || j <= padded_past + i)
            } else {
                !causal || j * s < shape.seqlens.past(b) + (i + 1) * s
            }
        };
        for h in 0..shape.num_heads {
            let head_k = shape.head_k(h, options.gqa_interleave);
            let logit = |i: usize, j: usize| {
                let pairs: Vec<(usize, usize)> = (0..stride)
                    .map(|s| (i * stride + stride - 1 - s, j * stride + s))
                    .filter(|&(row, key)| row < seqlen_q && key < seqlen_k)
                    .collect();
                let count = if compat.tail_group { stride } else { pairs.len() };
                if count == 0 || !sees(i, j) {
                    return f64::NEG_INFINITY;
                }
                let sum: f64 = pairs
                    .into_iter()
                    .map(|(row, key)| dot(q.row(q_start + row, h), k.row(k_start + key, head_k)))
                    .sum();
                scale * sum / count as f64
            };
            let mut scores =
                vec![vec![0.0; seqlen_k.div_ceil(options.block_size)]; seqlen_q.div_ceil(options.block_size)];
            for i in 0..groups_q {
                let logits: Vec<f64> = (0..groups_k).map(|j| logit(i, j)).collect();
                for (j, p) in softmax(&logits).into_iter().enumerate() {
                    scores[i / groups_per_block][j / groups_per_block] += p;
                }
            }
            rows.append(&mut scores);
        }
    }
    BlockScores::new(shape, options.block_size, rows)
}

/// Query rows that one pass of the published code handles.
pub(crate) fn chunk_size(seqlen_k: usize, options: &XAttentionOptions) -> usize {
    options.chunk_size.unwrap_or_else(|| {
        let n = seqlen_k.max(1).next_power_of_two();
        n.max(2048).min((1 << 28) / n).max(2048)
    })
}

/// The past in tokens as the published code has it: the difference of the lengths rounded up to whole chunks.
pub(crate) fn padded_past(seqlen_q: usize, seqlen_k: usize, options: &XAttentionOptions) -> isize {
    let chunk = chunk_size(seqlen_k, options);
    seqlen_k.next_multiple_of(chunk) as isize - seqlen_q.next_multiple_of(chunk) as isize
}
