//! The pattern search of FlexPrefill (Lai et al. 2025, arXiv 2502.20766).

mod coverage;
mod divergence;
mod head;
mod query_aware;

use std::ops::Range;

use lacuna_core::{AttentionShape, BlockMask, Element, FlexPrefillOptions, Result, TensorView};

use crate::block_pool::MeanRows;
use crate::buffer::{SharedPtr, zeroed_vec};
use crate::per_type::per_type;
use crate::probe::{Probe, ProbeOptions};
use crate::rows::not_finite;
use crate::schedule;
use crate::simd::Isa;
use head::{Head, Scratch};
use query_aware::{MapOf, QueryAwareMap};

const OP: &str = "flex_prefill";

/// The fewest probe rows that estimate anything; shorter query runs attend densely.
const MIN_PROBE: usize = 16;

/// What was decided for one (sequence, query head).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct HeadReport {
    /// Every causal block is kept, without a search; the other fields are then 0.
    pub dense: bool,
    /// The head keeps query-aware blocks.
    pub query_aware: bool,
    /// Root of the Jensen-Shannon divergence between pooled and true block attention of the probe. Only NaN with
    /// [`FlexPrefillCompat::jsd_weighted`](lacuna_core::FlexPrefillCompat).
    pub sqrt_jsd: f32,
    /// Block columns kept, the forced one among them.
    pub vertical_blocks: usize,
    /// Block diagonals kept, the forced one among them.
    pub slash_blocks: usize,
}

/// The search for one shape, causal. Every (sequence, head) decides alone.
///
/// With `b = block_size`, `Nq`, `Nk` the lengths, `P = Nk - Nq`:
///
/// 0. *Dense*: every causal block is kept when `gamma >= 1`, `P < 0`, `min(b, Nq) < 16`, or
///    `Nk <= max(2 b, ceil(min_budget / b) b)`.
/// 1. *Probe*: the attention of the last `min(b, Nq)` queries, averaged by key and by offset.
/// 2. *Budgets*: 1 + the number of descending prefix sums of either average that stay within `gamma`, in blocks, within
///    `min_budget` and `max_budget`.
/// 3. *Pattern test*: the head is query-aware when the root of the Jensen-Shannon divergence between the probe's block
///    attention and its estimate from mean queries and keys is below `tau`; its budgets are then the least.
/// 4. *Vertical-slash blocks*: the block columns and diagonals with the largest sums, ties to the lowest index.
/// 5. *Query-aware blocks*, in such heads: the largest entries of the softmax map of mean queries against mean keys while
///    their sum stays within `gamma` times the number of query blocks.
/// 6. *Always*: key block 0 and the blocks of the diagonal.
///
/// `lacuna-reference` states every step in full. [`FlexPrefillCompat`](lacuna_core::FlexPrefillCompat) brings back the
/// published code's departures. Logits and probabilities are `f32`, sums of more than a block `f64`.
///
/// Memory: two scores for each key and head, and one map of blocks; nothing grows with keys x queries.
///
/// ```
/// use lacuna_core::{AttentionShape, FlexPrefillOptions, Seqlens, TensorView};
/// use lacuna_kernels_cpu::flex_prefill;
/// let shape = AttentionShape::new(2, 1, 64, Seqlens::single(1024, 1024)?)?;
/// let options = FlexPrefillOptions { min_budget: 128, ..Default::default() };
/// let (q, k) = (vec![0.0f32; 1024 * 2 * 64], vec![0.0f32; 1024 * 64]);
/// let mut plan = flex_prefill::Plan::new(&shape, &options)?;
/// let mask = plan.search(&TensorView::thd(&q, 1024, 2, 64)?, &TensorView::thd(&k, 1024, 1, 64)?)?;
/// assert_eq!(mask.row(0, 0, 1), [0, 1]);
/// // Flat attention is what the mean queries and keys predict.
/// assert!(plan.heads()[0].query_aware);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct Plan<T> {
    isa: Isa,
    shape: AttentionShape,
    options: FlexPrefillOptions,
    probe: Probe<T>,
    /// Mean keys, `[sequence][KV head][key block][head_dim]`, and where each sequence begins.
    mean_keys: Vec<f32>,
    mean_key_starts: Vec<usize>,
    /// Kept block columns and diagonal groups of every (sequence, head), and where each sequence begins.
    columns: Vec<bool>,
    diagonals: Vec<bool>,
    choice_starts: Vec<usize>,
    heads: Vec<HeadReport>,
    finite: Vec<bool>,
    scratch: Vec<Scratch>,
    map: QueryAwareMap,
    /// Blocks of one row, as flags and as a list.
    keep: Vec<bool>,
    row: Vec<u32>,
    mask: BlockMask,
}

impl<T: Element> Plan<T> {
    /// Validates the options and allocates.
    ///
    /// # Errors
    /// Options out of range, sizes that overflow.
    pub fn new(shape: &AttentionShape, options: &FlexPrefillOptions) -> Result<Self> {
        options.check(OP)?;
        let (isa, block_size, seqlens) = (Isa::current(), options.block_size, &shape.seqlens);
        let probe = ProbeOptions {
            op: OP,
            last_q: block_size,
            softmax_scale: shape.softmax_scale(options.softmax_scale),
            gqa_interleave: options.gqa_interleave,
            round: options.compat.probe_round,
        };
        let (mut mean_key_starts, mut choice_starts) = (vec![0usize], vec![0usize]);
        let (mut most_m, mut most_n) = (0, 0);
        for b in 0..seqlens.batch() {
            let searched = !attends_densely(shape, options, b);
            let n_blocks = if searched { seqlens.seqlen_k(b).div_ceil(block_size) } else { 0 };
            let push = |starts: &mut Vec<usize>, len: usize| {
                starts.push(starts[b].saturating_add(len.saturating_mul(n_blocks)));
            };
            push(&mut mean_key_starts, shape.num_heads_k.saturating_mul(shape.head_dim));
            push(&mut choice_starts, shape.num_heads);
            if searched {
                most_m = most_m.max(seqlens.seqlen_q(b).div_ceil(block_size));
                most_n = most_n.max(n_blocks);
            }
        }
        // No head is query-aware below a `tau` of 0.
        let map_blocks = if options.tau > 0.0 { [most_m, most_n] } else { [0, 0] };
        let heads = seqlens.batch().saturating_mul(shape.num_heads);
        Ok(Self {
            isa,
            probe: Probe::new(shape, probe, |b| !attends_densely(shape, options, b))?,
            mean_keys: zeroed_vec(OP, &[mean_key_starts[seqlens.batch()]])?,
            columns: zeroed_vec(OP, &[choice_starts[seqlens.batch()]])?,
            diagonals: zeroed_vec(OP, &[choice_starts[seqlens.batch()]])?,
            choice_starts,
            heads: zeroed_vec(OP, &[heads])?,
            finite: zeroed_vec(OP, &[mean_key_starts[seqlens.batch()] / shape.head_dim])?,
            mean_key_starts,
            scratch: (0..rayon::current_num_threads())
                .map(|_| Scratch::new(most_n, shape.head_dim))
                .collect(),
            map: QueryAwareMap::new(isa, shape.head_dim, map_blocks[0], map_blocks[1])?,
            keep: zeroed_vec(OP, &[seqlens.max_seqlen_k().div_ceil(block_size)])?,
            row: Vec::new(),
            mask: BlockMask::empty(shape, block_size, block_size)?,
            shape: shape.clone(),
            options: options.clone(),
        })
    }

    /// Searches `q` `[total_q, num_heads, head_dim]` against `k` `[total_k, num_heads_k, head_dim]`.
    ///
    /// # Errors
    /// Tensors of another shape than the plan's; [`lacuna_core::Error::NotFinite`] for the first value that is not finite
    /// among those read: the keys and the last `block_size` queries of sequences that are searched, and all queries of
    /// query-aware heads; an invalid argument when finite values make sums that are not.
    pub fn search(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<&BlockMask> {
        self.shape.check_q(OP, "q", q)?;
        self.shape.check_k(OP, "k", k)?;
        let mut result = Ok(());
        per_type!(T, Search, Search { plan: self, q, k, result: &mut result }, run);
        result.map(|()| &self.mask)
    }

    fn run(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<()> {
        self.probe.run(q, k)?;
        self.pool_keys(k)?;
        self.decide(q);
        self.list_blocks(q)
    }

    /// What the last search decided, per sequence and query head.
    pub fn heads(&self) -> &[HeadReport] {
        &self.heads
    }

    fn n_blocks(&self, b: usize) -> usize {
        (self.choice_starts[b + 1] - self.choice_starts[b]) / self.shape.num_heads
    }

    fn mean_keys(&self, b: usize, head_k: usize) -> Range<usize> {
        let len = self.n_blocks(b) * self.shape.head_dim;
        let start = self.mean_key_starts[b] + head_k * len;
        start..start + len
    }

    fn choices(&self, b: usize, head: usize) -> Range<usize> {
        let start = self.choice_starts[b] + head * self.n_blocks(b);
        start..start + self.n_blocks(b)
    }

    fn pool_keys(&mut self, k: &TensorView<T>) -> Result<()> {
        let head_dim = self.shape.head_dim;
        let blocks = self.finite.len();
        let means = SharedPtr(self.mean_keys.as_mut_ptr());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        let mut scratch = std::mem::take(&mut self.scratch);
        let this = &*self;
        schedule::for_each(&mut scratch, blocks, |_, block| {
            let (tokens, head) = this.tokens_of_mean(block);
            // SAFETY: every block has its own mean and its own flag.
            unsafe {
                let mean = std::slice::from_raw_parts_mut(means.add(block * head_dim).0, head_dim);
                let kernel = MeanRows { x: k, tokens, head, mean: &mut *mean };
                finite.add(block).0.write(this.isa.run::<T, _>(kernel));
                if this.options.compat.probe_round {
                    mean.iter_mut().for_each(|x| *x = T::from_f32(*x).to_f32());
                }
            }
        });
        self.scratch = scratch;
        match self.finite.iter().position(|&finite| !finite) {
            Some(block) => {
                let (tokens, head) = self.tokens_of_mean(block);
                Err(not_finite(OP, "k", k, tokens.map(|token| (token, head))))
            }
            None => Ok(()),
        }
    }

    /// The key tokens and the KV head of a row of [`Plan::mean_keys`].
    fn tokens_of_mean(&self, block: usize) -> (Range<usize>, usize) {
        let at = block * self.shape.head_dim;
        let b = self.mean_key_starts.partition_point(|&start| start <= at) - 1;
        let (n_blocks, tokens) = (self.n_blocks(b), self.shape.seqlens.k_range(b));
        let in_sequence = block - self.mean_key_starts[b] / self.shape.head_dim;
        let start = tokens.start + in_sequence % n_blocks * self.options.block_size;
        (start..(start + self.options.block_size).min(tokens.end), in_sequence / n_blocks)
    }

    fn decide(&mut self, q: &TensorView<T>) {
        let heads = self.shape.num_heads;
        let items = self.shape.seqlens.batch() * heads;
        let columns = SharedPtr(self.columns.as_mut_ptr());
        let diagonals = SharedPtr(self.diagonals.as_mut_ptr());
        let reports = SharedPtr(self.heads.as_mut_ptr());
        let mut scratch = std::mem::take(&mut self.scratch);
        let this = &*self;
        schedule::for_each(&mut scratch, items, |scratch, item| {
            let (b, head) = (item / heads, item % heads);
            let range = this.choices(b, head);
            let head_k = this.shape.head_k(head, this.options.gqa_interleave);
            let of = Head {
                options: &this.options,
                softmax_scale: this.shape.softmax_scale(this.options.softmax_scale),
                probe: &this.probe,
                q,
                b,
                head,
                q_end: this.shape.seqlens.q_range(b).end,
                seqlen_k: this.shape.seqlens.seqlen_k(b),
                mean_keys: &this.mean_keys[this.mean_keys(b, head_k)],
            };
            // SAFETY: every item has its own choices and its own report.
            unsafe {
                let columns = std::slice::from_raw_parts_mut(columns.add(range.start).0, range.len());
                let diagonals = std::slice::from_raw_parts_mut(diagonals.add(range.start).0, range.len());
                reports.add(item).0.write(if range.is_empty() {
                    HeadReport { dense: true, ..HeadReport::default() }
                } else {
                    of.decide(scratch, columns, diagonals)
                });
            }
        });
        self.scratch = scratch;
    }

    /// Turns the decisions into rows of blocks.
    fn list_blocks(&mut self, q: &TensorView<T>) -> Result<()> {
        self.mask.clear();
        let (block_size, compat) = (self.options.block_size, self.options.compat);
        for b in 0..self.shape.seqlens.batch() {
            let (tokens, past) = (self.shape.seqlens.q_range(b), self.shape.seqlens.past(b));
            for head in 0..self.shape.num_heads {
                let report = self.heads[b * self.shape.num_heads + head];
                let choices = self.choices(b, head);
                let head_k = self.shape.head_k(head, self.options.gqa_interleave);
                let mean_keys = self.mean_keys(b, head_k);
                let mut map = if report.query_aware {
                    let of = MapOf {
                        options: &self.options,
                        softmax_scale: self.shape.softmax_scale(self.options.softmax_scale),
                        q,
                        tokens: tokens.clone(),
                        head,
                        past: past as usize,
                        mean_keys: &self.mean_keys[mean_keys],
                    };
                    let rows = tokens.clone().map(|token| (token, head));
                    Some(self.map.fill(&of).ok_or_else(|| not_finite(OP, "q", q, rows))?)
                } else {
                    None
                };
                let (columns, diagonals) = (&self.columns[choices.clone()], &self.diagonals[choices]);
                for m in 0..self.mask.m_blocks(b) {
                    let visible = self.mask.visible_blocks(b, m, true);
                    let keep = &mut self.keep[..visible];
                    keep.fill(report.dense);
                    if !report.dense {
                        if !(report.query_aware && self.options.qa_only) {
                            keep.copy_from_slice(&columns[..visible]);
                        }
                        let t0 = past as usize + m * block_size;
                        let t1 = past as usize + ((m + 1) * block_size).min(tokens.len()) - 1;
                        let groups =
                            if report.query_aware && self.options.qa_only { &[][..] } else { diagonals };
                        for s in (0..groups.len()).filter(|&s| groups[s]) {
                            let Some(last) = t1.checked_sub(s * block_size) else { break };
                            let first = if compat.slash_cover {
                                last
                            } else {
                                t0.saturating_sub(s * block_size + block_size - 1)
                            };
                            keep[first / block_size..=last / block_size].fill(true);
                        }
                        keep[0] = true;
                        keep[t0 / block_size..].fill(true);
                        if let Some(map) = &mut map {
                            map.mark(m, keep);
                        }
                    }
                    self.row.clear();
                    self.row.extend((0..).zip(&*keep).filter(|&(_, &keep)| keep).map(|(n, _)| n));
                    self.mask.push_row(&self.row)?;
                }
            }
        }
        Ok(())
    }
}

/// One call of [`Plan::search`].
struct Search<'a, T: Element> {
    plan: &'a mut Plan<T>,
    q: &'a TensorView<'a, T>,
    k: &'a TensorView<'a, T>,
    result: &'a mut Result<()>,
}

impl<T: Element> Search<'_, T> {
    fn run(self) {
        *self.result = self.plan.run(self.q, self.k);
    }
}

fn attends_densely(shape: &AttentionShape, options: &FlexPrefillOptions, b: usize) -> bool {
    let (seqlen_q, seqlen_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
    let budget = options.min_budget.div_ceil(options.block_size).saturating_mul(options.block_size);
    options.gamma >= 1.0
        || seqlen_k < seqlen_q
        || seqlen_q.min(options.block_size) < MIN_PROBE
        || seqlen_k <= budget.max(2 * options.block_size)
}
