//! Attention under any mask given pair by pair: what the attention operations share.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result, TensorView};

/// What an attention operation returns.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionOutput {
    /// `[total_q, num_heads, head_dim]`; zero on rows that see nothing.
    pub out: Vec<f64>,
    /// `[num_heads, total_q]`, natural logarithm; `-inf` on rows that see nothing.
    pub softmax_lse: Vec<f64>,
}

/// Softmax attention in which query row `i` of sequence `b` and head `h` sees key `j` iff `sees(b, h, i, j)` and, when
/// `options.causal`, `j <= i + past`. Rows and keys are counted from the start of the sequence.
///
/// `out_i = sum_j p_ij v_j` with `p_ij = exp(scale * q_i . k_j - lse_i)` and
/// `lse_i = ln sum_j exp(scale * q_i . k_j)`, over the visible `j` only: hidden keys and values are not read.
///
/// # Errors
/// `q`, `k` or `v` of another shape than `shape` says, or a scale that is not finite.
pub fn masked_attention<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    v: &TensorView<T>,
    options: &AttentionOptions,
    sees: impl Fn(usize, usize, usize, usize) -> bool,
) -> Result<AttentionOutput> {
    const OP: &str = "masked_attention";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    shape.check_k(OP, "v", v)?;
    options.check(OP)?;
    let scale = shape.softmax_scale(options.softmax_scale) as f64;
    let (total_q, heads, dim) = (shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    let mut out = vec![0.0; total_q * heads * dim];
    let mut softmax_lse = vec![f64::NEG_INFINITY; heads * total_q];
    for b in 0..shape.seqlens.batch() {
        let (q_start, k_start) = (shape.seqlens.q_range(b).start, shape.seqlens.k_range(b).start);
        for h in 0..heads {
            let h_k = shape.head_k(h, options.gqa_interleave);
            for i in 0..shape.seqlens.seqlen_q(b) {
                let q_row = q.row(q_start + i, h);
                let visible = visible_keys(shape, options.causal, b, i).filter(|&j| sees(b, h, i, j));
                let logits: Vec<(usize, f64)> =
                    visible.map(|j| (j, scale * dot(q_row, k.row(k_start + j, h_k)))).collect();
                let row_max = logits.iter().fold(f64::NEG_INFINITY, |m, &(_, x)| m.max(x));
                if row_max == f64::NEG_INFINITY && !logits.iter().any(|(_, x)| x.is_nan()) {
                    continue;
                }
                let row_sum: f64 = logits.iter().map(|(_, x)| (x - row_max).exp()).sum();
                let out_row = &mut out[((q_start + i) * heads + h) * dim..][..dim];
                for (j, x) in logits {
                    let p = (x - row_max).exp() / row_sum;
                    for (o, v) in out_row.iter_mut().zip(v.row(k_start + j, h_k)) {
                        *o += p * v.to_f32() as f64;
                    }
                }
                softmax_lse[h * total_q + q_start + i] = row_max + row_sum.ln();
            }
        }
    }
    Ok(AttentionOutput { out, softmax_lse })
}

/// The keys that the causal mask, if any, leaves to query row `i` of sequence `b`.
pub(crate) fn visible_keys(
    shape: &AttentionShape,
    causal: bool,
    b: usize,
    i: usize,
) -> std::ops::Range<usize> {
    let seqlen_k = shape.seqlens.seqlen_k(b);
    let end = i as isize + 1 + shape.seqlens.past(b);
    0..if causal { end.clamp(0, seqlen_k as isize) as usize } else { seqlen_k }
}

/// The dot product of two rows; products of two `f32` are exact in `f64`.
pub(crate) fn dot<A: Element, B: Element>(a: &[A], b: &[B]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a.to_f32() as f64 * b.to_f32() as f64).sum()
}
