//! The two matrix products of attention, as register-tiled micro-kernels on packed operands.
//!
//! [`times_columns`] is `C = A B` (or `C += A B`) for a `B` packed by columns: *column panels* of 16 columns each,
//! `panel[step][column][PAIR]`, which is how keys and weights are packed (`S = Q K^T`, `Y = X W^T`).
//!
//! [`times_rows`] is `C += A B` for a `B` packed by rows: *row panels* of 16 rows each,
//! `panel[row / PAIR][column][PAIR]`, which is how values are packed (`O += P V`).
//!
//! In both a panel may lie anywhere, so that lists of blocks need no copies. Every element of `C` is one chain of
//! multiply-adds in ascending order of the inner index: its bits depend on its row of `A` and its column of `B` alone.

use super::{Dot, Operand};

/// Columns of a column panel, rows of a row panel.
pub const PANEL: usize = 16;

/// Calls a micro-kernel with its row and vector counts as constants.
macro_rules! with_tile {
    ($rows:expr, $vectors:expr, $kernel:ident, $s:expr, ($($arg:expr),*)) => {
        match $rows {
            1 => with_tile!(@ 1, $vectors, $kernel, $s, ($($arg),*)),
            2 => with_tile!(@ 2, $vectors, $kernel, $s, ($($arg),*)),
            3 => with_tile!(@ 3, $vectors, $kernel, $s, ($($arg),*)),
            4 => with_tile!(@ 4, $vectors, $kernel, $s, ($($arg),*)),
            5 if S::ROWS > 4 => with_tile!(@ 5, $vectors, $kernel, $s, ($($arg),*)),
            6 if S::ROWS > 4 => with_tile!(@ 6, $vectors, $kernel, $s, ($($arg),*)),
            _ => debug_assert!(false, "a tile of {} rows", $rows),
        }
    };
    (@ $m:literal, $vectors:expr, $kernel:ident, $s:expr, ($($arg:expr),*)) => {
        match $vectors {
            1 if S::LANES == 16 => $kernel::<S, P, $m, 1>($s, $($arg),*),
            2 if S::LANES >= 8 => $kernel::<S, P, $m, 2>($s, $($arg),*),
            3 if S::LANES == 16 => $kernel::<S, P, $m, 3>($s, $($arg),*),
            4 if S::LANES != 8 => $kernel::<S, P, $m, 4>($s, $($arg),*),
            _ => debug_assert!(false, "a tile of {} vectors", $vectors),
        }
    };
}

/// `C[r][16 j + c] = sum_i A[r][i] panels[j][i][c]` for i in 0..k, added to what `C` holds if `accumulate`.
///
/// # Safety
/// `a` must be valid for reading `k` elements at every multiple of `lda` below `rows * lda`; every panel for reading
/// `16 * k` elements; `c` for reading and writing `16 * panels.len()` elements at every multiple of `ldc` below
/// `rows * ldc`. `k` must be a multiple of `P::PAIR`.
#[inline(always)]
pub unsafe fn times_columns<S: Dot<P>, P: Operand>(
    s: S,
    rows: usize,
    k: usize,
    a: *const P::Left,
    lda: usize,
    panels: &[*const P],
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    debug_assert!(k.is_multiple_of(P::PAIR));
    // Columns outside, rows inside: the panels of a register tile stay in the nearest cache while the rows pass.
    let mut j = 0;
    while j < panels.len() {
        let groups = S::GROUPS.min(panels.len() - j);
        let vectors = groups * (PANEL / S::LANES);
        let mut r = 0;
        while r < rows {
            let m = S::ROWS.min(rows - r);
            // SAFETY: the tile lies inside what the caller vouches for.
            unsafe {
                let (a, c) = (a.add(r * lda), c.add(r * ldc + j * PANEL));
                let b = &panels[j..j + groups];
                with_tile!(m, vectors, columns_tile, s, (k, a, lda, b, c, ldc, accumulate));
            }
            r += m;
        }
        j += groups;
    }
}

/// # Safety
/// As [`times_columns`], for `M` rows and the `N * LANES / 16` panels of `b`.
#[inline(always)]
unsafe fn columns_tile<S: Dot<P>, P: Operand, const M: usize, const N: usize>(
    s: S,
    k: usize,
    a: *const P::Left,
    lda: usize,
    b: &[*const P],
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
) {
    let per_panel = PANEL / S::LANES;
    let mut acc = [[s.splat(0.0); N]; M];
    // SAFETY: all offsets lie inside what the caller vouches for.
    unsafe {
        if accumulate {
            for i in 0..M {
                for j in 0..N {
                    acc[i][j] = s.load(c.add(i * ldc + j * S::LANES));
                }
            }
        }
        let mut at = [std::ptr::null::<P>(); N];
        for j in 0..N {
            at[j] = b[j / per_panel].add(j % per_panel * S::LANES * P::PAIR);
        }
        for step in 0..k / P::PAIR {
            let mut right = [s.load_step(at[0]); N];
            for j in 0..N {
                right[j] = s.load_step(at[j].add(step * PANEL * P::PAIR));
            }
            for i in 0..M {
                let left = s.broadcast_step(a.add(i * lda + step * P::PAIR));
                for j in 0..N {
                    acc[i][j] = s.dot(acc[i][j], left, right[j]);
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                s.store(c.add(i * ldc + j * S::LANES), acc[i][j]);
            }
        }
    }
}

/// `C[r][c] += sum_i A[r][16 j + i] panels[j][i][c]` for i in 0..16 and every panel j; panels have `columns` columns,
/// a multiple of 16.
///
/// # Safety
/// `a` must be valid for reading `16 * panels.len()` elements at every multiple of `lda` below `rows * lda`; every
/// panel for reading `16 * columns` elements; `c` for reading and writing `columns` elements at every multiple of `ldc`
/// below `rows * ldc`.
#[inline(always)]
pub unsafe fn times_rows<S: Dot<P>, P: Operand>(
    s: S,
    rows: usize,
    columns: usize,
    a: *const P::Left,
    lda: usize,
    panels: &[*const P],
    c: *mut f32,
    ldc: usize,
) {
    debug_assert!(columns.is_multiple_of(PANEL));
    let mut j = 0;
    while j < columns {
        let groups = S::GROUPS.min((columns - j) / PANEL);
        let vectors = groups * (PANEL / S::LANES);
        let mut r = 0;
        while r < rows {
            let m = S::ROWS.min(rows - r);
            // SAFETY: the tile lies inside what the caller vouches for.
            unsafe {
                let (a, c) = (a.add(r * lda), c.add(r * ldc + j));
                with_tile!(m, vectors, rows_tile, s, (columns, j, a, lda, panels, c, ldc));
            }
            r += m;
        }
        j += groups * PANEL;
    }
}

/// # Safety
/// As [`times_rows`], for `M` rows and `N * LANES` columns from `column` on.
#[inline(always)]
unsafe fn rows_tile<S: Dot<P>, P: Operand, const M: usize, const N: usize>(
    s: S,
    columns: usize,
    column: usize,
    a: *const P::Left,
    lda: usize,
    panels: &[*const P],
    c: *mut f32,
    ldc: usize,
) {
    let mut acc = [[s.splat(0.0); N]; M];
    // SAFETY: all offsets lie inside what the caller vouches for.
    unsafe {
        for i in 0..M {
            for j in 0..N {
                acc[i][j] = s.load(c.add(i * ldc + j * S::LANES));
            }
        }
        for (panel, &b) in panels.iter().enumerate() {
            let (a, b) = (a.add(panel * PANEL), b.add(column * P::PAIR));
            for step in 0..PANEL / P::PAIR {
                let b = b.add(step * columns * P::PAIR);
                let mut right = [s.load_step(b); N];
                for j in 0..N {
                    right[j] = s.load_step(b.add(j * S::LANES * P::PAIR));
                }
                for i in 0..M {
                    let left = s.broadcast_step(a.add(i * lda + step * P::PAIR));
                    for j in 0..N {
                        acc[i][j] = s.dot(acc[i][j], left, right[j]);
                    }
                }
            }
        }
        for i in 0..M {
            for j in 0..N {
                s.store(c.add(i * ldc + j * S::LANES), acc[i][j]);
            }
        }
    }
}
