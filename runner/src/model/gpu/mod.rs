//! The model on a GPU, or on the emulator: weights, KV cache and activations in device memory, every operation a kernel.
//!
//! | file | what |
//! | --- | --- |
//! | `llama` | the weights |
//! | `operations` | the plans of the operations around attention, and the two halves of a layer made of them |
//! | `gather` | rows by index |
//! | `buffers`, `kv_cache`, `rotary_table` | device memory of a pass, and of a context |
//! | `pass`, `marks` | a pass of many tokens, cut into slices |
//! | `attention` | what a pass reads: `cached` rows under a pattern, `shards` of a context, a `ring` of ranks |
//! | `decode` | a pass of one token, recorded once and replayed |
//! | `session` | a context |
//! | `kv_session`, `moves` | what is done to its rows between passes |
//!
//! A layer is `norm, q k v, rope | search, attention | o, add and norm, gate and up, silu, down, add and norm of the next`:
//! residual additions are made by the norm that follows them.

mod attention;
mod buffers;
mod cached;
mod decode;
mod gather;
mod kv_cache;
mod kv_session;
mod llama;
mod marks;
mod moves;
mod operations;
mod pass;
mod ring;
mod rotary_table;
mod session;
mod shards;

pub(crate) use buffers::{SLICE, slice_token_bytes, smallest_slice};
pub(crate) use llama::Llama;
