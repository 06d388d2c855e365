//! The library's front door.

use std::path::{Path, PathBuf};

use crate::ir_pass::{Convergent, LaunchBounds};
use crate::pipeline::{self, OptLevel, Pipeline};
use crate::{Arch, Error, Result, Toolchain, lines, lint};

/// Compiles a crate of kernels to PTX.
#[derive(Debug, Clone)]
pub struct PtxBuilder {
    crate_dir: PathBuf,
    arch: Arch,
    opt_level: OptLevel,
    toolchain: Option<Toolchain>,
    work_dir: Option<PathBuf>,
    copy_to: Option<PathBuf>,
}

/// PTX that keeps the rules, and what is known of it.
#[derive(Debug, Clone)]
pub struct Image {
    /// The architecture it is for.
    pub arch: Arch,
    /// The text.
    pub ptx: String,
    /// The table from its lines to lines of Rust.
    pub lines: String,
    /// What each kernel is launched with, in the text's order.
    pub kernels: Vec<LaunchBounds>,
    /// Calls that the pass marked convergent.
    pub convergent: Convergent,
    /// The version of the compiler that built it.
    pub toolchain: String,
    /// What the compiler warned of; empty when of nothing.
    pub warnings: String,
}

impl Image {
    /// Writes `sm_80.ptx` and `sm_80.lines` into a folder.
    pub fn write_to(&self, folder: &Path) -> Result<()> {
        pipeline::write(&folder.join(format!("{}.ptx", self.arch)), &self.ptx)?;
        pipeline::write(&folder.join(format!("{}.lines", self.arch)), &self.lines)
    }
}

impl PtxBuilder {
    /// A builder of the crate in `crate_dir`, for [`Arch::Sm80`].
    pub fn new(crate_dir: impl Into<PathBuf>) -> Self {
        Self {
            crate_dir: crate_dir.into(),
            arch: Arch::Sm80,
            opt_level: OptLevel::O3,
            toolchain: None,
            work_dir: None,
            copy_to: None,
        }
    }

    /// The architecture to build for.
    pub fn arch(mut self, arch: Arch) -> Self {
        self.arch = arch;
        self
    }

    /// How hard LLVM optimises.
    pub fn opt_level(mut self, opt_level: OptLevel) -> Self {
        self.opt_level = opt_level;
        self
    }

    /// The compiler to use, in place of the one [`Toolchain::find`] finds.
    pub fn toolchain(mut self, toolchain: Toolchain) -> Self {
        self.toolchain = Some(toolchain);
        self
    }

    /// Where everything in between is kept, `core` compiled included; by default `ptx-builder` in cargo's `OUT_DIR` or,
    /// outside of build scripts, in its target folder.
    pub fn work_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.work_dir = Some(folder.into());
        self
    }

    /// A folder to write the text to as `sm_80.ptx`, and the table of lines as `sm_80.lines`.
    pub fn copy_to(mut self, folder: impl Into<PathBuf>) -> Self {
        self.copy_to = Some(folder.into());
        self
    }

    /// Builds, and checks every rule.
    pub fn build(&self) -> Result<Image> {
        let toolchain = match &self.toolchain {
            Some(given) => given.clone(),
            None => Toolchain::find()?,
        };
        let crate_dir = self.crate_dir.canonicalize().map_err(Error::io(&self.crate_dir))?;
        let work_dir = self
            .work_dir
            .clone()
            .unwrap_or_else(|| pipeline::default_work_dir(&crate_dir))
            .join(self.arch.name());
        let pipeline = Pipeline {
            toolchain: &toolchain,
            crate_dir: &crate_dir,
            arch: self.arch,
            opt_level: self.opt_level,
            work_dir: &work_dir,
        };
        let built = pipeline.run()?;
        let mut findings = lint::check(&built.ptx, self.arch, &built.kernels);
        if !findings.is_empty() {
            for finding in &mut findings {
                let source = built.lines.as_ref().ok().and_then(|table| lines::source(table, finding.line));
                finding.source = source.unwrap_or_default();
            }
            // Beside everything in between, for who wants to look.
            let text = work_dir.join(format!("{}.ptx", self.arch));
            pipeline::write(&text, &built.ptx)?;
            return Err(Error::Lint { findings, text });
        }
        let image = Image {
            arch: self.arch,
            ptx: built.ptx,
            lines: built.lines?,
            kernels: built.kernels,
            convergent: built.convergent,
            toolchain: toolchain.version(),
            warnings: built.warnings,
        };
        image.write_to(&work_dir)?;
        if let Some(folder) = &self.copy_to {
            image.write_to(folder)?;
        }
        Ok(image)
    }
}
