//! `lacuna doctor`: what this machine has, and whether the kernels are right on it.

use lacuna::cpu::simd::Isa;
use lacuna::{
    AttentionOptions, AttentionShape, BlockMask, Device, Pattern, Selection, Seqlens, TensorView,
    TensorViewMut, VerticalSlashIndex, prefill,
};
use lacuna_runner::report::{Align, Style, Table, format_bytes, format_density};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

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
    devices: Vec<&'static str>,
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

/// The case every check runs: small, with grouped heads and a length that is no multiple of any block.
const TOKENS: usize = 500;
const NUM_HEADS: usize = 4;
const NUM_HEADS_K: usize = 2;
const HEAD_DIM: usize = 64;
/// Queries that the searches look at, where they look at the last ones only.
const LAST: usize = 64;
const SEED: u64 = 7;
/// What `f32` attention may differ from the same in `f64`, for values up to 1.
const TOLERANCE: f64 = 1e-5;

pub fn run(args: DoctorArgs) -> Outcome {
    let case = Case::new()?;
    let mut checks: Vec<Check> = Isa::available()
        .map(|isa| isa.scope(|| case.check(format!("dense attention, {}", isa.name()), &Pattern::Dense)))
        .collect();
    let patterns = scaled(TOKENS, LAST, 1).into_iter().filter(|attn| *attn.pattern() != Pattern::Dense);
    checks.extend(patterns.map(|attn| case.check(attn.to_string(), attn.pattern())));
    let diagnosis = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: proc_field("/proc/cpuinfo", "model name"),
        instruction_sets: Isa::available().map(Isa::name).collect(),
        instruction_set_in_use: Isa::current().name(),
        threads: rayon::current_num_threads(),
        memory_bytes: memory("MemTotal"),
        memory_available_bytes: memory("MemAvailable"),
        devices: vec!["cpu"],
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
devices           cpu; this version has no GPU kernels

Attention of {TOKENS} tokens against a plain loop in f64:

",
            self.version,
            self.system,
            self.processor.as_deref().unwrap_or("unknown"),
            self.instruction_sets.join(", "),
            self.instruction_set_in_use,
            self.threads,
            bytes(self.memory_bytes),
            bytes(self.memory_available_bytes),
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

struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// A selection that outlives its plan.
enum Kept {
    All,
    Blocks(BlockMask),
    VerticalSlash(VerticalSlashIndex),
}

impl Kept {
    fn new(selection: Selection<'_>) -> Self {
        match selection {
            Selection::Blocks(mask) => Self::Blocks(mask.clone()),
            Selection::VerticalSlash(index) => Self::VerticalSlash(index.clone()),
            _ => Self::All,
        }
    }

    fn has(&self, head: usize, row: usize, key: usize) -> bool {
        match self {
            Self::All => true,
            Self::Blocks(mask) => {
                let block = (key / mask.block_n()) as u32;
                mask.row(0, head, row / mask.block_m()).binary_search(&block).is_ok()
            }
            Self::VerticalSlash(index) => {
                let tile = row / VerticalSlashIndex::TILE;
                index.columns(0, head, tile).binary_search(&(key as u32)).is_ok()
                    || index.blocks(0, head, tile).iter().any(|&start| {
                        (start as usize..start as usize + VerticalSlashIndex::TILE).contains(&key)
                    })
            }
        }
    }
}

impl Case {
    fn new() -> Outcome<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut values = |heads: usize| -> Vec<f32> {
            (0..TOKENS * heads * HEAD_DIM).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let shape = AttentionShape::new(NUM_HEADS, NUM_HEADS_K, HEAD_DIM, Seqlens::single(TOKENS, TOKENS)?)?;
        Ok(Self { shape, q: values(NUM_HEADS), k: values(NUM_HEADS_K), v: values(NUM_HEADS_K) })
    }

    /// Runs a pattern, and the plain loop over what it kept.
    fn check(&self, what: String, pattern: &Pattern) -> Check {
        match self.run(pattern) {
            Ok((max_error, density)) => Check {
                what,
                // Not a number is no small error.
                ok: max_error <= TOLERANCE,
                max_error: Some(max_error),
                density: Some(density),
                error: None,
            },
            Err(e) => Check { what, ok: false, max_error: None, density: None, error: Some(e.to_string()) },
        }
    }

    fn run(&self, pattern: &Pattern) -> lacuna::Result<(f64, f64)> {
        let mut plan = prefill::Plan::new(Device::Cpu, &self.shape, &AttentionOptions::default(), pattern)?;
        let mut out = vec![f32::NAN; self.q.len()];
        let mut kept = Kept::All;
        let report = plan.run_observed(
            &TensorView::thd(&self.q, TOKENS, NUM_HEADS, HEAD_DIM)?,
            &TensorView::thd(&self.k, TOKENS, NUM_HEADS_K, HEAD_DIM)?,
            &TensorView::thd(&self.v, TOKENS, NUM_HEADS_K, HEAD_DIM)?,
            &mut TensorViewMut::thd(&mut out, TOKENS, NUM_HEADS, HEAD_DIM)?,
            None,
            |selection| kept = Kept::new(selection),
        )?;
        let mut max_error = 0.0;
        for head in 0..NUM_HEADS {
            for row in 0..TOKENS {
                let want = self.plain(&kept, head, row);
                let got = &out[(row * NUM_HEADS + head) * HEAD_DIM..][..HEAD_DIM];
                for (want, &got) in want.iter().zip(got) {
                    let error = (want - f64::from(got)).abs();
                    // `f64::max` would drop a NaN.
                    max_error = if error <= max_error { max_error } else { error };
                }
            }
        }
        Ok((max_error, report.density))
    }

    /// One output row, in `f64`.
    fn plain(&self, kept: &Kept, head: usize, row: usize) -> [f64; HEAD_DIM] {
        let head_k = self.shape.head_k(head, false);
        let q = &self.q[(row * NUM_HEADS + head) * HEAD_DIM..][..HEAD_DIM];
        let of_key = |x: &[f32], key: usize| -> [f64; HEAD_DIM] {
            std::array::from_fn(|d| f64::from(x[(key * NUM_HEADS_K + head_k) * HEAD_DIM + d]))
        };
        let (mut out, mut total) = ([0.0; HEAD_DIM], 0.0);
        for key in (0..=row).filter(|&key| kept.has(head, row, key)) {
            let dot: f64 = of_key(&self.k, key).iter().zip(q).map(|(k, &q)| k * f64::from(q)).sum();
            let weight = (dot / (HEAD_DIM as f64).sqrt()).exp();
            total += weight;
            out.iter_mut().zip(of_key(&self.v, key)).for_each(|(out, v)| *out += weight * v);
        }
        if total > 0.0 { out.map(|x| x / total) } else { out }
    }
}
