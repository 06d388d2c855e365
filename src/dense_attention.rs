//! Dense flash attention: `out = softmax(softmax_scale * q k^T + mask) v`.

use crate::staging::Staging;
use crate::{AttentionOptions, AttentionShape, Device, Element, Result, TensorView, TensorViewMut, cpu, gpu};

/// A dense attention call of fixed sizes. Planning allocates, running does not.
///
/// # Examples
/// ```
/// use lacuna::{AttentionOptions, AttentionShape, Device, Seqlens, TensorView, TensorViewMut, dense_attention};
///
/// // 4 query heads read 2 KV heads; 3 new tokens after 5 past ones.
/// let shape = AttentionShape::new(4, 2, 64, Seqlens::single(3, 8)?)?;
/// let (q, kv) = (vec![0.5f32; 3 * 4 * 64], vec![0.25f32; 8 * 2 * 64]);
/// let (mut out, mut softmax_lse) = (vec![0.0f32; q.len()], vec![0.0f32; 4 * 3]);
///
/// let mut plan = dense_attention::Plan::new(Device::Cpu, &shape, &AttentionOptions::default())?;
/// plan.run(
///     &TensorView::thd(&q, 3, 4, 64)?,
///     &TensorView::thd(&kv, 8, 2, 64)?,
///     &TensorView::thd(&kv, 8, 2, 64)?,
///     &mut TensorViewMut::thd(&mut out, 3, 4, 64)?,
///     Some(&mut softmax_lse),
/// )?;
/// assert!((out[0] - 0.25).abs() < 1e-6); // all values alike: their mean is themselves
/// assert!((softmax_lse[0] - (1.0 + 6f32.ln())).abs() < 1e-5); // 6 visible keys, logit 64 * 0.5 * 0.25 / 8
/// # Ok::<(), lacuna::Error>(())
/// ```
pub struct Plan<T: Element> {
    engine: Engine<T>,
}

enum Engine<T: Element> {
    Cpu(Box<cpu::dense_attention::Plan<T>>),
    Gpu(Box<OnGpu<T>>),
}

struct OnGpu<T: Element> {
    shape: AttentionShape,
    plan: gpu::dense_attention::Plan<T>,
    staging: Staging<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a scale that is not finite, and for a type or head dim
    /// that the device's kernels do not take; [`Error::TooLarge`](crate::Error::TooLarge) for sizes that overflow;
    /// [`Error::Device`](crate::Error::Device) for a device that cannot be used.
    pub fn new(device: Device, shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        let engine = match device.context()? {
            None => Engine::Cpu(Box::new(cpu::dense_attention::Plan::new(shape, options)?)),
            Some(context) => Engine::Gpu(Box::new(OnGpu {
                plan: gpu::dense_attention::Plan::new(&context, shape, options)?,
                staging: Staging::of_shape(&context, shape)?,
                shape: shape.clone(),
            })),
        };
        Ok(Self { engine })
    }

    /// Computes `out` and, where asked, the log-sum-exp of every row.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `q` | `[total_q, num_heads, head_dim]` | `T` |
    /// | `k`, `v` | `[total_k, num_heads_k, head_dim]` | `T` |
    /// | `out` | as `q`; a row that sees no key becomes 0 | `T` |
    /// | `softmax_lse` | `[num_heads, total_q]`, natural log; -inf for a row that sees no key | `f32` |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`](crate::Error::ShapeMismatch) where a tensor does not fit the plan,
    /// [`Error::NotFinite`](crate::Error::NotFinite) for a NaN or infinity in `q`. One in `k` or `v` reaches the rows
    /// that see it and no other.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        cpu::check_finite("dense_attention", "q", q)?;
        match &mut self.engine {
            Engine::Cpu(plan) => plan.run(q, k, v, out, softmax_lse),
            Engine::Gpu(on_gpu) => {
                let OnGpu { shape, plan, staging } = &mut **on_gpu;
                shape.check_call("dense_attention", q, k, v, out, softmax_lse.as_deref())?;
                staging.run(q, k, v, Some, out, softmax_lse, |mut on| {
                    plan.run(on.stream, &on.q, &on.k, &on.v, &mut on.out, on.softmax_lse)
                })
            }
        }
    }
}
