//! The kernels of the probe: one task, one tile of logits at a time.

use std::ops::Range;

use lacuna_core::{Element, MAX_HEAD_DIM, TensorView};

use super::{Probe, Scratch, Task, halo, slash_len};
use crate::buffer::SharedPtr;
use crate::pack::{HeadDim, pack_keys};
use crate::rows::{copy_row, is_finite};
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Kernel, Operand, Simd};

/// Keys of a logit tile.
pub(super) const KEYS: usize = 64;

/// Queries of a logit tile.
const LANES: usize = 128;

/// From a key of a logit tile to the next: a margin of zeros on either side, where a diagonal's vectors reach out.
pub(super) const STRIDE: usize = LANES + 2 * PANEL;

/// Where a running maximum starts: finite, so that rows without any key make no NaN.
pub(super) const NOTHING: f32 = -1e30;

/// Packs the probe rows of one head in reverse order. Returns whether all are finite.
pub(super) struct PackQueries<'a, T> {
    pub q: &'a TensorView<'a, T>,
    pub tokens: Range<usize>,
    pub head: usize,
    pub dim: HeadDim,
    /// Scale and round to the element type first.
    pub scale: Option<f32>,
    pub out: SharedPtr<u8>,
}

impl<T: Element> Kernel for PackQueries<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> bool {
        let Self { q, tokens, head, dim, scale, out } = self;
        let out = out.0.cast::<P>();
        let mut scaled = [[T::default(); MAX_HEAD_DIM]; PANEL];
        let mut finite = true;
        for first in (0..tokens.len()).step_by(PANEL) {
            let mut rows: [&[T]; PANEL] = [&[]; PANEL];
            let count = PANEL.min(tokens.len() - first);
            for (i, (row, scaled)) in rows.iter_mut().zip(&mut scaled).take(count).enumerate() {
                *row = q.row(tokens.end - 1 - first - i, head);
                finite &= is_finite(s, row);
                if let Some(scale) = scale {
                    for (to, x) in scaled.iter_mut().zip(row.iter()) {
                        *to = T::from_f64(x.to_f32() as f64 * scale as f64);
                    }
                    *row = &scaled[..dim.head_dim];
                }
            }
            // SAFETY: the packed queries of a head have room for all its panels.
            unsafe { pack_keys(s, dim, &rows[..count], out.add(first * dim.key_stride(P::PAIR))) };
        }
        finite
    }
}

/// What both passes of a task share.
pub(super) struct Pass<'a, T> {
    pub probe: &'a Probe<T>,
    pub k: &'a TensorView<'a, T>,
    pub task: Task,
    pub scale_log2: f32,
    pub scratch: &'a mut Scratch,
}

impl<T: Element> Pass<'_, T> {
    /// Copies the keys of a tile into the scratch. Returns whether all are finite.
    #[inline(always)]
    fn load_keys<S: Dot<P>, P: Operand>(&mut self, s: S, keys: Range<usize>) -> bool {
        let first = self.probe.shape.seqlens.k_range(self.task.b).start;
        let stride = self.probe.dim.key_stride(P::PAIR);
        let out = self.scratch.keys.as_mut_ptr::<P::Left>();
        let mut finite = true;
        for (i, key) in keys.enumerate() {
            let row = self.k.row(first + key, self.task.head_k);
            finite &= is_finite(s, row);
            // SAFETY: the scratch holds KEYS rows.
            unsafe { copy_row::<S, P, T>(s, row, stride, out.add(i * stride)) };
        }
        finite
    }

    /// The logits, not yet scaled, of the loaded `keys` and the queries in `lanes` lanes from `lane` on; hidden ones are
    /// left as they come. Lanes are whole panels, at most [`LANES`].
    #[inline(always)]
    fn logits<S: Dot<P>, P: Operand>(&mut self, s: S, keys: usize, g: usize, lane: usize, lanes: usize) {
        let probe = self.probe;
        let stride = probe.dim.key_stride(P::PAIR);
        let head = probe.query_head(self.task.head_k, g);
        let item = self.task.b * probe.shape.num_heads + head;
        let mut panels = [std::ptr::null::<P>(); LANES / PANEL];
        // SAFETY: the panels lie within the packed queries of the head, the keys and the tile within the scratch.
        unsafe {
            let queries = probe.queries.as_ptr::<P>().add(item * probe.query_len());
            for (i, panel) in panels[..lanes / PANEL].iter_mut().enumerate() {
                *panel = queries.add((lane + i * PANEL) * stride);
            }
            times_columns::<S, P>(
                s,
                keys,
                probe.dim.inner(P::PAIR),
                self.scratch.keys.as_ptr(),
                stride,
                &panels[..lanes / PANEL],
                self.scratch.tile.as_mut_ptr().add(PANEL),
                STRIDE,
                false,
            );
        }
        if probe.options.round {
            for row in self.scratch.tile.chunks_exact_mut(STRIDE).take(keys) {
                row[PANEL..PANEL + lanes].iter_mut().for_each(|x| *x = T::from_f32(*x).to_f32());
            }
        }
    }

    /// How many of the lanes from `lane` on see each of `keys`: lane 0 is the last query, lane `i` stands `i` keys
    /// before it.
    #[inline(always)]
    fn lanes_that_see(&self, keys: Range<usize>, lane: usize) -> [usize; KEYS] {
        let seqlen_k = self.probe.shape.seqlens.seqlen_k(self.task.b);
        let mut seen = [0; KEYS];
        for (seen, key) in seen.iter_mut().zip(keys) {
            *seen = self.lanes().min(seqlen_k - key).saturating_sub(lane);
        }
        seen
    }

    /// Lanes of this sequence's probe, in whole panels.
    #[inline(always)]
    fn lanes(&self) -> usize {
        self.probe.rows(self.task.b).next_multiple_of(PANEL)
    }
}

/// Finds every row's maximum, in units of log2, and sum over the keys of a task. Returns whether the keys are finite.
pub(super) struct StatsPass<'a, T> {
    pub pass: Pass<'a, T>,
    pub out: SharedPtr<f32>,
}

impl<T: Element> Kernel for StatsPass<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> bool {
        let Self { mut pass, out } = self;
        let (group, out_lanes) = (pass.probe.shape.group_size(), pass.probe.lanes);
        // SAFETY: the task's statistics, for every head of the group.
        let out = unsafe { std::slice::from_raw_parts_mut(out.0, group * 2 * out_lanes) };
        for stats in out.chunks_exact_mut(2 * out_lanes) {
            let (max, sum) = stats.split_at_mut(out_lanes);
            max.fill(NOTHING);
            sum.fill(0.0);
        }
        let scale = s.splat(pass.scale_log2);
        let mut finite = true;
        for start in (pass.task.start..pass.task.end).step_by(KEYS) {
            let keys = start..(start + KEYS).min(pass.task.end);
            finite &= pass.load_keys::<S, P>(s, keys.clone());
            for (g, stats) in out.chunks_exact_mut(2 * out_lanes).enumerate() {
                let (max, sum) = stats.split_at_mut(out_lanes);
                for lane in (0..pass.lanes()).step_by(LANES) {
                    let lanes = LANES.min(pass.lanes() - lane);
                    pass.logits::<S, P>(s, keys.len(), g, lane, lanes);
                    let seen = pass.lanes_that_see(keys.clone(), lane);
                    for i in (0..lanes).step_by(S::LANES) {
                        // SAFETY: vector `i` of the lanes lies within every row of the tile and the statistics.
                        unsafe {
                            let tile = pass.scratch.tile.as_ptr().add(PANEL + i);
                            let (max, sum) = (max.as_mut_ptr().add(lane + i), sum.as_mut_ptr().add(lane + i));
                            if seen[keys.len() - 1] >= i + S::LANES {
                                add_to_stats::<S, false>(s, tile, keys.len(), i, &seen, scale, max, sum);
                            } else {
                                add_to_stats::<S, true>(s, tile, keys.len(), i, &seen, scale, max, sum);
                            }
                        }
                    }
                }
            }
        }
        finite
    }
}

/// Lets a vector of lanes see `keys` more logits. Lanes hide those keys that fewer than them see.
///
/// # Safety
/// `tile` must be valid for reading LANES elements at every multiple of [`STRIDE`] below `keys` of them, `max` and `sum`
/// for reading and writing LANES elements.
#[inline(always)]
unsafe fn add_to_stats<S: Simd, const HIDES: bool>(
    s: S,
    tile: *const f32,
    keys: usize,
    lane: usize,
    seen: &[usize; KEYS],
    scale: S::F32,
    max: *mut f32,
    sum: *mut f32,
) {
    let hidden = s.splat(f32::NEG_INFINITY);
    // SAFETY: the caller's.
    unsafe {
        let before = s.load(max);
        let mut row_max = before;
        for key in 0..keys {
            let mut x = s.mul(s.load(tile.add(key * STRIDE)), scale);
            if HIDES {
                x = s.select_range(x, 0, seen[key] as i32 - lane as i32, hidden);
            }
            row_max = s.max(x, row_max);
        }
        let shift = s.sub(s.splat(0.0), row_max);
        let mut row_sum = s.mul(s.load(sum), s.exp2(s.sub(before, row_max)));
        for key in 0..keys {
            let mut x = s.mul_add(s.load(tile.add(key * STRIDE)), scale, shift);
            if HIDES {
                x = s.select_range(x, 0, seen[key] as i32 - lane as i32, hidden);
            }
            row_sum = s.add(row_sum, s.exp2(x));
        }
        s.store(max, row_max);
        s.store(sum, row_sum);
    }
}

/// Sums the probabilities over the keys of a task by column and by diagonal.
pub(super) struct SumPass<'a, T> {
    pub pass: Pass<'a, T>,
    pub out: SharedPtr<f32>,
}

impl<T: Element> Kernel for SumPass<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { mut pass, out } = self;
        let probe = pass.probe;
        let (task, group) = (pass.task, probe.shape.group_size());
        // SAFETY: the task's sums, for every head of the group.
        let out = unsafe { std::slice::from_raw_parts_mut(out.0, group * 2 * probe.chunk) };
        let slash_len = slash_len(probe.chunk, probe.lanes);
        let mut slash = std::mem::take(&mut pass.scratch.slash);
        slash.fill(0.0);
        // Diagonals that end in this task begin before it.
        let first = task.start.saturating_sub(halo(pass.lanes()));
        for start in (first..task.end).step_by(KEYS) {
            let keys = start..(start + KEYS).min(task.end);
            pass.load_keys::<S, P>(s, keys.clone());
            for (g, out) in out.chunks_exact_mut(2 * probe.chunk).enumerate() {
                let slash = &mut slash[g * slash_len + (start - first)..(g + 1) * slash_len];
                // Further lanes meet a diagonal at earlier keys: they come first, so that its sum runs in key order.
                for lane in (0..pass.lanes()).step_by(LANES).rev() {
                    let lanes = LANES.min(pass.lanes() - lane);
                    pass.probabilities::<S, P>(s, keys.clone(), g, lane, lanes);
                    if start >= task.start {
                        let vertical = &mut out[start - task.start..][..keys.len()];
                        add_columns(s, &pass.scratch.tile, lanes, vertical, lane + LANES >= pass.lanes());
                    }
                    add_diagonals(s, &pass.scratch.tile, keys.len(), lanes, &mut slash[lane..]);
                }
            }
        }
        for (out, slash) in out.chunks_exact_mut(2 * probe.chunk).zip(slash.chunks_exact(slash_len)) {
            out[probe.chunk..][..task.end - task.start]
                .copy_from_slice(&slash[task.start - first..][..task.end - task.start]);
        }
        pass.scratch.slash = slash;
    }
}

impl<T: Element> Pass<'_, T> {
    /// [`Pass::logits`], and from them the probabilities, with a margin of zeros.
    #[inline(always)]
    fn probabilities<S: Dot<P>, P: Operand>(
        &mut self,
        s: S,
        keys: Range<usize>,
        g: usize,
        lane: usize,
        lanes: usize,
    ) {
        self.logits::<S, P>(s, keys.len(), g, lane, lanes);
        let seen = self.lanes_that_see(keys.clone(), lane);
        let head = self.probe.query_head(self.task.head_k, g);
        let stats = (self.task.b * self.probe.shape.num_heads + head) * 2 * self.probe.lanes + lane;
        let scale = s.splat(self.scale_log2);
        for i in (0..lanes).step_by(S::LANES) {
            let hides = seen[keys.len() - 1] < i + S::LANES;
            // SAFETY: vector `i` of the lanes lies within every row of the tile and the statistics.
            unsafe {
                let max = s.load(self.probe.row_stats.as_ptr().add(stats + i));
                let factor = s.load(self.probe.row_stats.as_ptr().add(stats + self.probe.lanes + i));
                let shift = s.sub(s.splat(0.0), max);
                for key in 0..keys.len() {
                    let at = self.scratch.tile.as_mut_ptr().add(key * STRIDE + PANEL + i);
                    let mut p = s.mul(s.exp2(s.mul_add(s.load(at), scale, shift)), factor);
                    if hides {
                        p = s.select_range(p, 0, seen[key] as i32 - i as i32, s.splat(0.0));
                    }
                    s.store(at, p);
                }
            }
        }
        if lanes < LANES {
            for row in self.scratch.tile.chunks_exact_mut(STRIDE).take(keys.len()) {
                row[PANEL + lanes..][..PANEL].fill(0.0);
            }
        }
    }
}

/// Adds every key's probabilities of a tile to `sums`, which the first call for a tile sets.
#[inline(always)]
fn add_columns<S: Simd>(s: S, tile: &[f32], lanes: usize, sums: &mut [f32], first: bool) {
    for (row, sum) in tile.chunks_exact(STRIDE).zip(sums) {
        let mut acc = s.splat(0.0);
        for i in (0..lanes).step_by(S::LANES) {
            // SAFETY: vector `i` of the lanes lies within the row.
            acc = s.add(acc, unsafe { s.load(row.as_ptr().add(PANEL + i)) });
        }
        let of_lanes = s.reduce_add(acc);
        *sum = if first { of_lanes } else { *sum + of_lanes };
    }
}

/// Adds every diagonal of a tile to `sums[key + lane]`, in the order of the keys.
#[inline(always)]
fn add_diagonals<S: Simd>(s: S, tile: &[f32], keys: usize, lanes: usize, sums: &mut [f32]) {
    for diagonal in (0..keys + lanes - 1).step_by(S::LANES) {
        let first = (diagonal + 1).saturating_sub(lanes);
        let last = keys.min(diagonal + S::LANES);
        let sum = &mut sums[diagonal..diagonal + S::LANES];
        // SAFETY: `sum` holds a vector; a row is read from at most LANES - 1 before its first lane to as many past its
        // last one, where the margins are.
        unsafe {
            let mut acc = s.load(sum.as_ptr());
            for key in first..last {
                let at = key * STRIDE + PANEL + diagonal - key;
                acc = s.add(acc, s.load(tile.as_ptr().add(at)));
            }
            s.store(sum.as_mut_ptr(), acc);
        }
    }
}
