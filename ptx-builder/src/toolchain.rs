//! Finding a compiler that can build kernels.
//!
//! The file `kernel-toolchain` names the pinned one. In order: the pinned nightly of rustup under its date; rustup's plain
//! `nightly` where it is the same compiler; either of them after adding the components it lacks; Debian's `rustc-web` with
//! the LLVM tools of the same major version.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{clean, run};
use crate::{Error, Result};

/// The pinned compiler, as `name = value` lines.
const PIN: &str = include_str!("../kernel-toolchain");

/// The components beside rustc and cargo that kernels need.
const COMPONENTS: [&str; 2] = ["rust-src", "llvm-tools"];

/// A value of the pin file.
fn pin(name: &str) -> &'static str {
    PIN.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == name)
        .map_or("", |(_, value)| value.trim())
}

/// The pinned compiler in one line, for the source hash.
pub(crate) fn pinned() -> String {
    format!("{} {}", pin("commit-hash"), pin("llvm"))
}

/// A compiler that can build kernels: rustc and cargo, the sources of `core`, and LLVM's tools of the same major version.
#[derive(Debug, Clone)]
pub struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    sysroot: PathBuf,
    llvm_bin: PathBuf,
    version: Version,
    origin: String,
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

/// What `rustc -vV` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    /// The first line: `rustc 1.97.0-nightly (e50aa6fba 2026-05-19)`.
    release: String,
    commit_hash: String,
    llvm: String,
    host: String,
}

impl Version {
    fn of(rustc: &Path) -> Result<Self> {
        Ok(Self::parse(&run("asking rustc for its version", clean(rustc).arg("-vV"))?))
    }

    fn parse(text: &str) -> Self {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.unwrap_or_default().to_string()
        };
        Self {
            release: text.lines().next().unwrap_or_default().to_string(),
            commit_hash: field("commit-hash"),
            llvm: field("LLVM version"),
            host: field("host"),
        }
    }

    fn is_pinned(&self) -> bool {
        self.commit_hash == pin("commit-hash") && self.llvm == pin("llvm")
    }

    fn llvm_major(&self) -> &str {
        major(&self.llvm)
    }
}

impl Toolchain {
    /// Finds a compiler; rustup may be asked to add components to the pinned one.
    pub fn find() -> Result<Self> {
        let mut tried = Vec::new();
        let channels = [pin("channel"), "nightly"];
        // Complete ones first: adding components takes a network.
        for add in [false, true] {
            for channel in channels {
                match Self::from_rustup(channel, add) {
                    Ok(found) => return Ok(found),
                    Err(why) if add => tried.push(format!("rustup's {channel}: {why}")),
                    Err(_) => {}
                }
            }
        }
        match Self::from_debian(Path::new("/usr")) {
            Ok(found) => Ok(found),
            Err(why) => {
                tried.push(format!("Debian's rustc-web: {why}"));
                Err(Error::NoToolchain { tried })
            }
        }
    }

    fn from_rustup(channel: &str, add: bool) -> Result<Self, String> {
        let rustup = |arguments: &[&str]| {
            let mut command = clean(Path::new("rustup"));
            // Asking about a toolchain must not install it.
            let answer = run("rustup", command.args(arguments).env("RUSTUP_AUTO_INSTALL", "0"));
            answer.map_err(|error| match error {
                Error::Tool { output, .. } if output.contains("os error 2") => "no rustup on the PATH".into(),
                Error::Tool { output, .. } => first_line(&output),
                other => other.to_string(),
            })
        };
        let rustc = PathBuf::from(rustup(&["which", "rustc", "--toolchain", channel])?.trim());
        let version = Version::of(&rustc).map_err(|error| error.to_string())?;
        if !version.is_pinned() {
            return Err(format!("is {}, not the pinned {}", version.release, pin("commit-hash")));
        }
        let sysroot = sysroot(&rustc)?;
        let found = Self {
            cargo: rustc.with_file_name(program("cargo")),
            llvm_bin: sysroot.join("lib/rustlib").join(&version.host).join("bin"),
            rustc,
            sysroot,
            version,
            origin: format!("rustup's {channel}"),
        };
        if add && found.complete().is_err() {
            rustup(&["component", "add", COMPONENTS[0], COMPONENTS[1], "--toolchain", channel])?;
        }
        found.complete()?;
        Ok(found)
    }

    /// Debian's packages under `prefix` (`/usr`, or where they were unpacked).
    fn from_debian(prefix: &Path) -> Result<Self, String> {
        let rustc = prefix.join("bin/rustc");
        let version = Version::of(&rustc).map_err(|_| format!("no {}", rustc.display()))?;
        // Older LLVM lacks intrinsics that kernels call, newer ones are untried.
        if version.llvm_major() != major(pin("llvm")) {
            return Err(format!("{} has LLVM {}, not {}", rustc.display(), version.llvm, major(pin("llvm"))));
        }
        let sysroot = sysroot(&rustc)?;
        let cargo = prefix.join("bin/cargo");
        let found = Self {
            cargo: if cargo.exists() { cargo } else { PathBuf::from("cargo") },
            llvm_bin: prefix.join(format!("lib/llvm-{}/bin", version.llvm_major())),
            rustc,
            sysroot,
            version,
            origin: format!("Debian's packages in {}", prefix.display()),
        };
        found.complete()?;
        Ok(found)
    }

    /// Whether everything is there, or what is not.
    fn complete(&self) -> Result<(), String> {
        let tools = ["llvm-link", "opt", "llc", "llvm-dis"].map(|tool| self.llvm_tool(tool));
        let sources = self.rust_src().join("library/core/src/lib.rs");
        let missing = |path: &&PathBuf| !path.exists();
        match tools.iter().chain([&self.rustc, &sources]).find(missing) {
            None => Ok(()),
            Some(path) => Err(format!("lacks {}", path.display())),
        }
    }

    /// The commands that install the pinned compiler.
    pub fn install_commands() -> [String; 2] {
        let channel = pin("channel");
        [
            format!("rustup toolchain install {channel} --profile minimal"),
            format!("rustup component add {} --toolchain {channel}", COMPONENTS.join(" ")),
        ]
    }

    /// Whether this is the compiler that the pin file names, the only one whose output can be compared byte for byte.
    pub fn is_pinned(&self) -> bool {
        self.version.is_pinned()
    }

    /// Compiler and LLVM version, as the manifest records them.
    pub fn version(&self) -> String {
        format!("{}, LLVM {}", self.version.release, self.version.llvm)
    }

    /// Where it was found.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Where the sources of `core` lie.
    pub(crate) fn rust_src(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    /// The path of one of LLVM's tools.
    pub(crate) fn llvm_tool(&self, name: &str) -> PathBuf {
        self.llvm_bin.join(program(name))
    }

    /// cargo, told to use this rustc.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = clean(&self.cargo);
        command.env("RUSTC", &self.rustc);
        if !self.version.release.contains("nightly") {
            // Lets a stable compiler take -Z flags and nightly features.
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

/// The file name of a program on this system.
fn program(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

fn sysroot(rustc: &Path) -> Result<PathBuf, String> {
    let answer = run("asking rustc for its sysroot", clean(rustc).args(["--print", "sysroot"]));
    answer.map(|text| PathBuf::from(text.trim())).map_err(|error| error.to_string())
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no answer").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\n\
        commit-hash: e50aa6fba4e63ab34c72bf9acfd2c307c1155d1a\ncommit-date: 2026-05-19\n\
        host: x86_64-unknown-linux-gnu\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";

    #[test]
    fn a_compiler_is_pinned_by_commit_and_llvm_whatever_its_channel_is_called() {
        let version = Version::parse(VERSION);
        assert!(version.is_pinned());
        assert_eq!((version.host.as_str(), version.llvm_major()), ("x86_64-unknown-linux-gnu", "22"));
        assert!(version.release.contains(pin("release")));
        assert!(!Version::parse(&VERSION.replace("e50aa6fba4e", "e50aa6fba4f")).is_pinned());
        assert!(!Version::parse(&VERSION.replace("22.1.4", "22.1.8")).is_pinned());
    }

    #[test]
    fn what_is_missing_is_named_with_the_commands_that_install_it() {
        let folder = tempfile::tempdir().unwrap();
        let why = Toolchain::from_debian(folder.path()).unwrap_err();
        assert!(why.starts_with("no ") && why.ends_with("rustc"), "{why}");
        let text = Error::NoToolchain { tried: vec![why] }.to_string();
        for command in Toolchain::install_commands() {
            assert!(text.contains(&command), "{text}");
        }
        assert!(text.contains("rustup component add rust-src llvm-tools --toolchain nightly-"), "{text}");
    }
}
