//! A thin Llama runner over [`lacuna`], on the CPU and on GPUs: the library behind the `lacuna` program.
//!
//! | module | what |
//! | --- | --- |
//! | [`model`] | loads a Hugging Face directory and runs prompts through it, every layer's attention under one [`lacuna::Pattern`] |
//! | [`generate`] | turns logits into text |
//! | [`attn`] | the names and keys that the command line gives patterns |
//! | [`needle`] | a constructed model that finds needles, for tests without downloads |
//! | [`report`] | tables and pictures of results |

pub mod attn;
mod error;
pub mod generate;
pub mod model;
pub mod needle;
pub mod report;

pub use error::{Error, Result};
