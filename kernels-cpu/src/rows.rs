//! Rows of tokens as the search kernels read them.

use lacuna_core::{AttentionShape, Element, Error, TensorView};

use crate::simd::{Dot, Operand, Simd, store_left};

/// Copies a row as left-hand operand elements, zero from its end to `stride`.
///
/// # Safety
/// `out` must be valid for writing `stride` elements, `stride` not below the row's length. `P` must be the operand type
/// that [`crate::simd::Isa::run`] chooses for `T`.
#[inline(always)]
pub(crate) unsafe fn copy_row<S: Dot<P>, P: Operand, T: Element>(
    s: S,
    row: &[T],
    stride: usize,
    out: *mut P::Left,
) {
    // SAFETY: `row.len()` elements are read and `stride` written.
    unsafe {
        store_left::<S, P, T>(s, row, out);
        std::ptr::write_bytes(out.add(row.len()), 0, stride - row.len());
    }
}

/// The `g`-th of the query heads that read KV head `head_k`.
pub(crate) fn query_head(shape: &AttentionShape, gqa_interleave: bool, head_k: usize, g: usize) -> usize {
    if gqa_interleave { g * shape.num_heads_k + head_k } else { head_k * shape.group_size() + g }
}

/// Whether all elements of a row are finite.
#[inline(always)]
pub(crate) fn is_finite<S: Simd, T: Element>(s: S, row: &[T]) -> bool {
    let whole = row.len() / S::LANES * S::LANES;
    // A sum of zeros is NaN exactly when an element is not finite.
    let mut probe = s.splat(0.0);
    for i in (0..whole).step_by(S::LANES) {
        // SAFETY: LANES elements from `i` on lie before `whole`.
        probe = s.mul_add(unsafe { s.load_widened(row.as_ptr().add(i)) }, s.splat(0.0), probe);
    }
    row[whole..].iter().fold(s.reduce_add(probe), |sum, x| sum + x.to_f32() * 0.0) == 0.0
}

/// The error for the first value of `rows` that is not finite, in the order given.
pub(crate) fn not_finite<T: Element>(
    op: &'static str,
    arg: &'static str,
    x: &TensorView<T>,
    rows: impl Iterator<Item = (usize, usize)>,
) -> Error {
    for (token, head) in rows {
        if let Some(value) = x.row(token, head).iter().map(|x| x.to_f32()).find(|x| !x.is_finite()) {
            return Error::NotFinite { op, arg, value, token, head };
        }
    }
    // Every value is finite, their products or sums are not.
    Error::invalid(op, arg, "small enough for logits that are finite in f32", "larger values")
}
