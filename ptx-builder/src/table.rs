//! The table of what kernels take, in the documentation: generated, not typed.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::manifest::{ImageRecord, KernelRecord, Manifest};

/// The lines between which the table stands.
const BEGIN: &str = "<!-- resources: written by ptx-builder -->";
const END: &str = "<!-- end of resources -->";

/// The document with its table written anew; `None` where it has no place for one.
pub(crate) fn replace(document: &str, manifest: &Manifest) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let tables: String = manifest.images.iter().map(table).collect();
    Some(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

fn table(image: &ImageRecord) -> String {
    let newest = image
        .kernels
        .iter()
        .flat_map(|kernel| &kernel.resources)
        .map(|r| &r.ptxas)
        .max_by_key(|version| numbers(version));
    let Some(newest) = newest else {
        return String::from("\nNothing is recorded: ptxas was not at hand.\n\n");
    };
    let gpus: BTreeSet<_> =
        image.kernels.iter().flat_map(|kernel| &kernel.resources).map(|r| r.gpu.as_str()).collect();
    let mut out = format!(
        "\n`{}.ptx`, assembled by ptxas {newest}. Registers per thread on each GPU; bytes spilled in brackets.\n\n",
        image.arch
    );
    // A column that could only say `?` says nothing.
    let says_smem = image.kernels.iter().any(|kernel| kernel.bounds.dynamic_smem_bytes.is_some());
    let smem = |text: &str| if says_smem { format!(" {text} |") } else { String::new() };
    let _ = write!(out, "| kernel | threads | CTAs per SM |{}", smem("shared memory"));
    gpus.iter().for_each(|gpu| out.push_str(&format!(" {gpu} |")));
    out.push_str("\n|---|---|---|");
    out.push_str(if says_smem { "---|" } else { "" });
    out.push_str(&"---|".repeat(gpus.len()));
    for kernel in &image.kernels {
        let bounds = &kernel.bounds;
        let bytes = bounds.dynamic_smem_bytes.map(|bytes| match bytes {
            0 => "none".to_string(),
            bytes => format!("{} KiB", f64::from(bytes) / 1024.0),
        });
        let smem = smem(bytes.as_deref().unwrap_or("?"));
        let _ =
            write!(out, "\n| `{}` | {} | {} |{smem}", bounds.kernel, bounds.threads, bounds.min_ctas_per_sm);
        gpus.iter().for_each(|gpu| out.push_str(&format!(" {} |", registers(kernel, newest, gpu))));
    }
    out + "\n\n"
}

fn registers(kernel: &KernelRecord, ptxas: &str, gpu: &str) -> String {
    match kernel.resources.iter().find(|r| r.ptxas == ptxas && r.gpu == gpu) {
        None => "?".into(),
        Some(r) if r.spilled() == 0 => r.registers.to_string(),
        Some(r) => format!("{} ({})", r.registers, r.spill_store_bytes + r.spill_load_bytes),
    }
}

/// A version as numbers, so that 13.0 comes after 9.2.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LaunchBounds;
    use crate::manifest::Resources;

    #[test]
    fn the_table_stands_between_its_marks() {
        let resources = |ptxas: &str, gpu: &str, registers, spill| Resources {
            ptxas: ptxas.into(),
            gpu: gpu.into(),
            registers,
            stack_bytes: spill,
            spill_store_bytes: spill,
            spill_load_bytes: 0,
        };
        let bounds = LaunchBounds {
            kernel: "one".into(),
            threads: 128,
            min_ctas_per_sm: 2,
            max_registers: 0,
            dynamic_smem_bytes: Some(67072),
        };
        let kernel = KernelRecord {
            bounds,
            text_hash: String::new(),
            spill_reason: String::new(),
            resources: vec![resources("9.2.1", "sm_80", 1, 0), resources("13.0.88", "sm_80", 255, 8)],
        };
        let image = ImageRecord { arch: "sm_80".into(), ptx_hash: String::new(), kernels: vec![kernel] };
        let mut manifest = Manifest { images: vec![image], ..Manifest::default() };
        let document = format!("# Kernels\n{BEGIN}\nold\n{END}\nrest\n");
        let once = replace(&document, &manifest).unwrap();
        assert!(once.contains("| `one` | 128 | 2 | 65.5 KiB | 255 (8) |\n"), "{once}");
        assert!(once.starts_with("# Kernels\n") && once.ends_with("\nrest\n") && !once.contains("old"));
        assert_eq!(replace(&once, &manifest).unwrap(), once);
        assert_eq!(replace("no marks", &manifest), None);
        manifest.images[0].kernels[0].bounds.dynamic_smem_bytes = None;
        assert!(replace(&document, &manifest).unwrap().contains("| `one` | 128 | 2 | 255 (8) |\n"));
    }
}
