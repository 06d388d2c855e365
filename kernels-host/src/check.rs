//! What every launcher checks of its arguments.

use std::sync::Arc;

use bytemuck::Pod;
use lacuna_core::{AttentionOptions, AttentionShape, DType, Element, Error, Layout, Result, Seqlens};
use lacuna_kernels_gpu::kernel::Dtype;
use lacuna_kernels_gpu::params::{SoftmaxScale, Strides};

use crate::buffer::DeviceBuffer;
use crate::context::Context;
use crate::driver::{DevicePtr, Driver};
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

/// Bytes that kernels move at a time, and to which rows are aligned.
const ALIGNMENT: usize = 16;

/// The kernels' name for an element type.
pub(crate) fn dtype<T: Element>() -> Dtype {
    match T::DTYPE {
        DType::Bf16 => Dtype::Bf16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
    }
}

/// What a plan says when the image has no kernel for a type and head dim.
pub(crate) fn no_kernel<T: Element>(op: &'static str, head_dim: usize) -> Error {
    match T::DTYPE {
        DType::F32 => Error::invalid(op, "dtype", "bf16 or f16 on a device", T::DTYPE),
        _ => Error::invalid(op, "head_dim", "64 or 128 on a device", head_dim),
    }
}

/// What a plan says when the image has no kernel for a type of 32 bits.
pub(crate) fn sixteen_bits<T: Element>(op: &'static str) -> Error {
    Error::invalid(op, "dtype", "bf16 or f16 on a device", T::DTYPE)
}

/// Refuses rows of 16-bit elements that are no whole number of aligned pieces.
pub(crate) fn whole_pieces(op: &'static str, what: &'static str, features: usize) -> Result<()> {
    if features > 0 && features.is_multiple_of(8) {
        Ok(())
    } else {
        Err(Error::invalid(op, what, "a positive multiple of 8 on a device", features))
    }
}

/// The factor of the logits in the kernels' form.
pub(crate) fn softmax_scale(
    op: &'static str,
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> Result<SoftmaxScale> {
    options.check(op)?;
    let scale = shape.softmax_scale(options.softmax_scale);
    if scale.abs() > SoftmaxScale::MAX {
        let expected = format_args!("at most {:e} in magnitude", SoftmaxScale::MAX).to_string();
        return Err(Error::invalid(op, "softmax_scale", expected, scale));
    }
    Ok(SoftmaxScale::new(scale))
}

/// `head_step_k` and `head_step` of the kernels: which query heads read a KV head.
pub(crate) fn head_steps(
    op: &'static str,
    shape: &AttentionShape,
    options: &AttentionOptions,
) -> Result<(u32, u32)> {
    let group = to_u32(op, "the number of query heads per KV head", shape.group_size())?;
    let heads_k = to_u32(op, "num_heads_k", shape.num_heads_k)?;
    Ok(if options.gqa_interleave { (1, heads_k) } else { (group, 1) })
}

/// Narrows a size that the kernels hold in 32 bits.
pub(crate) fn to_u32(op: &'static str, what: &'static str, n: usize) -> Result<u32> {
    u32::try_from(n).map_err(|_| Error::TooLarge { op, what, limit: u32::MAX as u64, got: n.to_string() })
}

/// Refuses sequences of 2^30 tokens or more: kernels hold positions as signed numbers of 32 bits, and add to them.
pub(crate) fn sequence_lengths(op: &'static str, seqlens: &Seqlens) -> Result<()> {
    const MOST: usize = (1 << 30) - 1;
    let lengths = |b| seqlens.seqlen_q(b).max(seqlens.seqlen_k(b));
    match (0..seqlens.batch()).map(lengths).find(|&longest| longest > MOST) {
        Some(longest) => Err(Error::TooLarge {
            op,
            what: "the number of tokens of a sequence",
            limit: MOST as u64,
            got: longest.to_string(),
        }),
        None => Ok(()),
    }
}

/// Names the operation and argument that a check is about.
#[derive(Clone, Copy)]
pub(crate) struct Arg {
    pub(crate) op: &'static str,
    pub(crate) name: &'static str,
}

impl Arg {
    /// Strides of a raw tensor, checked for alignment.
    pub(crate) fn raw<T>(self, tensor: &RawTensor) -> Result<Strides> {
        self.aligned(tensor.ptr)?;
        let step = ALIGNMENT / size_of::<T>();
        for (stride, of) in [(tensor.token_stride, "tokens"), (tensor.head_stride, "heads")] {
            if !stride.is_multiple_of(step) {
                let expected = format!("with strides that are multiples of {step} elements");
                return Err(Error::invalid(
                    self.op,
                    self.name,
                    expected,
                    format_args!("{stride} between {of}"),
                ));
            }
        }
        Ok(Strides { token: tensor.token_stride as u64, head: tensor.head_stride as u64 })
    }

    /// Bytes from a row of a raw matrix to the next, checked for alignment. Head strides do not matter.
    pub(crate) fn row_bytes<T>(self, matrix: &RawTensor) -> Result<u64> {
        let rows = RawTensor { head_stride: 0, ..*matrix };
        Ok(self.raw::<T>(&rows)?.token * size_of::<T>() as u64)
    }

    /// Refuses an address that is not aligned.
    pub(crate) fn aligned(self, ptr: DevicePtr) -> Result<()> {
        if ptr.0.is_multiple_of(ALIGNMENT as u64) {
            Ok(())
        } else {
            let expected = format_args!("at an address that is a multiple of {ALIGNMENT} bytes").to_string();
            Err(Error::invalid(self.op, self.name, expected, format_args!("{:#x}", ptr.0)))
        }
    }

    /// The raw form of a tensor whose tokens all lie at one step from one another.
    pub(crate) fn flat(self, layout: &Layout, ptr: DevicePtr) -> Result<RawTensor> {
        if layout.batch > 1 && layout.seqlen.checked_mul(layout.token_stride) != Some(layout.batch_stride) {
            return Err(Error::invalid(
                self.op,
                self.name,
                "with one step between all tokens of the batch (batch_stride = seqlen * token_stride)",
                format_args!("{layout:?}"),
            ));
        }
        Ok(RawTensor { ptr, token_stride: layout.token_stride, head_stride: layout.head_stride })
    }

    /// A tensor of the shape `want` on the device of `context`.
    pub(crate) fn view<T: Element>(
        self,
        context: &Context,
        view: &DeviceView<T>,
        want: [usize; 3],
    ) -> Result<RawTensor> {
        self.device(context, view.driver())?;
        self.shape(want, view.shape())?;
        self.flat(view.layout(), view.ptr())
    }

    /// An output of the shape `want` on the device of `context`.
    pub(crate) fn view_mut<T: Element>(
        self,
        context: &Context,
        view: &DeviceViewMut<T>,
        want: [usize; 3],
    ) -> Result<RawTensor> {
        self.device(context, view.driver())?;
        self.shape(want, view.shape())?;
        self.flat(view.layout(), view.ptr())
    }

    /// An optional list of exactly `want` elements; null when there is none.
    pub(crate) fn list<T: Pod, const N: usize>(
        self,
        context: &Context,
        buffer: Option<&DeviceBuffer<T>>,
        want: [usize; N],
    ) -> Result<DevicePtr> {
        let Some(buffer) = buffer else { return Ok(DevicePtr::NULL) };
        self.device(context, buffer.driver())?;
        if want.iter().try_fold(1usize, |a, &b| a.checked_mul(b)) != Some(buffer.len()) {
            return Err(Error::shape(self.op, self.name, want, [buffer.len()]));
        }
        Ok(buffer.ptr())
    }

    /// Refuses a stream of another device.
    pub(crate) fn stream(self, context: &Context, stream: &Stream) -> Result<()> {
        self.device(context, stream.driver())
    }

    /// Refuses what lies on another device than `context`.
    pub(crate) fn device(self, context: &Context, driver: &Arc<dyn Driver>) -> Result<()> {
        if context.is_on(driver) {
            Ok(())
        } else {
            let (want, got) = (&context.info().name, &driver.info().name);
            Err(Error::invalid(
                self.op,
                self.name,
                format_args!("of the plan's device ({want})"),
                format_args!("of another ({got})"),
            ))
        }
    }

    fn shape(self, want: [usize; 3], got: [usize; 3]) -> Result<()> {
        if want == got { Ok(()) } else { Err(Error::shape(self.op, self.name, want, got)) }
    }
}
