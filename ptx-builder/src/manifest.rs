//! What is recorded of the shipped images: `MANIFEST.toml`.

use std::fmt::Write;
use std::path::Path;

use crate::ir_pass::LaunchBounds;
use crate::ptx::Module;
use crate::{Arch, Error, Image, Result, pipeline, sha256};

/// The file's name, beside the images.
pub(crate) const FILE: &str = "MANIFEST.toml";

/// Everything recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// The compiler's and LLVM's version.
    pub toolchain: String,
    /// [`source_hash`](crate::source_hash) of what the images were built from.
    pub source_hash: String,
    /// One per architecture.
    pub images: Vec<ImageRecord>,
}

/// What is recorded of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The architecture's name.
    pub arch: String,
    /// SHA-256 of the text.
    pub ptx_hash: String,
    /// One per kernel, in the text's order.
    pub kernels: Vec<KernelRecord>,
}

/// What is recorded of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRecord {
    /// Its symbol and what it is launched with.
    pub bounds: LaunchBounds,
    /// Hash of its own text; while it stays, so do the resources.
    pub text_hash: String,
    /// Why it may spill; empty while it does not.
    pub spill_reason: String,
    /// What ptxas said, per version and GPU. Empty where ptxas was not at hand.
    pub resources: Vec<Resources>,
}

/// What ptxas says of a kernel on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// ptxas' version.
    pub ptxas: String,
    /// The GPU assembled for.
    pub gpu: String,
    /// Registers per thread.
    pub registers: u32,
    /// Bytes of local memory per thread.
    pub stack_bytes: u32,
    /// Bytes written to it because registers ran out, over the kernel's text.
    pub spill_store_bytes: u32,
    /// Bytes read from it again.
    pub spill_load_bytes: u32,
}

impl Resources {
    /// Bytes of stack and spills together: 0 is what a kernel wants.
    pub fn spilled(&self) -> u32 {
        self.stack_bytes + self.spill_store_bytes + self.spill_load_bytes
    }
}

impl Manifest {
    /// The record of images just built. Resources and reasons of kernels whose text has not changed are kept from `old`.
    pub(crate) fn of(images: &[Image], source_hash: String, old: &Self) -> Self {
        let record = |image: &Image| {
            let module = Module::parse(&image.ptx);
            let kernels = image.kernels.iter().map(|bounds| {
                let text = module.entry(&bounds.kernel).map(|entry| entry.text(&image.ptx).join("\n"));
                let text_hash = sha256::hex(text.unwrap_or_default().as_bytes())[..16].to_string();
                let known = old.kernel(image.arch, &bounds.kernel);
                let same = known.filter(|known| known.text_hash == text_hash);
                KernelRecord {
                    bounds: bounds.clone(),
                    resources: same.map_or(Vec::new(), |known| known.resources.clone()),
                    spill_reason: known.map_or(String::new(), |known| known.spill_reason.clone()),
                    text_hash,
                }
            });
            ImageRecord {
                arch: image.arch.name().to_string(),
                ptx_hash: sha256::hex(image.ptx.as_bytes()),
                kernels: kernels.collect(),
            }
        };
        Self {
            toolchain: images.first().map_or(String::new(), |image| image.toolchain.clone()),
            source_hash,
            images: images.iter().map(record).collect(),
        }
    }

    /// The record of a kernel.
    pub fn kernel(&self, arch: Arch, name: &str) -> Option<&KernelRecord> {
        let image = self.images.iter().find(|image| image.arch == arch.name())?;
        image.kernels.iter().find(|kernel| kernel.bounds.kernel == name)
    }

    /// Reads the manifest of a folder; `None` where there is none.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let manifest = Self::parse(&pipeline::read(&path)?);
        manifest.map(Some).map_err(|what| Error::Manifest(format!("{}: {what}", path.display())))
    }

    /// The file's text.
    pub(crate) fn to_toml(&self) -> String {
        let mut out = String::from("# Written by `cargo run -p ptx-builder`, compared by its `--check`.\n");
        let _ = writeln!(out, "toolchain = \"{}\"\nsource_hash = \"{}\"", self.toolchain, self.source_hash);
        for image in &self.images {
            let _ = writeln!(out, "\n[{}]\nptx_hash = \"{}\"", image.arch, image.ptx_hash);
            for kernel in &image.kernels {
                kernel.write(&image.arch, &mut out);
            }
        }
        out
    }

    /// Reads what [`to_toml`](Self::to_toml) writes: one table header, key or resource to a line.
    fn parse(text: &str) -> Result<Self, String> {
        let mut manifest = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let fail = || format!("line {} is not understood: {line}", index + 1);
            if line.is_empty() || line.starts_with('#') || line == "]" {
                continue;
            }
            if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                match header.split_once('.') {
                    None => manifest.images.push(ImageRecord::new(header)),
                    Some((_, kernel)) => {
                        manifest.images.last_mut().ok_or_else(fail)?.kernels.push(KernelRecord::new(kernel));
                    }
                }
            } else if let Some(row) = line.strip_prefix("{ ").and_then(|rest| rest.strip_suffix(" },")) {
                manifest
                    .last_kernel()
                    .ok_or_else(fail)?
                    .resources
                    .push(Resources::parse(row).ok_or_else(fail)?);
            } else {
                let (key, value) = line.split_once(" = ").ok_or_else(fail)?;
                manifest.set(key, value).ok_or_else(fail)?;
            }
        }
        Ok(manifest)
    }

    fn last_kernel(&mut self) -> Option<&mut KernelRecord> {
        self.images.last_mut()?.kernels.last_mut()
    }

    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        if let Some(kernel) = self.last_kernel() {
            let bounds = &mut kernel.bounds;
            match key {
                "threads" => bounds.threads = value.parse().ok()?,
                "min_ctas_per_sm" => bounds.min_ctas_per_sm = value.parse().ok()?,
                "max_registers" => bounds.max_registers = value.parse().ok()?,
                "dynamic_smem_bytes" => bounds.dynamic_smem_bytes = Some(value.parse().ok()?),
                "text_hash" => kernel.text_hash = unquote(value)?,
                "spill_reason" => kernel.spill_reason = unquote(value)?,
                "resources" => {}
                _ => return None,
            }
        } else {
            match (key, self.images.last_mut()) {
                ("ptx_hash", Some(image)) => image.ptx_hash = unquote(value)?,
                ("toolchain", None) => self.toolchain = unquote(value)?,
                ("source_hash", None) => self.source_hash = unquote(value)?,
                _ => return None,
            }
        }
        Some(())
    }
}

impl ImageRecord {
    fn new(arch: &str) -> Self {
        Self { arch: arch.to_string(), ptx_hash: String::new(), kernels: Vec::new() }
    }
}

impl KernelRecord {
    fn new(kernel: &str) -> Self {
        let bounds = LaunchBounds {
            kernel: kernel.to_string(),
            threads: 0,
            min_ctas_per_sm: 0,
            max_registers: 0,
            dynamic_smem_bytes: None,
        };
        Self { bounds, text_hash: String::new(), spill_reason: String::new(), resources: Vec::new() }
    }

    fn write(&self, arch: &str, out: &mut String) {
        let LaunchBounds { kernel, threads, min_ctas_per_sm, max_registers, dynamic_smem_bytes } =
            &self.bounds;
        let _ =
            writeln!(out, "\n[{arch}.{kernel}]\nthreads = {threads}\nmin_ctas_per_sm = {min_ctas_per_sm}");
        if *max_registers != 0 {
            let _ = writeln!(out, "max_registers = {max_registers}");
        }
        if let Some(bytes) = dynamic_smem_bytes {
            let _ = writeln!(out, "dynamic_smem_bytes = {bytes}");
        }
        let _ = writeln!(out, "text_hash = \"{}\"", self.text_hash);
        if !self.spill_reason.is_empty() {
            let _ = writeln!(out, "spill_reason = \"{}\"", self.spill_reason);
        }
        if !self.resources.is_empty() {
            out.push_str("resources = [\n");
            for Resources { ptxas, gpu, registers, stack_bytes, spill_store_bytes, spill_load_bytes } in
                &self.resources
            {
                let _ = writeln!(
                    out,
                    "    {{ ptxas = \"{ptxas}\", gpu = \"{gpu}\", registers = {registers}, stack_bytes = {stack_bytes}, \
                     spill_store_bytes = {spill_store_bytes}, spill_load_bytes = {spill_load_bytes} }},"
                );
            }
            out.push_str("]\n");
        }
    }
}

impl Resources {
    fn parse(row: &str) -> Option<Self> {
        let value =
            |name: &str| row.split(", ").find_map(|field| field.strip_prefix(name)?.strip_prefix(" = "));
        let number = |name: &str| value(name)?.parse().ok();
        Some(Self {
            ptxas: unquote(value("ptxas")?)?,
            gpu: unquote(value("gpu")?)?,
            registers: number("registers")?,
            stack_bytes: number("stack_bytes")?,
            spill_store_bytes: number("spill_store_bytes")?,
            spill_load_bytes: number("spill_load_bytes")?,
        })
    }
}

fn unquote(value: &str) -> Option<String> {
    Some(value.strip_prefix('"')?.strip_suffix('"')?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let resources = |gpu: &str, registers| Resources {
            ptxas: "13.0.88".into(),
            gpu: gpu.into(),
            registers,
            stack_bytes: 8,
            spill_store_bytes: 12,
            spill_load_bytes: 16,
        };
        let mut one = KernelRecord::new("dense_attention_bf16_d128");
        one.bounds =
            LaunchBounds { threads: 128, min_ctas_per_sm: 2, dynamic_smem_bytes: Some(65536), ..one.bounds };
        one.text_hash = "0123456789abcdef".into();
        one.spill_reason = "outside of the main loop".into();
        one.resources = vec![resources("sm_80", 255), resources("sm_90", 168)];
        let mut two = KernelRecord::new("merge_state_f32_d64");
        two.bounds = LaunchBounds { threads: 32, min_ctas_per_sm: 1, max_registers: 40, ..two.bounds };
        two.text_hash = "f".into();
        Manifest {
            toolchain: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19), LLVM 22.1.4".into(),
            source_hash: "ab".into(),
            images: vec![ImageRecord {
                arch: "sm_80".into(),
                ptx_hash: "cd".into(),
                kernels: vec![one, two],
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let manifest = manifest();
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        assert_eq!(manifest.kernel(Arch::Sm80, "merge_state_f32_d64").unwrap().bounds.max_registers, 40);
        assert!(manifest.kernel(Arch::Sm80, "none").is_none());
    }

    #[test]
    fn what_is_not_understood_is_an_error_with_its_line() {
        let text = manifest().to_toml();
        for (from, to) in
            [("threads = 128", "threads = many"), ("ptx_hash =", "hash ="), ("registers = 255", "r = 255")]
        {
            let error = Manifest::parse(&text.replacen(from, to, 1)).unwrap_err();
            assert!(error.starts_with("line "), "{error}");
        }
    }

    #[test]
    fn resources_are_kept_while_the_text_is_the_same() {
        let old = manifest();
        let image = |kernel: &str, body: &str| Image {
            arch: Arch::Sm80,
            ptx: format!(".visible .entry {kernel}()\n{{\n{body}\nret;\n}}\n"),
            lines: String::new(),
            kernels: vec![LaunchBounds { kernel: kernel.into(), ..old.images[0].kernels[0].bounds.clone() }],
            convergent: crate::Convergent::default(),
            toolchain: "rustc".into(),
            warnings: String::new(),
        };
        let name = "dense_attention_bf16_d128";
        let first = Manifest::of(&[image(name, "")], String::new(), &Manifest::default());
        assert_eq!(first.images[0].kernels[0].resources, []);
        let mut measured = first.clone();
        measured.images[0].kernels[0].resources = old.images[0].kernels[0].resources.clone();
        assert_eq!(Manifest::of(&[image(name, "")], String::new(), &measured), measured);
        assert_eq!(
            Manifest::of(&[image(name, "bar.sync 0;")], String::new(), &measured).images[0].kernels[0]
                .resources,
            []
        );
    }

    #[test]
    fn a_folder_may_have_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        pipeline::write(&folder.path().join(FILE), &manifest().to_toml()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest()));
    }
}
