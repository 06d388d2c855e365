//! Mean pooling of token blocks.

use lacuna_core::{Element, Error, Result, TensorView};

/// The mean over each block of `block_size` tokens of each sequence; the last block of a sequence is divided by the
/// tokens it has.
///
/// Sequence `b` owns tokens `cu_seqlens[b]..cu_seqlens[b + 1]` of `x`, `[tokens, heads, head_dim]`. Returns
/// `[blocks, heads, head_dim]`, the blocks of all sequences one after the other.
///
/// # Errors
/// `block_size` 0, or `cu_seqlens` that do not ascend from 0 to the tokens of `x`.
pub fn block_pool<T: Element>(x: &TensorView<T>, cu_seqlens: &[u32], block_size: usize) -> Result<Vec<f64>> {
    const OP: &str = "block_pool";
    let [tokens, heads, dim] = x.shape();
    if block_size == 0 {
        return Err(Error::invalid(OP, "block_size", "at least 1", block_size));
    }
    let ascends = cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
    if !ascends || cu_seqlens.first() != Some(&0) || cu_seqlens.last().map(|&n| n as usize) != Some(tokens) {
        let expected = format_args!("ascending from 0 to {tokens}").to_string();
        return Err(Error::invalid(OP, "cu_seqlens", expected, format_args!("{cu_seqlens:?}")));
    }
    let mut pooled = Vec::new();
    for sequence in cu_seqlens.windows(2) {
        for start in (sequence[0] as usize..sequence[1] as usize).step_by(block_size) {
            let block = start..(start + block_size).min(sequence[1] as usize);
            for h in 0..heads {
                for d in 0..dim {
                    let sum: f64 = block.clone().map(|t| x.row(t, h)[d].to_f32() as f64).sum();
                    pooled.push(sum / block.len() as f64);
                }
            }
        }
    }
    Ok(pooled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_divided_by_its_own_tokens() {
        let x: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let x = TensorView::thd(&x, 8, 1, 1).unwrap();
        // Sequences of 5, 0 and 3 tokens in blocks of 2.
        assert_eq!(block_pool(&x, &[0, 5, 5, 8], 2).unwrap(), [0.5, 2.5, 4.0, 5.5, 7.0]);
        assert!(block_pool(&x, &[0, 5], 2).is_err());
        assert!(block_pool(&x, &[0, 8], 0).is_err());
    }
}
