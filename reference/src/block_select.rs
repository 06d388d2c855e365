//! The block selection of XAttention (Xu et al. 2025, arXiv 2503.16428).

use std::ops::Range;

use lacuna_core::{AttentionShape, BlockMask, Result, XAttentionOptions};

use crate::{
    antidiagonal_score::{BlockScores, chunk_size, padded_past},
    ranking::{Ranking, Slack},
    testing::MaskBounds,
};

/// Keeps, in every row of blocks, the forced blocks and then the highest scores until a share `threshold` of the row's
/// score is covered.
///
/// Row `m` of a sequence covers the key positions `t0 = P + m b ..= t1 = P + min((m + 1) b, seqlen_q) - 1` with
/// `b = block_size`, `P = seqlen_k - seqlen_q`. Its scores are `A[n]`.
///
/// - *Candidates*: causal, the blocks `n <= t1 / b`, none when `t1 < 0`; otherwise all key blocks.
/// - *Forced*: causal, block 0 and all blocks that meet `max(t0, 0) ..= t1`; otherwise none.
/// - *Threshold 1* keeps all candidates.
/// - `need = threshold * sum of A`. The other candidates in descending order of score, ties by lowest index, are taken
///   while the sum of the forced and the taken scores is `< need`: the block that crosses is included.
/// - `keep_sink` then adds block 0 and `keep_recent` all blocks that meet `max(t0, 0) ..= t1`.
///
/// Switches of [`XAttentionCompat`](lacuna_core::XAttentionCompat):
///
/// - `chunk_align_past`: with `d = m + (difference of the lengths rounded up to chunks) / b`, the candidates are the
///   blocks `n <= d` that exist, and the one block that meets the row is `d`; no candidates when `d < 0`.
/// - `first_chunk_quirk`, causal: rows of the first chunk, when the past is 0 (by `chunk_align_past`'s measure where that
///   is set). The others are all candidates but the row's own block, column 0 among them. Of these in descending order,
///   the first is taken iff `0 < need`, the `k`-th iff `A[own] + sum of the first k - 2 < need`. Block 0 is kept anyway.
/// - `keep_sink_row_bug`: `keep_sink` adds all candidates of row 0 instead.
///
/// # Errors
/// Options out of range, scores that were not made for `shape`.
pub fn block_select(
    shape: &AttentionShape,
    scores: &BlockScores,
    options: &XAttentionOptions,
    causal: bool,
) -> Result<BlockMask> {
    select(shape, scores, options, causal, Slack::Exact)
}

/// What a [`block_select`] in `f32` may keep: scores within `eps` relative of each other may change places, and a sum
/// within `eps` relative of `need` may fall either way.
///
/// # Errors
/// As [`block_select`].
pub fn block_select_bounds(
    shape: &AttentionShape,
    scores: &BlockScores,
    options: &XAttentionOptions,
    causal: bool,
    eps: f64,
) -> Result<MaskBounds> {
    Ok(MaskBounds {
        certain: select(shape, scores, options, causal, Slack::Certain(eps))?,
        possible: select(shape, scores, options, causal, Slack::Possible(eps))?,
    })
}

fn select(
    shape: &AttentionShape,
    scores: &BlockScores,
    options: &XAttentionOptions,
    causal: bool,
    slack: Slack,
) -> Result<BlockMask> {
    options.check("block_select", shape)?;
    scores.check("block_select", shape, options.block_size)?;
    let (block_size, compat) = (options.block_size, options.compat);
    let mut mask = BlockMask::empty(shape, block_size, block_size)?;
    for b in 0..shape.seqlens.batch() {
        let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
        let padded_past = padded_past(seqlen_q, seqlen_k, options);
        let past = if compat.chunk_align_past { padded_past } else { shape.seqlens.past(b) };
        for h in 0..shape.num_heads {
            for m in 0..mask.m_blocks(b) {
                let own = own_blocks(m, past, seqlen_q, mask.n_blocks(b), options);
                let candidates = if causal { own.end } else { mask.n_blocks(b) };
                let quirk = compat.first_chunk_quirk
                    && causal
                    && past == 0
                    && m < chunk_size(seqlen_k, options) / block_size;
                let a = scores.row(b, h, m);
                let mut keep =
                    cover(a, options.threshold.of_head(h) as f64, candidates, &own, causal, quirk, slack);
                if options.keep_recent {
                    keep[own.start..own.end.min(candidates)].fill(true);
                }
                if options.keep_sink && candidates > 0 {
                    match compat.keep_sink_row_bug {
                        true if m == 0 => keep.fill(true),
                        true => {}
                        false => keep[0] = true,
                    }
                }
                let row: Vec<u32> = (0..candidates).filter(|&n| keep[n]).map(|n| n as u32).collect();
                mask.push_row(&row)?;
            }
        }
    }
    Ok(mask)
}

/// The key blocks that meet the positions of row `m`; ends at 0 when the row comes before the first key.
fn own_blocks(
    m: usize,
    past: isize,
    seqlen_q: usize,
    n_blocks: usize,
    options: &XAttentionOptions,
) -> Range<usize> {
    let block_size = options.block_size;
    let t0 = past + (m * block_size) as isize;
    let rows =
        if options.compat.chunk_align_past { block_size } else { block_size.min(seqlen_q - m * block_size) };
    let t1 = t0 + rows as isize - 1;
    if t1 < 0 {
        return 0..0;
    }
    let end = (t1 as usize / block_size + 1).min(n_blocks);
    (t0.max(0) as usize / block_size).min(end)..end
}

/// Which of the first `candidates` blocks cover the threshold.
fn cover(
    a: &[f64],
    threshold: f64,
    candidates: usize,
    own: &Range<usize>,
    causal: bool,
    quirk: bool,
    slack: Slack,
) -> Vec<bool> {
    if threshold >= 1.0 {
        return vec![true; candidates];
    }
    let forced = |n: usize| causal && (own.contains(&n) || n == 0);
    let need = slack.limit(threshold * a.iter().sum::<f64>());
    let counted = |n: usize| if quirk { own.contains(&n) } else { forced(n) };
    let start: f64 = (0..candidates).filter(|&n| counted(n)).map(|n| a[n]).sum();
    let others: Vec<usize> = (0..candidates).filter(|&n| !counted(n)).collect();
    let ranking = Ranking::new(&others.iter().map(|&n| a[n]).collect::<Vec<_>>());
    let mut keep: Vec<bool> = (0..candidates).map(forced).collect();
    for (i, &n) in others.iter().enumerate() {
        let before = ranking.before(i, slack);
        let sum = match before {
            0 if quirk => 0.0,
            _ if quirk => start + ranking.sum_of(before - 1),
            _ => start + ranking.sum_of(before),
        };
        keep[n] |= sum < need;
    }
    keep
}
