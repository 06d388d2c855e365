//! How much attention each key received.

use std::ops::Range;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result, TensorView};

use crate::buffer::{Buffer, SharedPtr, zeroed_vec};
use crate::pack::{HeadDim, pack_keys};
use crate::per_type::per_type;
use crate::rows::{copy_row, query_head};
use crate::schedule;
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Isa, Kernel, Operand};

const OP: &str = "column_mass";

/// Query rows of a logit tile: all heads' rows of one tile are packed at a time.
const ROWS: usize = 128;

/// Keys of a logit tile.
const KEYS: usize = 64;

/// Keys that one thread takes at a time.
const CHUNK: usize = 256;

/// Adds to `mass[j - columns.start]`, for every key `j` in `columns` of sequence `b`, the attention it received from the
/// query `rows` of all heads: `sum over h, i of exp(scale * q_i . k_j - softmax_lse[h, i])` over the rows that see `j`.
///
/// `softmax_lse`, `[num_heads, total_q]`, is that of the attention itself, over all keys; rows whose value is `-inf` add
/// nothing. `rows` and `columns` count from the start of the sequence. Probabilities are `f32`, summed over 128 rows in
/// `f32` and over rows and heads in `f64`, in the same order whatever the threads. A key that rows see and that is not
/// finite gets a mass that is not; others are untouched by it. Memory: the packed queries of 128 rows of all heads.
///
/// # Errors
/// `q`, `k` or `softmax_lse` of another shape than `shape` says, ranges that leave the sequence, `mass` of another length
/// than `columns`, a scale that is not finite.
///
/// ```
/// use lacuna_core::{AttentionOptions, AttentionShape, Seqlens, TensorView};
/// use lacuna_kernels_cpu::column_mass::column_mass;
/// let shape = AttentionShape::new(1, 1, 4, Seqlens::single(2, 2)?)?;
/// let zeros = [0.0f32; 8];
/// let x = TensorView::thd(&zeros, 2, 1, 4)?;
/// // Flat attention: row 0 sees key 0, row 1 sees both keys alike.
/// let (softmax_lse, mut mass) = ([0.0, 2f32.ln()], [0.0; 2]);
/// column_mass(&shape, &x, &x, &softmax_lse, 0, 0..2, 0..2, &AttentionOptions::default(), &mut mass)?;
/// assert!((mass[0] - 1.5).abs() < 1e-6 && (mass[1] - 0.5).abs() < 1e-6);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn column_mass<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    softmax_lse: &[f32],
    b: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    options: &AttentionOptions,
    mass: &mut [f32],
) -> Result<()> {
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    shape.check_lse(OP, Some(softmax_lse))?;
    options.check(OP)?;
    shape.check_window(OP, b, &rows, &columns)?;
    if mass.len() != columns.len() {
        return Err(Error::shape(OP, "mass", [columns.len()], [mass.len()]));
    }
    let mut result = Ok(());
    let call = Call { shape, q, k, softmax_lse, b, rows, columns, options, mass, result: &mut result };
    per_type!(T, Call, call, run);
    result
}

/// One call of [`column_mass`].
struct Call<'a, T> {
    shape: &'a AttentionShape,
    q: &'a TensorView<'a, T>,
    k: &'a TensorView<'a, T>,
    softmax_lse: &'a [f32],
    b: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    options: &'a AttentionOptions,
    mass: &'a mut [f32],
    result: &'a mut Result<()>,
}

impl<T: Element> Call<'_, T> {
    fn run(mut self) {
        let result = self.add();
        *self.result = result;
    }

    fn add(&mut self) -> Result<()> {
        let Self { shape, q, k, softmax_lse, b, options, .. } = *self;
        let (rows, columns) = (self.rows.clone(), self.columns.clone());
        let isa = Isa::current();
        let bytes = isa.operand_bytes::<T>();
        let dim = HeadDim { head_dim: shape.head_dim };
        let key_stride = dim.key_stride(size_of::<f32>() / bytes);
        let lanes = ROWS.min(rows.len()).next_multiple_of(PANEL);
        let mut queries = Buffer::zeroed(OP, &[shape.num_heads, lanes, key_stride, bytes])?;
        let mut shifts: Vec<f32> = zeroed_vec(OP, &[shape.num_heads, lanes])?;
        let mut sums: Vec<f64> = zeroed_vec(OP, &[columns.len()])?;
        let threads = rayon::current_num_threads().min(columns.len().div_ceil(CHUNK));
        let new_scratch = |_| -> Result<Scratch> {
            Ok(Scratch {
                keys: Buffer::zeroed(OP, &[KEYS, key_stride, bytes])?,
                tile: zeroed_vec(OP, &[KEYS, lanes])?,
            })
        };
        let mut scratch = (0..threads).map(new_scratch).collect::<Result<Vec<_>>>()?;
        for start in rows.clone().step_by(ROWS) {
            let rows = start..(start + ROWS).min(rows.end);
            let row_tile = RowTile { shape, q, k, b, dim, options, lanes, rows };
            for head in 0..shape.num_heads {
                // SAFETY: the head's own part of the packed queries.
                let out =
                    SharedPtr(unsafe { queries.as_mut_ptr::<u8>().add(head * lanes * key_stride * bytes) });
                isa.run::<T, _>(PackRows { row_tile: &row_tile, head, out });
                let lse = &softmax_lse[head * shape.seqlens.total_q() + shape.seqlens.q_range(b).start..];
                let shifts = &mut shifts[head * lanes..][..lanes];
                // Rows without attention, and lanes without a row, weigh nothing.
                shifts.fill(f32::NEG_INFINITY);
                for (shift, &lse) in shifts.iter_mut().zip(&lse[row_tile.rows.clone()]) {
                    if lse != f32::NEG_INFINITY {
                        *shift = -(lse as f64 * std::f64::consts::LOG2_E) as f32;
                    }
                }
            }
            let seen = row_tile.seen_keys().min(columns.end);
            let chunks = seen.saturating_sub(columns.start).div_ceil(CHUNK);
            let (sums, queries, shifts) = (SharedPtr(sums.as_mut_ptr()), &queries, &shifts);
            schedule::for_each(&mut scratch, chunks, |scratch, chunk| {
                let first = columns.start + chunk * CHUNK;
                let keys = first..(first + CHUNK).min(seen);
                // SAFETY: every chunk has its own keys.
                let sums = unsafe { sums.add(chunk * CHUNK) };
                isa.run::<T, _>(ChunkMass { row_tile: &row_tile, queries, shifts, keys, sums, scratch });
            });
        }
        for (mass, sum) in self.mass.iter_mut().zip(sums) {
            *mass = (*mass as f64 + sum) as f32;
        }
        Ok(())
    }
}

struct Scratch {
    keys: Buffer,
    tile: Vec<f32>,
}

/// What the kernels of one row tile share.
struct RowTile<'a, T> {
    shape: &'a AttentionShape,
    q: &'a TensorView<'a, T>,
    k: &'a TensorView<'a, T>,
    b: usize,
    dim: HeadDim,
    options: &'a AttentionOptions,
    lanes: usize,
    rows: Range<usize>,
}

impl<T: Element> RowTile<'_, T> {
    /// Keys that some row sees: all before this one.
    fn seen_keys(&self) -> usize {
        let seqlen_k = self.shape.seqlens.seqlen_k(self.b);
        if self.options.causal {
            (self.shape.seqlens.past(self.b) + self.rows.end as isize).clamp(0, seqlen_k as isize) as usize
        } else {
            seqlen_k
        }
    }
}

struct PackRows<'a, T> {
    row_tile: &'a RowTile<'a, T>,
    head: usize,
    out: SharedPtr<u8>,
}

impl<T: Element> Kernel for PackRows<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { row_tile, head, out } = self;
        let first = row_tile.shape.seqlens.q_range(row_tile.b).start;
        for (i, lane) in (0..row_tile.rows.len()).step_by(PANEL).enumerate() {
            let mut rows: [&[T]; PANEL] = [&[]; PANEL];
            let count = PANEL.min(row_tile.rows.len() - lane);
            for (r, row) in rows.iter_mut().take(count).enumerate() {
                *row = row_tile.q.row(first + row_tile.rows.start + lane + r, head);
            }
            // SAFETY: the head's packed queries have room for all lanes.
            unsafe {
                let panel = out.0.cast::<P>().add(i * PANEL * row_tile.dim.key_stride(P::PAIR));
                pack_keys(s, row_tile.dim, &rows[..count], panel);
            }
        }
    }
}

/// Adds the mass of some keys.
struct ChunkMass<'a, T> {
    row_tile: &'a RowTile<'a, T>,
    queries: &'a Buffer,
    /// What is added to every lane's logits, in units of log2.
    shifts: &'a [f32],
    keys: Range<usize>,
    sums: SharedPtr<f64>,
    scratch: &'a mut Scratch,
}

impl<T: Element> Kernel for ChunkMass<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { row_tile, queries, shifts, keys, sums, scratch } = self;
        let (shape, lanes) = (row_tile.shape, row_tile.lanes);
        let stride = row_tile.dim.key_stride(P::PAIR);
        let first = shape.seqlens.k_range(row_tile.b).start;
        let scale = shape.softmax_scale(row_tile.options.softmax_scale) as f64 * std::f64::consts::LOG2_E;
        let scale = s.splat(scale as f32);
        for start in keys.clone().step_by(KEYS) {
            let tile_keys = start..(start + KEYS).min(keys.end);
            for head_k in 0..shape.num_heads_k {
                for (i, key) in tile_keys.clone().enumerate() {
                    // SAFETY: the scratch holds KEYS rows.
                    unsafe {
                        let out = scratch.keys.as_mut_ptr::<P::Left>().add(i * stride);
                        copy_row::<S, P, T>(s, row_tile.k.row(first + key, head_k), stride, out);
                    }
                }
                for g in 0..shape.group_size() {
                    let head = query_head(shape, row_tile.options.gqa_interleave, head_k, g);
                    let mut panels = [std::ptr::null::<P>(); ROWS / PANEL];
                    // SAFETY: the panels lie within the head's packed queries, keys and tile in the scratch.
                    unsafe {
                        for (i, panel) in panels[..lanes / PANEL].iter_mut().enumerate() {
                            *panel = queries.as_ptr::<P>().add((head * lanes + i * PANEL) * stride);
                        }
                        times_columns::<S, P>(
                            s,
                            tile_keys.len(),
                            row_tile.dim.inner(P::PAIR),
                            scratch.keys.as_ptr(),
                            stride,
                            &panels[..lanes / PANEL],
                            scratch.tile.as_mut_ptr(),
                            lanes,
                            false,
                        );
                    }
                    for (row, key) in scratch.tile.chunks_exact(lanes).zip(tile_keys.clone()) {
                        // Lanes before this one stand before the key.
                        let hidden =
                            key as isize - shape.seqlens.past(row_tile.b) - row_tile.rows.start as isize;
                        let hidden =
                            if row_tile.options.causal { hidden.clamp(0, ROWS as isize) as i32 } else { 0 };
                        let mut sum = s.splat(0.0);
                        for lane in (0..lanes).step_by(S::LANES) {
                            // SAFETY: vector `lane` lies within the row of the tile and the head's shifts.
                            unsafe {
                                let shift = s.load(shifts.as_ptr().add(head * lanes + lane));
                                let p = s.exp2(s.mul_add(s.load(row.as_ptr().add(lane)), scale, shift));
                                let (first, end) =
                                    (hidden - lane as i32, row_tile.rows.len() as i32 - lane as i32);
                                sum = s.add(sum, s.select_range(p, first, end, s.splat(0.0)));
                            }
                        }
                        // SAFETY: the key's own sum.
                        unsafe { *sums.add(key - keys.start).0 += s.reduce_add(sum) as f64 };
                    }
                }
            }
        }
    }
}
