//! `lacuna doctor`: what this machine has, and whether the kernels are right on it.

mod devices;

use half::bf16;
use lacuna::cpu::simd::Isa;
use lacuna::{AttentionOptions, Device, Element, Pattern, prefill};
use lacuna_runner::report::{Align, Style, Table, format_bytes, format_density};
use serde::Serialize;

use super::kernel_case::{Kept, KernelCase};
use devices::FoundDevice;

use super::failure::{Failure, Outcome};
use super::scaled::scaled;
use super::terminal;

/// Check this machine, and that the kernels are right on it
#[derive(clap::Args)]
#[command(after_help = "Example:\n  lacuna doctor --json\n\nThe exit code is 1 when a check fails.")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Diagnosis {
    version: &'static str,
    system: String,
    processor: Option<String>,
    instruction_sets: Vec<&'static str>,
    instruction_set_in_use: &'static str,
    threads: usize,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    devices: Vec<FoundDevice>,
    checks: Vec<Check>,
}

#[derive(Serialize)]
struct Check {
    what: String,
    ok: bool,
    /// `None` where the kernel refused.
    max_error: Option<f64>,
    density: Option<f64>,
    error: Option<String>,
}

/// The case of the checks: small, with grouped heads and a length that is no multiple of any block.
const TOKENS: usize = 500;
const NUM_HEADS: usize = 4;
const NUM_HEADS_K: usize = 2;
const HEAD_DIM: usize = 64;
/// Queries that the searches look at, where they look at the last ones only.
const LAST: usize = 64;
/// Tokens of the checks of GPU kernels: an emulated one takes its time.
const GPU_TOKENS: usize = 200;
/// What attention may differ from the same in `f64`, for values up to 1: in `f32`, and with weights and outputs in `bf16`.
const TOLERANCE_F32: f64 = 1e-5;
const TOLERANCE_BF16: f64 = 1e-2;

pub fn run(args: DoctorArgs) -> Outcome {
    let case = KernelCase::<f32>::new(TOKENS, NUM_HEADS, NUM_HEADS_K, HEAD_DIM)?;
    let mut checks: Vec<Check> = Isa::available()
        .map(|isa| {
            let what = format!("dense attention, {}", isa.name());
            isa.scope(|| check(&case, Device::Cpu, what, &Pattern::Dense, TOLERANCE_F32))
        })
        .collect();
    let patterns = scaled(TOKENS, LAST, 1).into_iter().filter(|attn| *attn.pattern() != Pattern::Dense);
    checks.extend(
        patterns.map(|attn| check(&case, Device::Cpu, attn.to_string(), attn.pattern(), TOLERANCE_F32)),
    );
    let devices = devices::find();
    let case = KernelCase::<bf16>::new(GPU_TOKENS, NUM_HEADS, NUM_HEADS_K, HEAD_DIM)?;
    for device in devices.iter().filter_map(|found| found.device).filter(|&device| device != Device::Cpu) {
        for (name, pattern) in
            [("dense attention", Pattern::Dense), ("block-sparse attention", devices::blocks())]
        {
            checks.push(check(&case, device, format!("{name}, {device}"), &pattern, TOLERANCE_BF16));
        }
    }
    let diagnosis = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: proc_field("/proc/cpuinfo", "model name"),
        instruction_sets: Isa::available().map(Isa::name).collect(),
        instruction_set_in_use: Isa::current().name(),
        threads: rayon::current_num_threads(),
        memory_bytes: memory("MemTotal"),
        memory_available_bytes: memory("MemAvailable"),
        devices,
        checks,
    };
    if args.json {
        terminal::print_json(&diagnosis)?;
    } else {
        terminal::print(&diagnosis.render(terminal::colour()))?;
    }
    if diagnosis.checks.iter().all(|check| check.ok) { Ok(()) } else { Err(Failure::Verdict) }
}

/// The value of a `name: value` line.
fn proc_field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.split(':').next().is_some_and(|n| n.trim() == name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory(name: &str) -> Option<u64> {
    let kib: u64 = proc_field("/proc/meminfo", name)?.strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

impl Diagnosis {
    fn render(&self, colour: bool) -> String {
        let bytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), format_bytes);
        let mut text = format!(
            "\
lacuna            {}, {}
processor         {}
instruction sets  {}; in use: {}
threads           {}
memory            {}, {} available
{}
Attention of {TOKENS} tokens (on a GPU {GPU_TOKENS}, in bf16) against a plain loop in f64:

",
            self.version,
            self.system,
            self.processor.as_deref().unwrap_or("unknown"),
            self.instruction_sets.join(", "),
            self.instruction_set_in_use,
            self.threads,
            bytes(self.memory_bytes),
            bytes(self.memory_available_bytes),
            devices::render(&self.devices),
        );
        let mut table = Table::new(&[
            ("check", Align::Left),
            ("density", Align::Right),
            ("error", Align::Right),
            ("", Align::Left),
        ]);
        for check in &self.checks {
            let (verdict, style) = if check.ok { ("ok", Style::Good) } else { ("FAILED", Style::Bad) };
            table.row([
                (check.what.clone(), Style::Plain),
                (check.density.map_or("-".into(), format_density), Style::Plain),
                (check.max_error.map_or("-".into(), |e| format!("{e:.0e}")), Style::Plain),
                (verdict.into(), style),
            ]);
            if let Some(error) = &check.error {
                table.note(format!("  {error}"));
            }
        }
        text += &table.render(colour);
        text += if self.checks.iter().all(|check| check.ok) {
            "\nAll is well.\n"
        } else {
            "\nSomething is wrong: please report it, with this page.\n"
        };
        text
    }
}

/// Runs a pattern, and the plain loop over what it kept.
fn check<T: Element>(
    case: &KernelCase<T>,
    device: Device,
    what: String,
    pattern: &Pattern,
    tolerance: f64,
) -> Check {
    let run = || -> lacuna::Result<(f64, f64)> {
        let mut plan = prefill::Plan::new(device, &case.shape, &AttentionOptions::default(), pattern)?;
        let [q, k, v] = case.views()?;
        let mut out = case.unwritten();
        let mut kept = Kept::All;
        let report = plan.run_observed(&q, &k, &v, &mut case.out(&mut out)?, None, |selection| {
            kept = Kept::new(selection);
        })?;
        Ok((case.max_error(&kept, 0, &out), report.density))
    };
    match run() {
        Ok((max_error, density)) => Check {
            what,
            // Not a number is no small error.
            ok: max_error <= tolerance,
            max_error: Some(max_error),
            density: Some(density),
            error: None,
        },
        Err(e) => Check { what, ok: false, max_error: None, density: None, error: Some(e.to_string()) },
    }
}
