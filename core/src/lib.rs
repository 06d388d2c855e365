//! The words every lacuna crate shares: tensor views, sequence lengths, block masks, options, errors.
//!
//! - A tensor is `[tokens, heads, head_dim]` ([`TensorView`]), the last dimension contiguous, token and head strides
//!   free; `B,S,H,D` and `B,H,S,D` memory is the same view with other strides ([`Layout`]).
//! - A batch is ragged ([`Seqlens`]): `cu_seqlens_q`, `cu_seqlens_k`. Causal is bottom-right aligned: row `i` sees key
//!   `j` iff `j <= i + (seqlen_k - seqlen_q)`.
//! - A [`BlockMask`] lists, for every (sequence, query head, query block), the key blocks to read.
//! - The log-sum-exp of a row (`softmax_lse`) is `f32`, natural logarithm, `[num_heads, total_q]`; a row that sees
//!   nothing has a zero output and `-inf`.

mod block_mask;
mod decode_shape;
mod device_error;
mod element;
mod error;
mod layout;
mod options;
mod shape;
mod tensor;
mod vertical_slash_index;

pub use block_mask::BlockMask;
pub use decode_shape::{DecodeCall, DecodeShape, MAX_DECODE_SEQLEN_Q};
pub use device_error::DeviceError;
pub use element::{DType, Element};
pub use error::{Error, Result};
pub use layout::Layout;
pub use options::{
    AttentionOptions, FlexPrefillCompat, FlexPrefillOptions, KMeansMetric, KMeansOptions, Threshold,
    ThresholdTable, VerticalSlashOptions, XAttentionCompat, XAttentionOptions,
};
pub use shape::{AttentionShape, MAX_HEAD_DIM, Seqlens};
pub use tensor::{TensorView, TensorViewMut};
pub use vertical_slash_index::VerticalSlashIndex;
