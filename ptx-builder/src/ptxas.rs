//! Assembling an image with NVIDIA's ptxas, where it is at hand: what users' drivers will do, and what it costs.

use std::path::{Path, PathBuf};

use crate::command::{clean, run};
use crate::manifest::Resources;
use crate::{Error, Result};

/// The one performance message that says nothing against a kernel: ptxas inserted a `wgmma.fence`.
const HARMLESS: &str = "(C7519)";

/// An assembler.
#[derive(Debug, Clone)]
pub struct Ptxas {
    path: PathBuf,
    version: String,
}

/// What came of assembling an image for one GPU.
#[derive(Debug)]
pub(crate) struct Assembled {
    /// Kernels by name.
    pub kernels: Vec<(String, Resources)>,
    /// Messages that mean lost performance (`C75xx`).
    pub complaints: Vec<String>,
}

impl Ptxas {
    /// The assembler at `path`.
    pub fn at(path: &Path) -> Result<Self> {
        let answer = run("asking ptxas for its version", clean(path).arg("--version"))?;
        let version = answer.split_once(", V").and_then(|(_, rest)| rest.split_whitespace().next());
        match version {
            Some(version) => Ok(Self { path: path.to_path_buf(), version: version.to_string() }),
            None => Err(Error::Manifest(format!("{} is no ptxas: it gives no version", path.display()))),
        }
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it lies; NVIDIA puts nvdisasm beside it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Assembles `ptx` into `cubin`.
    pub(crate) fn assemble(&self, ptx: &Path, gpu: &str, cubin: &Path) -> Result<Assembled> {
        let mut command = clean(&self.path);
        command.arg(format!("-arch={gpu}")).arg("-v").arg(ptx).arg("-o").arg(cubin);
        let output = command.output().map_err(Error::io(&self.path))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let shown: String = text
                .lines()
                .filter(|line| !line.contains("info"))
                .take(20)
                .map(|l| format!("{l}\n"))
                .collect();
            let command = format!("{} -arch={gpu} {}", self.path.display(), ptx.display());
            return Err(Error::Tool { step: "assembling", command, output: shown });
        }
        Ok(self.read(&text, gpu))
    }

    /// Reads what `-v` prints.
    fn read(&self, text: &str, gpu: &str) -> Assembled {
        let mut out = Assembled { kernels: Vec::new(), complaints: Vec::new() };
        for line in text.lines() {
            if line.contains("(C75") && !line.contains(HARMLESS) {
                out.complaints.push(line.trim().to_string());
            } else if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                let name = rest.split('\'').next().unwrap_or_default().to_string();
                let resources = Resources {
                    ptxas: self.version.clone(),
                    gpu: gpu.to_string(),
                    registers: 0,
                    stack_bytes: 0,
                    spill_store_bytes: 0,
                    spill_load_bytes: 0,
                };
                out.kernels.push((name, resources));
            } else if let Some((_, resources)) = out.kernels.last_mut() {
                // Properties of a function that is called follow its caller's; what stands first is the kernel's own.
                let fields = [
                    (&mut resources.stack_bytes, " bytes stack frame"),
                    (&mut resources.spill_store_bytes, " bytes spill stores"),
                    (&mut resources.spill_load_bytes, " bytes spill loads"),
                    (&mut resources.registers, " registers"),
                ];
                for (field, unit) in fields {
                    if let Some(number) = number_before(line, unit).filter(|_| *field == 0) {
                        *field = number;
                    }
                }
            }
        }
        out
    }
}

fn number_before(line: &str, unit: &str) -> Option<u32> {
    line.split_once(unit)?.0.rsplit([' ', ',']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_and_complaints_are_read() {
        let ptxas = Ptxas { path: "ptxas".into(), version: "13.0.88".into() };
        let text = "\
ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored
ptxas info    : (C7519) Potential Performance Loss: wgmma.fence inserted
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_80'
ptxas info    : Function properties for one
    56 bytes stack frame, 104 bytes spill stores, 100 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 56 bytes cumulative stack size, 496 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_80'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 368 bytes cmem[0]
";
        let got = ptxas.read(text, "sm_80");
        let numbers = |r: &Resources| (r.registers, r.stack_bytes, r.spill_store_bytes, r.spill_load_bytes);
        let kernels: Vec<_> = got.kernels.iter().map(|(name, r)| (name.as_str(), numbers(r))).collect();
        assert_eq!(kernels, [("one", (255, 56, 104, 100)), ("two", (10, 0, 0, 0))]);
        assert_eq!(got.complaints.len(), 1);
        assert!(got.complaints[0].contains("C7508"));
    }
}
