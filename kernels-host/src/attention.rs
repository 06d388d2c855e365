//! What dense and block-sparse attention have in common on the host.

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result};
use lacuna_kernels_gpu::kernel::Kernel;
use lacuna_kernels_gpu::params::{AttentionParams, SoftmaxScale, Strides};

use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::DevicePtr;
use crate::launch::Launch;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

/// The tensors of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tensors {
    pub(crate) q: RawTensor,
    pub(crate) k: RawTensor,
    pub(crate) v: RawTensor,
    pub(crate) out: RawTensor,
}

impl Tensors {
    /// `params` with the strides of these tensors, checked for alignment.
    pub(crate) fn strides<T>(&self, op: &'static str, params: &AttentionParams) -> Result<AttentionParams> {
        Ok(AttentionParams {
            q: Arg { op, name: "q" }.raw::<T>(&self.q)?,
            k: Arg { op, name: "k" }.raw::<T>(&self.k)?,
            v: Arg { op, name: "v" }.raw::<T>(&self.v)?,
            out: Arg { op, name: "out" }.raw::<T>(&self.out)?,
            ..*params
        })
    }
}

/// The sizes that the tensors of a call must have.
#[derive(Debug, Clone)]
pub(crate) struct AttentionCall {
    op: &'static str,
    q: [usize; 3],
    k: [usize; 3],
    softmax_scale: SoftmaxScale,
}

impl AttentionCall {
    pub(crate) fn new(op: &'static str, shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        Ok(Self {
            op,
            q: [shape.seqlens.total_q(), shape.num_heads, shape.head_dim],
            k: [shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim],
            softmax_scale: check::softmax_scale(op, shape, options)?,
        })
    }

    /// `kernel` over `tiles` tiles of query rows: heads of a group side by side, so that they find their keys in the cache.
    pub(crate) fn launch(
        &self,
        context: &Context,
        kernel: &Kernel,
        shape: &AttentionShape,
        tiles: usize,
    ) -> Result<Launch> {
        Launch::new(
            context,
            self.op,
            kernel,
            [shape.group_size(), tiles, shape.num_heads_k],
            ["the number of query heads per KV head", "the number of query tiles", "num_heads_k"],
        )
    }

    /// The kernels' parameters, but for the strides.
    pub(crate) fn params(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        block_n: u32,
    ) -> Result<AttentionParams> {
        check::sequence_lengths(self.op, &shape.seqlens)?;
        let none = Strides { token: 0, head: 0 };
        let (head_step_k, head_step) = check::head_steps(self.op, shape, options)?;
        Ok(AttentionParams {
            q: none,
            k: none,
            v: none,
            out: none,
            total_q: check::to_u32(self.op, "the number of query tokens", shape.seqlens.total_q())?,
            head_step_k,
            head_step,
            causal: options.causal.into(),
            softmax_scale: self.softmax_scale,
            block_n,
        })
    }

    /// Tensors of the planned shape on the device of `context`, and the address of the LSE, null when it is not wanted.
    pub(crate) fn check<T: Element>(
        &self,
        context: &Context,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
        out: &DeviceViewMut<T>,
        softmax_lse: Option<&DeviceBuffer<f32>>,
    ) -> Result<(Tensors, DevicePtr)> {
        let arg = |name| Arg { op: self.op, name };
        let tensors = Tensors {
            q: arg("q").view(context, q, self.q)?,
            k: arg("k").view(context, k, self.k)?,
            v: arg("v").view(context, v, self.k)?,
            out: arg("out").view_mut(context, out, self.q)?,
        };
        let [total_q, num_heads, _] = self.q;
        Ok((tensors, arg("softmax_lse").list(context, softmax_lse, [num_heads, total_q])?))
    }
}
