//! Matrix products by NVIDIA's cuBLASLt.
//!
//! The library reads matrices by columns, tensors here lie by rows: it sees each of them transposed, and is asked for
//! `out^T = W x^T`, with `W` transposed back.
//!
//! ```text
//! A  [in x out]    W by columns, taken as its transpose
//! B  [in x rows]   x by columns
//! D  [out x rows]  out by columns
//! ```

mod descriptor;
mod library;

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use lacuna_core::{DType, Element, Error, Result};

use super::OP;
use crate::buffer::DeviceBuffer;
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::view::RawTensor;

use descriptor::{Layout, Operation, Preference};
pub(crate) use library::{Handle, is_available};

/// Alignment of addresses, in bytes: plans check it.
const ALIGNMENT: u32 = 16;

/// Memory that an algorithm may use: what NVIDIA recommends for each compute capability (cuBLAS reference,
/// `cublasSetWorkspace`).
fn workspace_bytes(compute_capability: (u32, u32)) -> usize {
    if compute_capability >= (9, 0) { 32 << 20 } else { 4 << 20 }
}

/// Products of one shape, with weights `[out_features, in_features]`.
///
/// The library chooses an algorithm for a number of rows when it first comes, and the choice is kept. It is deterministic;
/// the bits of a row can depend on how many rows are beside it.
#[derive(Debug)]
pub(super) struct CublasLt<T, O> {
    handle: Arc<Handle>,
    out_features: usize,
    in_features: usize,
    workspace: DeviceBuffer<u8>,
    algorithms: Mutex<HashMap<Call, Algorithm>>,
    elements: PhantomData<(T, O)>,
}

/// What the choice of an algorithm depends on, beside the shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Call {
    rows: usize,
    x_stride: usize,
    weight_stride: usize,
    out_stride: usize,
    has_bias: bool,
}

/// A choice of the library.
#[derive(Debug, Clone, Copy)]
struct Algorithm(sys::cublasLtMatmulAlgo_t);

/// What the library is told of a call.
struct Product {
    operation: Operation,
    a: Layout,
    b: Layout,
    d: Layout,
}

impl<T: Element, O: Element> CublasLt<T, O> {
    /// Starts the library on the device, once per context, allocates the workspace, and has algorithms chosen for one row
    /// and for `max_rows`.
    ///
    /// # Errors
    /// [`DeviceError::NoLibrary`](lacuna_core::DeviceError::NoLibrary),
    /// [`DeviceError::Library`](lacuna_core::DeviceError::Library), a shape that the library has no algorithm for, and what
    /// the device refuses.
    pub(super) fn new(
        context: &Context,
        max_rows: usize,
        out_features: usize,
        in_features: usize,
    ) -> Result<Self> {
        let bytes = workspace_bytes(context.info().compute_capability);
        let products = Self {
            handle: context.cublaslt()?,
            out_features,
            in_features,
            workspace: DeviceBuffer::uninit(context, bytes, "cuBLASLt workspace")?,
            algorithms: Mutex::default(),
            elements: PhantomData,
        };
        for rows in [1, max_rows] {
            products.prepare(rows)?;
        }
        Ok(products)
    }

    /// Has an algorithm chosen for contiguous matrices without a bias, before the first run.
    ///
    /// # Errors
    /// As [`CublasLt::new`].
    pub(super) fn prepare(&self, rows: usize) -> Result<()> {
        if rows == 0 || self.out_features == 0 {
            return Ok(());
        }
        let call = Call {
            rows,
            x_stride: self.in_features,
            weight_stride: self.in_features,
            out_stride: self.out_features,
            has_bias: false,
        };
        self.algorithm(&call).map(drop)
    }

    /// Queues the product of `x` `[rows, 1, in_features]`; `bias` is null or holds `T [out_features]`.
    ///
    /// # Safety
    /// The tensors hold what their strides and the plan's shape say, in memory of the context's device that lives until the
    /// work is done and that nothing else accesses meanwhile in a way that conflicts. `stream` is a live stream of that
    /// device, no other run of this plan is under way on another stream, and addresses are multiples of 16 bytes.
    ///
    /// # Errors
    /// A bias where the output is of another type than the input, and what the library refuses.
    pub(super) unsafe fn run(
        &self,
        stream: RawStream,
        x: RawTensor,
        weight: RawTensor,
        bias: DevicePtr,
        out: RawTensor,
        rows: usize,
    ) -> Result<()> {
        if rows == 0 || self.out_features == 0 {
            return Ok(());
        }
        // The library takes biases of the output's type alone.
        if !bias.is_null() && T::DTYPE != O::DTYPE {
            let expected = format!("none where cuBLASLt writes {}", O::DTYPE);
            return Err(Error::invalid(OP, "bias", expected, format_args!("one of {}", T::DTYPE)));
        }
        // A single row lies at any stride.
        let stride = |tensor: &RawTensor, rows, features| match rows {
            1 => features,
            _ => tensor.token_stride,
        };
        let call = Call {
            rows,
            x_stride: stride(&x, rows, self.in_features),
            weight_stride: stride(&weight, self.out_features, self.in_features),
            out_stride: stride(&out, rows, self.out_features),
            has_bias: !bias.is_null(),
        };
        let Algorithm(algorithm) = self.algorithm(&call)?;
        let product = self.product(&call, bias)?;
        let (one, zero) = (1f32, 0f32);
        let pointer = |ptr: DevicePtr| ptr.0 as usize as *mut std::ffi::c_void;
        let entered = self.handle.enter()?;
        // SAFETY: handle and descriptors are live; the addresses lead to what the descriptors say, by the caller's promise;
        // C is D, and not read, for its factor is zero; the workspace has as many bytes as are said.
        let queued = unsafe {
            result::matmul(
                entered.raw(),
                product.operation.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                pointer(weight.ptr),
                product.a.0,
                pointer(x.ptr),
                product.b.0,
                pointer(out.ptr),
                product.d.0,
                pointer(out.ptr),
                product.d.0,
                &algorithm,
                pointer(self.workspace.ptr()),
                self.workspace.len(),
                stream.as_ptr().cast(),
            )
        };
        Ok(library::check("cublasLtMatmul", queued)?)
    }

    fn product(&self, call: &Call, bias: DevicePtr) -> Result<Product> {
        Ok(Product {
            operation: Operation::new(bias)?,
            a: Layout::transposed(T::DTYPE, self.out_features, self.in_features, call.weight_stride)?,
            b: Layout::transposed(T::DTYPE, call.rows, self.in_features, call.x_stride)?,
            d: Layout::transposed(O::DTYPE, call.rows, self.out_features, call.out_stride)?,
        })
    }

    /// The library's first choice, asked for once.
    fn algorithm(&self, call: &Call) -> Result<Algorithm> {
        let mut known = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&algorithm) = known.get(call) {
            return Ok(algorithm);
        }
        // The library reads off the address how a bias is aligned. The choice holds for any: it is shown one that is no
        // better aligned than it has to be.
        let bias = match call.has_bias {
            true => self.workspace.ptr().offset(ALIGNMENT as usize),
            false => DevicePtr::NULL,
        };
        let Product { operation, a, b, d } = self.product(call, bias)?;
        let preference = Preference::new(self.workspace.len(), ALIGNMENT)?;
        let entered = self.handle.enter()?;
        // SAFETY: all are live.
        let chosen = unsafe {
            result::get_matmul_algo_heuristic(entered.raw(), operation.0, a.0, b.0, d.0, d.0, preference.0)
        };
        let chosen = match chosen {
            Err(CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED)) => {
                return Err(self.no_algorithm(call));
            }
            done => library::check("cublasLtMatmulAlgoGetHeuristic", done)?,
        };
        let algorithm = Algorithm(chosen.algo);
        known.insert(*call, algorithm);
        Ok(algorithm)
    }

    fn no_algorithm(&self, call: &Call) -> Error {
        let (rows, out, inner) = (call.rows, self.out_features, self.in_features);
        let (from, to): (DType, DType) = (T::DTYPE, O::DTYPE);
        let got = format_args!("[{rows}, {inner}] times the transpose of [{out}, {inner}], {from} to {to}")
            .to_string();
        Error::invalid(OP, "the product", "one that cuBLASLt has an algorithm for", got)
    }
}
