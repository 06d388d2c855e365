//! The vertical-slash search of MInference (Jiang et al. 2024, arXiv 2407.02490), and attention over its index.

use lacuna_core::{
    AttentionOptions, AttentionShape, Element, Result, TensorView, VerticalSlashIndex, VerticalSlashOptions,
};

use crate::{
    masked_attention::{AttentionOutput, dot, masked_attention},
    probe::Probe,
    ranking::{Ranking, Slack},
};

/// The fewest columns and diagonals the published search keeps.
const MIN_VERTICAL: usize = 30;
const MIN_SLASH: usize = 50;

/// What the search found for one head.
#[derive(Debug, Clone, PartialEq)]
pub struct VerticalSlashHead {
    /// Key columns kept, ascending.
    pub columns: Vec<u32>,
    /// Diagonals kept, as offsets query - key, descending to 0.
    pub slashes: Vec<u32>,
    /// The score of every key column; forced columns are infinite.
    pub column_scores: Vec<f64>,
    /// The score of every offset; forced offsets are infinite.
    pub slash_scores: Vec<f64>,
}

/// The result of [`vertical_slash`].
#[derive(Debug, Clone, PartialEq)]
pub struct VerticalSlash {
    /// The input of the mixed kernel.
    pub index: VerticalSlashIndex,
    /// Per (sequence, query head).
    pub heads: Vec<VerticalSlashHead>,
}

/// The columns and diagonals that weigh most for the last queries, token by token, causal.
///
/// For every (sequence, head), with `m = min(last_q, seqlen_q)`: `p[i, :]` is the softmax of `scale * q . k` of the
/// `i`-th of the last `m` query rows, which stands at key `seqlen_k - m + i` and sees the keys up to there. Column `j`
/// scores `sum_i p[i, j]`, offset `o` scores `sum_i p[i, seqlen_k - m + i - o]`; the first `sink` columns and the first
/// `recent` offsets score infinity. The `min(seqlen_k, max(vertical_size, 30))` best columns and the
/// `min(seqlen_k, max(slash_size, 50))` best offsets are kept, ties to the lowest index. A sequence without keys keeps
/// offset 0 alone.
///
/// # Errors
/// `q` or `k` of another shape than `shape` says, options out of range.
pub fn vertical_slash<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &VerticalSlashOptions,
) -> Result<VerticalSlash> {
    const OP: &str = "vertical_slash";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    options.check(OP)?;
    let scale = shape.softmax_scale(options.softmax_scale) as f64;
    let mut index = VerticalSlashIndex::empty(shape)?;
    let mut heads = Vec::new();
    for b in 0..shape.seqlens.batch() {
        let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
        let (m, seqlen_k) = (options.last_q.min(q_range.len()), k_range.len());
        for h in 0..shape.num_heads {
            let head_k = shape.head_k(h, options.gqa_interleave);
            let probe = Probe::new(m, seqlen_k, |i, j| {
                scale * dot(q.row(q_range.end - m + i, h), k.row(k_range.start + j, head_k))
            });
            let (mut column_scores, mut slash_scores) = (probe.vertical, probe.slash);
            column_scores.iter_mut().take(options.sink).for_each(|x| *x = f64::INFINITY);
            slash_scores.iter_mut().take(options.recent).for_each(|x| *x = f64::INFINITY);
            let top = |scores: &[f64], k: usize| -> Vec<u32> {
                Ranking::new(scores).top(k, Slack::Exact).into_iter().map(|i| i as u32).collect()
            };
            let columns = top(&column_scores, options.vertical_size.max(MIN_VERTICAL));
            let mut slashes = top(&slash_scores, options.slash_size.max(MIN_SLASH));
            if slashes.is_empty() {
                slashes.push(0);
            }
            slashes.reverse();
            index.push_head(&columns, &slashes)?;
            heads.push(VerticalSlashHead { columns, slashes, column_scores, slash_scores });
        }
    }
    Ok(VerticalSlash { index, heads })
}

/// Softmax attention in which a row sees the keys of the tiles and the single columns that `index` lists for its row tile,
/// under the causal mask.
///
/// # Errors
/// An index that was not made for `shape`, and as [`masked_attention`].
pub fn vertical_slash_attention<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    v: &TensorView<T>,
    index: &VerticalSlashIndex,
    options: &AttentionOptions,
) -> Result<AttentionOutput> {
    const TILE: usize = VerticalSlashIndex::TILE;
    index.check("vertical_slash_attention", shape)?;
    let causal = AttentionOptions { causal: true, ..*options };
    masked_attention(shape, q, k, v, &causal, |b, h, i, j| {
        let in_tile = |&start: &u32| (start as usize..start as usize + TILE).contains(&j);
        index.blocks(b, h, i / TILE).iter().any(in_tile)
            || index.columns(b, h, i / TILE).contains(&(j as u32))
    })
}
