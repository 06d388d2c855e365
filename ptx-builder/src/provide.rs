//! Images for a build script: the shipped ones while the kernels are as they were, new ones where they were edited.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::{Arch, Error, PtxBuilder, Result, pipeline, source_hash};

/// Puts the images into `OUT_DIR` as `sm_80.ptx`, with their tables of lines as `sm_80.lines` (empty where there is none),
/// and tells cargo what they depend on.
#[derive(Debug, Clone)]
pub struct Provide {
    kernels: PathBuf,
    shipped: PathBuf,
    folder_variable: &'static str,
    origin_variable: &'static str,
}

/// Where images come from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// A folder that the user names.
    Named(PathBuf),
    /// The committed ones, and why not a new build, unless there is nothing to build.
    Shipped { instead_of_building: Option<&'static str> },
    /// The kernels' sources.
    Built,
}

/// What the choice depends on, as cargo tells a build script.
#[derive(Debug, Default)]
struct Surroundings {
    folder: Option<OsString>,
    docs_rs: bool,
    clippy: bool,
}

impl Provide {
    /// Images of the crate in `kernels`, shipped in `shipped`; both from the folder of the package's manifest.
    pub fn new(kernels: impl Into<PathBuf>, shipped: impl Into<PathBuf>) -> Self {
        Self {
            kernels: kernels.into(),
            shipped: shipped.into(),
            folder_variable: "PTX_DIR",
            origin_variable: "PTX_ORIGIN",
        }
    }

    /// The environment variable that may name a folder of ready images, used as they are.
    pub fn folder_variable(mut self, name: &'static str) -> Self {
        self.folder_variable = name;
        self
    }

    /// The variable that says where the images came from, for `env!` in the package.
    pub fn origin_variable(mut self, name: &'static str) -> Self {
        self.origin_variable = name;
        self
    }

    /// Provides the images, or ends the build with an error that says what is missing.
    pub fn run(&self) {
        if let Err(error) = self.provide() {
            if let Error::NoToolchain { .. } = error {
                let kernels = self.kernels.display();
                println!(
                    "cargo::error={kernels} was edited since the shipped PTX was built, and cannot be built here"
                );
            }
            for line in error.to_string().lines() {
                println!("cargo::error={line}");
            }
            std::process::exit(1);
        }
    }

    fn provide(&self) -> Result<()> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let surroundings = Surroundings {
            folder: variable(self.folder_variable),
            docs_rs: variable("DOCS_RS").is_some(),
            clippy: variable("RUSTC_WORKSPACE_WRAPPER")
                .is_some_and(|wrapper| wrapper.to_string_lossy().contains("clippy-driver")),
        };
        let out_dir = PathBuf::from(variable("OUT_DIR").unwrap_or_default());
        println!("cargo::rerun-if-changed=build.rs");
        println!("cargo::rerun-if-env-changed={}", self.folder_variable);
        for path in [self.kernels.join("src"), self.shipped.clone()] {
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
        let origin = match self.choose(&surroundings)? {
            Source::Named(folder) => {
                copy(&folder, &out_dir)?;
                let origin = format!("read from {}", folder.display());
                println!("cargo::warning=PTX {origin}");
                println!("cargo::rerun-if-changed={}", folder.display());
                origin
            }
            Source::Shipped { instead_of_building } => {
                copy(&self.shipped, &out_dir)?;
                if let Some(reason) = instead_of_building {
                    println!(
                        "cargo::warning=the shipped PTX is older than the kernels, and is not rebuilt {reason}"
                    );
                    // The next build without clippy must choose anew.
                    println!("cargo::rerun-if-env-changed=RUSTC_WORKSPACE_WRAPPER");
                }
                let toolchain = Manifest::read(&self.shipped)?.unwrap_or_default().toolchain;
                format!("shipped, built by {toolchain}")
            }
            Source::Built => {
                let mut origin = String::new();
                for &arch in Arch::ALL {
                    let image = PtxBuilder::new(&self.kernels).arch(arch).copy_to(&out_dir).build()?;
                    origin = format!("built from {} by {}", self.kernels.display(), image.toolchain);
                }
                println!("cargo::warning=PTX {origin}: the kernels were edited");
                origin
            }
        };
        println!("cargo::rustc-env={}={origin}", self.origin_variable);
        Ok(())
    }

    fn choose(&self, surroundings: &Surroundings) -> Result<Source> {
        if let Some(folder) = &surroundings.folder {
            return Ok(Source::Named(folder.into()));
        }
        // A packaged crate comes without the kernels' sources.
        if !self.kernels.join("src").exists() {
            return Ok(Source::Shipped { instead_of_building: None });
        }
        let recorded = Manifest::read(&self.shipped)?.map(|manifest| manifest.source_hash);
        Ok(match recorded {
            Some(recorded) if recorded == source_hash(&self.kernels)? => {
                Source::Shipped { instead_of_building: None }
            }
            Some(_) if surroundings.docs_rs => Source::Shipped { instead_of_building: Some("on docs.rs") },
            Some(_) if surroundings.clippy => Source::Shipped { instead_of_building: Some("under clippy") },
            _ => Source::Built,
        })
    }
}

/// Copies images, and tables of lines where there are any.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for arch in Arch::ALL {
        let (ptx, lines) = (format!("{arch}.ptx"), format!("{arch}.lines"));
        pipeline::write(&to.join(&ptx), &pipeline::read(&from.join(&ptx))?)?;
        let table = std::fs::read_to_string(from.join(&lines)).unwrap_or_default();
        pipeline::write(&to.join(&lines), &table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with kernels and, for a hash given, a manifest.
    fn package(kernels: bool, hash: impl FnOnce(&Path) -> Option<String>) -> (tempfile::TempDir, Provide) {
        let folder = tempfile::tempdir().unwrap();
        let provide = Provide::new(folder.path().join("kernels"), folder.path().join("ptx"));
        if kernels {
            pipeline::write(&provide.kernels.join("src/lib.rs"), "#![no_std]\n").unwrap();
        }
        if let Some(source_hash) = hash(&provide.kernels) {
            let manifest = Manifest { source_hash, ..Manifest::default() };
            pipeline::write(&provide.shipped.join(crate::manifest::FILE), &manifest.to_toml()).unwrap();
        }
        (folder, provide)
    }

    fn choice(package: (tempfile::TempDir, Provide), surroundings: Surroundings) -> Source {
        package.1.choose(&surroundings).unwrap()
    }

    #[test]
    fn unchanged_kernels_take_the_shipped_images() {
        let shipped = Source::Shipped { instead_of_building: None };
        assert_eq!(
            choice(package(true, |kernels| source_hash(kernels).ok()), Surroundings::default()),
            shipped
        );
        assert_eq!(choice(package(false, |_| Some("any".into())), Surroundings::default()), shipped);
    }

    #[test]
    fn edited_kernels_are_built_unless_nothing_may_be() {
        let edited = || package(true, |_| Some("old".into()));
        assert_eq!(choice(edited(), Surroundings::default()), Source::Built);
        assert_eq!(choice(package(true, |_| None), Surroundings::default()), Source::Built);
        let clippy = Surroundings { clippy: true, ..Surroundings::default() };
        assert_eq!(choice(edited(), clippy), Source::Shipped { instead_of_building: Some("under clippy") });
        let docs_rs = Surroundings { docs_rs: true, ..Surroundings::default() };
        assert_eq!(choice(edited(), docs_rs), Source::Shipped { instead_of_building: Some("on docs.rs") });
    }

    #[test]
    fn a_named_folder_goes_first_and_must_hold_the_images() {
        let named = Surroundings { folder: Some("ready".into()), ..Surroundings::default() };
        assert_eq!(choice(package(true, |_| None), named), Source::Named("ready".into()));
        let folder = tempfile::tempdir().unwrap();
        let error = copy(&folder.path().join("none"), folder.path()).unwrap_err().to_string();
        assert!(error.contains("sm_80.ptx"), "{error}");
        pipeline::write(&folder.path().join("in/sm_80.ptx"), "text").unwrap();
        copy(&folder.path().join("in"), &folder.path().join("out")).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("out/sm_80.lines")).unwrap(), "");
    }
}
