//! Combining attention over disjoint sets of keys.

use lacuna_core::{Element, Error, Result, TensorView};

use crate::masked_attention::AttentionOutput;

/// Merges the attention of the same queries over disjoint key sets: with `M = max lse_w` and `Z = sum exp(lse_w - M)`,
/// `out = sum exp(lse_w - M) / Z * out_w` and `lse = M + ln Z`.
///
/// A part is an output `[total_q, num_heads, head_dim]` and its `softmax_lse` `[num_heads, total_q]`. A row whose `lse`
/// is `-inf` takes no part, whatever its output holds: `(0, -inf)` is the identity, and rows that saw nothing anywhere
/// stay `(0, -inf)`. No parts at all give an empty result.
///
/// # Errors
/// Parts of different shapes.
pub fn merge_state<T: Element>(parts: &[(TensorView<T>, &[f32])]) -> Result<AttentionOutput> {
    const OP: &str = "merge_state";
    let [total_q, heads, dim] = parts.first().map_or([0; 3], |(out, _)| out.shape());
    for (out, lse) in parts {
        if out.shape() != [total_q, heads, dim] {
            return Err(Error::shape(OP, "out", [total_q, heads, dim], out.shape()));
        }
        if lse.len() != heads * total_q {
            return Err(Error::shape(OP, "softmax_lse", [heads, total_q], [lse.len()]));
        }
    }
    let mut out = vec![0.0; total_q * heads * dim];
    let mut softmax_lse = vec![f64::NEG_INFINITY; heads * total_q];
    for h in 0..heads {
        for i in 0..total_q {
            let row = h * total_q + i;
            let attended: Vec<_> = parts
                .iter()
                .map(|(out, lse)| (out, lse[row] as f64))
                .filter(|(_, x)| *x != f64::NEG_INFINITY)
                .collect();
            if attended.is_empty() {
                continue;
            }
            let max = attended.iter().fold(f64::NEG_INFINITY, |m, &(_, x)| m.max(x));
            let sum: f64 = attended.iter().map(|(_, x)| (x - max).exp()).sum();
            for (part, x) in attended {
                let weight = (x - max).exp() / sum;
                for (o, p) in out[(i * heads + h) * dim..][..dim].iter_mut().zip(part.row(i, h)) {
                    *o += weight * p.to_f32() as f64;
                }
            }
            softmax_lse[row] = max + sum.ln();
        }
    }
    Ok(AttentionOutput { out, softmax_lse })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merge(parts: &[(f32, f32)]) -> (f64, f64) {
        let views: Vec<_> = parts
            .iter()
            .map(|(out, lse)| {
                (TensorView::thd(std::slice::from_ref(out), 1, 1, 1).unwrap(), std::slice::from_ref(lse))
            })
            .collect();
        let merged = merge_state(&views).unwrap();
        (merged.out[0], merged.softmax_lse[0])
    }

    #[test]
    fn published_check_value() {
        let (out, lse) = merge(&[(1.0, 0.3), (2.0, -1.2), (-1.0, 2.0)]);
        assert!((lse - 2.2016712).abs() < 1e-7 && (out + 0.6014096).abs() < 1e-7, "{out} {lse}");
    }

    #[test]
    fn an_empty_part_is_the_identity_whatever_it_holds() {
        const EMPTY: f32 = f32::NEG_INFINITY;
        assert_eq!(merge(&[(3.0, 1.5)]), (3.0, 1.5));
        assert_eq!(merge(&[(0.0, EMPTY), (3.0, 1.5), (f32::NAN, EMPTY)]), (3.0, 1.5));
        assert_eq!(merge(&[(f32::NAN, EMPTY), (0.0, EMPTY)]), (0.0, f64::NEG_INFINITY));
    }

    #[test]
    fn far_apart_parts_do_not_overflow() {
        assert_eq!(merge(&[(1.0, -200.0), (2.0, 200.0)]), (2.0, 200.0));
        assert_eq!(merge(&[(1.0, 200.0), (2.0, -200.0)]), (1.0, 200.0));
    }
}
