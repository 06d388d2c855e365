//! The low-precision twin: how good a kernel of the input type can be.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result, TensorView};

use crate::masked_attention::{AttentionOutput, visible_keys};

/// Keys that one step of the online softmax takes.
const BLOCK_N: usize = 64;

/// [`masked_attention`](crate::masked_attention()) as a flash kernel computes it: `f32` accumulation, online softmax over
/// tiles of 64 keys, weights rounded to `T` before they meet `v`, outputs rounded to `T`.
///
/// Its distance to the `f64` result sets the tolerance for a kernel of this type.
///
/// # Errors
/// As [`masked_attention`](crate::masked_attention()).
pub fn twin_attention<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    v: &TensorView<T>,
    options: &AttentionOptions,
    sees: impl Fn(usize, usize, usize, usize) -> bool,
) -> Result<AttentionOutput> {
    const OP: &str = "twin_attention";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    shape.check_k(OP, "v", v)?;
    options.check(OP)?;
    let scale = shape.softmax_scale(options.softmax_scale);
    let (total_q, heads, dim) = (shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    let mut out = vec![0.0; total_q * heads * dim];
    let mut softmax_lse = vec![f64::NEG_INFINITY; heads * total_q];
    for b in 0..shape.seqlens.batch() {
        let (q_start, k_start) = (shape.seqlens.q_range(b).start, shape.seqlens.k_range(b).start);
        for h in 0..heads {
            let h_k = shape.head_k(h, options.gqa_interleave);
            for i in 0..shape.seqlens.seqlen_q(b) {
                let q_row = q.row(q_start + i, h);
                let keys: Vec<usize> =
                    visible_keys(shape, options.causal, b, i).filter(|&j| sees(b, h, i, j)).collect();
                let (mut row_max, mut row_sum, mut acc) = (f32::NEG_INFINITY, 0.0f32, vec![0.0f32; dim]);
                for tile in keys.chunk_by(|a, b| a / BLOCK_N == b / BLOCK_N) {
                    let logits: Vec<f32> = tile
                        .iter()
                        .map(|&j| {
                            let k_row = k.row(k_start + j, h_k);
                            scale * q_row.iter().zip(k_row).map(|(q, k)| q.to_f32() * k.to_f32()).sum::<f32>()
                        })
                        .collect();
                    let new_max = logits.iter().copied().fold(row_max, f32::max);
                    let rescale = (row_max - new_max).exp();
                    row_max = new_max;
                    row_sum *= rescale;
                    acc.iter_mut().for_each(|o| *o *= rescale);
                    for (&j, logit) in tile.iter().zip(logits) {
                        let p = (logit - row_max).exp();
                        row_sum += p;
                        let p = T::from_f32(p).to_f32();
                        for (o, v) in acc.iter_mut().zip(v.row(k_start + j, h_k)) {
                            *o += p * v.to_f32();
                        }
                    }
                }
                if !keys.is_empty() {
                    for (o, acc) in out[((q_start + i) * heads + h) * dim..].iter_mut().zip(acc) {
                        *o = T::from_f32(acc / row_sum).to_f32() as f64;
                    }
                    softmax_lse[h * total_q + q_start + i] = (row_max + row_sum.ln()) as f64;
                }
            }
        }
    }
    Ok(AttentionOutput { out, softmax_lse })
}
