//! Running a tool: a clean environment, and its output in the error.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use crate::{Error, Result};

/// Variables of an outer cargo or rustup that would steer the inner tools.
const CLEARED: &[&str] = &[
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTUP_TOOLCHAIN",
    "RUSTC_LINKER",
    "RUSTC_BOOTSTRAP",
    "RUST_BACKTRACE",
    "MAKEFLAGS",
    "MFLAGS",
    "NUM_JOBS",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
    "OUT_DIR",
    "LD_LIBRARY_PATH",
];

/// Variables beginning with `CARGO_` that say where and how to download; the rest describe the outer build.
const KEPT: &[&str] =
    &["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_"];

/// A command that sees nothing of an outer cargo's build.
pub(crate) fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let foreign = text.starts_with("CARGO_") && !KEPT.iter().any(|kept| text.starts_with(kept));
        if foreign || CLEARED.contains(&text) {
            command.env_remove(&name);
        }
    }
    // Empty, not absent: an empty wrapper also overrides one named in a configuration file.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

/// Runs the command and returns what it wrote to standard output.
pub(crate) fn run(step: &'static str, command: &mut Command) -> Result<String> {
    run_noting(step, command).map(|(stdout, _)| stdout)
}

/// Runs the command and returns what it wrote to standard output, and to standard error though it succeeded.
pub(crate) fn run_noting(step: &'static str, command: &mut Command) -> Result<(String, String)> {
    let failed = |output: String, command: &Command| Error::Tool { step, command: line(command), output };
    let output = command.output().map_err(|error| failed(error.to_string(), command))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok((stdout, stderr));
    }
    Err(failed(format!("{stdout}{stderr}"), command))
}

/// The command line, as a person would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
