//! Rules that shipped PTX keeps. Each catches a way to be wrong or slow that compiles, assembles and mostly runs.

use std::fmt;

use crate::Arch;
use crate::ir_pass::LaunchBounds;
use crate::ptx::{Function, Module, Statement};

/// A rule broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The rule's name.
    pub rule: &'static str,
    /// The line of the PTX, counted from 1; 0 where the rule is not about its text.
    pub line: usize,
    /// The kernel or function it stands in; empty outside of any.
    pub function: String,
    /// The line of Rust it comes from, as `file:line`; empty where that is not known.
    pub source: String,
    /// What is wrong there.
    pub message: String,
    /// How often the rule is broken in the same function, this time included.
    pub times: usize,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.rule)?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        if !self.function.is_empty() {
            write!(f, " {}", self.function)?;
        }
        if !self.source.is_empty() {
            write!(f, ", {}", self.source)?;
        }
        write!(f, "\n        {}", self.message)?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        Ok(())
    }
}

/// Checks every rule and returns what breaks them, each rule once per function.
pub fn check(ptx: &str, arch: Arch, kernels: &[LaunchBounds]) -> Vec<Finding> {
    let module = Module::parse(ptx);
    let mut findings = Findings::default();
    version(&module, arch, &mut findings);
    launch_bounds(&module, kernels, &mut findings);
    shared_memory(&module, arch, kernels, &mut findings);
    for statement in &module.globals {
        if statement.text.starts_with(".extern .func") {
            findings.push("extern", statement, "", "a function that no module defines");
        }
    }
    for function in &module.functions {
        // Instructions before declarations: they lead to a line of Rust.
        let (declarations, instructions): (Vec<_>, Vec<_>) =
            function.body.iter().partition(|statement| statement.is_directive());
        for statement in instructions.into_iter().chain(declarations) {
            let mut push = |rule, message: &str| findings.push(rule, statement, &function.name, message);
            if let Some(message) = stack(statement) {
                push("stack", message);
            }
            if let Some(message) = call(statement, function, &module) {
                push("extern", &message);
            }
            if is_generic(statement) {
                push("address-space", "generic access; name the state space");
            }
            if may_contract(statement) {
                push("contraction", "no rounding mode, so ptxas may fuse it with its neighbour");
            }
            if let Some(message) = barrier(statement) {
                push("barrier-id", message);
            }
        }
    }
    findings.0
}

/// Findings, one per rule and function.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, rule: &'static str, at: &Statement, function: &str, message: &str) {
        if let Some(known) = self.0.iter_mut().find(|known| known.rule == rule && known.function == function)
        {
            known.times += 1;
            return;
        }
        let mut message = message.to_string();
        if !at.text.is_empty() && at.text.len() < 100 {
            message.push_str(&format!(": `{}`", at.text));
        }
        let (line, function, source) = (at.line, function.to_string(), String::new());
        self.0.push(Finding { rule, line, function, source, message, times: 1 });
    }
}

/// Nothing lives in local memory: an accumulator there costs more than the arithmetic on it.
fn stack(statement: &Statement) -> Option<&'static str> {
    let text = &statement.text;
    let named = ["__local_depot", "%SP", "%SPL"].iter().any(|name| text.contains(name));
    let local = if statement.is_directive() {
        text.starts_with(".local")
    } else {
        statement.modifiers().any(|part| part == "local")
    };
    (named || local).then_some("local memory; index arrays by constants, or unroll the loop")
}

/// Kernels call nothing that returns: a helper that was not inlined spills around the call, and instructions of the whole
/// warp in it escape the care taken of kernels. Panics end the kernel and stay.
fn call(statement: &Statement, caller: &Function, module: &Module) -> Option<String> {
    if statement.opcode().split('.').next() != Some("call") {
        return None;
    }
    let operands = statement.operands();
    let target = operands.iter().find(|operand| !operand.starts_with('('))?;
    match module.functions.iter().find(|function| function.name == *target) {
        Some(function) if function.is_noreturn() => None,
        Some(_) if !caller.is_entry && caller.is_noreturn() => None,
        Some(_) => Some(format!("`{target}` was not inlined; it wants #[inline(always)]")),
        None => Some(format!("`{target}` is not defined in this module")),
    }
}

/// Loads and stores name their state space: a generic access costs address checks, and may alias shared memory.
fn is_generic(statement: &Statement) -> bool {
    const ACCESSES: [&str; 8] = ["ld", "ldu", "st", "atom", "red", "ldmatrix", "stmatrix", "prefetch"];
    const SPACES: [&str; 5] = ["param", "global", "shared", "const", "local"];
    let mut modifiers = statement.modifiers();
    let access = modifiers.next().is_some_and(|name| ACCESSES.contains(&name));
    access && !modifiers.any(|part| SPACES.contains(&part))
}

/// Sums and products say how they round; without it ptxas is free to contract them.
fn may_contract(statement: &Statement) -> bool {
    const FLOATS: [&str; 7] = ["f32", "f64", "f16", "f16x2", "bf16", "bf16x2", "f32x2"];
    let mut modifiers = statement.modifiers();
    let arithmetic = modifiers.next().is_some_and(|name| ["add", "sub", "mul"].contains(&name));
    let parts: Vec<_> = modifiers.collect();
    let rounds = parts.iter().any(|part| ["rn", "rz", "rm", "rp"].contains(part));
    arithmetic && !rounds && parts.iter().any(|part| FLOATS.contains(part))
}

/// A CTA has 16 barriers, and only a literal id can be checked.
fn barrier(statement: &Statement) -> Option<&'static str> {
    let parts: Vec<_> = statement.modifiers().collect();
    let is_cta =
        ["bar", "barrier"].contains(&parts[0]) && !parts.contains(&"warp") && !parts.contains(&"cluster");
    if !is_cta {
        return None;
    }
    let operands = statement.operands();
    // A reduction's result comes first.
    let id = operands.get(usize::from(parts.contains(&"red"))).copied().unwrap_or_default();
    match id.parse::<u32>() {
        Ok(0..16) => None,
        Ok(_) => Some("a CTA has barriers 0 to 15"),
        Err(_) => Some("the barrier's id is no literal"),
    }
}

/// Version and target are the pinned ones; a higher version shuts out drivers.
fn version(module: &Module, arch: Arch, findings: &mut Findings) {
    for (what, want, got) in
        [(".version", arch.ptx_version(), &module.version), (".target", arch.name(), &module.target)]
    {
        if got != want {
            let at = Statement { line: 1, text: String::new() };
            findings.push("version", &at, "", &format!("{what} must be {want}, is {got}"));
        }
    }
}

/// Every kernel carries its bounds, and they are the declared ones.
fn launch_bounds(module: &Module, kernels: &[LaunchBounds], findings: &mut Findings) {
    for function in module.functions.iter().filter(|function| function.is_entry) {
        let at = Statement { line: function.header.line, text: String::new() };
        let mut push = |message: &str| findings.push("launch-bounds", &at, &function.name, message);
        let Some(bounds) = kernels.iter().find(|bounds| bounds.kernel == function.name) else {
            push("no launch bounds were declared");
            continue;
        };
        let mut want = vec![
            (".maxntid", format!("{}, 1, 1", bounds.threads)),
            (".minnctapersm", bounds.min_ctas_per_sm.to_string()),
        ];
        if bounds.max_registers != 0 {
            want.push((".maxnreg", bounds.max_registers.to_string()));
        }
        for (directive, want) in want {
            let after =
                function.header.text.split_once(&format!("{directive} ")).map_or("", |(_, rest)| rest);
            if after.split(" .").next().unwrap_or_default().trim() != want {
                push(&format!("wants {directive} {want}"));
            }
        }
    }
    for bounds in kernels.iter().filter(|bounds| module.entry(&bounds.kernel).is_none()) {
        let at = Statement { line: 1, text: String::new() };
        findings.push("launch-bounds", &at, &bounds.kernel, "declared, but not in the module");
    }
}

/// All shared memory is dynamic, so that its size is known in one place, and no more than a CTA may ask for.
fn shared_memory(module: &Module, arch: Arch, kernels: &[LaunchBounds], findings: &mut Findings) {
    let functions = module
        .functions
        .iter()
        .flat_map(|function| function.body.iter().map(|s| (s, function.name.as_str())));
    for (statement, function) in module.globals.iter().map(|s| (s, "")).chain(functions) {
        let words: Vec<_> = statement.text.split(' ').collect();
        if statement.is_directive() && words.contains(&".shared") && !words.contains(&".extern") {
            findings.push(
                "shared-memory",
                statement,
                function,
                "static shared memory; take the dynamic area",
            );
        }
    }
    let limit = arch.max_dynamic_smem_bytes();
    for bounds in kernels {
        if let Some(bytes) = bounds.dynamic_smem_bytes.filter(|&bytes| bytes > limit) {
            let at = Statement {
                line: module.entry(&bounds.kernel).map_or(1, |f| f.header.line),
                text: String::new(),
            };
            let message = format!("{bytes} bytes of dynamic shared memory, a CTA may ask for {limit}");
            findings.push("shared-memory", &at, &bounds.kernel, &message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Vec<LaunchBounds> {
        vec![LaunchBounds {
            kernel: "k".into(),
            threads: 128,
            min_ctas_per_sm: 2,
            max_registers: 0,
            dynamic_smem_bytes: Some(64 * 1024),
        }]
    }

    fn module(globals: &str, body: &str) -> String {
        format!(
            ".version 7.0\n.target sm_80\n.address_size 64\n{globals}\n.visible .entry k(\n.param .u64 p\n)\n\
             .maxntid 128, 1, 1\n.minnctapersm 2\n{{\n{body}\nret;\n}}\n"
        )
    }

    /// The rules broken, and the line of the first.
    fn broken(ptx: &str) -> (Vec<&'static str>, usize) {
        let findings = check(ptx, Arch::Sm80, &bounds());
        (
            findings.iter().map(|finding| finding.rule).collect(),
            findings.first().map_or(0, |finding| finding.line),
        )
    }

    #[test]
    fn good_ptx_breaks_nothing() {
        let body = "\
            .reg .b32 %r<4>;\nld.param.b64 %rd1, [p];\nld.global.v4.b32 {%r0, %r1, %r2, %r3}, [%rd1];\n\
            st.shared::cta.b32 [%r1], %r2;\nred.relaxed.gpu.global.add.f32 [%rd1], %f1;\nadd.rn.f32 %f1, %f1, %f2;\n\
            redux.sync.add.s32 %r1, %r2, -1;\nbar.sync 15, 64;\nbar.warp.sync -1;\nbar.red.popc.u32 %r1, 3, %p1;\n\
            mul.wide.u32 %rd1, %r1, 4;\nldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%r1];\n\
            call.uni stop, ();";
        let globals = ".extern .shared .align 128 .b8 smem[];\n.func stop()\n.noreturn\n{\ntrap;\n}";
        assert_eq!(broken(&module(globals, body)), (vec![], 0));
    }

    #[test]
    fn stack_is_found() {
        assert_eq!(broken(&module("", ".local .align 4 .b8 __local_depot0[16];")), (vec!["stack"], 11));
        assert_eq!(broken(&module("", "\nst.local.b32 [%rd1], %r1;")), (vec!["stack"], 12));
        assert_eq!(broken(&module("", "add.u64 %rd1, %SP, 0;")), (vec!["stack"], 11));
    }

    #[test]
    fn repeated_findings_are_counted_once() {
        let findings =
            check(&module("", "st.local.b32 [%rd1], %r1;\nst.local.b32 [%rd1], %r1;"), Arch::Sm80, &bounds());
        assert_eq!((findings.len(), findings[0].times), (1, 2));
        let text = findings[0].to_string();
        assert!(
            text.starts_with("[stack] line 11 k\n        local memory") && text.ends_with("(2 times)"),
            "{text}"
        );
    }

    #[test]
    fn undefined_and_returning_callees_are_found() {
        assert_eq!(broken(&module(".extern .func away\n();", "")), (vec!["extern"], 4));
        assert_eq!(broken(&module("", "call.uni (out), away, (in);")), (vec!["extern"], 11));
        assert_eq!(
            broken(&module(".func helper()\n{\nret;\n}", "call.uni helper, ();")),
            (vec!["extern"], 14)
        );
    }

    #[test]
    fn generic_accesses_are_found() {
        for access in
            ["ld.b32 %r1, [%rd1];", "@%p1 st.v2.b32 [%rd1], {%r1, %r2};", "atom.add.u32 %r1, [%rd1], 1;"]
        {
            assert_eq!(broken(&module("", access)), (vec!["address-space"], 11), "{access}");
        }
    }

    #[test]
    fn sums_without_rounding_are_found() {
        for sum in ["add.f32 %f1, %f1, %f2;", "mul.ftz.f32 %f1, %f1, %f2;", "sub.f16x2 %r1, %r1, %r2;"] {
            assert_eq!(broken(&module("", sum)), (vec!["contraction"], 11), "{sum}");
        }
    }

    #[test]
    fn launch_bounds_must_be_the_declared_ones() {
        let good = module("", "");
        assert_eq!(broken(&good.replace("128, 1, 1", "256, 1, 1")), (vec!["launch-bounds"], 5));
        assert_eq!(broken(&good.replace(".minnctapersm 2\n", "")), (vec!["launch-bounds"], 5));
        assert_eq!(broken(&good.replace(".entry k(", ".entry other(")).0, ["launch-bounds", "launch-bounds"]);
    }

    #[test]
    fn barrier_ids_are_literals_below_16() {
        for barrier in ["bar.sync 16;", "barrier.cta.sync.aligned %r1, 64;", "bar.red.popc.u32 %r1, 31, %p1;"]
        {
            assert_eq!(broken(&module("", barrier)), (vec!["barrier-id"], 11), "{barrier}");
        }
    }

    #[test]
    fn shared_memory_is_dynamic_and_fits() {
        assert_eq!(broken(&module(".shared .align 4 .b8 tile[64];", "")), (vec!["shared-memory"], 4));
        assert_eq!(broken(&module("", ".shared .align 4 .b8 tile[64];")), (vec!["shared-memory"], 11));
        let mut bounds = bounds();
        bounds[0].dynamic_smem_bytes = Some(164 * 1024);
        assert_eq!(check(&module("", ""), Arch::Sm80, &bounds)[0].rule, "shared-memory");
    }

    #[test]
    fn version_and_target_are_pinned() {
        assert_eq!(broken(&module("", "").replace("7.0", "7.8")), (vec!["version"], 1));
        assert_eq!(broken(&module("", "").replace("sm_80", "sm_80, debug")), (vec!["version"], 1));
    }
}
