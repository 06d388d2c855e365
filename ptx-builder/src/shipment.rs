//! Everything that is committed of a crate of kernels: images, tables of lines, the manifest, and the documentation's table
//! of resources. Made in memory, then written or compared.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::ScopedJoinHandle;

use crate::lint::Finding;
use crate::manifest::{self, ImageRecord, Manifest};
use crate::ptx::Module;
use crate::ptxas::Ptxas;
use crate::{Arch, Error, Image, PtxBuilder, Result, Toolchain, pipeline, sass, source_hash, table};

/// What to build, and against which assemblers to check it.
#[derive(Debug, Clone)]
pub struct Order {
    /// The crate of kernels.
    pub crate_dir: PathBuf,
    /// The folder of the images, which also holds the manifest to compare with.
    pub out_dir: PathBuf,
    /// A document with a table of resources.
    pub document: Option<PathBuf>,
    /// Where everything in between is kept; by default the builder's.
    pub work_dir: Option<PathBuf>,
    /// Assemblers to check with.
    pub ptxas: Vec<Ptxas>,
    /// Why kernels may spill more than is recorded, where they may.
    pub spill_reason: Option<String>,
}

/// What is to be committed.
#[derive(Debug)]
pub struct Shipment {
    /// The images.
    pub images: Vec<Image>,
    /// The record of them.
    pub manifest: Manifest,
    /// The record before.
    before: Manifest,
    /// Paths and their contents.
    files: Vec<(PathBuf, String)>,
    /// Machine code: one cubin per image, GPU and assembler.
    cubins: Vec<Cubin>,
}

/// An image assembled.
#[derive(Debug)]
struct Cubin {
    path: PathBuf,
    gpu: &'static str,
    ptxas: Ptxas,
}

impl Order {
    /// Builds every image, checks rules, and asks the assemblers.
    pub fn fill(&self, toolchain: &Toolchain) -> Result<Shipment> {
        let before = Manifest::read(&self.out_dir)?.unwrap_or_default();
        let mut images = Vec::new();
        for &arch in Arch::ALL {
            let mut builder = PtxBuilder::new(&self.crate_dir).arch(arch).toolchain(toolchain.clone());
            if let Some(folder) = &self.work_dir {
                builder = builder.work_dir(folder);
            }
            images.push(builder.build()?);
        }
        let manifest = Manifest::of(&images, source_hash(&self.crate_dir)?, &before);
        let mut shipment = Shipment { images, manifest, before, files: Vec::new(), cubins: Vec::new() };
        self.assemble(&mut shipment)?;
        shipment.files.push((self.out_dir.join(manifest::FILE), shipment.manifest.to_toml()));
        for image in &shipment.images {
            let path = |extension: &str| self.out_dir.join(format!("{}.{extension}", image.arch));
            shipment.files.push((path("ptx"), image.ptx.clone()));
            shipment.files.push((path("lines"), image.lines.clone()));
        }
        if let Some(path) = self.document.as_ref().filter(|path| path.exists()) {
            let text = table::replace(&pipeline::read(path)?, &shipment.manifest);
            let text = text.ok_or_else(|| {
                Error::Manifest(format!("{}: no marks for a table of resources", path.display()))
            })?;
            shipment.files.push((path.clone(), text));
        }
        Ok(shipment)
    }

    /// Assembles every image for every GPU, records what it takes, and fails on what it must not do.
    fn assemble(&self, shipment: &mut Shipment) -> Result<()> {
        let work_dir = self.work_dir.clone().unwrap_or_else(|| pipeline::default_work_dir(&self.crate_dir));
        for (image, record) in shipment.images.iter().zip(&mut shipment.manifest.images) {
            let mut findings = Vec::new();
            let scratch = work_dir.join(image.arch.name());
            // The builder leaves the text there.
            let ptx = scratch.join(format!("{}.ptx", image.arch));
            for ptxas in &self.ptxas {
                for kernel in &mut record.kernels {
                    kernel.resources.retain(|known| known.ptxas != ptxas.version());
                }
                let gpus = image.arch.assembled_for().iter().map(|&(gpu, _)| gpu);
                let cubin = |gpu: &str| scratch.join(format!("{gpu}-{}.cubin", ptxas.version()));
                let assemble = |gpu| (gpu, ptxas.assemble(&ptx, gpu, &cubin(gpu)));
                // Seconds of one processor for each GPU.
                let answers: Vec<_> = std::thread::scope(|scope| {
                    let threads: Vec<_> = gpus.map(|gpu| scope.spawn(move || assemble(gpu))).collect();
                    let join =
                        |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|p| resume_unwind(p));
                    threads.into_iter().map(join).collect()
                });
                for (gpu, assembled) in answers {
                    let assembled = assembled?;
                    let complaint = |text: &String| finding("ptxas-message", "", text.clone());
                    findings.extend(assembled.complaints.iter().map(complaint));
                    for (name, resources) in assembled.kernels {
                        if let Some(kernel) =
                            record.kernels.iter_mut().find(|kernel| kernel.bounds.kernel == name)
                        {
                            kernel.resources.push(resources);
                        }
                    }
                    shipment.cubins.push(Cubin { path: cubin(gpu), gpu, ptxas: ptxas.clone() });
                }
            }
            findings.extend(self.judge_spills(image.arch, record, &shipment.before));
            if !findings.is_empty() {
                return Err(Error::Lint { findings, text: ptx });
            }
        }
        Ok(())
    }

    /// Kernels that spill more than the record allows; they, or rather their records, get the reason where one is given.
    fn judge_spills(&self, arch: Arch, record: &mut ImageRecord, before: &Manifest) -> Vec<Finding> {
        let mut findings = Vec::new();
        for kernel in &mut record.kernels {
            kernel.resources.sort_by(|a, b| (&b.ptxas, &a.gpu).cmp(&(&a.ptxas, &b.gpu)));
            let known = before.kernel(arch, &kernel.bounds.kernel).map_or(&[][..], |known| &known.resources);
            let allowed =
                |gpu: &str| known.iter().filter(|r| r.gpu == gpu).map(|r| r.spilled()).max().unwrap_or(0);
            let worse = kernel.resources.iter().find(|r| r.spilled() > allowed(&r.gpu));
            match (worse, &self.spill_reason) {
                (Some(_), Some(reason)) => kernel.spill_reason = reason.replace('"', "'"),
                (Some(r), None) => findings.push(finding(
                    "spills",
                    &kernel.bounds.kernel,
                    format!(
                        "{} bytes of stack, stored and loaded on {} by ptxas {}, {} are recorded",
                        r.spilled(),
                        r.gpu,
                        r.ptxas,
                        allowed(&r.gpu)
                    ),
                )),
                (None, _) => {}
            }
            if kernel.resources.iter().all(|r| r.spilled() == 0) {
                kernel.spill_reason.clear();
            }
        }
        findings
    }
}

fn finding(rule: &'static str, function: &str, message: String) -> Finding {
    Finding { rule, line: 0, function: function.to_string(), source: String::new(), message, times: 1 }
}

impl Shipment {
    /// Writes every file; returns those that changed.
    pub fn write(&self) -> Result<Vec<&Path>> {
        let mut changed = Vec::new();
        for (path, text) in &self.files {
            if std::fs::read_to_string(path).ok().as_ref() != Some(text) {
                pipeline::write(path, text)?;
                changed.push(path.as_path());
            }
        }
        Ok(changed)
    }

    /// What differs between the files there and what they should be, one sentence each.
    pub fn differences(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (path, want) in &self.files {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            match std::fs::read_to_string(path) {
                Err(error) => all.push(format!("{name}: {error}")),
                Ok(got) if got == *want => {}
                Ok(got) if name.ends_with(".ptx") => all.extend(ptx_differences(&name, &got, want)),
                Ok(_) if name == manifest::FILE => all.extend(self.manifest_differences(&name)),
                Ok(got) => {
                    all.push(format!("{name}: {}", first_difference(&lines(&got), 0, &lines(want), 0)))
                }
            }
        }
        all
    }

    fn manifest_differences(&self, name: &str) -> Vec<String> {
        let mut all = Vec::new();
        let mut compare = |what: &str, got: &str, want: &str| {
            if got != want {
                all.push(format!("{name}: {what} is {got}, should be {want}"));
            }
        };
        compare("toolchain", &self.before.toolchain, &self.manifest.toolchain);
        compare("source_hash", &self.before.source_hash, &self.manifest.source_hash);
        for image in &self.manifest.images {
            for kernel in &image.kernels {
                let arch = Arch::ALL.iter().find(|arch| arch.name() == image.arch);
                let known = arch.and_then(|&arch| self.before.kernel(arch, &kernel.bounds.kernel));
                match known {
                    None => all.push(format!("{name}: lacks {}", kernel.bounds.kernel)),
                    // Another text is reported where it stands.
                    Some(known) if known != kernel && known.text_hash == kernel.text_hash => {
                        all.push(format!("{name}: the record of {} differs", kernel.bounds.kernel));
                    }
                    Some(_) => {}
                }
            }
        }
        if all.is_empty() {
            all.push(format!("{name}: differs in form"));
        }
        all
    }

    /// Kernels of which no assembler has said what they take.
    pub fn unrecorded(&self) -> usize {
        let kernels = self.manifest.images.iter().flat_map(|image| &image.kernels);
        kernels.filter(|kernel| kernel.resources.is_empty()).count()
    }

    /// Machine code for a GPU by numbers, as a table for people. The first assembler's, read by the `nvdisasm` beside it
    /// or, failing that, the one on the path.
    pub fn sass_table(&self, gpu: &str) -> Result<String> {
        let Some(cubin) = self.cubins.iter().find(|cubin| cubin.gpu == gpu) else {
            return Err(Error::Manifest(format!("no image was assembled for {gpu}")));
        };
        let beside = cubin.ptxas.path().with_file_name("nvdisasm");
        let nvdisasm = if beside.exists() { beside } else { PathBuf::from("nvdisasm") };
        let name = format!("{gpu}, ptxas {}", cubin.ptxas.version());
        Ok(sass::table(&name, &sass::of(&nvdisasm, &cubin.path)?))
    }
}

/// What differs between two images: kernels by name, and in each the first line.
fn ptx_differences(name: &str, got: &str, want: &str) -> Vec<String> {
    let (old, new) = (Module::parse(got), Module::parse(want));
    let mut all = Vec::new();
    for function in &old.functions {
        if !new.functions.iter().any(|other| other.name == function.name) {
            all.push(format!("{name}: {} is not built any more", function.name));
        }
    }
    for function in &new.functions {
        match old.functions.iter().find(|other| other.name == function.name) {
            None => all.push(format!("{name}: {} is missing", function.name)),
            Some(other) if other.text(got) != function.text(want) => {
                let (got, want) = (other.text(got), function.text(want));
                let what = first_difference(&got, other.header.line - 1, &want, function.header.line - 1);
                all.push(format!("{name}: {} {what}", function.name));
            }
            Some(_) => {}
        }
    }
    if all.is_empty() {
        all.push(format!("{name}: {}", first_difference(&lines(got), 0, &lines(want), 0)));
    }
    all
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_string).collect()
}

/// Where two texts part; the offsets are the lines before each in its file.
fn first_difference(got: &[String], got_offset: usize, want: &[String], want_offset: usize) -> String {
    // Declarations of registers differ wherever anything does, and say nothing.
    let same_or_registers =
        |(a, b): &(&String, &String)| a == b || a.starts_with("\t.reg ") && b.starts_with("\t.reg ");
    let same = got.iter().zip(want).take_while(same_or_registers).count();
    let show = |text: &[String], offset: usize| {
        let line = text.get(same).map_or("the end", |line| line.trim());
        let cut: String = line.chars().take(60).collect();
        format!("line {}: {cut}", offset + same + 1)
    };
    let lengths = match (got.len(), want.len()) {
        (same, other) if same == other => String::new(),
        (got, want) => format!(" ({got} lines, should be {want})"),
    };
    format!(
        "differs{lengths}\n        is        {}\n        should be {}",
        show(got, got_offset),
        show(want, want_offset)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(kernels: &[(&str, &str)]) -> String {
        let kernel =
            |(name, body): &(&str, &str)| format!(".visible .entry {name}()\n{{\n{body}\nret;\n}}\n");
        format!(".version 7.0\n{}", kernels.iter().map(kernel).collect::<String>())
    }

    #[test]
    fn a_difference_names_kernel_and_lines() {
        let old = image(&[("gone", ""), ("same", "$L__BB1_1:"), ("other", "mov.u32 %r1, 1;\nbar.sync 0;")]);
        let new = image(&[("same", "$L__BB0_1:"), ("other", "mov.u32 %r1, 2;"), ("more", "")]);
        assert_eq!(
            ptx_differences("x.ptx", &old, &new),
            [
                "x.ptx: gone is not built any more",
                "x.ptx: other differs (6 lines, should be 5)\n        is        line 14: mov.u32 %r1, 1;\n        \
                 should be line 9: mov.u32 %r1, 2;",
                "x.ptx: more is missing"
            ]
        );
    }
}
