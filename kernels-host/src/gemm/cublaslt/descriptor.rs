//! What the library is told of a product, in descriptors that free themselves.

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use lacuna_core::{DType, DeviceError};

use super::library::check;
use crate::driver::DevicePtr;

/// `cublasOperation_t` is not among the bindings.
const CUBLAS_OP_T: i32 = 1;

type Status = Result<(), CublasError>;

/// The library's name for an element type.
fn data_type(dtype: DType) -> sys::cudaDataType {
    match dtype {
        DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
    }
}

/// A matrix in column-major order.
pub(super) struct Layout(pub(super) sys::cublasLtMatrixLayout_t);

impl Layout {
    /// The transpose of `rows` contiguous rows of `cols` elements, `stride` elements apart: the same memory, read by columns.
    pub(super) fn transposed(
        dtype: DType,
        rows: usize,
        cols: usize,
        stride: usize,
    ) -> Result<Self, DeviceError> {
        let layout = result::create_matrix_layout(data_type(dtype), cols as u64, rows as u64, stride as i64);
        check("cublasLtMatrixLayoutCreate", layout).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `transposed`. A failure has nowhere to go.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

/// What is done to the matrices: `D = A^T B`, a bias added to each column if there is one, in `f32`.
pub(super) struct Operation(pub(super) sys::cublasLtMatmulDesc_t);

impl Operation {
    pub(super) fn new(bias: DevicePtr) -> Result<Self, DeviceError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;

        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, data_type(DType::F32));
        let operation = Self(check("cublasLtMatmulDescCreate", result::create_matmul_desc(compute, scale))?);
        operation.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &CUBLAS_OP_T)?;
        if !bias.is_null() {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            operation.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias.0)?;
        }
        Ok(operation)
    }

    fn set<V>(&self, attribute: sys::cublasLtMatmulDescAttributes_t, value: &V) -> Result<(), DeviceError> {
        // SAFETY: the value is read in the call; the descriptor is live.
        let set: Status = unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<V>())
        };
        check("cublasLtMatmulDescSetAttribute", set)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        // SAFETY: made by `new`. A failure has nowhere to go.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

/// What an algorithm may use and count on.
pub(super) struct Preference(pub(super) sys::cublasLtMatmulPreference_t);

impl Preference {
    /// `alignment` is that of all addresses, in bytes.
    pub(super) fn new(workspace_bytes: usize, alignment: u32) -> Result<Self, DeviceError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;

        let preference = Self(check("cublasLtMatmulPreferenceCreate", result::create_matmul_pref())?);
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(workspace_bytes as u64))?;
        // Sums over parts of the inner dimension stay in f32 and are added in one order: the output is rounded once, and
        // its bits do not change from run to run.
        let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction)?;
        // Unless it is told, the library takes 256 bytes.
        for attribute in [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ] {
            preference.set(attribute, &alignment)?;
        }
        Ok(preference)
    }

    fn set<V>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &V,
    ) -> Result<(), DeviceError> {
        // SAFETY: the value is read in the call; the descriptor is live.
        let set: Status = unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const *value).cast(), size_of::<V>())
        };
        check("cublasLtMatmulPreferenceSetAttribute", set)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`. A failure has nowhere to go.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Descriptors live on the host: what the library says to them needs no device.
    #[test]
    fn the_library_takes_the_descriptors() {
        if !super::super::is_available() {
            eprintln!("skipped: no cuBLASLt on this machine");
            return;
        }
        for bias in [DevicePtr::NULL, DevicePtr(4096 + 16)] {
            Operation::new(bias).unwrap();
        }
        for dtype in [DType::Bf16, DType::F16, DType::F32] {
            Layout::transposed(dtype, 3, 61, 64).unwrap();
        }
        Preference::new(32 << 20, 16).unwrap();
    }
}
