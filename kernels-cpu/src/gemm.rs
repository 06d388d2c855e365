//! Matrix products with weights that are packed once: the linear layers of a transformer.

use std::marker::PhantomData;

use half::{bf16, f16};
use lacuna_core::{DType, Element, Error, Result};
use rayon::prelude::*;

use crate::buffer::{Buffer, SharedPtr};
use crate::per_type::per_type;
use crate::schedule;
use crate::simd::matmul::{PANEL, times_columns};
use crate::simd::{Dot, Isa, Kernel, Operand, Simd, store_left};
use crate::tile_size::{GEMM_INNER, GEMM_PANELS, GEMM_ROWS, GEMV_INNER, GEMV_PANELS, GEMV_ROWS};

const OP: &str = "gemm";

/// A weight matrix `[n, k]` (`[out_features, in_features]`), packed for [`matmul`]. As large as the matrix, up to
/// padding of `n` to 16.
pub struct PackedWeights<T: Element> {
    isa: Isa,
    n: usize,
    k: usize,
    panels: Buffer,
    element: PhantomData<T>,
}

impl<T: Element> PackedWeights<T> {
    /// Packs `weights`, row-major `[n, k]`.
    ///
    /// # Errors
    /// `n` or `k` of 0; `weights` of another length than `n * k`.
    pub fn new(weights: &[T], n: usize, k: usize) -> Result<Self> {
        for (arg, x) in [("n", n), ("k", k)] {
            if x == 0 {
                return Err(Error::invalid(OP, arg, "at least 1", x));
            }
        }
        if n.checked_mul(k) != Some(weights.len()) {
            return Err(Error::shape(OP, "weights", [n, k], [weights.len()]));
        }
        let isa = Isa::current();
        let count = n.div_ceil(PANEL);
        let panel_bytes = [PANEL, k.next_multiple_of(2), size_of::<T>()];
        let mut panels = Buffer::zeroed(OP, &[&[count], &panel_bytes[..]].concat())?;
        let call = Pack { weights, n, k, isa, panels: SharedPtr(panels.as_mut_ptr()) };
        per_type!(T, Pack, call, run);
        Ok(Self { isa, n, k, panels, element: PhantomData })
    }

    /// Rows: output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Columns: input features.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// Elements of a panel of `k` inner indices.
fn panel_len(k: usize) -> usize {
    PANEL * k.next_multiple_of(2)
}

/// Packing of a whole matrix.
struct Pack<'a, T: Element> {
    weights: &'a [T],
    n: usize,
    k: usize,
    isa: Isa,
    panels: SharedPtr<T>,
}

impl<T: Element> Pack<'_, T> {
    fn run(self) {
        (0..self.n.div_ceil(PANEL)).into_par_iter().for_each(|panel| {
            self.isa.run_narrow::<T, _>(PackPanel { call: &self, panel });
        });
    }
}

struct PackPanel<'a, T: Element> {
    call: &'a Pack<'a, T>,
    panel: usize,
}

impl<T: Element> Kernel for PackPanel<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, _: S) {
        debug_assert!(size_of::<P>() == size_of::<T>());
        let Pack { weights, n, k, panels, .. } = *self.call;
        let first = self.panel * PANEL;
        for lane in 0..PANEL.min(n - first) {
            for (i, &x) in weights[(first + lane) * k..][..k].iter().enumerate() {
                let at = (i / P::PAIR * PANEL + lane) * P::PAIR + i % P::PAIR;
                // SAFETY: inside this panel, which this thread alone writes. Operands and elements have the same bits.
                unsafe { panels.0.add(self.panel * panel_len(k) + at).write(x) };
            }
        }
    }
}

/// `c[m, n] = a[m, k] * weights[n, k]^T`, all row-major; `m` is what the length of `a` says.
///
/// `bf16` weights are multiplied as pairs on AVX512-BF16 (subnormals count as zero); 16-bit weights elsewhere are
/// widened as they are loaded. Every sum runs in `f32`, in ascending order of the inner index, whatever `m` and the
/// number of threads: a row of `c` has the same bits alone and in a batch. `c` may be of a wider type than `a`.
///
/// # Errors
/// Slices whose lengths are not those of whole rows.
///
/// # Examples
/// ```
/// use lacuna_kernels_cpu::gemm::{PackedWeights, matmul};
/// let weights = PackedWeights::new(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3)?;
/// let mut c = [0.0f32; 2];
/// matmul(&[1.0, 0.0, -1.0], &weights, &mut c)?;
/// assert_eq!(c, [-2.0, -2.0]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn matmul<T: Element, C: Element>(a: &[T], weights: &PackedWeights<T>, c: &mut [C]) -> Result<()> {
    let (n, k) = (weights.n, weights.k);
    let m = a.len() / k;
    if a.len() != m * k {
        return Err(Error::shape(OP, "a", [m, k], [a.len()]));
    }
    if Some(c.len()) != m.checked_mul(n) {
        return Err(Error::shape(OP, "c", [m, n], [c.len()]));
    }
    if m == 0 {
        return Ok(());
    }
    let few = m <= GEMV_ROWS;
    let tile = Tile {
        rows: m.min(GEMM_ROWS),
        panels: if few { GEMV_PANELS } else { GEMM_PANELS },
        inner: if few { GEMV_INNER } else { GEMM_INNER }.min(k.next_multiple_of(2)),
    };
    let (row_tiles, panel_tiles) = (m.div_ceil(tile.rows), n.div_ceil(PANEL * tile.panels));
    let threads = rayon::current_num_threads().min(row_tiles * panel_tiles);
    let new_worker = |_| {
        Ok(Worker {
            left: Buffer::zeroed(OP, &[tile.rows, tile.inner, size_of::<f32>()])?,
            sums: Buffer::zeroed(OP, &[tile.rows, tile.panels * PANEL, size_of::<f32>()])?,
        })
    };
    let mut workers: Vec<Worker> = (0..threads).map(new_worker).collect::<Result<_>>()?;
    let c = (SharedPtr(c.as_mut_ptr().cast()), C::DTYPE);
    per_type!(
        T,
        Product,
        Product { a, m, weights, c, tile, row_tiles, panel_tiles, workers: &mut workers },
        run
    );
    Ok(())
}

/// Extents of a task.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    panels: usize,
    inner: usize,
}

/// What a thread works with: a tile of the left-hand side as operands, and of sums.
struct Worker {
    left: Buffer,
    sums: Buffer,
}

/// One product, its arguments checked.
struct Product<'a, T: Element> {
    a: &'a [T],
    m: usize,
    weights: &'a PackedWeights<T>,
    c: (SharedPtr<u8>, DType),
    tile: Tile,
    row_tiles: usize,
    panel_tiles: usize,
    workers: &'a mut [Worker],
}

impl<T: Element> Product<'_, T> {
    fn run(self) {
        let Self { a, m, weights, c, tile, row_tiles, panel_tiles, workers } = self;
        // Row tiles inside: they find the weights in the shared cache.
        schedule::for_each(workers, row_tiles * panel_tiles, |worker, task| {
            let (row, panel) = (task % row_tiles * tile.rows, task / row_tiles * tile.panels);
            weights.isa.run_narrow::<T, _>(ProductTile { a, m, weights, c, worker, tile, row, panel });
        });
    }
}

struct ProductTile<'a, T: Element> {
    a: &'a [T],
    m: usize,
    weights: &'a PackedWeights<T>,
    c: (SharedPtr<u8>, DType),
    worker: &'a mut Worker,
    tile: Tile,
    row: usize,
    panel: usize,
}

impl<T: Element> Kernel for ProductTile<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let Self { a, weights, tile, row, panel, .. } = self;
        let PackedWeights { n, k, .. } = *weights;
        let sums = self.worker.sums.as_mut_ptr::<f32>();
        let staged = self.worker.left.as_mut_ptr::<P::Left>();
        let rows = tile.rows.min(self.m - row);
        let panels = tile.panels.min(n.div_ceil(PANEL) - panel);
        let columns = tile.panels * PANEL;
        // Rows that are operands as they are, in whole steps, are read where they lie.
        let in_place = size_of::<P::Left>() == size_of::<T>() && k.is_multiple_of(P::PAIR);
        let mut at = [std::ptr::null(); GEMM_PANELS];
        for first in (0..k).step_by(tile.inner) {
            let count = tile.inner.min(k - first);
            let padded = count.next_multiple_of(P::PAIR);
            // SAFETY: `a` has all rows, the worker's memory a tile; the panels hold all inner indices.
            unsafe {
                let (left, stride) = if in_place {
                    (a.as_ptr().add(row * k + first).cast::<P::Left>(), k)
                } else {
                    for r in 0..rows {
                        let to = staged.add(r * tile.inner);
                        store_left::<S, P, T>(s, &a[(row + r) * k + first..][..count], to);
                        if padded > count {
                            to.add(count).write(P::Left::default());
                        }
                    }
                    (staged.cast_const(), tile.inner)
                };
                for (j, at) in at[..panels].iter_mut().enumerate() {
                    *at = weights.panels.as_ptr::<P>().add((panel + j) * panel_len(k) + first * PANEL);
                }
                times_columns(s, rows, padded, left, stride, &at[..panels], sums, columns, first > 0);
            }
        }
        let count = (panels * PANEL).min(n - panel * PANEL);
        for r in 0..rows {
            let at = (row + r) * n + panel * PANEL;
            let (c, dtype) = self.c;
            // SAFETY: the columns of this task in one row of `c`, whose elements are of type `dtype` and which it alone
            // writes; the sums of that row.
            unsafe {
                let sums = std::slice::from_raw_parts(sums.add(r * columns), count);
                match dtype {
                    DType::F32 => store_row(s, sums, c.0.cast::<f32>().add(at)),
                    DType::Bf16 => store_row(s, sums, c.0.cast::<bf16>().add(at)),
                    DType::F16 => store_row(s, sums, c.0.cast::<f16>().add(at)),
                }
            }
        }
    }
}

/// Rounds `sums` to elements.
///
/// # Safety
/// `to` must be valid for writing as many elements as there are sums.
#[inline(always)]
unsafe fn store_row<S: Simd, C: Element>(s: S, sums: &[f32], to: *mut C) {
    let whole = sums.len() / S::LANES * S::LANES;
    // SAFETY: inside both.
    unsafe {
        for i in (0..whole).step_by(S::LANES) {
            s.store_rounded(to.add(i), s.load(sums.as_ptr().add(i)));
        }
        for i in whole..sums.len() {
            to.add(i).write(C::from_f32(sums[i]));
        }
    }
}
