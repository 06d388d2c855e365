//! A model that needs no download: weights built by hand that find needles in haystacks.
//!
//! [`build`] makes a genuine Llama checkpoint of two layers and 3.8 million parameters in well under a second. Under
//! dense attention it answers every question of [`PromptOptions`]' prompts, at any length up to `max_len`; under
//! sparse attention it answers exactly when the blocks that hold the answer were read. So it shows, without any
//! weights of a real model, whether a sparse method keeps what matters, and whether a loader, a kernel or a tokenizer
//! is right.
//!
//! What it is not: a language model. Its accuracy says nothing about model quality; and since the keys of neighbouring
//! tokens are unrelated, methods that look at block *means* only see less in it than they see in real models.
//!
//! | file | what |
//! | --- | --- |
//! | `geometry.rs` | sizes, amplitudes, the meaning of every coordinate |
//! | `weights.rs` | the circuits; start reading here |
//! | `basis.rs` | hides them in a random basis |
//! | `vocabulary.rs`, `tokenizer.rs`, `words.rs` | tokens |
//! | `checkpoint.rs` | the files of a Hugging Face checkpoint |
//! | `wording.rs`, `haystack.rs`, `prompt.rs`, `ambiguity.rs` | texts with needles, and questions about them |
//!
//! # Examples
//!
//! ```
//! use lacuna_runner::needle::{self, NeedleOptions, PromptOptions};
//!
//! let model = needle::build(&NeedleOptions::default())?;
//! assert!(model.file("model.safetensors").is_some());
//!
//! let tokenizer = needle::tokenizer();
//! let prompt = PromptOptions { num_tokens: 1024, num_needles: 4, ..Default::default() }.generate(&tokenizer)?;
//! assert!(prompt.tokens.len() <= 1024);
//! let question = &prompt.questions[0];
//! println!("after token {} comes {:?}", question.position, prompt.answer_tokens(question));
//! # Ok::<(), lacuna_runner::Error>(())
//! ```

mod ambiguity;
mod basis;
mod checkpoint;
mod geometry;
mod haystack;
mod matrix;
mod prompt;
mod tokenizer;
mod vocabulary;
mod weights;
mod wording;
mod words;

use std::path::Path;

use lacuna::DType;

pub use ambiguity::Ambiguity;
pub use checkpoint::{CheckpointFile, Existing};
pub use haystack::Haystack;
pub use prompt::{Needle, Prompt, PromptOptions, Question};
pub use tokenizer::tokenizer;
pub use vocabulary::{BEGIN, END};
pub use wording::ValueKind;

use crate::{Error, Result};

/// The longest context that the margins of the position heads are checked for (`weights.rs`); they shrink slowly with
/// length.
const MAX_MAX_LEN: usize = 1 << 20;

/// How to build the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeedleOptions {
    /// Type of the stored weights. Default `bf16`.
    pub dtype: DType,
    /// Default [`Basis::Dense`].
    pub basis: Basis,
    /// Seed of the dense basis. Default 0.
    pub seed: u64,
    /// The longest context, in tokens: sets `rope_theta` and `max_position_embeddings`. Default 131072; 256 to
    /// 1048576.
    pub max_len: usize,
    /// Layers, at least the two that do the work; further ones cost their time and add nothing. Default 2.
    pub num_layers: usize,
}

impl Default for NeedleOptions {
    fn default() -> Self {
        Self { dtype: DType::Bf16, basis: Basis::Dense, seed: 0, max_len: 131072, num_layers: 2 }
    }
}

/// The coordinates that the weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Basis {
    /// Every coordinate has its meaning; most weights are zero. To be read.
    Plain,
    /// Randomly rotated: the same function, but every weight matters, and no layout mistake hides behind a zero.
    #[default]
    Dense,
}

/// A built model: the files of its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeedleModel {
    /// `config.json`, `generation_config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`.
    pub files: Vec<CheckpointFile>,
}

impl NeedleModel {
    /// The contents of a file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|file| file.name == name).map(|file| file.contents.as_slice())
    }
}

/// Builds the model. The same options give the same bytes.
///
/// # Errors
///
/// [`Error::InvalidArgument`] when an option is out of its range.
pub fn build(options: &NeedleOptions) -> Result<NeedleModel> {
    if !(256..=MAX_MAX_LEN).contains(&options.max_len) {
        return Err(Error::invalid(
            "max_len",
            format_args!("between 256 and {MAX_MAX_LEN}"),
            options.max_len,
        ));
    }
    if !(2..=128).contains(&options.num_layers) {
        return Err(Error::invalid("num_layers", "between 2 and 128", options.num_layers));
    }
    let mut weights = weights::weights(options.num_layers, geometry::rope_theta(options.max_len));
    if options.basis == Basis::Dense {
        basis::rotate(&mut weights, options.seed);
    }
    Ok(NeedleModel { files: checkpoint::files(&weights, options) })
}

/// Builds the model and writes its files into a directory, all or nothing: it appears complete or not at all.
///
/// # Errors
///
/// As [`build`]; [`Error::NotEmpty`] when the directory holds something and `existing` does not allow to replace it;
/// [`Error::Io`] when the system refuses. What was there before is then still there.
pub fn write(dir: impl AsRef<Path>, options: &NeedleOptions, existing: Existing) -> Result<()> {
    checkpoint::write_directory(dir.as_ref(), &build(options)?.files, existing)
}
