//! Matrix products.

mod backend;
#[cfg(feature = "cublaslt")]
pub(crate) mod cublaslt;
mod own;

use std::marker::PhantomData;

use bytemuck::Pod;
use lacuna_core::{DType, Element, Error, Result};

use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::stream::Stream;
use crate::view::{DeviceView, DeviceViewMut, RawTensor};

pub use backend::Backend;
use own::Own;

const OP: &str = "gemm";

/// Products of rows with a weight: `out = x weight^T + bias`.
///
/// Operands have elements of type `T`, bf16 or f16; outputs of the same type or `f32`. Sums are in `f32`, and rounded once.
/// A plan knows the sizes of the weight and the most rows there may be; the weight itself is an argument of each run, so that
/// one plan serves all layers of a model.
///
/// Runs of one plan share its workspace: they are made on one stream, or one after the other.
///
/// With [`Backend::Own`] a row has the same bits whatever rows are beside it while there are at most 8 of them, from 9 to 16, or
/// from 17 to 64; beyond, and between these, the number of rows decides in how many parts the features are added up. Every
/// run of the same arguments gives the same bits.
///
/// # cuBLASLt
///
/// [`Backend::CublasLt`] needs the feature `cublaslt`, a CUDA device, and the library on the machine. Its algorithms add up
/// in `f32` in a fixed order, round once, and may differ for each number of rows; they take no bias where outputs are `f32`.
/// The choice for one row and for the most is made with the plan, for others when they first come. Before it is recorded
/// into a [`Graph`](crate::Graph), a number of rows is run once: the library loads kernels then.
#[derive(Debug)]
pub struct Plan<T, O = T> {
    context: Context,
    max_rows: usize,
    out_features: usize,
    in_features: usize,
    running: Running<T, O>,
}

/// The backend that runs.
#[derive(Debug)]
enum Running<T, O> {
    Own(Own, PhantomData<(T, O)>),
    #[cfg(feature = "cublaslt")]
    CublasLt(cublaslt::CublasLt<T, O>),
}

impl<T: Element, O: Element> Running<T, O> {
    fn new(
        context: &Context,
        max_rows: usize,
        out_features: usize,
        in_features: usize,
        backend: Backend,
    ) -> Result<Self> {
        #[cfg(feature = "cublaslt")]
        if match backend {
            Backend::Auto => cublaslt::is_available() && context.driver().make_current()?,
            Backend::CublasLt => true,
            Backend::Own => false,
        } {
            let products = cublaslt::CublasLt::new(context, max_rows, out_features, in_features)?;
            return Ok(Self::CublasLt(products));
        }
        #[cfg(not(feature = "cublaslt"))]
        if backend == Backend::CublasLt {
            let expected = "own or auto in a build without cuBLASLt";
            return Err(Error::invalid(OP, "backend", expected, backend));
        }
        let own = Own::new(context, check::dtype::<T>(), max_rows, out_features, in_features)?;
        Ok(Self::Own(own, PhantomData))
    }
}

impl<T: Element + Pod, O: Element + Pod> Plan<T, O> {
    /// Plans products of up to `max_rows` rows with a weight `[out_features, in_features]`.
    ///
    /// `in_features` is a multiple of 8, and so is `out_features` unless outputs are `f32`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for types that the kernels do not take, for features that are no multiple of 8 and for a
    /// backend that is not in this build, [`Error::TooLarge`] for sizes that a launch does not hold, [`Error::Device`] for
    /// what the device refuses and for a library that is not there.
    pub fn new(
        context: &Context,
        max_rows: usize,
        out_features: usize,
        in_features: usize,
        backend: Backend,
    ) -> Result<Self> {
        if T::DTYPE == DType::F32 {
            return Err(Error::invalid(OP, "the dtype of the operands", "bf16 or f16", T::DTYPE));
        }
        if O::DTYPE != T::DTYPE && O::DTYPE != DType::F32 {
            let expected = format!("f32 or that of the operands ({})", T::DTYPE);
            return Err(Error::invalid(OP, "the dtype of the output", expected, O::DTYPE));
        }
        if !in_features.is_multiple_of(8) {
            return Err(Error::invalid(OP, "in_features", "a multiple of 8", in_features));
        }
        if O::DTYPE != DType::F32 && !out_features.is_multiple_of(8) {
            let expected = format!("a multiple of 8 for outputs of {}", O::DTYPE);
            return Err(Error::invalid(OP, "out_features", expected, out_features));
        }
        let running = Running::new(context, max_rows, out_features, in_features, backend)?;
        Ok(Self { context: context.clone(), max_rows, out_features, in_features, running })
    }

    /// The backend that runs: [`Backend::CublasLt`] or [`Backend::Own`].
    pub fn backend(&self) -> Backend {
        match self.running {
            Running::Own(..) => Backend::Own,
            #[cfg(feature = "cublaslt")]
            Running::CublasLt(_) => Backend::CublasLt,
        }
    }

    /// Queues the product: one launch; none for no rows.
    ///
    /// | argument | shape | dtype |
    /// | --- | --- | --- |
    /// | `x` | `[rows, 1, in_features]` | `T` |
    /// | `weight` | `[out_features, 1, in_features]` | `T` |
    /// | `bias` | `[1, 1, out_features]` | `T` |
    /// | `out` | `[rows, 1, out_features]` | `O` |
    ///
    /// Addresses and strides are multiples of 16 bytes; an output of `f32` may have any stride.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan or the other tensors, [`Error::InvalidArgument`] for
    /// one that is not aligned or lies on another device, and for more rows than planned.
    pub fn run(
        &self,
        stream: &Stream,
        x: &DeviceView<T>,
        weight: &DeviceView<T>,
        bias: Option<&DeviceView<T>>,
        out: &mut DeviceViewMut<O>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        arg("stream").stream(&self.context, stream)?;
        let [rows, ..] = x.shape();
        self.check_rows(rows)?;
        let x = arg("x").view(&self.context, x, [rows, 1, self.in_features])?;
        let weight = arg("weight").view(&self.context, weight, [self.out_features, 1, self.in_features])?;
        let bias = match bias {
            Some(bias) => arg("bias").view(&self.context, bias, [1, 1, self.out_features])?.ptr,
            None => DevicePtr::NULL,
        };
        let out = arg("out").view_mut(&self.context, out, [rows, 1, self.out_features])?;
        // SAFETY: the tensors have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_checked(stream.raw(), x, weight, bias, out, rows) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner, with `rows` rows; a null `bias` is none. Alignment is
    /// checked. The strides of heads are not used.
    ///
    /// # Safety
    /// As for [`crate::dense_attention::Plan::run_raw`]: the tensors hold what [`Plan::run`] says.
    ///
    /// # Errors
    /// More rows than planned, an address or stride that is not aligned, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        x: RawTensor,
        weight: RawTensor,
        bias: DevicePtr,
        out: RawTensor,
        rows: usize,
    ) -> Result<()> {
        self.check_rows(rows)?;
        // SAFETY: the caller's promise.
        unsafe { self.run_checked(stream, x, weight, bias, out, rows) }
    }

    fn check_rows(&self, rows: usize) -> Result<()> {
        if rows <= self.max_rows {
            return Ok(());
        }
        Err(Error::invalid(OP, "the number of rows", format!("at most {}", self.max_rows), rows))
    }

    /// # Safety
    /// As [`Plan::run_raw`], with no more rows than planned.
    unsafe fn run_checked(
        &self,
        stream: RawStream,
        x: RawTensor,
        weight: RawTensor,
        bias: DevicePtr,
        out: RawTensor,
        rows: usize,
    ) -> Result<()> {
        // Views of one head have it at no step; what the step is does not matter.
        let of_one_head = |tensor| RawTensor { head_stride: 0, ..tensor };
        let (x, weight, out) = (of_one_head(x), of_one_head(weight), of_one_head(out));
        let arg = |name| Arg { op: OP, name };
        arg("x").raw::<T>(&x)?;
        arg("weight").raw::<T>(&weight)?;
        arg("bias").aligned(bias)?;
        if O::DTYPE == DType::F32 {
            arg("out").aligned(out.ptr)?;
        } else {
            arg("out").raw::<O>(&out)?;
        }
        if rows == 0 || self.out_features == 0 {
            return Ok(());
        }
        match &self.running {
            // SAFETY: the caller's promise.
            Running::Own(own, _) => unsafe { own.run::<O>(stream, x, weight, bias, out, rows) },
            #[cfg(feature = "cublaslt")]
            // SAFETY: the caller's promise.
            Running::CublasLt(products) => unsafe { products.run(stream, x, weight, bias, out, rows) },
        }
    }
}
