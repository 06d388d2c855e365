//! Two edits over rustc's textual LLVM IR, before anything optimises it.
//!
//! rustc never marks inline assembly `convergent`, and LLVM does not know that `mma.sync` is. Both are then free to be
//! cloned into the arms of a divergent branch, where half the warp never meets the other half. The pass marks every such
//! call site (a mark on the declaration has no effect) and every function, and attaches the kernels' launch bounds, for
//! which Rust has no attribute. A line it does not understand is an error: building on would be unsafe.

use crate::{Error, Result};

/// Statics of this name carry the launch bounds of the kernel whose name follows:
/// `[threads, min_ctas_per_sm, max_registers or 0]`, optionally with the bytes of dynamic shared memory as a fourth.
const LAUNCH_BOUNDS: &str = "__launch_bounds__";

/// Counted into the source hash: a change of what the pass does is a change of what comes out.
pub(crate) const REVISION: u32 = 1;

/// What a kernel is launched with, from its static.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchBounds {
    /// The kernel's symbol.
    pub kernel: String,
    /// Threads of a CTA.
    pub threads: u32,
    /// CTAs that must fit on a multiprocessor at once; bounds the registers.
    pub min_ctas_per_sm: u32,
    /// Registers a thread may take; 0 leaves it to the other two.
    pub max_registers: u32,
    /// Bytes of dynamic shared memory; `None` where the static does not say.
    pub dynamic_smem_bytes: Option<u32>,
}

/// Calls marked convergent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Convergent {
    /// Calls of inline assembly.
    pub asm: usize,
    /// Calls of `llvm.nvvm.mma.*`.
    pub mma: usize,
}

/// The module after the pass.
#[derive(Debug)]
pub(crate) struct Passed {
    pub ir: String,
    /// One entry per kernel, in the module's order.
    pub kernels: Vec<LaunchBounds>,
    pub convergent: Convergent,
}

/// Runs the pass over a module.
pub(crate) fn run(ir: &str) -> Result<Passed> {
    let bounds = launch_bounds(ir)?;
    let mut out = String::with_capacity(ir.len() + ir.len() / 16);
    let mut kernels = Vec::new();
    let mut marked = Convergent::default();
    for (index, line) in ir.lines().enumerate() {
        let fail = |what: &str| Error::Pass(format!("LLVM IR line {}: {what}: {}", index + 1, line.trim()));
        match Call::of(line) {
            Some(call) => {
                out.push_str(
                    &mark_call(line).ok_or_else(|| fail("cannot find the end of the argument list"))?,
                );
                match call {
                    Call::Asm => marked.asm += 1,
                    Call::Mma => marked.mma += 1,
                }
            }
            None if line.starts_with("define ") => {
                let mut attributes = " convergent".to_string();
                if line.contains(" ptx_kernel ") {
                    let name = symbol(line).ok_or_else(|| fail("kernel without a name"))?;
                    let bounds = bounds.iter().find(|bounds| bounds.kernel == name).ok_or_else(|| {
                        Error::Pass(format!(
                            "kernel `{name}` has no launch bounds: no static `{LAUNCH_BOUNDS}{name}`"
                        ))
                    })?;
                    attributes.push_str(&bounds.attributes());
                    kernels.push(bounds.clone());
                }
                out.push_str(
                    &append_attributes(line, &attributes).ok_or_else(|| fail("cannot place attributes"))?,
                );
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    let (found, after) = (count(ir, |_| true), count(&out, |line| is_convergent(line, &[])));
    if found != marked || after != marked {
        return Err(Error::Pass(format!(
            "marked {marked:?} calls convergent of {found:?}, and find {after:?}"
        )));
    }
    if kernels.is_empty() {
        return Err(Error::Pass("the crate has no kernels (`extern \"ptx-kernel\"` functions)".into()));
    }
    if let Some(orphan) = bounds.iter().find(|bounds| !kernels.contains(bounds)) {
        return Err(Error::Pass(format!("static `{LAUNCH_BOUNDS}{0}`, but no kernel `{0}`", orphan.kernel)));
    }
    Ok(Passed { ir: out, kernels, convergent: marked })
}

/// Fails when the optimised module holds a call that has lost its mark.
pub(crate) fn verify(optimised: &str) -> Result<()> {
    let groups = convergent_groups(optimised);
    let lost = optimised.lines().find(|line| Call::of(line).is_some() && !is_convergent(line, &groups));
    match lost {
        None => Ok(()),
        Some(line) => Err(Error::Pass(format!("the optimiser took `convergent` from: {}", line.trim()))),
    }
}

/// A call that every thread of a warp must make together.
#[derive(Clone, Copy)]
enum Call {
    Asm,
    Mma,
}

impl Call {
    fn of(line: &str) -> Option<Self> {
        if !line.contains(" asm ") && !line.contains("@llvm.nvvm.mma.") {
            return None;
        }
        let bare = without_strings(line);
        let words = bare.split(' ').filter(|word| !word.is_empty());
        // `module asm` stands outside functions; `call`, `tail call` and `%x = call` inside them.
        if !words.clone().any(|word| word == "call") {
            return None;
        }
        if words.clone().any(|word| word == "asm") {
            Some(Self::Asm)
        } else {
            bare.contains("@llvm.nvvm.mma.").then_some(Self::Mma)
        }
    }
}

fn count(ir: &str, keep: impl Fn(&str) -> bool) -> Convergent {
    let mut counted = Convergent::default();
    for line in ir.lines() {
        match Call::of(line) {
            Some(Call::Asm) if keep(line) => counted.asm += 1,
            Some(Call::Mma) if keep(line) => counted.mma += 1,
            _ => {}
        }
    }
    counted
}

/// The line with the insides of its quoted strings blanked; byte positions stay.
fn without_strings(line: &str) -> String {
    let mut inside = false;
    // LLVM writes quotes within strings as \22, so that each quote opens or closes.
    let blank = |c: u8| {
        let quote = c == b'"';
        inside ^= quote;
        if inside && !quote { b'_' } else { c }
    };
    line.bytes().map(blank).map(char::from).collect()
}

/// Where the argument list of a call ends, when only attributes and metadata follow.
fn end_of_arguments(line: &str) -> Option<usize> {
    let bare = without_strings(line);
    let end = bare.rfind(')')? + 1;
    let known = |word: &str| word == "convergent" || is_numbered(word, '#') || is_metadata(word);
    bare[end..].split([' ', ',']).filter(|word| !word.is_empty()).all(known).then_some(end)
}

/// `#12`, `!12`.
fn is_numbered(word: &str, mark: char) -> bool {
    word.strip_prefix(mark)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()))
}

/// `!12`, `!srcloc`.
fn is_metadata(word: &str) -> bool {
    word.strip_prefix('!')
        .is_some_and(|name| !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric()))
}

fn mark_call(line: &str) -> Option<String> {
    let end = end_of_arguments(line)?;
    Some(format!("{} convergent{}", &line[..end], &line[end..]))
}

/// Whether a call site carries the mark: in words after the arguments, or in one of the numbered groups of attributes
/// that an optimised module is printed with.
fn is_convergent(line: &str, groups: &[&str]) -> bool {
    let marks = |word: &str| word == "convergent" || groups.contains(&word);
    end_of_arguments(line).is_some_and(|end| line[end..].split([' ', ',']).any(marks))
}

/// The names (`#12`) of the attribute groups that say `convergent`.
fn convergent_groups(ir: &str) -> Vec<&str> {
    ir.lines()
        .filter_map(|line| line.strip_prefix("attributes ")?.split_once(" = "))
        .filter(|(_, attributes)| attributes.split(' ').any(|word| word == "convergent"))
        .map(|(name, _)| name)
        .collect()
}

/// Appends function attributes to a `define` line: before its metadata and its brace.
fn append_attributes(line: &str, attributes: &str) -> Option<String> {
    let bare = without_strings(line);
    let body = bare.strip_suffix('{')?.trim_end().len();
    let end = bare[..body].find(" !").unwrap_or(body);
    Some(format!("{}{attributes}{}", &line[..end], &line[end..]))
}

/// The global name on a line: what stands between `@` and `(` or a space.
fn symbol(line: &str) -> Option<&str> {
    let name = &line[line.find('@')? + 1..];
    Some(&name[..name.find(['(', ' '])?])
}

impl LaunchBounds {
    /// The string attributes that become `.maxntid`, `.minnctapersm` and `.maxnreg`.
    ///
    /// `maxntid` and not `reqntid`: LLVM derives ranges of `%tid` from either, and the address arithmetic that follows
    /// from the latter made the main loop of a register-tight kernel longer.
    fn attributes(&self) -> String {
        let mut text = format!(
            " \"nvvm.maxntid\"=\"{},1,1\" \"nvvm.minctasm\"=\"{}\"",
            self.threads, self.min_ctas_per_sm
        );
        if self.max_registers != 0 {
            text.push_str(&format!(" \"nvvm.maxnreg\"=\"{}\"", self.max_registers));
        }
        text
    }
}

/// Reads the launch bounds' statics.
fn launch_bounds(ir: &str) -> Result<Vec<LaunchBounds>> {
    let mut all = Vec::new();
    for line in ir.lines() {
        let Some(name) = line.strip_prefix('@').and_then(|rest| rest.strip_prefix(LAUNCH_BOUNDS)) else {
            continue;
        };
        let fail = || {
            Error::Pass(format!(
                "cannot read launch bounds, want a static of type [u32; 3] or [u32; 4]: {line}"
            ))
        };
        let kernel = name.split(' ').next().unwrap_or_default().to_string();
        let words = words(line).ok_or_else(fail)?;
        let [threads, min_ctas_per_sm, max_registers] = *words.first_chunk().ok_or_else(fail)?;
        let dynamic_smem_bytes = match words[3..] {
            [] => None,
            [bytes] => Some(bytes),
            _ => return Err(fail()),
        };
        if threads == 0 || threads % 32 != 0 || threads > 1024 || min_ctas_per_sm == 0 || max_registers > 255
        {
            return Err(Error::Pass(format!(
                "launch bounds of `{kernel}`: want whole warps up to 1024 threads, at least 1 CTA and at most 255 \
                 registers, got {threads}, {min_ctas_per_sm} and {max_registers}"
            )));
        }
        all.push(LaunchBounds { kernel, threads, min_ctas_per_sm, max_registers, dynamic_smem_bytes });
    }
    Ok(all)
}

/// The little-endian words of a constant that rustc wrote as a string of bytes: `c"\80\00\00\00..."`.
fn words(line: &str) -> Option<Vec<u32>> {
    let text = line.split_once(" c\"")?.1.split_once('"')?.0;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(tail.get(..2)?).ok()?, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    let (chunks, left) = bytes.as_chunks();
    left.is_empty().then(|| chunks.iter().map(|&chunk| u32::from_le_bytes(chunk)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &str = r##"; ModuleID = 'k'
module asm ".extern .shared .align 16 .b8 smem[];"
@__launch_bounds__one = constant [12 x i8] c"\80\00\00\00\02\00\00\00\00\00\00\00", align 4
@__launch_bounds__two = constant <{ [16 x i8] }> <{ [16 x i8] c"@\00\00\00\01\00\00\00(\00\00\00\00\10\00\00" }>, align 4
define ptx_kernel void @one(ptr noundef %a) unnamed_addr #2 !dbg !16 {
  call void asm sideeffect "bar.sync 0; // (", "~{memory}"(), !dbg !22, !srcloc !23
  %d = call { float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32 %x, float 1.000000e+00) #7, !dbg !24
  %e = tail call i32 asm "mov.u32 $0, smem; asm call", "=r"() #3
  ret void, !dbg !36
}
define ptx_kernel void @two() unnamed_addr #2 {
  ret void
}
define internal void @helper() unnamed_addr #0 {
  call void @one(ptr null)
  ret void
}
declare { float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32, float) #3
"##;

    #[test]
    fn calls_are_marked_and_bounds_attached() {
        let passed = run(MODULE).unwrap();
        assert_eq!(passed.convergent, Convergent { asm: 2, mma: 1 });
        let holds =
            |line: &str| assert!(passed.ir.lines().any(|other| other == line), "{line}\n{}", passed.ir);
        holds(
            r#"  call void asm sideeffect "bar.sync 0; // (", "~{memory}"() convergent, !dbg !22, !srcloc !23"#,
        );
        holds(
            "  %d = call { float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32 %x, float 1.000000e+00) \
             convergent #7, !dbg !24",
        );
        holds(r#"  %e = tail call i32 asm "mov.u32 $0, smem; asm call", "=r"() convergent #3"#);
        holds(
            "define ptx_kernel void @one(ptr noundef %a) unnamed_addr #2 convergent \"nvvm.maxntid\"=\"128,1,1\" \
             \"nvvm.minctasm\"=\"2\" !dbg !16 {",
        );
        holds("define internal void @helper() unnamed_addr #0 convergent {");
        holds("  call void @one(ptr null)");
        assert!(
            passed.ir.contains("\"nvvm.maxntid\"=\"64,1,1\" \"nvvm.minctasm\"=\"1\" \"nvvm.maxnreg\"=\"40\"")
        );
        let smem: Vec<_> = passed.kernels.iter().map(|bounds| bounds.dynamic_smem_bytes).collect();
        assert_eq!(smem, [None, Some(4096)]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (from, to, want) in [
            ("#7, !dbg !24", "[ \"deopt\"() ] strange", "cannot find the end"),
            ("__launch_bounds__two", "__launch_bounds__three", "kernel `two` has no launch bounds"),
            ("@two(", "@other_name_of_two(", "no launch bounds"),
            ("ptx_kernel", "", "has no kernels"),
            ("c\"\\80", "c\"\\81", "whole warps"),
            ("c\"\\80\\00", "c\"\\80", "cannot read launch bounds"),
            ("define ptx_kernel void @two() unnamed_addr #2 {", "", "no kernel `two`"),
        ] {
            let error = run(&MODULE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(want), "{from} -> {to}: {error}");
        }
    }

    #[test]
    fn an_optimiser_that_takes_marks_is_caught() {
        let module = |group: &str| {
            format!(
                "  tail call void asm sideeffect \"bar.sync 0;\", \"\"() #8, !srcloc !4\nattributes #8 = {{ {group} }}\n"
            )
        };
        assert!(verify(&module("convergent nounwind")).is_ok());
        assert!(verify(&module("nounwind")).unwrap_err().to_string().contains("bar.sync 0;"));
    }
}
