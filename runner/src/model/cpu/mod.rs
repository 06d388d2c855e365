//! The model on this machine's processor.

mod forward;
mod kv_cache;
mod linear;
mod llama;
mod rms_norm;
mod session;
mod silu_mul;

pub(crate) use llama::Llama;
