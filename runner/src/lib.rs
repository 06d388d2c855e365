//! A thin Llama runner over [`lacuna`], on the CPU and on GPUs: the library behind the `lacuna` program.
//!
//! | module | what |
//! | --- | --- |
//! | [`model`] | loads a Hugging Face directory and runs prompts through it, every layer's attention under one [`lacuna::Pattern`] |
//! | [`generate`] | turns logits into text |
//! | [`context`] | methods that cut a prompt and keep parts of it: Star Attention, StarX, DistInf's |
//! | [`comm`] | ranks that work on one prompt together |
//! | [`attn`] | the names and keys that the command line gives patterns |
//! | [`batch`] | many prompts: JSONL files, sweeps |
//! | [`needle`] | a constructed model that finds needles, for tests without downloads |
//! | [`report`] | tables and pictures of results |

pub mod attn;
pub mod batch;
pub mod comm;
pub mod context;
mod error;
pub mod generate;
pub mod model;
pub mod needle;
pub mod report;

pub use error::{Error, Result};
