//! Attention of a few new tokens over a long KV cache, the keys split among threads and merged by their LSE.

use crate::{AttentionOptions, Device, Element, Result, TensorView, TensorViewMut, cpu};

/// A decode call over padded caches. Planning allocates, running does not.
///
/// # Examples
/// ```
/// use lacuna::{AttentionOptions, Device, TensorView, TensorViewMut, decode_attention};
///
/// // One sequence, one new token, room for 128 cached tokens, 10 of them filled (the new one included).
/// let (q, cache) = (vec![0.5f32; 4 * 64], vec![0.25f32; 128 * 2 * 64]);
/// let mut out = vec![0.0f32; q.len()];
/// let options = AttentionOptions::default();
/// let mut plan = decode_attention::Plan::new(Device::Cpu, 1, 1, 4, 2, 64, 128, &options)?;
/// let cache = TensorView::bshd(&cache, 1, 128, 2, 64)?;
/// plan.run(
///     &TensorView::bshd(&q, 1, 1, 4, 64)?,
///     &cache,
///     &cache,
///     &[10],
///     &mut TensorViewMut::bshd(&mut out, 1, 1, 4, 64)?,
///     None,
/// )?;
/// assert!((out[0] - 0.25).abs() < 1e-6);
/// # Ok::<(), lacuna::Error>(())
/// ```
pub struct Plan<T: Element> {
    engine: Engine<T>,
}

enum Engine<T: Element> {
    Cpu(cpu::decode_attention::Plan<T>),
}

impl<T: Element> Plan<T> {
    /// Plans calls of `batch` sequences with up to `max_seqlen_q` new tokens each, over caches of `max_seqlen_k` tokens.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes out of range.
    pub fn new(
        device: Device,
        batch: usize,
        max_seqlen_q: usize,
        num_heads: usize,
        num_heads_k: usize,
        head_dim: usize,
        max_seqlen_k: usize,
        options: &AttentionOptions,
    ) -> Result<Self> {
        let engine = match device {
            Device::Cpu => Engine::Cpu(cpu::decode_attention::Plan::new(
                batch,
                max_seqlen_q,
                num_heads,
                num_heads_k,
                head_dim,
                max_seqlen_k,
                options,
            )?),
        };
        Ok(Self { engine })
    }

    /// Computes `out` and, where asked, the log-sum-exp of every row.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `q` | `[batch, seqlen_q, num_heads, head_dim]`, the newest tokens | `T` |
    /// | `k_cache`, `v_cache` | `[batch, max_seqlen_k, num_heads_k, head_dim]`, the new tokens included | `T` |
    /// | `cache_seqlens` | `[batch]`, filled tokens of each cache; what lies behind them is not read | `u32` |
    /// | `out` | as `q`; a row that sees no key becomes 0 | `T` |
    /// | `softmax_lse` | `[num_heads, batch * seqlen_q]`, natural log; -inf for a row that sees no key | `f32` |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where a tensor does not fit the plan,
    /// [`Error::NotFinite`](crate::Error::NotFinite) for a NaN or infinity in `q`.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k_cache: &TensorView<T>,
        v_cache: &TensorView<T>,
        cache_seqlens: &[u32],
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        cpu::check_finite("decode_attention", "q", q)?;
        match &mut self.engine {
            Engine::Cpu(plan) => plan.run(q, k_cache, v_cache, cache_seqlens, out, softmax_lse),
        }
    }
}
