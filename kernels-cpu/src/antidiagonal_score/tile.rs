//! The scores of one tile of query blocks against all key blocks.

use lacuna_core::{AttentionShape, Element, Result, TensorView, XAttentionOptions};

use super::{OP, Past, Plan, Tile};
use crate::buffer::{Buffer, SharedPtr, zeroed_vec};
use crate::pack::pack_keys;
use crate::rows::is_finite;
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Kernel, Operand, Simd};

/// Key groups of a logit tile, unless a block has more.
const KEYS: usize = 64;

/// Bytes of a packed query that stay in the nearest cache while the keys of a tile pass.
const INNER_BYTES: usize = 512;

/// Panels of the widest tile: one block of 256 groups.
const MAX_PANELS: usize = 16;

/// Where a running maximum starts: finite, so that groups that see nothing make no NaN.
const NOTHING: f32 = -1e30;

/// The groups of one sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    /// Query groups, key groups.
    pub q: usize,
    pub k: usize,
    /// Tokens of the last query group and of the last key group.
    last_q: usize,
    last_k: usize,
    /// Group `i` sees the key groups up to `i + past`, when causal.
    past: isize,
    causal: bool,
    /// Query groups from here on see nothing.
    end: usize,
}

impl Groups {
    pub fn new(shape: &AttentionShape, options: &XAttentionOptions, causal: bool, b: usize) -> Self {
        let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
        let stride = options.stride;
        let (q, k) = (seqlen_q.div_ceil(stride), seqlen_k.div_ceil(stride));
        let last = |len: usize, groups: usize| {
            if options.compat.tail_group { stride } else { (len + stride).saturating_sub(groups * stride) }
        };
        let past = Past::new(seqlen_q, seqlen_k, options).tokens;
        // A group sees its own last token's group; a past in whole chunks is one in whole groups.
        let reach = if options.compat.chunk_align_past { 0 } else { stride as isize - 1 };
        let past = (past + reach).div_euclid(stride as isize);
        let end =
            if options.compat.chunk_align_past { (k as isize - past).max(0) as usize } else { usize::MAX };
        Self { q, k, last_q: last(seqlen_q, q), last_k: last(seqlen_k, k), past, causal, end }
    }

    /// Key groups that query group `i` sees, without regard to missing pairs.
    pub fn visible(&self, i: usize) -> usize {
        if self.causal { (i as isize + self.past + 1).clamp(0, self.k as isize) as usize } else { self.k }
    }
}

/// What a thread works in.
pub(super) struct Scratch {
    /// Column panels of the query groups.
    queries: Buffer,
    /// Logits, `[key group][lane]`.
    logits: Vec<f32>,
    /// Maximum and sum of each lane over each key block, `[key block][2][lane]`.
    blocks: Vec<f32>,
    /// Factor of the logits, in units of log2, for each lane; the same for the last key group, and what is added there.
    scales: Vec<f32>,
    last_scales: Vec<f32>,
    last_biases: Vec<f32>,
}

impl Scratch {
    pub fn new(lanes: usize, group_bytes: usize, groups_per_block: usize, n_blocks: usize) -> Result<Self> {
        Ok(Self {
            queries: Buffer::zeroed(OP, &[lanes, group_bytes])?,
            logits: zeroed_vec(OP, &[groups_per_block.max(KEYS), lanes])?,
            blocks: zeroed_vec(OP, &[n_blocks, 2, lanes])?,
            scales: zeroed_vec(OP, &[lanes])?,
            last_scales: zeroed_vec(OP, &[lanes])?,
            last_biases: zeroed_vec(OP, &[lanes])?,
        })
    }
}

/// Writes the scores of a tile. Returns whether they come from finite numbers.
pub(super) struct ScoreTile<'a, T> {
    pub plan: &'a Plan<T>,
    pub q: &'a TensorView<'a, T>,
    pub tile: Tile,
    pub scratch: &'a mut Scratch,
    /// The scores of all sequences.
    pub scores: SharedPtr<f32>,
}

impl<T: Element> Kernel for ScoreTile<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(mut self, s: S) -> bool {
        let Self { plan, tile, scores, .. } = self;
        let groups = Groups::new(&plan.shape, &plan.options, plan.causal, tile.b);
        let groups_per_block = plan.options.block_size / plan.options.stride;
        let first = tile.m_block * groups_per_block;
        let rows = (tile.m_blocks * groups_per_block).min(groups.q - first);
        let lanes = Lanes { groups, first, rows, per_head: rows.next_multiple_of(PANEL), heads: tile.heads };
        if !self.pack_queries::<S, P>(s, &lanes) {
            return false;
        }
        let scratch = self.scratch;
        lanes.set_scales(plan, scratch);
        let key_tile = groups_per_block.max(KEYS);
        for start in (0..tile.visible).step_by(key_tile) {
            let keys = key_tile.min(tile.visible - start);
            logits::<S, P, T>(s, plan, tile.keys_at + start, keys, lanes.count(), scratch);
            for block in (0..keys).step_by(groups_per_block) {
                let keys = groups_per_block.min(keys - block);
                lanes.add_block(s, start + block, block, keys, groups_per_block, scratch);
            }
        }
        let n_blocks = tile.visible.div_ceil(groups_per_block);
        let finite = lanes.weigh(s, n_blocks, scratch);
        for head in 0..tile.heads {
            let query_head = plan.query_head(&tile, head);
            for m in 0..tile.m_blocks {
                let lane = head * lanes.per_head + m * groups_per_block;
                let count = groups_per_block.min(rows - m * groups_per_block);
                let row = plan.scores.row_start(tile.b, query_head, tile.m_block + m);
                for n in 0..n_blocks {
                    let weights = &scratch.blocks[n * 2 * lanes.count() + lane..][..count];
                    let sum: f64 = weights.iter().map(|&w| w as f64).sum();
                    // SAFETY: a row of scores belongs to one tile.
                    unsafe { scores.add(row + n).0.write(sum as f32) };
                }
            }
        }
        finite
    }
}

impl<T: Element> ScoreTile<'_, T> {
    /// Packs the tile's queries, the tokens of a group from last to first. Returns whether all are finite.
    #[inline(always)]
    fn pack_queries<S: Dot<P>, P: Operand>(&mut self, s: S, lanes: &Lanes) -> bool {
        let (plan, stride) = (self.plan, self.plan.options.stride);
        let tokens = plan.shape.seqlens.q_range(self.tile.b);
        let mut out = self.scratch.queries.as_mut_ptr::<P>();
        let mut finite = true;
        for head in 0..lanes.heads {
            let query_head = plan.query_head(&self.tile, head);
            for panel in (0..lanes.per_head).step_by(PANEL) {
                for slot in (0..stride).rev() {
                    let mut rows: [&[T]; PANEL] = [&[]; PANEL];
                    let mut count = 0;
                    // Groups that lack the token are the last ones.
                    while count < PANEL {
                        let token = tokens.start + (lanes.first + panel + count) * stride + slot;
                        if panel + count >= lanes.rows || token >= tokens.end {
                            break;
                        }
                        rows[count] = self.q.row(token, query_head);
                        finite &= is_finite(s, rows[count]);
                        count += 1;
                    }
                    // SAFETY: the scratch has room for every panel, slot by slot.
                    unsafe {
                        pack_keys(s, plan.dim, &rows[..count], out);
                        out = out.add(PANEL * plan.dim.key_stride(P::PAIR));
                    }
                }
            }
        }
        finite
    }
}

/// The logits, not yet scaled, of `keys` key groups from `first` of the laid out ones, and all lanes.
#[inline(always)]
fn logits<S: Dot<P>, P: Operand, T: Element>(
    s: S,
    plan: &Plan<T>,
    first: usize,
    keys: usize,
    lanes: usize,
    scratch: &mut Scratch,
) {
    let group_len = plan.group_len;
    let step = (INNER_BYTES / size_of::<P>()).min(group_len);
    let mut panels = [std::ptr::null::<P>(); MAX_PANELS];
    for inner in (0..group_len).step_by(step) {
        // SAFETY: the panels lie within the packed queries, the keys within those laid out, the logits in the scratch.
        // A step is whole panels' words.
        unsafe {
            for (i, panel) in panels[..lanes / PANEL].iter_mut().enumerate() {
                *panel = scratch.queries.as_ptr::<P>().add((i * group_len + inner) * PANEL);
            }
            times_columns::<S, P>(
                s,
                keys,
                step.min(group_len - inner),
                plan.keys.as_ptr::<P::Left>().add(first * group_len + inner),
                group_len,
                &panels[..lanes / PANEL],
                scratch.logits.as_mut_ptr(),
                lanes,
                inner > 0,
            );
        }
    }
}

/// The query groups of a tile: `per_head` lanes for each head, of which `rows` are groups.
struct Lanes {
    groups: Groups,
    /// First query group.
    first: usize,
    rows: usize,
    per_head: usize,
    heads: usize,
}

impl Lanes {
    #[inline(always)]
    fn count(&self) -> usize {
        self.per_head * self.heads
    }

    /// Every lane's factor: a logit is the mean over the pairs there are.
    #[inline(always)]
    fn set_scales<T: Element>(&self, plan: &Plan<T>, scratch: &mut Scratch) {
        let scale = plan.shape.softmax_scale(plan.options.softmax_scale) as f64 / plan.options.norm as f64;
        let stride = plan.options.stride;
        for lane in 0..self.count() {
            let tokens = if self.is_last_group(lane) { self.groups.last_q } else { stride };
            // The pairs of a short query group are its last slots, those of a short key group its first.
            let last_pairs = (tokens + self.groups.last_k).saturating_sub(stride);
            let factor = |pairs: usize| (scale / pairs.max(1) as f64 * std::f64::consts::LOG2_E) as f32;
            scratch.scales[lane] = factor(tokens);
            scratch.last_scales[lane] = factor(last_pairs);
            // Without a pair the last key group is hidden.
            scratch.last_biases[lane] = if last_pairs == 0 { f32::NEG_INFINITY } else { 0.0 };
        }
    }

    #[inline(always)]
    fn is_last_group(&self, lane: usize) -> bool {
        self.first + lane % self.per_head + 1 == self.groups.q
    }

    /// Finds the maximum and the sum of every lane over a block: `keys` groups from `key` on, which are rows of the
    /// logits from `row` on.
    #[inline(always)]
    fn add_block<S: Simd>(
        &self,
        s: S,
        key: usize,
        row: usize,
        keys: usize,
        groups_per_block: usize,
        scratch: &mut Scratch,
    ) {
        let lanes = self.count();
        let has_last = key + keys == self.groups.k;
        let out = &mut scratch.blocks[key / groups_per_block * 2 * lanes..][..2 * lanes];
        for lane in (0..lanes).step_by(S::LANES) {
            // Lane `i` of the vector sees the block's key groups up to `i - hidden`.
            let hidden = key as isize - self.groups.past - (self.first + lane % self.per_head) as isize;
            let hidden = if self.groups.causal { hidden } else { isize::MIN / 2 };
            let block = Block { keys, stride: lanes, hidden, has_last };
            // SAFETY: vector `lane` lies within every row of the logits and the lists of lanes.
            unsafe {
                let logits = scratch.logits.as_ptr().add(row * lanes + lane);
                let scales = [&scratch.scales, &scratch.last_scales, &scratch.last_biases]
                    .map(|list| s.load(list.as_ptr().add(lane)));
                let (max, sum) = if has_last || hidden + keys as isize > 1 {
                    block.stats::<S, true>(s, logits, scales)
                } else {
                    block.stats::<S, false>(s, logits, scales)
                };
                s.store(out.as_mut_ptr().add(lane), max);
                s.store(out.as_mut_ptr().add(lanes + lane), sum);
            }
        }
    }

    /// Turns every block's maximum and sum into its share of the lane's sum over all blocks, in the place of the maximum.
    /// Returns whether all shares come from finite numbers.
    #[inline(always)]
    fn weigh<S: Simd>(&self, s: S, n_blocks: usize, scratch: &mut Scratch) -> bool {
        let lanes = self.count();
        let mut finite = true;
        for lane in (0..lanes).step_by(S::LANES) {
            let blocks = scratch.blocks[..n_blocks * 2 * lanes].as_mut_ptr();
            // Groups that see nothing weigh nothing.
            let seeing = self.groups.end.saturating_sub(self.first + lane % self.per_head).min(16) as i32;
            // SAFETY: vector `lane` lies within both halves of every block.
            unsafe {
                let max = |n: usize| s.load(blocks.add(n * 2 * lanes + lane));
                let sum = |n: usize| s.load(blocks.add((n * 2 + 1) * lanes + lane));
                let mut row_max = s.splat(NOTHING);
                for n in 0..n_blocks {
                    row_max = s.max(max(n), row_max);
                }
                let mut row_sum = s.splat(0.0);
                for n in 0..n_blocks {
                    row_sum = s.mul_add(sum(n), s.exp2(s.sub(max(n), row_max)), row_sum);
                }
                let mut sums = [0.0f32; 16];
                s.store(sums.as_mut_ptr(), row_sum);
                finite &= sums.iter().all(|sum| sum.is_finite());
                // A lane that sees nothing has no sum to be a share of.
                let factors = sums.map(|sum| if sum > 0.0 { 1.0 / sum } else { 0.0 });
                let factor = s.select_range(s.load(factors.as_ptr()), 0, seeing, s.splat(0.0));
                for n in 0..n_blocks {
                    let share = s.mul(s.mul(sum(n), s.exp2(s.sub(max(n), row_max))), factor);
                    s.store(blocks.add(n * 2 * lanes + lane), share);
                }
            }
        }
        finite
    }
}

/// A vector of lanes over the key groups of a block.
struct Block {
    keys: usize,
    /// From a key group's logits to the next.
    stride: usize,
    /// Lane `i` sees key group `j` of the block iff `j <= i - hidden`.
    hidden: isize,
    /// The last of the key groups is the sequence's last.
    has_last: bool,
}

impl Block {
    /// The maximum, in units of log2, and the sum relative to it. Where nothing is hidden, `HIDES` may be false.
    ///
    /// # Safety
    /// `logits` must be valid for reading LANES elements at every multiple of `stride` below `keys` of them.
    #[inline(always)]
    unsafe fn stats<S: Simd, const HIDES: bool>(
        &self,
        s: S,
        logits: *const f32,
        [scale, last_scale, last_bias]: [S::F32; 3],
    ) -> (S::F32, S::F32) {
        let whole = if HIDES && self.has_last { self.keys - 1 } else { self.keys };
        // SAFETY: the caller's.
        let load = |key: usize| unsafe { s.load(logits.add(key * self.stride)) };
        let hide = |key: usize, x: S::F32| {
            if HIDES {
                let first = (self.hidden + key as isize).clamp(0, 16) as i32;
                s.select_range(x, first, S::LANES as i32, s.splat(f32::NEG_INFINITY))
            } else {
                x
            }
        };
        let mut max = s.splat(NOTHING);
        for key in 0..whole {
            max = s.max(hide(key, s.mul(load(key), scale)), max);
        }
        for key in whole..self.keys {
            max = s.max(hide(key, s.mul_add(load(key), last_scale, last_bias)), max);
        }
        let shift = s.sub(s.splat(0.0), max);
        let mut sum = s.splat(0.0);
        for key in 0..whole {
            sum = s.add(sum, s.exp2(hide(key, s.mul_add(load(key), scale, shift))));
        }
        for key in whole..self.keys {
            let bias = s.add(last_bias, shift);
            sum = s.add(sum, s.exp2(hide(key, s.mul_add(load(key), last_scale, bias))));
        }
        (max, sum)
    }
}
