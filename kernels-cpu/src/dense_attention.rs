//! Dense attention: every query row reads all keys that the causal mask leaves.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result, TensorView, TensorViewMut};

use crate::engine::{Engine, Pattern, Task};
use crate::key_list::KeyList;
use crate::tile_size::ROW_TILE;

/// Dense attention over a ragged batch, planned for one shape and run any number of times.
///
/// ```text
/// out[i] = sum_j softmax_j(softmax_scale * q[i] . k[j]) v[j]        over the keys j that row i sees
/// lse[i] = ln sum_j exp(softmax_scale * q[i] . k[j])
/// ```
///
/// A flash forward pass ([FlashAttention-2](https://arxiv.org/abs/2307.08691)): no buffer grows with the product of the
/// lengths. The plan owns the packed keys and values (as large as `k` and `v`; twice that for 16-bit types on machines
/// without AVX512-BF16, which work in `f32`).
///
/// # Numerics
/// Products are accumulated in `f32`; the softmax is `f32`, in base 2. With `bf16` on AVX512-BF16 the weights are
/// rounded to `bf16` before they meet the values, and subnormal numbers count as zero; otherwise everything is `f32`
/// between the inputs and the rounding of the output.
///
/// A row's bits depend on its own sequence alone, not on the batch, the threads, or the rows beside it. They do depend
/// on the instruction set ([`crate::simd::Isa`]).
///
/// Keys and values that a row does not see never reach it, be they NaN. A NaN that it sees makes the row NaN.
///
/// # Examples
/// ```
/// use lacuna_core::{AttentionOptions, AttentionShape, Seqlens, TensorView, TensorViewMut};
/// use lacuna_kernels_cpu::dense_attention::Plan;
///
/// let shape = AttentionShape::new(4, 2, 64, Seqlens::single(100, 100)?)?;
/// let (q, k, v) = (vec![0.1f32; 100 * 4 * 64], vec![0.2f32; 100 * 2 * 64], vec![0.3f32; 100 * 2 * 64]);
/// let (mut out, mut lse) = (vec![0.0f32; q.len()], vec![0.0f32; 4 * 100]);
/// let mut plan = Plan::new(&shape, &AttentionOptions::default())?;
/// plan.run(
///     &TensorView::thd(&q, 100, 4, 64)?,
///     &TensorView::thd(&k, 100, 2, 64)?,
///     &TensorView::thd(&v, 100, 2, 64)?,
///     &mut TensorViewMut::thd(&mut out, 100, 4, 64)?,
///     Some(&mut lse),
/// )?;
/// assert!((out[0] - 0.3).abs() < 1e-6);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct Plan<T: Element> {
    engine: Engine<T>,
}

struct AllKeys;

impl Pattern for AllKeys {
    fn key_list(&self, _task: &Task) -> KeyList<'_> {
        KeyList::dense()
    }
}

impl<T: Element> Plan<T> {
    /// Allocates everything that [`Plan::run`] needs, for the threads of the current rayon pool.
    ///
    /// # Errors
    /// A `softmax_scale` that is not finite; sizes that no memory can hold.
    pub fn new(shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        let engine = Engine::new("dense_attention", shape, options, ROW_TILE, ROW_TILE, false)?;
        Ok(Self { engine })
    }

    /// Computes `out`, and `softmax_lse` if it is asked for.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `out` | `[total_q, num_heads, head_dim]` |
    /// | `k`, `v` | `[total_k, num_heads_k, head_dim]` |
    /// | `softmax_lse` | `f32 [num_heads, total_q]`, natural logarithm |
    ///
    /// A row that sees no key gives zeros and `-inf`.
    ///
    /// # Errors
    /// A tensor or buffer whose shape is not the plan's.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        self.engine.run(q, k, v, &AllKeys, out, softmax_lse)
    }
}
