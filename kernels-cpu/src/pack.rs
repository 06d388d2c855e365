//! Packing of keys and values into the panels of [`crate::simd::matmul`].
//!
//! A panel holds 16 tokens of one head. Keys: a column panel, `[head_dim / PAIR][16][PAIR]`; values: a row panel,
//! `[16 / PAIR][head_dim][PAIR]`. Tokens past the end and features past `head_dim` are zero, whatever memory holds
//! there.

use std::mem::MaybeUninit;

use half::bf16;
use lacuna_core::{Element, TensorView};

use crate::simd::matmul::PANEL;
use crate::simd::{Dot, Operand, Simd};

/// The padded extents of a head in panels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadDim {
    /// Features.
    pub(crate) head_dim: usize,
}

impl HeadDim {
    /// Features of a packed key or query: whole words of 32 bits in blocks of 16.
    pub(crate) const fn key_stride(self, pair: usize) -> usize {
        self.head_dim.next_multiple_of(PANEL * pair)
    }

    /// Features that the product of queries and keys runs over.
    pub(crate) const fn inner(self, pair: usize) -> usize {
        self.head_dim.next_multiple_of(pair)
    }

    /// Features of a packed value or an output row.
    pub(crate) const fn value_stride(self) -> usize {
        self.head_dim.next_multiple_of(PANEL)
    }
}

/// What stands for a missing token, as any element type.
static ZERO_ROW: [u32; lacuna_core::MAX_HEAD_DIM] = [0; lacuna_core::MAX_HEAD_DIM];

/// Packs the rows of `tokens` (at most 16) as a column panel.
///
/// # Safety
/// `panel` must be valid for writing `16 * key_stride(PAIR)` elements.
#[inline(always)]
pub(crate) unsafe fn pack_keys<S: Dot<P>, P: Operand, T: Element>(
    s: S,
    dim: HeadDim,
    tokens: &[&[T]],
    panel: *mut P,
) {
    let head_dim = dim.head_dim;
    let mut rows = [ZERO_ROW.as_ptr().cast::<T>(); PANEL];
    for (row, token) in rows.iter_mut().zip(tokens) {
        debug_assert!(token.len() == head_dim);
        *row = token.as_ptr();
    }
    let same_bits = size_of::<T>() * P::PAIR == size_of::<u32>();
    let width = PANEL * P::PAIR;
    for at in (0..dim.key_stride(P::PAIR)).step_by(width) {
        // SAFETY: the block is 16 words wide; where memory is shorter or of another type it is staged; the panel has
        // room for every block.
        unsafe {
            let mut words = [std::ptr::null::<u32>(); PANEL];
            let mut stage = MaybeUninit::<[[u32; PANEL]; PANEL]>::uninit();
            if same_bits && at + width <= head_dim {
                for r in 0..PANEL {
                    words[r] = rows[r].add(at).cast();
                }
            } else {
                let count = width.min(head_dim - at);
                let stage = stage.write([[0; PANEL]; PANEL]);
                for r in 0..PANEL {
                    let from = rows[r].add(at);
                    if same_bits {
                        std::ptr::copy_nonoverlapping(from, stage[r].as_mut_ptr().cast::<T>(), count);
                    } else if count == PANEL {
                        for i in (0..PANEL).step_by(S::LANES) {
                            s.store(stage[r].as_mut_ptr().add(i).cast(), s.load_widened(from.add(i)));
                        }
                    } else {
                        for i in 0..count {
                            stage[r][i] = from.add(i).read().to_f32().to_bits();
                        }
                    }
                    words[r] = stage[r].as_ptr();
                }
            }
            s.transpose_16x16(&words, panel.add(at * PANEL).cast());
        }
    }
}

/// Packs the rows of `tokens` (at most 16) as a row panel.
///
/// # Safety
/// `panel` must be valid for writing `16 * value_stride()` elements.
#[inline(always)]
pub(crate) unsafe fn pack_values<S: Dot<P>, P: Operand, T: Element>(
    s: S,
    dim: HeadDim,
    tokens: &[&[T]],
    panel: *mut P,
) {
    let (head_dim, stride) = (dim.head_dim, dim.value_stride());
    let whole = head_dim / S::LANES * S::LANES;
    for pair in 0..PANEL / P::PAIR {
        // SAFETY: rows of `head_dim` elements are read, the two or one rows of the panel are written.
        unsafe {
            let out = panel.add(pair * stride * P::PAIR);
            let row = |e: usize| {
                tokens.get(pair * P::PAIR + e).map_or(ZERO_ROW.as_ptr().cast::<T>(), |token| token.as_ptr())
            };
            if P::PAIR == 2 {
                let (even, odd, out) = (row(0).cast::<u16>(), row(1).cast::<u16>(), out.cast::<u32>());
                for i in 0..head_dim {
                    out.add(i).write(even.add(i).read() as u32 | (odd.add(i).read() as u32) << 16);
                }
            } else {
                let (row, out) = (row(0), out.cast::<f32>());
                for i in (0..whole).step_by(S::LANES) {
                    s.store(out.add(i), s.load_widened(row.add(i)));
                }
                for i in whole..head_dim {
                    out.add(i).write(row.add(i).read().to_f32());
                }
            }
            for i in head_dim * P::PAIR..stride * P::PAIR {
                out.add(i).write(P::default());
            }
        }
    }
}

/// Whether all values of a packed row panel are finite.
///
/// # Safety
/// `panel` must be valid for reading `16 * value_stride()` elements.
#[inline(always)]
pub(crate) unsafe fn is_finite<S: Dot<P>, P: Operand>(s: S, dim: HeadDim, panel: *const P) -> bool {
    // A sum of zeros is NaN exactly when an element is not finite.
    let mut probe = s.splat(0.0);
    for i in (0..PANEL * dim.value_stride()).step_by(S::LANES) {
        // SAFETY: inside the panel, whose elements are `bf16` or `f32`.
        let values = unsafe {
            let at = panel.add(i);
            if P::PAIR == 2 { s.load_widened(at.cast::<bf16>()) } else { s.load(at.cast::<f32>()) }
        };
        probe = s.mul_add(values, s.splat(0.0), probe);
    }
    s.reduce_add(probe) == 0.0
}

/// The rows of at most 16 tokens of one head, and how many they are.
#[inline(always)]
pub(crate) fn panel_rows<'a, T: Element>(
    view: &TensorView<'a, T>,
    head: usize,
    tokens: impl ExactSizeIterator<Item = usize>,
) -> ([&'a [T]; PANEL], usize) {
    let mut rows: [&[T]; PANEL] = [&[]; PANEL];
    let count = tokens.len();
    for (row, token) in rows.iter_mut().zip(tokens) {
        *row = view.row(token, head);
    }
    (rows, count)
}

/// Asks for the cache lines of a row.
#[inline(always)]
pub(crate) fn prefetch_row<S: Simd, T: Element>(s: S, row: &[T]) {
    const LINE_BYTES: usize = 64;
    for line in row.chunks(LINE_BYTES / size_of::<T>()) {
        s.prefetch(line.as_ptr());
    }
}
