//! The forward pass of flash attention for a tile of query rows: one update per tile of keys.
//!
//! Online softmax in base 2 (Milakov & Gimelshein, arXiv 1805.02867; FlashAttention-2, arXiv 2307.08691): with
//! `t = softmax_scale * log2(e)`, a tile of keys takes the running maximum `m`, sum `l` and output `O` of a row to
//!
//! ```text
//! m' = max(m, t max(S))    P = 2^(t S - m')    l' = 2^(m - m') l + sum(P)    O' = 2^(m - m') O + P V
//! ```
//!
//! A row that has seen no key has `m = -inf`; its exponent is then taken relative to 0, so that no infinities are
//! subtracted. `O` is touched by the factor only in the rows whose maximum moved. P is rounded to the operand type
//! before it meets V; the sum takes it unrounded.
//!
//! A masked key has weight 0, and `0 * NaN` is NaN. Where a panel of 16 keys is masked for some rows and holds a value
//! that is not finite, the product of the whole tile is formed key by key over those that each row sees.

use std::ops::Range;

use crate::buffer::Buffer;
use crate::pack::{HeadDim, is_finite};
use crate::simd::matmul::{PANEL, times_columns, times_rows};
use crate::simd::{Dot, Operand, store_left};
use crate::tile_size::{DIAGONAL_ROWS, KEY_TILE, KEY_TILE_PANELS};
use lacuna_core::{AttentionShape, Element, Result};

/// The factor of the logits, made positive: a negative one is moved to the queries, zero takes them to zero.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// `|softmax_scale| * log2(e)`.
    pub(crate) log2: f32,
    /// What queries are multiplied by: 1, -1 or 0. Exact.
    pub(crate) query_sign: f32,
}

impl Scale {
    pub(crate) fn new(shape: &AttentionShape, softmax_scale: Option<f32>) -> Self {
        let scale = shape.softmax_scale(softmax_scale);
        if scale == 0.0 {
            return Self { log2: 1.0, query_sign: 0.0 };
        }
        let log2 = (scale.abs() as f64 * std::f64::consts::LOG2_E) as f32;
        Self { log2, query_sign: scale.signum() }
    }
}

/// What one thread needs for a tile of rows.
pub(crate) struct Scratch {
    queries: Buffer,
    /// Logits; where operands are `f32`, weights take their place.
    logits: Buffer,
    weights: Buffer,
    output: Buffer,
    row_max: Vec<f32>,
    row_sum: Vec<f32>,
    visible: Vec<u32>,
}

impl Scratch {
    /// For `rows` rows whose operands have at most 4 bytes.
    pub(crate) fn new(op: &'static str, rows: usize, dim: HeadDim) -> Result<Self> {
        Ok(Self {
            queries: Buffer::zeroed(op, &[rows, dim.key_stride(2), size_of::<f32>()])?,
            logits: Buffer::zeroed(op, &[rows, KEY_TILE, size_of::<f32>()])?,
            weights: Buffer::zeroed(op, &[rows, KEY_TILE, size_of::<f32>()])?,
            output: Buffer::zeroed(op, &[rows, dim.value_stride(), size_of::<f32>()])?,
            row_max: vec![0.0; rows],
            row_sum: vec![0.0; rows],
            visible: vec![0; rows],
        })
    }

    /// Memory for one row of outputs.
    pub(crate) fn output_row(&mut self, value_stride: usize) -> &mut [f32] {
        debug_assert!(value_stride * size_of::<f32>() <= self.output.len_bytes());
        // SAFETY: the outputs have a row at least, of initialised numbers, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.output.as_mut_ptr(), value_stride) }
    }

    /// Some of the rows, as they were left; new ones begin by [`Rows::set`].
    ///
    /// # Panics
    /// When there are more rows than the scratch was made for.
    #[inline(always)]
    pub(crate) fn rows<P: Operand>(&mut self, rows: Range<usize>, dim: HeadDim, scale: Scale) -> Rows<'_, P> {
        let (row_max, row_sum) = (&mut self.row_max[rows.clone()], &mut self.row_sum[rows.clone()]);
        let visible = &mut self.visible[rows.clone()];
        // SAFETY: the buffers hold as many rows as the vectors above.
        unsafe {
            let logits = self.logits.as_mut_ptr::<f32>().add(rows.start * KEY_TILE);
            let weights = self.weights.as_mut_ptr::<P::Left>().add(rows.start * KEY_TILE);
            Rows {
                dim,
                scale,
                queries: self.queries.as_mut_ptr::<P::Left>().add(rows.start * dim.key_stride(P::PAIR)),
                logits,
                weights: if P::PAIR == 1 { logits.cast() } else { weights },
                output: self.output.as_mut_ptr::<f32>().add(rows.start * dim.value_stride()),
                row_max,
                row_sum,
                visible,
            }
        }
    }
}

/// Sixteen keys and values of one head, and which of them count.
#[derive(Clone, Copy)]
pub(crate) struct KvPanel<P> {
    pub(crate) keys: *const P,
    pub(crate) values: *const P,
    /// The position of lane 0 among the keys of the sequence.
    pub(crate) first: u32,
    /// Lanes outside `lo..hi` are masked.
    pub(crate) lo: i32,
    pub(crate) hi: i32,
}

/// A tile of query rows and its running softmax.
pub(crate) struct Rows<'a, P: Operand> {
    dim: HeadDim,
    scale: Scale,
    queries: *mut P::Left,
    logits: *mut f32,
    weights: *mut P::Left,
    output: *mut f32,
    /// In units of log2.
    row_max: &'a mut [f32],
    row_sum: &'a mut [f32],
    /// Rows see the keys before this position.
    visible: &'a mut [u32],
}

impl<P: Operand> Rows<'_, P> {
    /// Sets row `r` to a query that sees the keys before `visible`.
    #[inline(always)]
    pub(crate) fn set<S: Dot<P>, T: Element>(&mut self, s: S, r: usize, query: &[T], visible: u32) {
        self.row_max[r] = f32::NEG_INFINITY;
        self.row_sum[r] = 0.0;
        self.visible[r] = visible;
        let (key_stride, value_stride) = (self.dim.key_stride(P::PAIR), self.dim.value_stride());
        // SAFETY: row `r` exists, or the indexing above has panicked; the buffers hold the strides times all rows.
        unsafe {
            let to = self.queries.add(r * key_stride);
            if self.scale.query_sign == 1.0 {
                store_left::<S, P, T>(s, query, to);
            } else {
                for (i, x) in query.iter().enumerate() {
                    to.add(i).write(P::Left::from_f32(x.to_f32() * self.scale.query_sign));
                }
            }
            for i in query.len()..key_stride {
                to.add(i).write(P::Left::default());
            }
            self.output.add(r * value_stride).write_bytes(0, value_stride);
        }
    }

    /// Takes the rows over at most [`KEY_TILE`] keys.
    ///
    /// # Safety
    /// The panels must be valid: `16 * key_stride` elements of keys, `16 * value_stride` of values.
    #[inline(always)]
    pub(crate) unsafe fn step<S: Dot<P>>(&mut self, s: S, panels: &[KvPanel<P>]) {
        let Some(last) = panels.last() else { return };
        // SAFETY: the caller's.
        unsafe {
            if self.visible.iter().all(|&visible| visible > last.first) {
                return self.step_all(s, panels);
            }
            // On the causal diagonal the upper rows see nothing of the last panels: a few rows at a time, each over what
            // one of them sees.
            for first in (0..self.visible.len()).step_by(DIAGONAL_ROWS) {
                let mut rows = self.part(first..(first + DIAGONAL_ROWS).min(self.visible.len()));
                let most = rows.visible.iter().fold(0, |most, &visible| most.max(visible));
                let seen = panels.partition_point(|panel| panel.first < most);
                if seen > 0 {
                    rows.step_all(s, &panels[..seen]);
                }
            }
        }
    }

    /// Some of the rows.
    #[inline(always)]
    fn part(&mut self, rows: Range<usize>) -> Rows<'_, P> {
        // Panics where rows do not exist, so that what follows stays inside the buffers.
        let visible = &mut self.visible[rows.clone()];
        let (row_max, row_sum) = (&mut self.row_max[rows.clone()], &mut self.row_sum[rows.clone()]);
        let (key_stride, value_stride) = (self.dim.key_stride(P::PAIR), self.dim.value_stride());
        // SAFETY: the buffers hold the strides times all rows.
        unsafe {
            Rows {
                dim: self.dim,
                scale: self.scale,
                queries: self.queries.add(rows.start * key_stride),
                logits: self.logits.add(rows.start * KEY_TILE),
                weights: self.weights.add(rows.start * KEY_TILE),
                output: self.output.add(rows.start * value_stride),
                row_max,
                row_sum,
                visible,
            }
        }
    }

    /// Takes the rows over at most [`KEY_TILE`] keys, of which each is formed for all rows.
    ///
    /// # Safety
    /// The panels must be valid: `16 * key_stride` elements of keys, `16 * value_stride` of values.
    #[inline(always)]
    unsafe fn step_all<S: Dot<P>>(&mut self, s: S, panels: &[KvPanel<P>]) {
        debug_assert!(panels.len() <= KEY_TILE_PANELS);
        let rows = self.row_max.len();
        let mut keys = [std::ptr::null(); KEY_TILE_PANELS];
        let mut values = [std::ptr::null(); KEY_TILE_PANELS];
        for (i, panel) in panels.iter().enumerate() {
            (keys[i], values[i]) = (panel.keys, panel.values);
        }
        let (keys, values) = (&keys[..panels.len()], &values[..panels.len()]);
        let (key_stride, value_stride) = (self.dim.key_stride(P::PAIR), self.dim.value_stride());
        let least = self.visible.iter().fold(u32::MAX, |least, &visible| least.min(visible));
        let is_masked =
            |p: &KvPanel<P>| p.lo > 0 || p.hi < PANEL as i32 || least.saturating_sub(p.first) < PANEL as u32;
        // SAFETY: the caller vouches for the panels; the scratch has room for all rows.
        unsafe {
            let inner = self.dim.inner(P::PAIR);
            times_columns(s, rows, inner, self.queries, key_stride, keys, self.logits, KEY_TILE, false);
            let mut careful = false;
            for (j, panel) in panels.iter().enumerate() {
                if is_masked(panel) {
                    self.mask(s, j, panel);
                    careful |= !is_finite(s, self.dim, panel.values);
                }
            }
            // In passes over all rows: what one row waits for, the others fill.
            for r in 0..rows {
                self.update_max(s, r, panels.len() * PANEL);
            }
            for r in 0..rows {
                self.weigh(s, r, panels.len() * PANEL);
            }
            if careful {
                self.visible_products(panels);
            } else {
                times_rows(s, rows, value_stride, self.weights, KEY_TILE, values, self.output, value_stride);
            }
        }
    }

    /// Logits of the keys that a row does not see become -inf.
    ///
    /// # Safety
    /// `panel` must be the `j`-th of at most `KEY_TILE_PANELS`.
    #[inline(always)]
    unsafe fn mask<S: Dot<P>>(&mut self, s: S, j: usize, panel: &KvPanel<P>) {
        let hidden = s.splat(f32::NEG_INFINITY);
        for (r, &visible) in self.visible.iter().enumerate() {
            let hi = panel.hi.min(visible.saturating_sub(panel.first).min(PANEL as u32) as i32);
            for lane in (0..PANEL).step_by(S::LANES) {
                // SAFETY: inside the logits of row `r`.
                unsafe {
                    let p = self.logits.add(r * KEY_TILE + j * PANEL + lane);
                    let (lo, hi) = (panel.lo - lane as i32, hi - lane as i32);
                    s.store(p, s.select_range(s.load(p), lo, hi, hidden));
                }
            }
        }
    }

    /// Takes the maximum of row `r` over the first `keys` logits of the tile, and what was summed so far relative to it.
    ///
    /// # Safety
    /// Row `r` must exist; `keys` must be a positive multiple of 16, at most `KEY_TILE`.
    #[inline(always)]
    unsafe fn update_max<S: Dot<P>>(&mut self, s: S, r: usize, keys: usize) {
        // SAFETY: inside the logits and outputs of row `r`.
        unsafe {
            let logits = self.logits.add(r * KEY_TILE);
            let mut top = s.load(logits);
            for i in (S::LANES..keys).step_by(S::LANES) {
                top = s.max(top, s.load(logits.add(i)));
            }
            let (old, new) = (self.row_max[r], s.reduce_max(top) * self.scale.log2);
            if new > old {
                let factor = s.exp2(s.splat(old - new));
                let stride = self.dim.value_stride();
                for i in (0..stride).step_by(S::LANES) {
                    let p = self.output.add(r * stride + i);
                    s.store(p, s.mul(s.load(p), factor));
                }
                self.row_max[r] = new;
                self.row_sum[r] *= s.reduce_max(factor);
            }
        }
    }

    /// Logits to weights, for row `r` and the first `keys` keys of the tile, and their sum.
    ///
    /// # Safety
    /// As [`Rows::update_max`].
    #[inline(always)]
    unsafe fn weigh<S: Dot<P>>(&mut self, s: S, r: usize, keys: usize) {
        let row_max = self.row_max[r];
        let base = s.splat(if row_max == f32::NEG_INFINITY { 0.0 } else { -row_max });
        let scale = s.splat(self.scale.log2);
        let mut sum = s.splat(0.0);
        // SAFETY: inside the logits and weights of row `r`.
        unsafe {
            let logits = self.logits.add(r * KEY_TILE);
            let weights = self.weights.add(r * KEY_TILE);
            for i in (0..keys).step_by(S::LANES) {
                let p = s.exp2(s.mul_add(s.load(logits.add(i)), scale, base));
                sum = s.add(sum, p);
                s.store_left(weights.add(i), p);
            }
        }
        self.row_sum[r] += s.reduce_add(sum);
    }

    /// `O += P V` over the keys that each row sees: values it does not see may be NaN or infinite.
    ///
    /// # Safety
    /// As [`Rows::step`].
    unsafe fn visible_products(&mut self, panels: &[KvPanel<P>]) {
        let stride = self.dim.value_stride();
        for (r, &visible) in self.visible.iter().enumerate() {
            for (j, panel) in panels.iter().enumerate() {
                let hi = panel.hi.min(visible.saturating_sub(panel.first).min(PANEL as u32) as i32);
                for lane in panel.lo.max(0)..hi {
                    let lane = lane as usize;
                    // SAFETY: inside the weights and outputs of row `r` and the values of the panel.
                    unsafe {
                        let p = self.weights.add(r * KEY_TILE + j * PANEL + lane).read().to_f32();
                        for i in 0..self.dim.head_dim {
                            let at = (lane / P::PAIR * stride + i) * P::PAIR + lane % P::PAIR;
                            let out = self.output.add(r * stride + i);
                            out.write(out.read() + p * panel.values.add(at).read().to_f32());
                        }
                    }
                }
            }
        }
    }

    /// The running maximum (log2), sum and output of row `r`, for merging with others.
    #[inline(always)]
    pub(crate) fn state(&self, r: usize) -> (f32, f32, &[f32]) {
        let stride = self.dim.value_stride();
        debug_assert!(r < self.row_max.len());
        // SAFETY: row `r` exists and lies inside the outputs.
        let output = unsafe { std::slice::from_raw_parts(self.output.add(r * stride), stride) };
        (self.row_max[r], self.row_sum[r], output)
    }

    /// Writes the finished row `r`, zeros if it saw no key, and returns its log-sum-exp.
    #[inline(always)]
    pub(crate) fn finish<S: Dot<P>, T: Element>(&self, s: S, r: usize, out: &mut [T]) -> f32 {
        let (row_max, row_sum, output) = self.state(r);
        write_row(s, output, row_sum, out);
        log_sum_exp(row_max, row_sum)
    }
}

/// `out = output / row_sum`, zeros where nothing was summed.
#[inline(always)]
pub(crate) fn write_row<S: Dot<P>, P: Operand, T: Element>(
    s: S,
    output: &[f32],
    row_sum: f32,
    out: &mut [T],
) {
    if row_sum == 0.0 {
        out.fill(T::default());
        return;
    }
    let sum = s.splat(row_sum);
    let whole = out.len() / S::LANES * S::LANES;
    debug_assert!(output.len() >= out.len());
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: both rows have LANES elements from `i` on.
        unsafe { s.store_rounded(out.as_mut_ptr().add(i), s.div(s.load(output.as_ptr().add(i)), sum)) };
    }
    for i in whole..out.len() {
        out[i] = T::from_f32(output[i] / row_sum);
    }
}

/// From the maximum in units of log2 and the sum relative to it, to the natural logarithm; -inf for nothing.
#[inline(always)]
pub(crate) fn log_sum_exp(row_max: f32, row_sum: f32) -> f32 {
    if row_sum == 0.0 {
        f32::NEG_INFINITY
    } else {
        ((row_max as f64 + (row_sum as f64).log2()) * std::f64::consts::LN_2) as f32
    }
}
