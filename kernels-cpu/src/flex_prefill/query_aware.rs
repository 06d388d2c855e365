//! The blocks of query-aware heads: a map of mean queries against mean keys, cut where it covers enough.

use std::ops::Range;

use lacuna_core::{Element, FlexPrefillOptions, Result, TensorView};

use super::OP;
use super::coverage::{Coverage, Cut};
use crate::block_pool::MeanRows;
use crate::buffer::{Buffer, SharedPtr, zeroed_vec};
use crate::pack::{HeadDim, pack_keys};
use crate::schedule;
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Isa, Kernel, Operand};

/// Query blocks that one thread takes at a time.
const ROWS: usize = 16;

/// The map of one head at a time.
pub(super) struct QueryAwareMap {
    isa: Isa,
    dim: HeadDim,
    /// `[query block][n_blocks, padded to panels]`
    map: Vec<f32>,
    stride: usize,
    mean_queries: Vec<f32>,
    /// Column panels of the mean keys.
    keys: Buffer,
    finite: Vec<bool>,
    coverage: Coverage,
    threads: Vec<()>,
}

/// The head whose map is wanted.
pub(super) struct MapOf<'a, T> {
    pub options: &'a FlexPrefillOptions,
    pub softmax_scale: f32,
    pub q: &'a TensorView<'a, T>,
    pub tokens: Range<usize>,
    pub head: usize,
    pub past: usize,
    /// `[key block][head_dim]`
    pub mean_keys: &'a [f32],
}

impl<T> MapOf<'_, T> {
    fn n_blocks(&self, dim: HeadDim) -> usize {
        self.mean_keys.len() / dim.head_dim
    }

    fn m_blocks(&self) -> usize {
        self.tokens.len().div_ceil(self.options.block_size)
    }

    /// Key blocks that query block `m` sees.
    fn visible(&self, m: usize) -> usize {
        let rows_end = ((m + 1) * self.options.block_size).min(self.tokens.len());
        (self.past + rows_end - 1) / self.options.block_size + 1
    }
}

impl QueryAwareMap {
    /// For heads of at most `m_blocks` x `n_blocks`.
    pub fn new(isa: Isa, head_dim: usize, m_blocks: usize, n_blocks: usize) -> Result<Self> {
        let stride = n_blocks.next_multiple_of(PANEL);
        let dim = HeadDim { head_dim };
        Ok(Self {
            isa,
            dim,
            map: zeroed_vec(OP, &[m_blocks.next_multiple_of(ROWS), stride])?,
            stride,
            mean_queries: zeroed_vec(OP, &[m_blocks, head_dim])?,
            keys: Buffer::zeroed(OP, &[stride, dim.key_stride(1), size_of::<f32>()])?,
            finite: zeroed_vec(OP, &[m_blocks])?,
            coverage: Coverage::new(),
            threads: vec![(); rayon::current_num_threads()],
        })
    }

    /// Fills the map of a head. Returns which entries to keep, or `None` when a mean query is not finite.
    pub fn fill<T: Element>(&mut self, of: &MapOf<T>) -> Option<Kept<'_>> {
        let (dim, isa) = (self.dim, self.isa);
        let (m_blocks, n_blocks) = (of.m_blocks(), of.n_blocks(dim));
        let queries = SharedPtr(self.mean_queries.as_mut_ptr());
        let finite = SharedPtr(self.finite.as_mut_ptr());
        schedule::for_each(&mut self.threads, m_blocks, |_, m| {
            let start = of.tokens.start + m * of.options.block_size;
            let tokens = start..(start + of.options.block_size).min(of.tokens.end);
            // SAFETY: every block has its own mean and its own flag.
            unsafe {
                let mean = queries.add(m * dim.head_dim).0;
                let mean = std::slice::from_raw_parts_mut(mean, dim.head_dim);
                let rows = tokens.len() as f64;
                let kernel = MeanRows { x: of.q, tokens, head: of.head, mean: &mut *mean };
                finite.add(m).0.write(isa.run::<T, _>(kernel));
                scale_mean::<T>(of, rows, mean);
            }
        });
        if self.finite[..m_blocks].contains(&false) {
            return None;
        }
        isa.run::<f32, _>(PackMeans { dim, means: of.mean_keys, out: SharedPtr(self.keys.as_mut_ptr()) });
        let (map, stride) = (SharedPtr(self.map.as_mut_ptr()), self.stride);
        let (keys, queries) = (&self.keys, &self.mean_queries);
        schedule::for_each(&mut self.threads, m_blocks.div_ceil(ROWS), |_, chunk| {
            let rows = chunk * ROWS..((chunk + 1) * ROWS).min(m_blocks);
            // SAFETY: every chunk has its own rows of the map.
            let out = unsafe {
                let out = map.add(rows.start * stride).0;
                std::slice::from_raw_parts_mut(out, rows.len() * stride)
            };
            let n_blocks = of.visible(rows.end - 1).min(n_blocks);
            let queries = &queries[rows.start * dim.head_dim..rows.end * dim.head_dim];
            isa.run::<f32, _>(MapRows { dim, queries, keys, n_blocks, out: &mut *out, stride });
            for (m, row) in rows.zip(out.chunks_exact_mut(stride)) {
                softmax::<T>(&mut row[..of.visible(m).min(n_blocks)], of.options.compat.probe_round);
            }
        });
        let map = &self.map;
        let causal =
            (0..m_blocks).flat_map(|m| map[m * stride..][..of.visible(m).min(n_blocks)].iter().copied());
        let cut = self.coverage.cut(causal, of.options.gamma as f64 * m_blocks as f64);
        Some(Kept { map, stride, cut })
    }
}

/// Which entries of a map to keep, asked in order.
pub(super) struct Kept<'a> {
    map: &'a [f32],
    stride: usize,
    cut: Cut,
}

impl Kept<'_> {
    /// Marks the kept blocks of row `m`, whose blocks from `row.len()` on are hidden. Rows must be asked in order, each
    /// once: ties go to the first.
    pub fn mark(&mut self, m: usize, row: &mut [bool]) {
        let Some(threshold) = self.cut.threshold_bits else {
            return row.fill(true);
        };
        for (keep, p) in row.iter_mut().zip(&self.map[m * self.stride..]) {
            let bits = p.to_bits();
            if bits > threshold {
                *keep = true;
            } else if bits == threshold && self.cut.ties > 0 {
                self.cut.ties -= 1;
                *keep = true;
            }
        }
    }
}

/// Scales a mean query, of `rows` rows.
fn scale_mean<T: Element>(of: &MapOf<T>, rows: f64, mean: &mut [f32]) {
    let scale = of.softmax_scale as f64;
    for x in mean {
        *x = if of.options.compat.probe_round {
            // The published code averages a zero-padded block and corrects the count afterwards.
            let round = |x: f64| T::from_f64(x).to_f32() as f64;
            let padded = of.options.block_size as f64;
            round(round(round(*x as f64 * rows / padded) * (padded / rows)) * scale) as f32
        } else {
            (*x as f64 * scale) as f32
        };
    }
}

fn softmax<T: Element>(logits: &mut [f32], round: bool) {
    if round {
        logits.iter_mut().for_each(|x| *x = T::from_f32(*x).to_f32());
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0f64;
    for x in &mut *logits {
        *x = (*x - max).exp();
        sum += *x as f64;
    }
    let factor = 1.0 / sum;
    logits.iter_mut().for_each(|x| *x = (*x as f64 * factor) as f32);
}

struct PackMeans<'a> {
    dim: HeadDim,
    means: &'a [f32],
    out: SharedPtr<f32>,
}

impl Kernel for PackMeans<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { dim, means, out } = self;
        let panel_len = PANEL * dim.key_stride(P::PAIR);
        for (i, means) in means.chunks(PANEL * dim.head_dim).enumerate() {
            let mut rows: [&[f32]; PANEL] = [&[]; PANEL];
            let count = means.len() / dim.head_dim;
            for (row, mean) in rows.iter_mut().zip(means.chunks_exact(dim.head_dim)) {
                *row = mean;
            }
            // SAFETY: there is room for a panel for every 16 means.
            unsafe { pack_keys(s, dim, &rows[..count], out.0.cast::<P>().add(i * panel_len)) };
        }
    }
}

/// Products of mean queries and the first `n_blocks` mean keys, and more up to whole panels.
struct MapRows<'a> {
    dim: HeadDim,
    queries: &'a [f32],
    keys: &'a Buffer,
    n_blocks: usize,
    out: &'a mut [f32],
    stride: usize,
}

impl Kernel for MapRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { dim, queries, keys, n_blocks, out, stride } = self;
        let head_dim = dim.head_dim;
        for column in (0..n_blocks).step_by(PANEL) {
            // SAFETY: the panel lies within the packed keys, the rows within the queries and the map; the operands of
            // `f32` elements are `f32`, so that the rows serve as they are.
            unsafe {
                let panel = keys.as_ptr::<P>().add(column * dim.key_stride(P::PAIR));
                times_columns::<S, P>(
                    s,
                    queries.len() / head_dim,
                    head_dim,
                    queries.as_ptr().cast(),
                    head_dim,
                    &[panel],
                    out.as_mut_ptr().add(column),
                    stride,
                    false,
                );
            }
        }
    }
}
