//! The one error type of the library crates.

use crate::DeviceError;

/// What every fallible operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation refused its input. Every variant is one sentence that names the operation, the argument,
/// what was expected and what came.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument lies outside its range.
    #[error("{op}: {arg} must be {expected}, got {got}")]
    InvalidArgument {
        /// The operation that refused.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The accepted values.
        expected: String,
        /// The value that came.
        got: String,
    },
    /// A tensor, list or buffer has the wrong extent.
    #[error("{op}: {arg} must have shape {expected}, got {got}")]
    ShapeMismatch {
        /// The operation that refused.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The expected shape.
        expected: String,
        /// The shape that came.
        got: String,
    },
    /// A NaN or an infinity stands where a finite number is needed.
    #[error("{op}: {arg} must be finite, got {value} at token {token}, head {head}")]
    NotFinite {
        /// The operation that refused.
        op: &'static str,
        /// The argument's name.
        arg: &'static str,
        /// The first value that is not finite.
        value: f32,
        /// Its token, counted over the whole batch.
        token: usize,
        /// Its head.
        head: usize,
    },
    /// A size does not fit the integer type that has to hold it.
    #[error("{op}: {what} is too large: at most {limit}, got {got}")]
    TooLarge {
        /// The operation that refused.
        op: &'static str,
        /// What was counted.
        what: &'static str,
        /// The largest value supported.
        limit: u64,
        /// The value that came.
        got: String,
    },
    /// A device could not be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl Error {
    /// An [`Error::InvalidArgument`], its parts formatted.
    pub fn invalid(
        op: &'static str,
        arg: &'static str,
        expected: impl std::fmt::Display,
        got: impl std::fmt::Display,
    ) -> Self {
        Self::InvalidArgument { op, arg, expected: expected.to_string(), got: got.to_string() }
    }

    /// An [`Error::ShapeMismatch`], its parts formatted.
    pub fn shape(
        op: &'static str,
        arg: &'static str,
        expected: impl std::fmt::Debug,
        got: impl std::fmt::Debug,
    ) -> Self {
        Self::ShapeMismatch { op, arg, expected: format!("{expected:?}"), got: format!("{got:?}") }
    }
}
