//! What can go wrong between Rust source and checked PTX.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::lint::Finding;

/// Why there is no image, or why the one there is cannot be trusted.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No compiler on this machine can build kernels.
    NoToolchain {
        /// What was looked at, one line each.
        tried: Vec<String>,
    },
    /// A tool could not be started, or failed.
    Tool {
        /// The step of the pipeline, or what was asked of the tool.
        step: &'static str,
        /// The command line.
        command: String,
        /// What the tool wrote.
        output: String,
    },
    /// The compiler's output is not what the pass over it understands; building on would be unsafe.
    Pass(String),
    /// The PTX breaks rules.
    Lint {
        /// Each rule, once per function.
        findings: Vec<Finding>,
        /// Where the text can be looked at.
        text: PathBuf,
    },
    /// A file of the manifest's kind cannot be understood.
    Manifest(String),
    /// A file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps what the system said about `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_path_buf(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain { tried } => {
                writeln!(f, "no compiler for GPU kernels on this machine; install the pinned one:")?;
                for command in crate::Toolchain::install_commands() {
                    writeln!(f, "    {command}")?;
                }
                f.write_str("looked at:")?;
                tried.iter().try_for_each(|line| write!(f, "\n    {line}"))
            }
            Self::Tool { step, command, output } => {
                write!(f, "{step} failed\n{}\ncommand: {command}", output.trim_end())
            }
            Self::Pass(message) | Self::Manifest(message) => f.write_str(message),
            Self::Lint { findings, text } => {
                let plural = if findings.len() == 1 { "" } else { "s" };
                write!(f, "{} place{plural} in {} break rules", findings.len(), text.display())?;
                findings.iter().try_for_each(|finding| write!(f, "\n    {finding}"))
            }
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
