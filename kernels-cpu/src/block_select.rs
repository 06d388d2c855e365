//! Block selection by coverage: in every row the highest scores until a share of the row's total is reached
//! (XAttention, Xu et al. 2025, arXiv 2503.16428).

use std::ops::Range;

use lacuna_core::{AttentionShape, BlockMask, Error, Result, XAttentionOptions};
use rayon::prelude::*;

use crate::antidiagonal_score::{BlockScores, Past};
use crate::buffer::zeroed_vec;
use crate::top_k::descending_rank;

/// The selection for one shape.
///
/// Row `m` of a sequence covers the key positions `t0 = P + m b ..= t1 = P + min((m + 1) b, seqlen_q) - 1`, with
/// `b = block_size` and `P = seqlen_k - seqlen_q`. Its scores are `A[n]`, added up in `f64`.
///
/// - *Candidates*: causal, the blocks that begin at or before `t1`; otherwise all key blocks.
/// - *Forced*: causal, block 0 and the row's own blocks, those that meet `max(t0, 0) ..= t1`; otherwise none.
/// - A *threshold of 1* keeps all candidates.
/// - The other candidates, in descending order of score and ties by lowest index, are taken while the sum of the forced
///   and the taken scores is below `threshold * sum of A`: the block that crosses is kept.
/// - `keep_sink` then adds block 0, `keep_recent` the row's own blocks.
///
/// [`XAttentionCompat`](lacuna_core::XAttentionCompat) brings back the published code's departures: with
/// `chunk_align_past` the one own block of row `m` is `m` plus the difference of the lengths rounded up to chunks, in
/// blocks; with `first_chunk_quirk` the accounting of the first chunk's rows lags by one block when there is no past, and
/// takes block 0 for an ordinary one; with `keep_sink_row_bug`, `keep_sink` adds all candidates of row 0 instead.
///
/// ```
/// use lacuna_core::{AttentionShape, Seqlens, Threshold, XAttentionOptions};
/// use lacuna_kernels_cpu::{antidiagonal_score::BlockScores, block_select};
/// let shape = AttentionShape::new(1, 1, 64, Seqlens::single(384, 384)?)?;
/// let options = XAttentionOptions { threshold: Threshold::Scalar(0.8), ..Default::default() };
/// let mut plan = block_select::Plan::new(&shape, &options, true)?;
/// let scores = [16.0, 0.0, 0.0, 4.0, 12.0, 0.0, 1.0, 9.0, 6.0];
/// let mask = plan.run(&BlockScores::from_vec(&shape, 128, scores.to_vec())?)?;
/// assert_eq!(mask.row(0, 0, 2), [0, 1, 2]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Plan {
    shape: AttentionShape,
    options: XAttentionOptions,
    causal: bool,
    /// Key blocks of every row of scores: first those kept, ascending, then the others.
    order: Vec<u32>,
    /// How many blocks each row keeps.
    kept: Vec<u32>,
    mask: BlockMask,
}

impl Plan {
    /// Validates the options and allocates.
    ///
    /// # Errors
    /// Options out of range, sizes that overflow.
    pub fn new(shape: &AttentionShape, options: &XAttentionOptions, causal: bool) -> Result<Self> {
        const OP: &str = "block_select";
        options.check(OP, shape)?;
        let mask = BlockMask::empty(shape, options.block_size, options.block_size)?;
        let scores = BlockScores::count(OP, shape, options.block_size)?;
        Ok(Self {
            order: zeroed_vec(OP, &[scores])?,
            kept: zeroed_vec(OP, &[mask.num_rows()])?,
            shape: shape.clone(),
            options: options.clone(),
            causal,
            mask,
        })
    }

    /// Selects from `scores`.
    ///
    /// # Errors
    /// Scores that were not made for the plan's shape and block size, or that are negative or not finite.
    pub fn run(&mut self, scores: &BlockScores) -> Result<&BlockMask> {
        const OP: &str = "block_select";
        scores.check(OP, &self.shape, self.options.block_size)?;
        if let Some(x) = scores.scores().iter().find(|&&x| !(x >= 0.0 && x.is_finite())) {
            return Err(Error::invalid(OP, "scores", "finite and not negative", x));
        }
        let mut kept = self.kept.as_mut_slice();
        for b in 0..self.shape.seqlens.batch() {
            let (m_blocks, n_blocks) = (scores.m_blocks(b), scores.n_blocks(b));
            let (kept_here, rest) = kept.split_at_mut(self.shape.num_heads * m_blocks);
            kept = rest;
            if n_blocks == 0 {
                continue;
            }
            let rows = Rows::new(&self.shape, &self.options, self.causal, b);
            let range = scores.range(b);
            (self.order[range.clone()].par_chunks_exact_mut(n_blocks))
                .zip(scores.scores()[range].par_chunks_exact(n_blocks))
                .zip(kept_here)
                .enumerate()
                .for_each(|(row, ((order, scores), kept))| {
                    let (head, m) = (row / m_blocks, row % m_blocks);
                    *kept = rows.select(m, self.options.threshold.of_head(head) as f64, scores, order) as u32;
                });
        }
        self.mask.clear();
        let mut kept = self.kept.iter();
        for b in 0..self.shape.seqlens.batch() {
            let (range, n_blocks) = (scores.range(b), scores.n_blocks(b));
            for row in 0..self.shape.num_heads * scores.m_blocks(b) {
                let count = kept.next().map_or(0, |&count| count as usize);
                let start = range.start + row * n_blocks;
                self.mask.push_row(&self.order[start..start + count])?;
            }
        }
        Ok(&self.mask)
    }
}

/// What the rows of one sequence have in common.
struct Rows<'a> {
    options: &'a XAttentionOptions,
    causal: bool,
    seqlen_q: usize,
    n_blocks: usize,
    past: Past,
}

impl<'a> Rows<'a> {
    fn new(shape: &AttentionShape, options: &'a XAttentionOptions, causal: bool, b: usize) -> Self {
        let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
        let past = Past::new(seqlen_q, seqlen_k, options);
        Self { options, causal, seqlen_q, n_blocks: seqlen_k.div_ceil(options.block_size), past }
    }

    /// The key blocks that meet the positions of row `m`; ends at 0 when the row comes before the first key.
    fn own_blocks(&self, m: usize) -> Range<usize> {
        let block_size = self.options.block_size;
        let t0 = self.past.tokens + (m * block_size) as isize;
        // The published code counts in whole blocks.
        let whole = self.options.compat.chunk_align_past;
        let rows = if whole { block_size } else { block_size.min(self.seqlen_q - m * block_size) };
        let t1 = t0 + rows as isize - 1;
        if t1 < 0 {
            return 0..0;
        }
        let end = (t1 as usize / block_size + 1).min(self.n_blocks);
        (t0.max(0) as usize / block_size).min(end)..end
    }

    /// Writes the kept blocks of row `m`, ascending, to the front of `order`, and returns how many.
    fn select(&self, m: usize, threshold: f64, scores: &[f32], order: &mut [u32]) -> usize {
        let (options, own) = (self.options, self.own_blocks(m));
        let candidates = if self.causal { own.end } else { self.n_blocks };
        let keeps_row = options.keep_sink && options.compat.keep_sink_row_bug && m == 0;
        if threshold >= 1.0 || keeps_row || candidates == 0 {
            order[..candidates].iter_mut().zip(0..).for_each(|(to, n)| *to = n);
            return candidates;
        }
        let quirk = options.compat.first_chunk_quirk && self.causal && self.past.in_first_chunk(m, options);
        // Blocks whose scores count from the start, and those that are kept whatever they score.
        let counted = |n: usize| self.causal && (own.contains(&n) || (n == 0 && !quirk));
        let kept = |n: usize| {
            counted(n)
                || (n == 0 && (self.causal || (options.keep_sink && !options.compat.keep_sink_row_bug)))
                || (options.keep_recent && own.contains(&n))
        };
        let first = (0..candidates).filter(|&n| counted(n)).count();
        let order = &mut order[..candidates];
        order.iter_mut().zip(0..).for_each(|(to, n)| *to = n);
        order.sort_unstable_by_key(|&n| (!counted(n as usize), !descending_rank(scores[n as usize]), n));
        let score = |n: u32| scores[n as usize] as f64;
        let need = threshold * scores.iter().map(|&x| x as f64).sum::<f64>();
        let mut sum: f64 = order[..first].iter().map(|&n| score(n)).sum();
        let mut end = first;
        // With the quirk a block counts only when the next one has been looked at.
        let mut lagging = 0.0;
        while end < candidates {
            let covered = if quirk && end == first { 0.0 } else { sum };
            if covered >= need {
                break;
            }
            if quirk {
                sum += std::mem::replace(&mut lagging, score(order[end]));
            } else {
                sum += score(order[end]);
            }
            end += 1;
        }
        // Blocks kept for other reasons come to the front.
        let covering = end;
        for i in covering..candidates {
            if kept(order[i] as usize) {
                order.swap(end, i);
                end += 1;
            }
        }
        order[..end].sort_unstable();
        end
    }
}
