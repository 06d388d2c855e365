//! From a crate of kernels to PTX, in five steps: rustc, the pass over its LLVM IR, link, optimise, write PTX.
//!
//! What plain `rustc --emit=asm` writes must not be shipped: it moves warp-synchronous instructions into divergent
//! branches (see [`ir_pass`]). rustc stops before its own optimiser runs, the pass marks what must not move, and LLVM's
//! optimiser runs afterwards over kernels and the used parts of `core` together.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{run, run_noting};
use crate::ir_pass::{self, Convergent, LaunchBounds};
use crate::{Arch, Error, Result, Toolchain, lines, source, stable};

/// The target that all kernels are compiled for.
const TARGET: &str = "nvptx64-nvidia-cuda";

/// rustc's flags beside `-Ctarget-cpu`, for the kernels and for `core` alike: functions of different CPU attributes may not
/// inline into each other. Jump threading clones barriers (harmless from 1.97 on, where rustc leaves it out itself). Line
/// directives cost nothing and are stripped before the optimiser runs.
const RUSTC_FLAGS: &[&str] = &[
    "-Zmir-enable-passes=-JumpThreading",
    "-Cno-prepopulate-passes",
    "-Ccodegen-units=1",
    "-Cdebuginfo=line-directives-only",
];

/// The release profile, whatever the workspace around the crate or a configuration file says.
const PROFILE: &[(&str, &str)] = &[
    ("OPT_LEVEL", "3"),
    ("PANIC", "abort"),
    ("CODEGEN_UNITS", "1"),
    ("DEBUG", "line-directives-only"),
    ("STRIP", "none"),
    ("LTO", "false"),
    ("INCREMENTAL", "false"),
    ("OVERFLOW_CHECKS", "false"),
    ("DEBUG_ASSERTIONS", "false"),
];

/// Accumulators live in registers only where every loop over them is unrolled, which wants thresholds far above LLVM's
/// own (the largest tile needs them; the lint on local memory decides).
const UNROLL: &[&str] = &["--unroll-threshold=20000", "--unroll-full-max-count=64"];

/// How hard LLVM optimises. Kernels are built at [`O3`](Self::O3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OptLevel {
    /// `default<O1>`.
    O1,
    /// `default<O3>`.
    #[default]
    O3,
}

impl OptLevel {
    fn passes(self) -> &'static str {
        match self {
            Self::O1 => "internalize,globaldce,default<O1>,internalize,globaldce",
            Self::O3 => "internalize,globaldce,default<O3>,internalize,globaldce",
        }
    }
}

/// Everything of the pipeline that decides what comes out, for the source hash.
pub(crate) fn fingerprint() -> String {
    format!("{RUSTC_FLAGS:?} {PROFILE:?} {UNROLL:?} {} {}", OptLevel::O3.passes(), ir_pass::REVISION)
}

/// What the pipeline made.
pub(crate) struct Built {
    pub ptx: String,
    /// The table from its lines to lines of Rust; an error of it must not hide broken rules.
    pub lines: Result<String>,
    pub kernels: Vec<LaunchBounds>,
    pub convergent: Convergent,
    pub warnings: String,
}

/// The inputs of one build.
pub(crate) struct Pipeline<'a> {
    pub toolchain: &'a Toolchain,
    pub crate_dir: &'a Path,
    pub arch: Arch,
    pub opt_level: OptLevel,
    /// Where everything in between is written; never the outer cargo's own folder, whose lock it holds.
    pub work_dir: &'a Path,
}

impl Pipeline<'_> {
    pub fn run(&self) -> Result<Built> {
        let (deps, warnings) = self.compile()?;
        let passed = ir_pass::run(&read(&only(&deps, &format!("{}-", self.crate_name()?), ".ll")?)?)?;
        let file = |name: &str| self.work_dir.join(name);
        write(&file("kernels.pass.ll"), &passed.ir)?;
        let names: Vec<_> = passed.kernels.iter().map(|bounds| bounds.kernel.as_str()).collect();
        write(&file("kernels.txt"), &names.join("\n"))?;

        let mut link = self.llvm("llvm-link");
        link.args(["--only-needed", "--ignore-non-bitcode"]).arg(file("kernels.pass.ll"));
        link.args([only(&deps, "libcore-", ".rlib")?, only(&deps, "libcompiler_builtins-", ".rlib")?]);
        run("linking the kernels", link.arg("-o").arg(file("linked.bc")))?;

        let title = format!(
            "{} for {}, written by ptx-builder; MANIFEST.toml says from what.",
            self.crate_name()?,
            self.arch
        );
        let ptx = stable::symbols(&stable::without_comments(&self.optimise(false)?, &title))?;
        let located = stable::symbols(&self.optimise(true)?)?;
        Ok(Built {
            lines: lines::table(&ptx, &located, &self.sources()?),
            ptx,
            kernels: passed.kernels,
            convergent: passed.convergent,
            warnings,
        })
    }

    /// Step 1: unoptimised LLVM IR of the crate, and `core` as bitcode. Returns the folder they lie in, and warnings.
    fn compile(&self) -> Result<(PathBuf, String)> {
        let target_dir = self.work_dir.join("rustc");
        let mut flags = vec![format!("-Ctarget-cpu={}", self.arch)];
        flags.extend(RUSTC_FLAGS.iter().map(ToString::to_string));
        // Neither the checkout's folder nor the toolchain's may show in what comes out.
        flags.push(format!("--remap-path-prefix={}=rust", self.toolchain.rust_src().display()));
        flags.push(format!("--remap-path-prefix={}=.", workspace(self.crate_dir).display()));
        let mut cargo = self.toolchain.cargo();
        cargo.current_dir(self.crate_dir).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        for (name, value) in PROFILE {
            cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
        }
        cargo.args([
            "rustc",
            "--quiet",
            "--release",
            "--lib",
            "--target",
            TARGET,
            "-Zbuild-std=core",
            "--target-dir",
        ]);
        cargo.arg(&target_dir).args(["--", "--emit=llvm-ir,link"]);
        let (_, warnings) = run_noting("compiling the kernels", &mut cargo)?;
        Ok((target_dir.join(TARGET).join("release/deps"), warnings))
    }

    /// Steps 4 and 5: the optimiser, a look at what it left of the marks, and PTX.
    fn optimise(&self, located: bool) -> Result<String> {
        let stem = if located { "located" } else { "kernels" };
        let file = |extension: &str| self.work_dir.join(format!("{stem}.{extension}"));
        let mut public = std::ffi::OsString::from("--internalize-public-api-file=");
        public.push(self.work_dir.join("kernels.txt"));
        let mut opt = self.llvm("opt");
        opt.arg(public).arg(format!("--passes={}", self.opt_level.passes())).args(UNROLL);
        opt.args((!located).then_some("--strip-debug")).arg(self.work_dir.join("linked.bc"));
        run("optimising the kernels", opt.arg("-o").arg(file("bc")))?;
        let mut disassemble = self.llvm("llvm-dis");
        ir_pass::verify(&run(
            "reading the optimised kernels",
            disassemble.arg(file("bc")).args(["-o", "-"]),
        )?)?;
        let mut llc = self.llvm("llc");
        llc.arg(format!("-mcpu={}", self.arch));
        run("writing PTX", llc.arg(file("bc")).arg("-o").arg(file("ptx")))?;
        read(&file("ptx"))
    }

    /// The source files of the crate and of `core`, as they are named in line directives.
    fn sources(&self) -> Result<Vec<String>> {
        let inner = self.crate_dir.strip_prefix(workspace(self.crate_dir)).unwrap_or(Path::new(""));
        let name = |file: String| inner.join(file).to_string_lossy().replace('\\', "/");
        let mut all: Vec<_> = source::source_files(self.crate_dir)?.into_iter().map(name).collect();
        let core = source::source_files(&self.toolchain.rust_src().join("library/core"))?;
        all.extend(core.into_iter().map(|file| format!("rust/library/core/{file}")));
        Ok(all)
    }

    fn llvm(&self, tool: &str) -> Command {
        crate::command::clean(&self.toolchain.llvm_tool(tool))
    }

    /// The crate's name as rustc writes it.
    fn crate_name(&self) -> Result<String> {
        let manifest = self.crate_dir.join("Cargo.toml");
        let text = read(&manifest)?;
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            } else if let Some(("name", value)) =
                line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
                && section == "[package]"
            {
                return Ok(value.trim_matches('"').replace('-', "_"));
            }
        }
        Err(Error::Pass(format!("{}: no name under [package]", manifest.display())))
    }
}

/// The workspace around a crate, or its own folder; rustc names files from there.
pub(crate) fn workspace(crate_dir: &Path) -> &Path {
    let is_root = |folder: &&Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| line.trim() == "[workspace]")
    };
    crate_dir.ancestors().find(is_root).unwrap_or(crate_dir)
}

/// `ptx-builder` in the folder a build script may write to, or in cargo's target folder.
pub(crate) fn default_work_dir(crate_dir: &Path) -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let crate_dir = crate_dir.canonicalize().unwrap_or(crate_dir.to_path_buf());
    let base = variable("OUT_DIR").or_else(|| variable("CARGO_TARGET_DIR"));
    let base = base.unwrap_or_else(|| workspace(&crate_dir).join("target"));
    base.join("ptx-builder").join(crate_dir.file_name().unwrap_or_default())
}

/// The one file of a folder with this beginning and end; several mean that another compiler or crate left its own.
fn only(folder: &Path, prefix: &str, suffix: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(prefix) && name.ends_with(suffix) {
            found.push(path);
        }
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([path]) => Ok(path),
        Err(found) => Err(Error::Pass(format!(
            "{}: want one file {prefix}*{suffix}, got {}; remove the folder and build again",
            folder.display(),
            found.len()
        ))),
    }
}

pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io(path))
}

pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    fs::write(path, text).map_err(Error::io(path))
}
