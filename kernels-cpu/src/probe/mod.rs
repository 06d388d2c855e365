//! The probe of the pattern searches: the attention of the last queries over all keys, summed by column and by diagonal.
//!
//! Two passes over the keys, in chunks that any thread may take. The first finds every probe row's maximum and sum, the
//! second adds up the probabilities. Logits live in one tile at a time: nothing grows with keys x queries.
//!
//! Tiles are transposed, keys down and queries across, so that a row's softmax runs lane by lane. The queries lie in
//! reverse order: with the last query in lane 0, the entry of key `j` in lane `i` belongs to the diagonal that meets the
//! last query at key `j + i`, and a diagonal is a run of lanes that moves by one from key to key.
//!
//! Every sum is one chain in the order of its keys (diagonals) or one tree over its lanes (columns), whichever chunk or
//! tile it comes from: equal probabilities give equal sums, so that ties stay ties.

mod pass;

use std::marker::PhantomData;
use std::ops::Range;

use lacuna_core::{AttentionShape, Element, Result, TensorView};

use crate::buffer::{Buffer, SharedPtr, zeroed_vec};
use crate::pack::HeadDim;
use crate::rows::{not_finite, query_head};
use crate::schedule;
use crate::simd::Isa;
use crate::simd::matmul::PANEL;
use pass::{KEYS, NOTHING, PackQueries, Pass, STRIDE, StatsPass, SumPass};

/// Keys that one thread takes at a time.
const CHUNK: usize = 2048;

/// What the probe computes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProbeOptions {
    pub op: &'static str,
    /// Queries, at the end of each sequence.
    pub last_q: usize,
    pub softmax_scale: f32,
    pub gqa_interleave: bool,
    /// Round scaled queries and logits to the element type.
    pub round: bool,
}

/// A range of keys of one KV head.
#[derive(Debug, Clone, Copy)]
struct Task {
    b: usize,
    head_k: usize,
    start: usize,
    end: usize,
}

/// Buffers for one shape.
pub(crate) struct Probe<T> {
    isa: Isa,
    shape: AttentionShape,
    options: ProbeOptions,
    dim: HeadDim,
    pair: usize,
    /// Lanes of the longest probe.
    lanes: usize,
    /// Keys of the longest task.
    chunk: usize,
    tasks: Vec<Task>,
    /// First task of each sequence; every KV head has as many.
    task_starts: Vec<usize>,
    /// Column panels of the probe rows, `[sequence][head][lanes / 16]`, in reverse order.
    queries: Buffer,
    /// Maximum and sum of each row within a task, `[task][group][2][lanes]`.
    partial: Vec<f32>,
    /// Maximum and reciprocal sum of each row, `[sequence][head][2][lanes]`; zeros for a row without keys.
    row_stats: Vec<f32>,
    /// Sums by column and by diagonal, `[task][group][2][chunk]`.
    sums: Vec<f32>,
    finite: Vec<bool>,
    scratch: Vec<Scratch>,
    element: PhantomData<T>,
}

struct Scratch {
    /// Keys of a tile, where the tensor's own rows cannot serve as operands.
    keys: Buffer,
    /// Logits of a tile, `[KEYS][STRIDE]`.
    tile: Vec<f32>,
    /// Diagonals of a task and of those before it that reach into it, for every head of the group.
    slash: Vec<f32>,
}

impl<T: Element> Probe<T> {
    /// Sequences for which `searches` is false are left alone, and not read.
    pub fn new(
        shape: &AttentionShape,
        options: ProbeOptions,
        searches: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let isa = Isa::current();
        let bytes = isa.operand_bytes::<T>();
        let pair = size_of::<f32>() / bytes;
        let dim = HeadDim { head_dim: shape.head_dim };
        let seqlens = &shape.seqlens;
        let active = |b: usize| searches(b) && seqlens.seqlen_q(b) > 0 && seqlens.seqlen_k(b) > 0;
        let longest = |len: &dyn Fn(usize) -> usize| {
            (0..seqlens.batch()).filter(|&b| active(b)).map(len).max().unwrap_or(0)
        };
        let lanes = longest(&|b| seqlens.seqlen_q(b)).min(options.last_q).next_multiple_of(PANEL);
        // Long probes read long stretches before their chunk; longer chunks keep that a small part.
        let chunk = CHUNK.max(lanes.saturating_mul(8)).next_multiple_of(KEYS);
        let chunk = chunk.min(longest(&|b| seqlens.seqlen_k(b)).next_multiple_of(KEYS));
        let (mut tasks, mut task_starts) = (Vec::new(), vec![0]);
        for b in 0..seqlens.batch() {
            let seqlen_k = seqlens.seqlen_k(b);
            for head_k in 0..if active(b) { shape.num_heads_k } else { 0 } {
                let starts = (0..seqlen_k).step_by(chunk);
                tasks.extend(starts.map(|start| Task {
                    b,
                    head_k,
                    start,
                    end: (start + chunk).min(seqlen_k),
                }));
            }
            task_starts.push(tasks.len());
        }
        let group = shape.group_size();
        let rows = seqlens.batch().saturating_mul(shape.num_heads);
        let new_scratch = |_| -> Result<Scratch> {
            Ok(Scratch {
                keys: Buffer::zeroed(options.op, &[KEYS, dim.key_stride(pair), bytes])?,
                tile: vec![0.0; KEYS * STRIDE],
                slash: zeroed_vec(options.op, &[group, slash_len(chunk, lanes)])?,
            })
        };
        Ok(Self {
            isa,
            dim,
            pair,
            lanes,
            chunk,
            queries: Buffer::zeroed(options.op, &[rows, lanes, dim.key_stride(pair), bytes])?,
            partial: zeroed_vec(options.op, &[tasks.len(), group, 2, lanes])?,
            row_stats: zeroed_vec(options.op, &[rows, 2, lanes])?,
            sums: zeroed_vec(options.op, &[tasks.len(), group, 2, chunk])?,
            finite: zeroed_vec(options.op, &[tasks.len().max(rows)])?,
            scratch: (0..rayon::current_num_threads()).map(new_scratch).collect::<Result<_>>()?,
            tasks,
            task_starts,
            shape: shape.clone(),
            options,
            element: PhantomData,
        })
    }

    /// Rows of the probe of sequence `b`.
    pub fn rows(&self, b: usize) -> usize {
        self.options.last_q.min(self.shape.seqlens.seqlen_q(b))
    }

    /// Reads the keys and the last queries of every searched sequence.
    ///
    /// # Errors
    /// [`lacuna_core::Error::NotFinite`] for the first key, or the first probe query, that is not finite; an invalid
    /// argument when finite values make logits that are not.
    pub fn run(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<()> {
        self.pack(q)?;
        self.find_row_stats(q, k)?;
        self.sum(k);
        Ok(())
    }

    /// The sums of the probabilities of all probe rows over each key, ascending, in pieces.
    pub fn vertical(&self, b: usize, head: usize) -> impl DoubleEndedIterator<Item = &[f32]> + Clone {
        self.pieces(b, head, 0)
    }

    /// The sums over each diagonal, by the key at which it meets the last query, ascending, in pieces: offset
    /// `seqlen_k - 1` first, offset 0 last.
    pub fn slash(&self, b: usize, head: usize) -> impl DoubleEndedIterator<Item = &[f32]> + Clone {
        self.pieces(b, head, 1)
    }

    fn pieces(&self, b: usize, head: usize, kind: usize) -> impl DoubleEndedIterator<Item = &[f32]> + Clone {
        let (head_k, g) = self.place_in_group(head);
        self.tasks_of(b, head_k).map(move |task| {
            let Task { start, end, .. } = self.tasks[task];
            let at = ((task * self.shape.group_size() + g) * 2 + kind) * self.chunk;
            &self.sums[at..at + end - start]
        })
    }

    fn tasks_of(&self, b: usize, head_k: usize) -> Range<usize> {
        let of_sequence = self.task_starts[b + 1] - self.task_starts[b];
        let of_head = of_sequence / self.shape.num_heads_k;
        let start = self.task_starts[b] + head_k * of_head;
        start..start + of_head
    }

    /// The KV head of a query head, and its number among the query heads that read it.
    fn place_in_group(&self, head: usize) -> (usize, usize) {
        let head_k = self.shape.head_k(head, self.options.gqa_interleave);
        let g = if self.options.gqa_interleave {
            head / self.shape.num_heads_k
        } else {
            head % self.shape.group_size()
        };
        (head_k, g)
    }

    fn query_head(&self, head_k: usize, g: usize) -> usize {
        query_head(&self.shape, self.options.gqa_interleave, head_k, g)
    }

    fn is_active(&self, b: usize) -> bool {
        self.task_starts[b + 1] > self.task_starts[b]
    }

    /// Elements of the packed queries of a head.
    fn query_len(&self) -> usize {
        self.lanes * self.dim.key_stride(self.pair)
    }

    /// Probe rows, first to last.
    fn probe_tokens(&self, b: usize) -> Range<usize> {
        let end = self.shape.seqlens.q_range(b).end;
        end - self.rows(b)..end
    }

    fn pack(&mut self, q: &TensorView<T>) -> Result<()> {
        let heads = self.shape.num_heads;
        let items = self.shape.seqlens.batch() * heads;
        let query_bytes = self.query_len() * self.isa.operand_bytes::<T>();
        let out = SharedPtr(self.queries.as_mut_ptr::<u8>());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        let (mut scratch, this) = (std::mem::take(&mut self.scratch), &*self);
        schedule::for_each(&mut scratch, items, |_, item| {
            let (b, head) = (item / heads, item % heads);
            let tokens = if this.is_active(b) { this.probe_tokens(b) } else { 0..0 };
            let scale = this.options.round.then_some(this.options.softmax_scale);
            // SAFETY: every item has its own packed queries and its own flag.
            unsafe {
                let out = out.add(item * query_bytes);
                let packed = this.isa.run::<T, _>(PackQueries { q, tokens, head, dim: this.dim, scale, out });
                finite.add(item).0.write(packed);
            }
        });
        self.scratch = scratch;
        match self.finite[..items].iter().position(|&finite| !finite) {
            Some(item) => {
                let (b, head) = (item / heads, item % heads);
                let rows = self.probe_tokens(b).map(|token| (token, head));
                Err(not_finite(self.options.op, "q", q, rows))
            }
            None => Ok(()),
        }
    }

    fn pass<'a>(&'a self, k: &'a TensorView<'a, T>, task: usize, scratch: &'a mut Scratch) -> Pass<'a, T> {
        // Rounded queries are scaled already.
        let scale = if self.options.round { 1.0 } else { self.options.softmax_scale as f64 };
        Pass {
            probe: self,
            k,
            task: self.tasks[task],
            scale_log2: (scale * std::f64::consts::LOG2_E) as f32,
            scratch,
        }
    }

    fn find_row_stats(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<()> {
        let (group, lanes) = (self.shape.group_size(), self.lanes);
        let partial = SharedPtr(self.partial.as_mut_ptr());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        let (mut scratch, this) = (std::mem::take(&mut self.scratch), &*self);
        schedule::for_each(&mut scratch, this.tasks.len(), |scratch, task| {
            // SAFETY: every task has its own statistics and its own flag.
            unsafe {
                let out = partial.add(task * group * 2 * lanes);
                let pass = this.pass(k, task, scratch);
                finite.add(task).0.write(this.isa.run::<T, _>(StatsPass { pass, out }));
            }
        });
        self.scratch = scratch;
        if let Some(task) = self.finite[..self.tasks.len()].iter().position(|&finite| !finite) {
            let Task { b, head_k, start, end } = self.tasks[task];
            let first = self.shape.seqlens.k_range(b).start;
            let rows = (first + start..first + end).map(|token| (token, head_k));
            return Err(not_finite(self.options.op, "k", k, rows));
        }
        self.combine_row_stats(q)
    }

    /// Maximum and reciprocal sum of every row over the tasks that saw it, in the order of the keys.
    fn combine_row_stats(&mut self, q: &TensorView<T>) -> Result<()> {
        let (group, lanes) = (self.shape.group_size(), self.lanes);
        for b in 0..self.shape.seqlens.batch() {
            if !self.is_active(b) {
                continue;
            }
            for head in 0..self.shape.num_heads {
                let (head_k, g) = self.place_in_group(head);
                let tasks = self.tasks_of(b, head_k);
                let at = |task: usize, kind: usize| ((task * group + g) * 2 + kind) * lanes;
                let stats_at = (b * self.shape.num_heads + head) * 2 * lanes;
                for lane in 0..self.rows(b) {
                    let partial = |kind| tasks.clone().map(move |task| at(task, kind) + lane);
                    let max = partial(0).fold(NOTHING, |max, i| max.max(self.partial[i]));
                    let sum: f64 = partial(0)
                        .zip(partial(1))
                        .map(|(m, s)| self.partial[s] as f64 * ((self.partial[m] - max) as f64).exp2())
                        .sum();
                    // Lane 0 is the last query, which sees every key.
                    let sees_keys = lane < self.shape.seqlens.seqlen_k(b);
                    if sees_keys && !(sum > 0.0 && sum.is_finite()) {
                        return Err(not_finite(self.options.op, "q", q, std::iter::empty()));
                    }
                    self.row_stats[stats_at + lane] = if sees_keys { max } else { 0.0 };
                    self.row_stats[stats_at + lanes + lane] =
                        if sees_keys { (1.0 / sum) as f32 } else { 0.0 };
                }
            }
        }
        Ok(())
    }

    fn sum(&mut self, k: &TensorView<T>) {
        let out_len = self.shape.group_size() * 2 * self.chunk;
        let sums = SharedPtr(self.sums.as_mut_ptr());
        let (mut scratch, this) = (std::mem::take(&mut self.scratch), &*self);
        schedule::for_each(&mut scratch, this.tasks.len(), |scratch, task| {
            // SAFETY: every task has its own sums.
            let out = unsafe { sums.add(task * out_len) };
            this.isa.run::<T, _>(SumPass { pass: this.pass(k, task, scratch), out });
        });
        self.scratch = scratch;
    }
}

/// Diagonals that a task of `chunk` keys and the keys before it touch.
fn slash_len(chunk: usize, lanes: usize) -> usize {
    halo(lanes) + chunk + lanes + PANEL
}

/// Keys before a task whose diagonals reach into it, in whole tiles.
fn halo(lanes: usize) -> usize {
    lanes.next_multiple_of(KEYS)
}
