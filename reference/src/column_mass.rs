//! How much attention each key received.

use std::ops::Range;

use lacuna_core::{AttentionOptions, AttentionShape, Element, Error, Result, TensorView};

use crate::masked_attention::{dot, visible_keys};

/// Adds to `mass[j - columns.start]`, for every key `j` in `columns` of sequence `b`, the attention it received from the
/// query `rows` of all heads: `sum over h, i of exp(scale * q_i . k_j - softmax_lse[h, i])` over the rows that see `j`.
///
/// `softmax_lse`, `[num_heads, total_q]`, is that of the attention itself, over all keys; rows whose value is `-inf` add
/// nothing. `rows` and `columns` count from the start of the sequence.
///
/// # Errors
/// `q`, `k` or `softmax_lse` of another shape than `shape` says, ranges that leave the sequence, `mass` of another length
/// than `columns`, a scale that is not finite.
pub fn column_mass<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    softmax_lse: &[f32],
    b: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    options: &AttentionOptions,
    mass: &mut [f64],
) -> Result<()> {
    const OP: &str = "column_mass";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    shape.check_lse(OP, Some(softmax_lse))?;
    options.check(OP)?;
    shape.check_window(OP, b, &rows, &columns)?;
    if mass.len() != columns.len() {
        return Err(Error::shape(OP, "mass", [columns.len()], [mass.len()]));
    }
    let scale = shape.softmax_scale(options.softmax_scale) as f64;
    let (q_start, k_start) = (shape.seqlens.q_range(b).start, shape.seqlens.k_range(b).start);
    for h in 0..shape.num_heads {
        let head_k = shape.head_k(h, options.gqa_interleave);
        for i in rows.clone() {
            let lse = softmax_lse[h * shape.seqlens.total_q() + q_start + i] as f64;
            if lse == f64::NEG_INFINITY {
                continue;
            }
            let visible = visible_keys(shape, options.causal, b, i);
            for j in columns.clone().filter(|j| visible.contains(j)) {
                let logit = scale * dot(q.row(q_start + i, h), k.row(k_start + j, head_k));
                mass[j - columns.start] += (logit - lse).exp();
            }
        }
    }
    Ok(())
}
