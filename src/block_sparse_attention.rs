//! Flash attention over the blocks that a [`BlockMask`] lists, and no others.

use crate::staging::Staging;
use crate::{
    AttentionOptions, AttentionShape, BlockMask, Device, Element, Result, TensorView, TensorViewMut, cpu, gpu,
};

/// A block-sparse attention call of fixed sizes. Planning allocates, running does not, but for a mask's copy on a GPU.
///
/// # Examples
/// ```
/// use lacuna::{
///     AttentionOptions, AttentionShape, BlockMask, Device, Seqlens, TensorView, TensorViewMut,
///     block_sparse_attention,
/// };
///
/// let shape = AttentionShape::new(2, 1, 64, Seqlens::single(256, 256)?)?;
/// // Each query block reads the first key block and its own.
/// let block_mask = BlockMask::sink_and_local(&shape, 64, 64, 64, 1)?;
/// let (q, kv) = (vec![0.5f32; 256 * 2 * 64], vec![0.25f32; 256 * 64]);
/// let mut out = vec![0.0f32; q.len()];
///
/// let mut plan =
///     block_sparse_attention::Plan::new(Device::Cpu, &shape, &AttentionOptions::default(), 64, 64)?;
/// plan.run(
///     &TensorView::thd(&q, 256, 2, 64)?,
///     &TensorView::thd(&kv, 256, 1, 64)?,
///     &TensorView::thd(&kv, 256, 1, 64)?,
///     &block_mask,
///     &mut TensorViewMut::thd(&mut out, 256, 2, 64)?,
///     None,
/// )?;
/// assert!((out[0] - 0.25).abs() < 1e-6);
/// # Ok::<(), lacuna::Error>(())
/// ```
pub struct Plan<T: Element> {
    engine: Engine<T>,
}

enum Engine<T: Element> {
    Cpu(Box<cpu::block_sparse_attention::Plan<T>>),
    Gpu(Box<OnGpu<T>>),
}

struct OnGpu<T: Element> {
    context: gpu::Context,
    shape: AttentionShape,
    plan: gpu::block_sparse_attention::Plan<T>,
    staging: Staging<T>,
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape` with masks of `block_m` query tokens by `block_n` key tokens.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a block of 0 tokens, a scale that is not finite, and a
    /// type, head dim or block that the device's kernels do not take; [`Error::TooLarge`](crate::Error::TooLarge) for sizes
    /// that overflow; [`Error::Device`](crate::Error::Device) for a device that cannot be used.
    pub fn new(
        device: Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
        block_m: usize,
        block_n: usize,
    ) -> Result<Self> {
        let engine = match device.context()? {
            None => Engine::Cpu(Box::new(cpu::block_sparse_attention::Plan::new(
                shape, options, block_m, block_n,
            )?)),
            Some(context) => Engine::Gpu(Box::new(OnGpu {
                plan: gpu::block_sparse_attention::Plan::new(&context, shape, options, block_m, block_n)?,
                staging: Staging::of_shape(&context, shape)?,
                shape: shape.clone(),
                context,
            })),
        };
        Ok(Self { engine })
    }

    /// Computes `out` and, where asked, the log-sum-exp of every row, from the listed blocks alone; the causal mask and
    /// the tail of the keys are masked element by element within them.
    ///
    /// Shapes, empty rows and non-finite values are as for
    /// [`dense_attention::Plan::run`](crate::dense_attention::Plan::run); a row without any block is an empty row.
    ///
    /// # Errors
    /// As there, and [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a mask of other sizes than the plan's.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        block_mask: &BlockMask,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        cpu::check_finite("block_sparse_attention", "q", q)?;
        match &mut self.engine {
            Engine::Cpu(plan) => plan.run(q, k, v, block_mask, out, softmax_lse),
            Engine::Gpu(on_gpu) => {
                let OnGpu { context, shape, plan, staging } = &mut **on_gpu;
                shape.check_call("block_sparse_attention", q, k, v, out, softmax_lse.as_deref())?;
                let block_mask =
                    gpu::block_sparse_attention::DeviceBlockMask::from_host(context, block_mask)?;
                staging.run(q, k, v, Some, out, softmax_lse, |mut on| {
                    plan.run(on.stream, &on.q, &on.k, &on.v, &block_mask, &mut on.out, on.softmax_lse)
                })
            }
        }
    }
}
