//! Mean pooling of token blocks.

use std::ops::Range;

use lacuna_core::{Element, Error, Result, TensorView};
use rayon::prelude::*;

use crate::simd::{Dot, Isa, Kernel, Operand};

/// The mean over each block of `block_size` tokens of each sequence, accumulated in `f32`; the last block of a
/// sequence is divided by the tokens it has.
///
/// Sequence `b` owns tokens `cu_seqlens[b]..cu_seqlens[b + 1]` of `x`, `[tokens, heads, head_dim]`. `pooled` receives
/// `[blocks, heads, head_dim]`, the blocks of all sequences one after the other.
///
/// # Errors
/// When `block_size` is 0, `cu_seqlens` does not ascend from 0 to the tokens of `x`, or `pooled` has the wrong length.
///
/// ```
/// use lacuna_core::TensorView;
/// use lacuna_kernels_cpu::block_pool::block_pool;
/// let x = [0.0f32, 1.0, 2.0, 3.0, 4.0];
/// let mut pooled = [0.0; 3];
/// block_pool(&TensorView::thd(&x, 5, 1, 1)?, &[0, 5], 2, &mut pooled)?;
/// assert_eq!(pooled, [0.5, 2.5, 4.0]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub fn block_pool<T: Element>(
    x: &TensorView<T>,
    cu_seqlens: &[u32],
    block_size: usize,
    pooled: &mut [f32],
) -> Result<()> {
    const OP: &str = "block_pool";
    let [tokens, heads, head_dim] = x.shape();
    if block_size == 0 {
        return Err(Error::invalid(OP, "block_size", "at least 1", block_size));
    }
    let ascends = cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
    if !ascends || cu_seqlens.first() != Some(&0) || cu_seqlens.last().map(|&n| n as usize) != Some(tokens) {
        return Err(Error::invalid(
            OP,
            "cu_seqlens",
            format_args!("ascending from 0 to {tokens}"),
            format_args!("{cu_seqlens:?}"),
        ));
    }
    let blocks: usize = cu_seqlens.windows(2).map(|w| ((w[1] - w[0]) as usize).div_ceil(block_size)).sum();
    let block_len = heads * head_dim;
    if pooled.len() != blocks * block_len {
        return Err(Error::shape(OP, "pooled", [blocks, heads, head_dim], [pooled.len()]));
    }
    if block_len == 0 {
        return Ok(());
    }
    let isa = Isa::current();
    let mut rest = pooled;
    for sequence in cu_seqlens.windows(2) {
        let (start, end) = (sequence[0] as usize, sequence[1] as usize);
        let (of_sequence, after) = rest.split_at_mut((end - start).div_ceil(block_size) * block_len);
        rest = after;
        of_sequence.par_chunks_exact_mut(block_len).enumerate().for_each(|(block, means)| {
            let first = start + block * block_size;
            let tokens = first..(first + block_size).min(end);
            for (head, mean) in means.chunks_exact_mut(head_dim).enumerate() {
                isa.run::<T, _>(MeanRows { x, tokens: tokens.clone(), head, mean });
            }
        });
    }
    Ok(())
}

/// The mean of the rows of `tokens` of one head, added in order. Returns whether it is finite, which it is not when a row
/// is not.
pub(crate) struct MeanRows<'a, T> {
    pub x: &'a TensorView<'a, T>,
    pub tokens: Range<usize>,
    pub head: usize,
    pub mean: &'a mut [f32],
}

impl<T: Element> Kernel for MeanRows<'_, T> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> bool {
        let Self { x, tokens, head, mean } = self;
        let factor = 1.0 / tokens.len() as f64;
        let whole = mean.len() / S::LANES * S::LANES;
        mean.fill(0.0);
        for token in tokens {
            let row = &x.row(token, head)[..mean.len()];
            for i in (0..whole).step_by(S::LANES) {
                // SAFETY: both rows hold LANES elements from `i` on.
                unsafe {
                    let sum = mean.as_mut_ptr().add(i);
                    s.store(sum, s.add(s.load(sum), s.load_widened(row.as_ptr().add(i))));
                }
            }
            for i in whole..mean.len() {
                mean[i] += row[i].to_f32();
            }
        }
        let mut finite = true;
        for x in mean {
            *x = (*x as f64 * factor) as f32;
            finite &= x.is_finite();
        }
        finite
    }
}
