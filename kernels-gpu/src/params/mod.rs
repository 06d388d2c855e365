//! What the launchers hand to the kernels beside device pointers: plain structs, the same bytes on both sides.
//!
//! No struct here has padding or holds a pointer: a pointer that is a kernel parameter of its own is known to point to
//! global memory, one loaded from a struct is not.

/// Declares padding-free parameter structs and their sizes.
macro_rules! params {
    ($($(#[$meta:meta])* $name:ident, $bytes:literal { $($(#[$doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name { $($(#[$doc])* pub $field: $type,)* }

        // SAFETY: `repr(C)`, made of integers and floats; the sizes of the fields add up to that of the struct.
        unsafe impl Params for $name {}
        const _: () = assert!(size_of::<$name>() == $bytes && $bytes == 0 $(+ size_of::<$type>())*);
    )*};
}

mod antidiagonal_score;
mod argmax;
mod attention;
mod block_mask;
mod block_pool;
mod block_select;
mod column_mass;
mod decode_attention;
mod flex_prefill;
mod gather_rows;
mod gemm;
mod k_means;
mod merge_state;
mod probe;
mod rms_norm;
mod rope;
mod sample;
mod search;
mod silu_mul;
mod top_k;
mod vertical_slash;

pub use antidiagonal_score::{AntidiagonalParams, AntidiagonalQTile};
pub use argmax::ArgmaxParams;
pub use attention::{AttentionParams, QTile, SparseQTile};
pub use block_mask::BlockMaskParams;
pub use block_pool::{BlockPoolParams, PoolSequence};
pub use block_select::BlockSelectParams;
pub use column_mass::ColumnMassParams;
pub use decode_attention::DecodeParams;
pub use flex_prefill::{FlexHead, FlexPrefillParams};
pub use gather_rows::GatherRowsParams;
pub use gemm::GemmParams;
pub use k_means::KMeansParams;
pub use merge_state::MergeParams;
pub use probe::ProbeParams;
pub use rms_norm::RmsNormParams;
pub use rope::RopeParams;
pub use sample::SampleParams;
pub use search::SearchSequence;
pub use silu_mul::SiluMulParams;
pub use top_k::{TokenTopKParams, TopKParams};
pub use vertical_slash::VerticalSlashParams;

/// A kernel parameter that is passed by value.
///
/// # Safety
/// Implementors are `repr(C)`, hold no padding, and are valid for every bit pattern.
pub unsafe trait Params: Copy + 'static {
    /// The bytes a launch passes.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: no padding, so that every byte is initialised; the slice borrows `self`.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }
}

params! {
    /// Where the rows of a tensor `[tokens, heads, head_dim]` lie, in elements. The last dimension is contiguous.
    ///
    /// Kernels move 16 bytes at a time: base pointers must be multiples of 16 bytes, strides of 16-bit elements multiples
    /// of 8 and those of f32 multiples of 4.
    Strides, 16 {
        /// From a token to the next.
        token: u64,
        /// From a head to the next.
        head: u64,
    }

    /// The factor of the logits, made positive: a negative one is moved to the queries, zero takes them to zero.
    SoftmaxScale, 12 {
        /// `|softmax_scale| * log2(e)`, positive.
        log2: f32,
        /// Queries, as pairs of 16-bit elements, are taken to `(q & query_and) ^ query_xor`.
        query_and: u32,
        /// See `query_and`.
        query_xor: u32,
    }
}

impl SoftmaxScale {
    /// The largest `|softmax_scale|`: beyond it the running maximum's start would overflow once scaled.
    pub const MAX: f32 = 1e8;

    /// From the factor of the logits: finite, at most [`SoftmaxScale::MAX`] in magnitude.
    pub fn new(softmax_scale: f32) -> Self {
        if softmax_scale == 0.0 {
            return Self { log2: 1.0, query_and: 0, query_xor: 0 };
        }
        let log2 = (softmax_scale.abs() as f64 * core::f64::consts::LOG2_E) as f32;
        let query_xor = if softmax_scale < 0.0 { 0x8000_8000 } else { 0 };
        Self { log2, query_and: u32::MAX, query_xor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_scale_moves_to_the_queries() {
        let scale = SoftmaxScale::new(-0.5);
        assert_eq!(scale, SoftmaxScale { query_xor: 0x8000_8000, ..SoftmaxScale::new(0.5) });
        assert!((scale.log2 - 0.5 * core::f32::consts::LOG2_E).abs() < 1e-7);
        assert_eq!(SoftmaxScale::new(0.0), SoftmaxScale { log2: 1.0, query_and: 0, query_xor: 0 });
    }

    #[test]
    fn bytes_are_the_fields_in_order() {
        let tile = QTile { q_start: 1, q_len: 2, k_start: 3, k_len: 4, row: 5 };
        let words = tile.as_bytes().as_chunks::<4>().0;
        assert!(words.iter().map(|&w| u32::from_ne_bytes(w)).eq(1..=5));
    }
}
