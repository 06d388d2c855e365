//! What can go wrong between a checkpoint directory and a generated text.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use crate::report::format_bytes;

/// What every fallible call of the runner returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the runner stopped. Every variant is one sentence that says what, where, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried: `read`, `map`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A directory to be written holds something already.
    #[error("{} is not empty", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A file is not what its name promises.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A key of a configuration file has a value that makes no sense.
    #[error("{}: {key} must be {expected}, got {got}", .path.display())]
    InvalidConfig {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The accepted values.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// A key of a configuration file asks for something the runner does not do.
    #[error("{}: {key} = {got} is not supported, only {supported}", .path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The values the runner knows.
        supported: String,
        /// The value that came.
        got: String,
    },
    /// The tensors of a checkpoint are not those its configuration asks for.
    #[error("{}: the tensors do not fit config.json: {problems}", .path.display())]
    Tensors {
        /// The checkpoint directory.
        path: PathBuf,
        /// Missing, unexpected and misshapen tensors, by name.
        problems: String,
    },
    /// An argument lies outside its range.
    #[error("{arg} must be {expected}, got {got}")]
    InvalidArgument {
        /// The argument.
        arg: &'static str,
        /// The accepted values.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// More tokens than there are positions.
    #[error("{what} takes {tokens} positions, but {limit_name} is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// The positions it needs.
        tokens: usize,
        /// What sets the limit.
        limit_name: &'static str,
        /// The positions there are.
        limit: usize,
    },
    /// A NaN or an infinity came up while computing.
    #[error("{what} are not finite at token {token} with {dtype} arithmetic{advice}")]
    NotFinite {
        /// What was computed.
        what: String,
        /// The token, counted from the start of the context.
        token: usize,
        /// The compute type.
        dtype: lacuna::DType,
        /// What to try, or nothing.
        advice: &'static str,
    },
    /// The memory for a buffer is not there.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// The buffer.
        what: &'static str,
        /// Its size.
        bytes: u128,
    },
    /// A GPU has too little memory for what is to be run on it.
    #[error(
        "this takes {} of device memory, but {} are free; the most of it is for {largest} ({})",
        format_bytes(*needed),
        format_bytes(*free),
        format_bytes(*largest_bytes)
    )]
    DoesNotFit {
        /// Bytes needed, at the least.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// What takes the most.
        largest: &'static str,
        /// Bytes that it takes.
        largest_bytes: u64,
    },
    /// Another rank of the group failed.
    #[error("rank {rank} {what}")]
    Rank {
        /// The rank.
        rank: usize,
        /// What it did, or did not do.
        what: String,
    },
    /// A library that carries messages between ranks refused.
    #[error("{call} failed: {reason}")]
    Transport {
        /// The call.
        call: &'static str,
        /// The library's answer.
        reason: String,
    },
    /// The tokenizer refused a text or a list of tokens.
    #[error("the tokenizer cannot {action}: {reason}")]
    Tokenizer {
        /// `encode` or `decode`.
        action: &'static str,
        /// Its answer.
        reason: String,
    },
    /// An attention kernel refused its input.
    #[error(transparent)]
    Attention(#[from] lacuna::Error),
}

impl Error {
    /// An [`Error::Io`].
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// An [`Error::Malformed`].
    pub fn malformed(path: &Path, reason: impl Display) -> Self {
        Self::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }

    /// An [`Error::InvalidArgument`], its parts formatted.
    pub fn invalid(arg: &'static str, expected: impl Display, got: impl Display) -> Self {
        Self::InvalidArgument { arg, expected: expected.to_string(), got: got.to_string() }
    }

    /// An [`Error::NotFinite`]; advises against `f16`, whose largest value is 65504.
    pub(crate) fn not_finite(what: impl Display, token: usize, dtype: lacuna::DType) -> Self {
        let advice = if dtype == lacuna::DType::F16 { "; try bf16 or f32" } else { "" };
        Self::NotFinite { what: what.to_string(), token, dtype, advice }
    }
}

/// A vector of `len` defaults, or [`Error::OutOfMemory`].
pub(crate) fn allocate<T: Default + Clone>(what: &'static str, len: usize) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(len)
        .map_err(|_| Error::OutOfMemory { what, bytes: len as u128 * size_of::<T>() as u128 })?;
    buffer.resize(len, T::default());
    Ok(buffer)
}
