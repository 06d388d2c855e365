//! The block scores of XAttention: sums over every `stride`-th anti-diagonal (Xu et al. 2025, arXiv 2503.16428).
//!
//! A matrix product of groups of `stride` tokens, with inner dimension `stride * head_dim`, a softmax over the key groups,
//! and block sums, in one pass: every block's sum is kept relative to the block's own maximum until the row's maximum
//! is known. Keys are laid out once per KV head and shared by the query heads that read it.

mod block_scores;
mod past;
mod tile;

use std::marker::PhantomData;
use std::ops::Range;

use lacuna_core::{AttentionShape, Element, Result, TensorView, XAttentionOptions};

use crate::buffer::{Buffer, SharedPtr, zeroed_vec};
use crate::pack::HeadDim;
use crate::per_type::per_type;
use crate::rows::{copy_row, is_finite, not_finite, query_head};
use crate::schedule;
use crate::simd::matmul::PANEL;
use crate::simd::{Dot, Isa, Kernel, Operand};

pub use block_scores::BlockScores;
pub(crate) use past::Past;
use tile::{Groups, ScoreTile, Scratch};

const OP: &str = "antidiagonal_score";

/// Query groups of a tile, over all of its heads, unless a single block has more.
const LANES: usize = 128;

/// Key groups that one thread lays out at a time.
const KEY_CHUNK: usize = 64;

/// The scores for one shape.
///
/// With `S = stride`, `P = seqlen_k - seqlen_q`: query group `i` holds rows `i S .. (i + 1) S`, key group `j` keys
/// `j S .. (j + 1) S`, each as far as they exist. The pairs of `(i, j)` are rows `i S + S - 1 - s` and keys `j S + s` for
/// `s` in `0..S`, where both exist. `L[i, j]` is the mean over the pairs of `softmax_scale * q . k / norm`. Group `i` sees
/// group `j` iff there is a pair and, when causal, `j S <= P + i S + S - 1`. The score of a block is the sum over its
/// groups of the softmax of `L[i, :]` over what `i` sees. With `stride` 1 it is the block sum of the attention itself.
///
/// [`XAttentionCompat`](lacuna_core::XAttentionCompat) brings back the published code's departures: with `tail_group`
/// missing tokens are zero vectors and every mean is over `S` pairs; with `chunk_align_past` the past is the difference
/// of the lengths rounded up to chunks, and groups that it puts past the last key group see nothing.
///
/// Logits are accumulated in `f32`. Memory: the keys once more, and the scores.
///
/// ```
/// use lacuna_core::{AttentionShape, Seqlens, TensorView, XAttentionOptions};
/// use lacuna_kernels_cpu::antidiagonal_score;
/// let shape = AttentionShape::new(4, 2, 64, Seqlens::single(512, 512)?)?;
/// let (q, k) = (vec![0.0f32; 512 * 4 * 64], vec![0.0f32; 512 * 2 * 64]);
/// let mut plan = antidiagonal_score::Plan::new(&shape, &XAttentionOptions::default(), true)?;
/// let scores = plan.run(&TensorView::thd(&q, 512, 4, 64)?, &TensorView::thd(&k, 512, 2, 64)?)?;
/// // Each row sums to its 128 / 8 groups.
/// assert!((scores.row(0, 3, 2).iter().sum::<f32>() - 16.0).abs() < 1e-3);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct Plan<T> {
    isa: Isa,
    shape: AttentionShape,
    options: XAttentionOptions,
    causal: bool,
    dim: HeadDim,
    /// Elements of a group in [`Plan::keys`].
    group_len: usize,
    /// Rows of key groups, `[sequence][KV head][group][stride][head_dim]`, as left-hand operands, zero where tokens or
    /// features are missing.
    keys: Buffer,
    key_chunks: Vec<KeyChunk>,
    tiles: Vec<Tile>,
    finite: Vec<bool>,
    scratch: Vec<Scratch>,
    scores: BlockScores,
    element: PhantomData<T>,
}

/// Key groups that one thread lays out.
#[derive(Debug, Clone, Copy)]
struct KeyChunk {
    b: usize,
    head_k: usize,
    start: usize,
    end: usize,
    /// The first group's place in [`Plan::keys`].
    at: usize,
}

/// Query blocks of some heads that read the same keys.
#[derive(Debug, Clone, Copy)]
struct Tile {
    b: usize,
    head_k: usize,
    /// First and number of the heads, among those that read the KV head.
    g: usize,
    heads: usize,
    m_block: usize,
    m_blocks: usize,
    /// First key group of the KV head in [`Plan::keys`].
    keys_at: usize,
    /// Key groups that the tile sees.
    visible: usize,
}

impl<T: Element> Plan<T> {
    /// Validates the options and allocates.
    ///
    /// # Errors
    /// Options out of range, sizes that overflow.
    pub fn new(shape: &AttentionShape, options: &XAttentionOptions, causal: bool) -> Result<Self> {
        options.check(OP, shape)?;
        let isa = Isa::current();
        let bytes = isa.operand_bytes::<T>();
        let dim = HeadDim { head_dim: shape.head_dim };
        let group_len = options.stride * dim.key_stride(size_of::<f32>() / bytes);
        let groups_per_block = options.block_size / options.stride;
        // Lanes of a head: whole panels and whole blocks.
        let lanes_per_head =
            (LANES / shape.group_size().next_power_of_two()).max(PANEL).max(groups_per_block);
        let heads_per_tile = (LANES / lanes_per_head).clamp(1, shape.group_size());
        let (mut key_chunks, mut tiles, mut key_groups) = (Vec::new(), Vec::new(), 0usize);
        for b in 0..shape.seqlens.batch() {
            let groups = Groups::new(shape, options, causal, b);
            if groups.q == 0 || groups.k == 0 {
                continue;
            }
            for head_k in 0..shape.num_heads_k {
                let keys_at = key_groups + head_k * groups.k;
                key_chunks.extend((0..groups.k).step_by(KEY_CHUNK).map(|start| KeyChunk {
                    b,
                    head_k,
                    start,
                    end: (start + KEY_CHUNK).min(groups.k),
                    at: keys_at + start,
                }));
                let m_blocks = groups.q.div_ceil(groups_per_block);
                for m_block in (0..m_blocks).step_by(lanes_per_head / groups_per_block) {
                    let m_blocks = (lanes_per_head / groups_per_block).min(m_blocks - m_block);
                    let end = ((m_block + m_blocks) * groups_per_block).min(groups.q);
                    let visible = groups.visible(end - 1);
                    for g in (0..shape.group_size()).step_by(heads_per_tile) {
                        let heads = heads_per_tile.min(shape.group_size() - g);
                        tiles.push(Tile { b, head_k, g, heads, m_block, m_blocks, keys_at, visible });
                    }
                }
            }
            key_groups = key_groups.saturating_add(shape.num_heads_k.saturating_mul(groups.k));
        }
        // The longest first, so that no thread is left with one at the end.
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.visible * tile.heads * tile.m_blocks));
        let lanes = lanes_per_head * heads_per_tile;
        let n_blocks = shape.seqlens.max_seqlen_k().div_ceil(options.block_size);
        let new_scratch = |_| Scratch::new(lanes, group_len * bytes, groups_per_block, n_blocks);
        Ok(Self {
            isa,
            dim,
            group_len,
            keys: Buffer::zeroed(OP, &[key_groups, group_len, bytes])?,
            finite: zeroed_vec(OP, &[key_chunks.len().max(tiles.len())])?,
            key_chunks,
            tiles,
            scratch: (0..rayon::current_num_threads()).map(new_scratch).collect::<Result<_>>()?,
            scores: BlockScores::zeros(shape, options.block_size)?,
            shape: shape.clone(),
            options: options.clone(),
            causal,
            element: PhantomData,
        })
    }

    /// Scores the blocks of `q` `[total_q, num_heads, head_dim]` against `k` `[total_k, num_heads_k, head_dim]`.
    ///
    /// # Errors
    /// Tensors of another shape than the plan's; [`lacuna_core::Error::NotFinite`] for the first value that is not finite
    /// in a sequence that has both queries and keys; an invalid argument when finite values make logits that are not.
    pub fn run(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<&BlockScores> {
        self.shape.check_q(OP, "q", q)?;
        self.shape.check_k(OP, "k", k)?;
        let mut result = Ok(());
        per_type!(T, Run, Run { plan: self, q, k, result: &mut result }, run);
        result.map(|()| &self.scores)
    }

    fn score(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<()> {
        self.lay_out_keys(k)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        self.scores.scores_mut().fill(0.0);
        let scores = SharedPtr(self.scores.scores_mut().as_mut_ptr());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        let this = &*self;
        schedule::for_each(&mut scratch, this.tiles.len(), |scratch, tile| {
            let kernel = ScoreTile { plan: this, q, tile: this.tiles[tile], scratch, scores };
            // SAFETY: every tile has its own flag.
            unsafe { finite.add(tile).0.write(this.isa.run::<T, _>(kernel)) };
        });
        self.scratch = scratch;
        if self.finite[..self.tiles.len()].contains(&false) {
            let seqlens = &self.shape.seqlens;
            let sequences = (0..seqlens.batch()).filter(|&b| seqlens.seqlen_k(b) > 0);
            let heads = self.shape.num_heads;
            let rows =
                sequences.flat_map(|b| seqlens.q_range(b)).flat_map(|t| (0..heads).map(move |h| (t, h)));
            return Err(not_finite(OP, "q", q, rows));
        }
        Ok(())
    }

    /// The query head that is head `head` of a tile.
    fn query_head(&self, tile: &Tile, head: usize) -> usize {
        query_head(&self.shape, self.options.gqa_interleave, tile.head_k, tile.g + head)
    }

    fn lay_out_keys(&mut self, k: &TensorView<T>) -> Result<()> {
        let group_bytes = self.group_len * self.isa.operand_bytes::<T>();
        let keys = SharedPtr(self.keys.as_mut_ptr::<u8>());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        let mut scratch = std::mem::take(&mut self.scratch);
        let this = &*self;
        schedule::for_each(&mut scratch, this.key_chunks.len(), |_, item| {
            let chunk = this.key_chunks[item];
            let (first, end) =
                (this.shape.seqlens.k_range(chunk.b).start, this.shape.seqlens.k_range(chunk.b).end);
            let stride = this.options.stride;
            let tokens = first + chunk.start * stride..first + chunk.end * stride;
            // SAFETY: every chunk has its own groups and its own flag.
            unsafe {
                let out = keys.add(chunk.at * group_bytes);
                let kernel = LayOut { k, tokens, end, head_k: chunk.head_k, dim: this.dim, out };
                finite.add(item).0.write(this.isa.run::<T, _>(kernel));
            }
        });
        self.scratch = scratch;
        match self.finite[..self.key_chunks.len()].iter().position(|&finite| !finite) {
            Some(item) => {
                let KeyChunk { b, head_k, start, end, .. } = self.key_chunks[item];
                let tokens = self.shape.seqlens.k_range(b);
                let stride = self.options.stride;
                let rows = tokens.start + start * stride..(tokens.start + end * stride).min(tokens.end);
                Err(not_finite(OP, "k", k, rows.map(|token| (token, head_k))))
            }
            None => Ok(()),
        }
    }
}

/// One call of [`Plan::run`].
struct Run<'a, T: Element> {
    plan: &'a mut Plan<T>,
    q: &'a TensorView<'a, T>,
    k: &'a TensorView<'a, T>,
    result: &'a mut Result<()>,
}

impl<T: Element> Run<'_, T> {
    fn run(self) {
        *self.result = self.plan.score(self.q, self.k);
    }
}

/// Copies tokens one after the other; those from `end` on are zero. Returns whether all are finite.
struct LayOut<'a, T> {
    k: &'a TensorView<'a, T>,
    tokens: Range<usize>,
    end: usize,
    head_k: usize,
    dim: HeadDim,
    out: SharedPtr<u8>,
}

impl<T: Element> Kernel for LayOut<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> bool {
        let stride = self.dim.key_stride(P::PAIR);
        let out = self.out.0.cast::<P::Left>();
        let mut finite = true;
        for (i, token) in self.tokens.enumerate() {
            let row = if token < self.end { self.k.row(token, self.head_k) } else { &[] };
            finite &= is_finite(s, row);
            // SAFETY: the chunk has room for all its tokens.
            unsafe { copy_row::<S, P, T>(s, row, stride, out.add(i * stride)) };
        }
        finite
    }
}
