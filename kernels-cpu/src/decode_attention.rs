//! Decode attention: a few query rows per sequence over a long, padded cache of keys and values.

use lacuna_core::{
    AttentionOptions, AttentionShape, DecodeCall, DecodeShape, Element, Layout, Result, TensorView,
    TensorViewMut,
};

use crate::buffer::{Buffer, SharedPtr};
use crate::forward::{KvPanel, Scale, Scratch, log_sum_exp, write_row};
use crate::pack::{HeadDim, pack_keys, pack_values, panel_rows, prefetch_row};
use crate::per_type::per_type;
use crate::schedule;
use crate::simd::matmul::PANEL;
use crate::simd::{Dot, Isa, Kernel, Operand};
use crate::tile_size::{DECODE_SPLIT, DECODE_TILE};

const OP: &str = "decode_attention";

/// Decode attention over padded caches, planned for the largest sizes and run for every token.
///
/// Flash decoding: the keys of a sequence are cut into splits of 1024, which are worked on by all threads and merged by
/// their log-sum-exps. All heads of a group, and all query rows, share one pass over the keys and values, so that the
/// time is that of reading them once. What is computed, and how exactly, is said by
/// [`crate::dense_attention::Plan`].
///
/// The splits are those of the sequence alone: a row's bits do not depend on the batch or on the threads.
///
/// # Examples
/// ```
/// use lacuna_core::{AttentionOptions, DecodeShape, TensorView, TensorViewMut};
/// use lacuna_kernels_cpu::decode_attention::Plan;
///
/// // Two sequences, 8 heads on 2 KV heads, caches for 512 tokens of which 100 and 7 are in use.
/// let (q, cache) = (vec![0.1f32; 2 * 8 * 64], vec![0.2f32; 2 * 512 * 2 * 64]);
/// let mut out = vec![0.0f32; q.len()];
/// let cache = TensorView::bshd(&cache, 2, 512, 2, 64)?;
/// let shape = DecodeShape {
///     batch: 2,
///     max_seqlen_q: 1,
///     num_heads: 8,
///     num_heads_k: 2,
///     head_dim: 64,
///     max_seqlen_k: 512,
/// };
/// Plan::new(&shape, &AttentionOptions::default())?.run(
///     &TensorView::bshd(&q, 2, 1, 8, 64)?,
///     &cache,
///     &cache,
///     &[100, 7],
///     &mut TensorViewMut::bshd(&mut out, 2, 1, 8, 64)?,
///     None,
/// )?;
/// assert!((out[0] - 0.2).abs() < 1e-6);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct Plan<T: Element> {
    isa: Isa,
    /// Heads and head dim; its lengths are the largest ones.
    shape: AttentionShape,
    limits: DecodeShape,
    options: AttentionOptions,
    scale: Scale,
    dim: HeadDim,
    workers: Vec<Worker>,
    tasks: Vec<Task>,
    /// Outputs, maxima and sums of every split: `[task][head][query row]`.
    outputs: Buffer,
    row_max: Buffer,
    row_sum: Buffer,
    element: std::marker::PhantomData<T>,
}

/// What a thread works with: rows, and one packed tile of keys and values.
struct Worker {
    scratch: Scratch,
    keys: Buffer,
    values: Buffer,
}

/// One split of one sequence.
#[derive(Debug, Clone, Copy)]
struct Task {
    b: usize,
    split: usize,
}

impl<T: Element> Plan<T> {
    /// Allocates everything that [`Plan::run`] needs, for the threads of the current rayon pool.
    ///
    /// # Errors
    /// `max_seqlen_q` outside 1..=64, head counts or a head dim out of range, a `softmax_scale` that is not finite,
    /// sizes that no memory can hold.
    pub fn new(limits: &DecodeShape, options: &AttentionOptions) -> Result<Self> {
        options.check(OP)?;
        let shape = limits.full(OP)?;
        let DecodeShape { batch, max_seqlen_q, num_heads, head_dim, max_seqlen_k, .. } = *limits;
        let isa = Isa::current();
        let dim = HeadDim { head_dim };
        let bytes = isa.operand_bytes::<T>();
        let key_row = dim.key_stride(size_of::<f32>() / bytes) * bytes;
        let splits = max_seqlen_k.div_ceil(DECODE_SPLIT);
        // Also the largest number of rows of all splits: what is indexed below does not overflow.
        let rows = [batch, splits, num_heads, max_seqlen_q];
        let outputs = Buffer::zeroed(OP, &[&rows[..], &[dim.value_stride(), size_of::<f32>()]].concat())?;
        let new_worker = |_| {
            Ok(Worker {
                scratch: Scratch::new(OP, num_heads * max_seqlen_q, dim)?,
                keys: Buffer::zeroed(OP, &[DECODE_TILE, key_row])?,
                values: Buffer::zeroed(OP, &[DECODE_TILE, dim.value_stride() * bytes])?,
            })
        };
        Ok(Self {
            isa,
            scale: Scale::new(&shape, options.softmax_scale),
            dim,
            workers: (0..rayon::current_num_threads()).map(new_worker).collect::<Result<_>>()?,
            tasks: Vec::with_capacity(batch * splits),
            outputs,
            row_max: Buffer::zeroed(OP, &[&rows[..], &[size_of::<f32>()]].concat())?,
            row_sum: Buffer::zeroed(OP, &[&rows[..], &[size_of::<f32>()]].concat())?,
            shape,
            limits: limits.clone(),
            options: *options,
            element: std::marker::PhantomData,
        })
    }

    /// Computes `out`, and `softmax_lse` if it is asked for.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `out` | `[batch * seqlen_q, num_heads, head_dim]`, `seqlen_q <= max_seqlen_q` |
    /// | `k_cache`, `v_cache` | `[batch * capacity, num_heads_k, head_dim]`, any capacity |
    /// | `cache_seqlens` | `[batch]`: how many tokens of each cache are in use, those of `q` among them |
    /// | `softmax_lse` | `f32 [num_heads, batch * seqlen_q]`, natural logarithm |
    ///
    /// Query row `i` of a sequence sees key `j` iff `j < cache_seqlen` and, if causal, `j <= i + cache_seqlen -
    /// seqlen_q`. What lies in a cache past the tokens in use is not read.
    ///
    /// # Errors
    /// A tensor, list or buffer whose shape is not the plan's; a `cache_seqlen` above the capacity or `max_seqlen_k`.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k_cache: &TensorView<T>,
        v_cache: &TensorView<T>,
        cache_seqlens: &[u32],
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let lse = softmax_lse.as_deref();
        let DecodeCall { seqlen_q, capacity } =
            self.limits.check_call(OP, q, k_cache, v_cache, cache_seqlens, out, lse)?;

        self.tasks.clear();
        if seqlen_q > 0 {
            for (b, &seqlen_k) in cache_seqlens.iter().enumerate() {
                let splits = 0..(seqlen_k as usize).div_ceil(DECODE_SPLIT);
                self.tasks.extend(splits.map(|split| Task { b, split }));
            }
        }
        let (out, layout) = out.as_mut_ptr();
        let call = Call {
            heads_per_task: self.heads_per_task(k_cache.layout()),
            outputs: SharedPtr(self.outputs.as_mut_ptr()),
            row_max: SharedPtr(self.row_max.as_mut_ptr()),
            row_sum: SharedPtr(self.row_sum.as_mut_ptr()),
            plan: self,
            q: *q,
            k_cache: *k_cache,
            v_cache: *v_cache,
            cache_seqlens,
            capacity,
            seqlen_q,
            out: SharedPtr(out),
            layout,
            lse: softmax_lse.map(|lse| SharedPtr(lse.as_mut_ptr())),
        };
        per_type!(T, Call, call, run);
        Ok(())
    }

    /// The query head of a group's member.
    fn head(&self, head_k: usize, member: usize) -> usize {
        if self.options.gqa_interleave {
            member * self.shape.num_heads_k + head_k
        } else {
            head_k * self.shape.group_size() + member
        }
    }

    /// How many KV heads a task works on. Where the heads of a token lie side by side, memory is read in order when one
    /// task has them all; unless there are threads that would go idle.
    fn heads_per_task(&self, cache: &Layout) -> usize {
        let heads_k = self.shape.num_heads_k;
        if cache.head_stride > cache.token_stride {
            return 1;
        }
        let wanted = (2 * self.workers.len()).div_ceil(self.tasks.len().max(1)).min(heads_k);
        heads_k.div_ceil(wanted)
    }
}

/// One run, its arguments checked.
struct Call<'a, T: Element> {
    plan: &'a mut Plan<T>,
    q: TensorView<'a, T>,
    k_cache: TensorView<'a, T>,
    v_cache: TensorView<'a, T>,
    cache_seqlens: &'a [u32],
    capacity: usize,
    seqlen_q: usize,
    heads_per_task: usize,
    /// The plan's states of all splits.
    outputs: SharedPtr<f32>,
    row_max: SharedPtr<f32>,
    row_sum: SharedPtr<f32>,
    out: SharedPtr<T>,
    layout: Layout,
    lse: Option<SharedPtr<f32>>,
}

impl<T: Element> Call<'_, T> {
    fn run(self) {
        let mut workers = std::mem::take(&mut self.plan.workers);
        let (call, isa) = (&self, self.plan.isa);
        let parts = call.plan.shape.num_heads_k.div_ceil(call.heads_per_task);
        schedule::for_each(&mut workers, call.plan.tasks.len() * parts, |worker, item| {
            let heads_k = item % parts * call.heads_per_task;
            isa.run::<T, _>(Split { call, worker, task: item / parts, first_head_k: heads_k });
        });
        let groups =
            if call.seqlen_q > 0 { call.cache_seqlens.len() * call.plan.shape.num_heads_k } else { 0 };
        schedule::for_each(&mut workers, groups, |worker, group| {
            isa.run::<T, _>(Merge { call, worker, group })
        });
        self.plan.workers = workers;
    }

    /// Where the state of a query row lies.
    #[inline(always)]
    fn state_row(&self, task: usize, head_k: usize, r: usize) -> usize {
        let rows = self.plan.shape.group_size() * self.seqlen_q;
        (task * self.plan.shape.num_heads_k + head_k) * rows + r
    }
}

/// A task for some of the KV heads.
struct Split<'a, T: Element> {
    call: &'a Call<'a, T>,
    worker: &'a mut Worker,
    task: usize,
    first_head_k: usize,
}

impl<T: Element> Kernel for Split<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { call, .. } = self;
        let Call { plan, q, k_cache, v_cache, seqlen_q, .. } = call;
        let seqlen_q = *seqlen_q;
        let Worker { scratch, keys, values } = self.worker;
        let Task { b, split } = plan.tasks[self.task];
        let dim = plan.dim;
        let seqlen_k = call.cache_seqlens[b] as usize;
        let members = plan.shape.group_size();
        let group_rows = members * seqlen_q;
        let heads_k =
            self.first_head_k..(self.first_head_k + call.heads_per_task).min(plan.shape.num_heads_k);

        for (at, head_k) in heads_k.clone().enumerate() {
            let mut rows = scratch.rows::<P>(at * group_rows..(at + 1) * group_rows, dim, plan.scale);
            for r in 0..group_rows {
                let (member, i) = (r / seqlen_q, r % seqlen_q);
                let visible =
                    if plan.options.causal { (seqlen_k + i + 1).saturating_sub(seqlen_q) } else { seqlen_k };
                rows.set(s, r, q.row(b * seqlen_q + i, plan.head(head_k, member)), visible as u32);
            }
        }

        let base = b * call.capacity;
        let (keys, values) = (keys.as_mut_ptr::<P>(), values.as_mut_ptr::<P>());
        let end = ((split + 1) * DECODE_SPLIT).min(seqlen_k);
        let nothing = KvPanel::<P> { keys, values, first: 0, lo: 0, hi: 0 };
        for tile_start in (split * DECODE_SPLIT..end).step_by(DECODE_TILE) {
            let tile_end = (tile_start + DECODE_TILE).min(end);
            // While this tile is packed, the next is asked for, token by token in the order of memory: rows of one head
            // are too far apart for the hardware to see them coming.
            let packs = heads_k.len() * (DECODE_TILE / PANEL);
            let mut packed = 0;
            for (at, head_k) in heads_k.clone().enumerate() {
                let mut tile = [nothing; DECODE_TILE / PANEL];
                let mut len = 0;
                for first in (tile_start..tile_end).step_by(PANEL) {
                    let ahead = |packed: usize| (tile_end + packed * DECODE_TILE / packs).min(end);
                    for token in ahead(packed)..ahead(packed + 1) {
                        for cache in [k_cache, v_cache] {
                            for head_k in heads_k.clone() {
                                prefetch_row(s, cache.row(base + token, head_k));
                            }
                        }
                    }
                    packed += 1;
                    let tokens = base + first..base + (first + PANEL).min(tile_end);
                    // SAFETY: the worker's panels hold a tile.
                    tile[len] = unsafe {
                        let keys = keys.add(len * PANEL * dim.key_stride(P::PAIR));
                        let values = values.add(len * PANEL * dim.value_stride());
                        let (rows, count) = panel_rows(k_cache, head_k, tokens.clone());
                        pack_keys(s, dim, &rows[..count], keys);
                        let (rows, count) = panel_rows(v_cache, head_k, tokens);
                        pack_values(s, dim, &rows[..count], values);
                        KvPanel { keys, values, first: first as u32, lo: 0, hi: count as i32 }
                    };
                    len += 1;
                }
                let mut rows = scratch.rows::<P>(at * group_rows..(at + 1) * group_rows, dim, plan.scale);
                // SAFETY: the panels are valid.
                unsafe { rows.step(s, &tile[..len]) };
            }
        }

        let stride = dim.value_stride();
        for (at, head_k) in heads_k.enumerate() {
            let rows = scratch.rows::<P>(at * group_rows..(at + 1) * group_rows, dim, plan.scale);
            for r in 0..group_rows {
                let (row_max, row_sum, output) = rows.state(r);
                let row = call.state_row(self.task, head_k, r);
                // SAFETY: the buffers hold the rows of all tasks and heads, and each part writes its own.
                unsafe {
                    call.outputs.0.add(row * stride).copy_from_nonoverlapping(output.as_ptr(), stride);
                    call.row_max.0.add(row).write(row_max);
                    call.row_sum.0.add(row).write(row_sum);
                }
            }
        }
    }
}

struct Merge<'a, T: Element> {
    call: &'a Call<'a, T>,
    worker: &'a mut Worker,
    group: usize,
}

impl<T: Element> Kernel for Merge<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { call, group, .. } = self;
        let Call { plan, cache_seqlens, layout, .. } = call;
        let seqlen_q = call.seqlen_q;
        let (heads_k, members) = (plan.shape.num_heads_k, plan.shape.group_size());
        let (b, head_k) = (group / heads_k, group % heads_k);
        let first = plan.tasks.partition_point(|t| t.b < b);
        let splits = (cache_seqlens[b] as usize).div_ceil(DECODE_SPLIT);
        let stride = plan.dim.value_stride();
        let sum_of_outputs = self.worker.scratch.output_row(stride);
        for r in 0..members * seqlen_q {
            let rows = (first..first + splits).map(|task| call.state_row(task, head_k, r));
            // SAFETY: these rows were written by the splits; rows of the output do not overlap, and each belongs to
            // one group; so do the elements of the LSE, `[num_heads, total_q]`.
            unsafe {
                let row_max = rows
                    .clone()
                    .map(|row| call.row_max.0.add(row).read())
                    .fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
                let base = if row_max == f32::NEG_INFINITY { 0.0 } else { row_max };
                sum_of_outputs.fill(0.0);
                let mut row_sum = 0.0;
                for row in rows {
                    let weight = s.exp2(s.splat(call.row_max.0.add(row).read() - base));
                    row_sum += s.reduce_max(weight) * call.row_sum.0.add(row).read();
                    for i in (0..stride).step_by(S::LANES) {
                        let sum = sum_of_outputs.as_mut_ptr().add(i);
                        let output = s.load(call.outputs.0.add(row * stride + i));
                        s.store(sum, s.mul_add(output, weight, s.load(sum)));
                    }
                }
                let (head, token) = (plan.head(head_k, r / seqlen_q), b * seqlen_q + r % seqlen_q);
                let out = call.out.0.add(layout.offset(token, head));
                let out = std::slice::from_raw_parts_mut(out, plan.shape.head_dim);
                write_row::<S, P, T>(s, sum_of_outputs, row_sum, out);
                if let Some(lse) = call.lse {
                    lse.0
                        .add(head * cache_seqlens.len() * seqlen_q + token)
                        .write(log_sum_exp(row_max, row_sum));
                }
            }
        }
    }
}
