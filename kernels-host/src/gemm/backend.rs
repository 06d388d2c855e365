//! Who multiplies.

use std::fmt;
use std::str::FromStr;

use lacuna_core::Error;

use super::OP;

/// Who multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// cuBLASLt where it is there, otherwise the library's own kernels.
    #[default]
    Auto,
    /// NVIDIA's library, loaded at run time.
    CublasLt,
    /// The library's own kernels, on every device.
    Own,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::CublasLt => "cublaslt",
            Self::Own => "own",
        })
    }
}

impl FromStr for Backend {
    type Err = Error;

    /// The names that [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self, Error> {
        [Self::Auto, Self::CublasLt, Self::Own]
            .into_iter()
            .find(|backend| backend.to_string() == name)
            .ok_or_else(|| Error::invalid(OP, "backend", "auto, cublaslt or own", name))
    }
}
