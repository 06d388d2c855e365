//! The model on this machine's processor.
//!
//! | file | what |
//! | --- | --- |
//! | `llama`, `linear` | the weights |
//! | `forward`, `rms_norm`, `silu_mul` | the parts of a pass around attention |
//! | `pass` | a pass of some tokens, and attention over the cache |
//! | `shards`, `ring` | attention over a context that lies on several ranks |
//! | `kv_cache`, `session` | a context |

mod forward;
mod kv_cache;
mod linear;
mod llama;
mod pass;
mod ring;
mod rms_norm;
mod session;
mod shards;
mod silu_mul;

pub(crate) use llama::Llama;
