//! Merging of attention results over disjoint sets of keys.

use lacuna_core::{Element, Error, Result, TensorView, TensorViewMut};
use rayon::prelude::*;

use crate::buffer::SharedPtr;

const OP: &str = "merge_state";

/// Merges two partial results: attention over the keys of both.
///
/// ```text
/// lse = ln(exp(lse_a) + exp(lse_b))        out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b
/// ```
///
/// Shapes: outputs `[tokens, heads, head_dim]`, log-sum-exps `f32 [heads, tokens]`, natural logarithm. The state
/// `(anything, -inf)` is the neutral one; merging only such states gives zeros and `-inf`. Computed in `f32` relative to
/// the larger log-sum-exp, so that no difference overflows. FlashInfer has the operation under the same name.
///
/// # Errors
/// Tensors or buffers whose shapes differ.
///
/// # Examples
/// ```
/// use lacuna_core::{TensorView, TensorViewMut};
/// use lacuna_kernels_cpu::merge_state::merge_state;
///
/// let (a, b, mut out, mut lse) = ([1.0f32, 1.0], [3.0f32, 5.0], [0.0f32; 2], [0.0f32; 1]);
/// merge_state(
///     &TensorView::thd(&a, 1, 1, 2)?,
///     &[0.0],
///     &TensorView::thd(&b, 1, 1, 2)?,
///     &[0.0],
///     &mut TensorViewMut::thd(&mut out, 1, 1, 2)?,
///     Some(&mut lse),
/// )?;
/// assert_eq!((out, lse), ([2.0, 3.0], [2.0f32.ln()]));
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn merge_state<T: Element>(
    out_a: &TensorView<T>,
    lse_a: &[f32],
    out_b: &TensorView<T>,
    lse_b: &[f32],
    out: &mut TensorViewMut<T>,
    softmax_lse: Option<&mut [f32]>,
) -> Result<()> {
    merge_states(&[(*out_a, lse_a), (*out_b, lse_b)], out, softmax_lse)
}

/// Merges any number of partial results; see [`merge_state`]. Of none it makes zeros and `-inf`.
///
/// # Errors
/// Tensors or buffers whose shapes differ.
pub fn merge_states<T: Element>(
    states: &[(TensorView<T>, &[f32])],
    out: &mut TensorViewMut<T>,
    softmax_lse: Option<&mut [f32]>,
) -> Result<()> {
    let [tokens, heads, head_dim] = out.shape();
    for (part, lse) in states {
        if part.shape() != out.shape() {
            return Err(Error::shape(OP, "out", part.shape(), out.shape()));
        }
        if lse.len() != heads * tokens {
            return Err(Error::shape(OP, "the softmax_lse of a state", [heads, tokens], [lse.len()]));
        }
    }
    if let Some(lse) = softmax_lse.as_ref().filter(|lse| lse.len() != heads * tokens) {
        return Err(Error::shape(OP, "softmax_lse", [heads, tokens], [lse.len()]));
    }
    let (out, layout) = out.as_mut_ptr();
    let out = SharedPtr(out);
    let lse_out = softmax_lse.map(|lse| SharedPtr(lse.as_mut_ptr()));
    // Rows of one token are worked on together: they are near one another in most layouts.
    (0..tokens).into_par_iter().with_min_len(16).for_each(|token| {
        let (out, lse_out) = (out, lse_out);
        let mut row = [0.0f32; lacuna_core::MAX_HEAD_DIM];
        for head in 0..heads {
            let lse_of = |lse: &[f32]| lse[head * tokens + token];
            let top = states.iter().map(|(_, lse)| lse_of(lse)).fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0.0f32;
            for at in (0..head_dim).step_by(row.len()) {
                let row = &mut row[..lacuna_core::MAX_HEAD_DIM.min(head_dim - at)];
                row.fill(0.0);
                sum = 0.0;
                for (part, lse) in states {
                    let weight = merge_weight(lse_of(lse), top);
                    // A state without weight is not read: it may hold anything.
                    if weight != 0.0 {
                        sum += weight;
                        let part = &part.row(token, head)[at..];
                        row.iter_mut().zip(part).for_each(|(o, x)| *o += weight * x.to_f32());
                    }
                }
                // SAFETY: rows of the output do not overlap, and this thread alone has the token.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(out.0.add(layout.offset(token, head) + at), row.len())
                };
                let divisor = if sum == 0.0 { 1.0 } else { sum };
                out.iter_mut().zip(row).for_each(|(o, x)| *o = T::from_f32(*x / divisor));
            }
            if let Some(lse) = lse_out {
                // SAFETY: inside `[heads, tokens]`, and this thread alone has the token.
                unsafe {
                    lse.0.add(head * tokens + token).write(if sum == 0.0 { top } else { top + sum.ln() })
                };
            }
        }
    });
    Ok(())
}

/// `exp(lse - top)`; 0 for a state that has seen nothing, NaN for one that is.
fn merge_weight(lse: f32, top: f32) -> f32 {
    if lse == f32::NEG_INFINITY { 0.0 } else { (lse - top).exp() }
}
