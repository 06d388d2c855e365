//! Attention of a few new tokens over a long KV cache, the keys split among threads and merged by their LSE.

use lacuna_core::DecodeCall;

use crate::staging::Staging;
use crate::{
    AttentionOptions, DecodeShape, Device, Element, Layout, Result, TensorView, TensorViewMut, cpu, gpu,
};

/// A decode call over padded caches. Planning allocates, running does not, but on a GPU when the number of new tokens
/// changes.
///
/// # Examples
/// ```
/// use lacuna::{AttentionOptions, DecodeShape, Device, TensorView, TensorViewMut, decode_attention};
///
/// // One sequence, one new token, room for 128 cached tokens, 10 of them filled (the new one included).
/// let (q, cache) = (vec![0.5f32; 4 * 64], vec![0.25f32; 128 * 2 * 64]);
/// let mut out = vec![0.0f32; q.len()];
/// let options = AttentionOptions::default();
/// let shape = DecodeShape {
///     batch: 1,
///     max_seqlen_q: 1,
///     num_heads: 4,
///     num_heads_k: 2,
///     head_dim: 64,
///     max_seqlen_k: 128,
/// };
/// let mut plan = decode_attention::Plan::new(Device::Cpu, &shape, &options)?;
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
    Cpu(Box<cpu::decode_attention::Plan<T>>),
    Gpu(Box<OnGpu<T>>),
}

struct OnGpu<T: Element> {
    context: gpu::Context,
    shape: DecodeShape,
    options: AttentionOptions,
    /// For calls of that many new tokens of each sequence.
    seqlen_q: usize,
    plan: gpu::decode_attention::Plan<T>,
    staging: Staging<T>,
}

impl<T: Element> OnGpu<T> {
    fn new(
        context: gpu::Context,
        shape: &DecodeShape,
        seqlen_q: usize,
        options: &AttentionOptions,
    ) -> Result<Self> {
        let DecodeShape { batch, num_heads, num_heads_k, head_dim, max_seqlen_k, .. } = *shape;
        let call = DecodeShape { max_seqlen_q: seqlen_q, ..shape.clone() };
        Ok(Self {
            plan: gpu::decode_attention::Plan::new(&context, &call, options)?,
            staging: Staging::new(
                &context,
                Layout::bshd(batch, seqlen_q, num_heads, head_dim),
                Layout::bshd(batch, max_seqlen_k, num_heads_k, head_dim),
            )?,
            context,
            shape: shape.clone(),
            options: *options,
            seqlen_q,
        })
    }

    fn run(
        &mut self,
        q: &TensorView<T>,
        k_cache: &TensorView<T>,
        v_cache: &TensorView<T>,
        cache_seqlens: &[u32],
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let lse = softmax_lse.as_deref();
        let DecodeCall { seqlen_q, capacity } =
            self.shape.check_call("decode_attention", q, k_cache, v_cache, cache_seqlens, out, lse)?;
        if seqlen_q == 0 {
            return Ok(());
        }
        if seqlen_q != self.seqlen_q {
            *self = Self::new(self.context.clone(), &self.shape, seqlen_q, &self.options)?;
        }
        let max_seqlen_k = self.shape.max_seqlen_k;
        // The device's caches have room for the plan's tokens, those of the host for theirs; what is filled fits both.
        let source = |token: usize| {
            let (b, j) = (token / max_seqlen_k, token % max_seqlen_k);
            (j < cache_seqlens[b] as usize).then_some(b * capacity + j)
        };
        let plan = &mut self.plan;
        self.staging.run(q, k_cache, v_cache, source, out, softmax_lse, |mut on| {
            plan.run(on.stream, &on.q, &on.k, &on.v, cache_seqlens, &mut on.out, on.softmax_lse)
        })
    }
}

impl<T: Element> Plan<T> {
    /// Plans calls of up to `shape`'s sizes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes out of range, and for a type or head dim that
    /// the device's kernels do not take; [`Error::Device`](crate::Error::Device) for a device that cannot be used.
    pub fn new(device: Device, shape: &DecodeShape, options: &AttentionOptions) -> Result<Self> {
        let engine = match device.context()? {
            None => Engine::Cpu(Box::new(cpu::decode_attention::Plan::new(shape, options)?)),
            Some(context) => Engine::Gpu(Box::new(OnGpu::new(context, shape, shape.max_seqlen_q, options)?)),
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
            Engine::Gpu(plan) => plan.run(q, k_cache, v_cache, cache_seqlens, out, softmax_lse),
        }
    }
}
