//! Machine code by numbers: what the main loop of a kernel is made of.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use crate::Result;
use crate::command::{clean, run};

/// Instructions worth counting: tensor cores, shared memory, copies, local memory, special functions, barriers.
pub(crate) const COUNTED: [&str; 9] = ["HMMA", "LDSM", "LDGSTS", "LDG", "STG", "LDL", "STL", "MUFU", "BAR"];

/// A kernel's machine code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sass {
    pub kernel: String,
    /// Instructions, padding left out.
    pub length: usize,
    /// Instructions of the main loop: of the loops around most tensor-core instructions the shortest, or the longest loop
    /// where there are none.
    pub loop_length: usize,
    /// How many of each of [`COUNTED`] stand in that loop, and in the whole kernel.
    pub counts: [(usize, usize); COUNTED.len()],
}

/// Disassembles a cubin.
pub(crate) fn of(nvdisasm: &Path, cubin: &Path) -> Result<Vec<Sass>> {
    Ok(read(&run("disassembling", clean(nvdisasm).arg("-c").arg(cubin))?))
}

/// One kernel's listing while it is read.
#[derive(Default)]
struct Listing {
    opcodes: Vec<String>,
    labels: BTreeMap<String, usize>,
    /// Where a branch stands, and to which label it goes.
    branches: Vec<(usize, String)>,
}

fn read(text: &str) -> Vec<Sass> {
    let mut all: Vec<(String, Listing)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            all.push((name.to_string(), Listing::default()));
        }
        let Some((_, listing)) = all.last_mut() else { continue };
        if let Some(label) = line.strip_suffix(':') {
            listing.labels.insert(label.to_string(), listing.opcodes.len());
        } else if let Some((_, code)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/")) {
            let mut words = code.split_whitespace().skip_while(|word| word.starts_with('@'));
            let opcode = words.next().unwrap_or_default().trim_end_matches(';');
            if opcode == "BRA"
                && let Some((_, target)) = code.split_once("`(")
            {
                let target = target.split(')').next().unwrap_or_default();
                listing.branches.push((listing.opcodes.len(), target.to_string()));
            }
            if opcode != "NOP" {
                listing.opcodes.push(opcode.to_string());
            }
        }
    }
    all.into_iter().map(|(kernel, listing)| listing.count(kernel)).collect()
}

impl Listing {
    fn count(&self, kernel: String) -> Sass {
        let number = |range: &[String], name: &str| {
            range.iter().filter(|opcode| opcode.split('.').next() == Some(name)).count()
        };
        let loops = self.branches.iter().filter_map(|(at, label)| {
            let start = *self.labels.get(label)?;
            (start <= *at).then(|| &self.opcodes[start..=*at])
        });
        let main = loops.max_by_key(|body| match number(body, "HMMA") {
            0 => (0, body.len() as isize),
            mma => (mma, -(body.len() as isize)),
        });
        let main = main.unwrap_or(&[]);
        Sass {
            kernel,
            length: self.opcodes.len(),
            loop_length: main.len(),
            counts: COUNTED.map(|name| (number(main, name), number(&self.opcodes, name))),
        }
    }
}

/// A table for people: loop and kernel lengths, then how many of each counted instruction stand in the main loop.
pub(crate) fn table(name: &str, all: &[Sass]) -> String {
    let mut out = format!("\n{name}: instructions of the main loop (of the kernel)\n");
    for sass in all {
        let _ = writeln!(out, "  {}: {} ({})", sass.kernel, sass.loop_length, sass.length);
        let counts = COUNTED.iter().zip(&sass.counts).filter(|(_, (_, total))| *total > 0);
        let words: Vec<_> = counts.map(|(name, (main, total))| format!("{name} {main} ({total})")).collect();
        for chunk in words.chunks(5) {
            let _ = writeln!(out, "      {}", chunk.join("  "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_loop_is_the_shortest_with_most_tensor_core_work() {
        let text = "\
.text.one:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   LDSM.16.M88.4 R4, [R2] ;
.L_x_0:
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/              @P0  BRA `(.L_x_0) ;
        /*0040*/              @!P1 BRA `(.L_x_1) ;
        /*0050*/                   STL [R1], R2 ;
        /*0060*/                   EXIT ;
        /*0070*/                   NOP;
.text.two:
.L_x_2:
        /*0000*/                   FADD R1, R2, R3 ;
        /*0010*/              @P0  BRA `(.L_x_2) ;
        /*0020*/                   EXIT ;
.L_x_3:
        /*0030*/                   BRA `(.L_x_3) ;
";
        let got = read(text);
        assert_eq!((got[0].kernel.as_str(), got[0].length, got[0].loop_length), ("one", 7, 2));
        assert_eq!(got[0].counts[0], (1, 1));
        assert_eq!(got[0].counts[1], (0, 1));
        assert_eq!(got[0].counts[6], (0, 1));
        assert_eq!((got[1].kernel.as_str(), got[1].length, got[1].loop_length), ("two", 4, 2));
    }
}
