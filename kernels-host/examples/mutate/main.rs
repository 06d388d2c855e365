//! How many bugs would the acceptance suite notice? Edits the shipped PTX one line at a time and runs a compact acceptance
//! set of the kernel on the emulator. A mutant that nothing notices is either equivalent to the original or a hole.
//!
//! ```text
//! cargo run --release -p lacuna-kernels-host --features emulator --example mutate -- --kernel dense_attention_bf16_d64
//! ```

mod checks;
#[path = "../../tests/common/mod.rs"]
mod common;
mod mutants;

use std::io::{IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use lacuna_emulator::Options;
use lacuna_kernels_gpu::kernel::KERNELS;
use lacuna_reference::testing::Rng;
use serde_json::json;

use checks::Check;
use common::Device;
use common::device::emulator_of;
use mutants::{Kind, Mutant};

const HELP: &str = "\
Edits the shipped PTX one line at a time and counts the edits that the acceptance suite notices.

Options:
  --kernel TEXT   only kernels whose name contains TEXT (may be given several times)
  --sample N      at most N mutants of each kernel, chosen by the seed
  --seed N        of the sample [0]
  --threads N     [all processors]
  --ptx PATH      another image than the shipped one
  --json          the result as JSON, on standard output
  --list          the mutants, without running them
  --help
";

#[derive(Default)]
struct Args {
    kernels: Vec<String>,
    sample: Option<usize>,
    seed: u64,
    threads: Option<usize>,
    ptx: Option<String>,
    json: bool,
    list: bool,
    help: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args::default();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number =
            |text: String| text.parse::<u64>().map_err(|_| format!("expected a number, got {text:?}"));
        match arg.as_str() {
            "--kernel" => parsed.kernels.push(value()?),
            "--sample" => parsed.sample = Some(number(value()?)? as usize),
            "--seed" => parsed.seed = number(value()?)?,
            "--threads" => parsed.threads = Some((number(value()?)? as usize).max(1)),
            "--ptx" => parsed.ptx = Some(value()?),
            "--json" => parsed.json = true,
            "--list" => parsed.list = true,
            "--help" | "-h" => parsed.help = true,
            other => return Err(format!("unknown option {other}; --help lists them")),
        }
    }
    Ok(parsed)
}

/// What became of a mutant.
struct Verdict {
    mutant: Mutant,
    /// The first line of what noticed it.
    killed_by: Option<String>,
}

/// All mutants of one kernel.
struct Outcome {
    kernel: &'static str,
    verdicts: Vec<Verdict>,
    seconds: f64,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) if args.help => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(args) => args,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let image = match &args.ptx {
        Some(path) => std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?,
        None => common::device::image().ptx.to_owned(),
    };
    let lines: Vec<&str> = image.lines().collect();
    let wanted = |name: &str| args.kernels.is_empty() || args.kernels.iter().any(|part| name.contains(part));
    let kernels: Vec<&'static str> = KERNELS.iter().map(|k| k.name).filter(|name| wanted(name)).collect();
    if kernels.is_empty() {
        return Err(format!("no kernel's name contains {}", args.kernels.join(" or ")));
    }
    // What a mutant does wrong, it says by a panic; the default hook would print each of them.
    std::panic::set_hook(Box::new(|_| ()));
    let mut outcomes = Vec::new();
    for (at, kernel) in kernels.iter().copied().enumerate() {
        let range =
            mutants::lines_of(&lines, kernel).ok_or_else(|| format!("the image holds no {kernel}"))?;
        let mut mutants = mutants::of_lines(&lines, range);
        sample(&mut mutants, args);
        if args.list {
            for m in &mutants {
                println!("{kernel}:{} {}: {} -> {}", m.line + 1, m.kind, m.old, m.new);
            }
            continue;
        }
        let progress = Progress::new(format!("{}/{} {kernel}", at + 1, kernels.len()), mutants.len());
        let outcome = run_kernel(&lines, kernel, mutants, args, &progress)?;
        progress.clear();
        if !args.json {
            print_kernel(&outcome);
        }
        outcomes.push(outcome);
    }
    if args.json {
        print_json(&outcomes);
    } else if !args.list {
        print_summary(&outcomes);
    }
    Ok(())
}

/// Keeps `args.sample` mutants, in their order.
fn sample(mutants: &mut Vec<Mutant>, args: &Args) {
    let mut rng = Rng::new(args.seed);
    while args.sample.is_some_and(|n| mutants.len() > n) {
        mutants.remove(rng.below(mutants.len()));
    }
}

fn run_kernel(
    lines: &[&str],
    kernel: &'static str,
    mutants: Vec<Mutant>,
    args: &Args,
    progress: &Progress,
) -> Result<Outcome, String> {
    let start = Instant::now();
    let checks = checks::of_kernel(kernel).ok_or_else(|| format!("no checks for {kernel}"))?;
    let companions = checks::companions(kernel);
    let kept: Vec<_> = companions.iter().filter_map(|name| mutants::lines_of(lines, name)).collect();
    let original = mutants::only(lines, &kept);
    let budget = step_budget(&original.join("\n"), kernel, &checks)?;
    let next = AtomicUsize::new(0);
    let killed_by: Vec<Mutex<Option<String>>> = mutants.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        let mut text = original.clone();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(mutant) = mutants.get(at) else { break };
            let old = std::mem::replace(&mut text[mutant.line], mutant.new.clone());
            let verdict = first_failure(&text.join("\n"), &checks, budget);
            text[mutant.line] = old;
            if let Ok(mut slot) = killed_by[at].lock() {
                *slot = verdict;
            }
            progress.step();
        }
    };
    let threads =
        args.threads.or_else(|| std::thread::available_parallelism().ok().map(|n| n.get())).unwrap_or(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let verdicts = mutants
        .into_iter()
        .zip(killed_by)
        .map(|(mutant, killed_by)| Verdict { mutant, killed_by: killed_by.into_inner().unwrap_or(None) })
        .collect();
    Ok(Outcome { kernel, verdicts, seconds: start.elapsed().as_secs_f64() })
}

/// Twice the warp instructions that the original executes in all checks together; a mutant that needs more hangs. Fails when
/// the original does not pass.
fn step_budget(image: &str, kernel: &str, checks: &[Check]) -> Result<u64, String> {
    let budget = Options::default().step_budget;
    if let Some(why) = first_failure(image, checks, budget) {
        return Err(format!("{kernel} fails unchanged: {why}"));
    }
    let (context, driver) = emulator_of(image, Options::default());
    let device = Device { context, margin: 0 };
    checks.iter().for_each(|check| (check.run)(&device));
    let steps: u64 = checks::companions(kernel)
        .iter()
        .filter_map(|name| driver.report(name))
        .map(|report| report.counters.totals().warp_instructions)
        .sum();
    Ok(2 * steps)
}

/// What the first check that fails says, in one line; `None` when all pass.
fn first_failure(image: &str, checks: &[Check], step_budget: u64) -> Option<String> {
    let all = catch_unwind(AssertUnwindSafe(|| {
        let (context, driver) =
            emulator_of(image, Options { step_budget, counters: false, ..Options::default() });
        let device = Device { context, margin: 0 };
        for check in checks {
            let counters = check.stored_bytes.is_some();
            let scheduler = check.scheduler;
            driver.set_options(Options { step_budget, counters, scheduler, ..Options::default() });
            driver.clear_reports();
            (check.run)(&device);
            if let Some(want) = check.stored_bytes {
                let reports = KERNELS.iter().filter_map(|kernel| driver.report(kernel.name));
                let got: u64 = reports.map(|r| r.counters.opcode("st.global").global_bytes).sum();
                assert!(got == want, "worst at the stores: {got} bytes instead of {want}");
            }
        }
    }));
    let panic = all.err()?;
    let text = match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
        (Some(text), _) => text.as_str(),
        (_, Some(text)) => text,
        _ => "a panic",
    };
    Some(text.lines().next().unwrap_or("").to_owned())
}

/// The kind of the notice: the emulator's fault, or a wrong result.
fn class(notice: &str) -> &str {
    if notice.starts_with("worst at") || notice.starts_with("element") {
        return "wrong result";
    }
    if notice.starts_with("the image was not accepted") {
        return "refused by the reader";
    }
    // "kernel: Fault: what happened"
    notice.split(": ").nth(1).unwrap_or(notice)
}

fn print_kernel(outcome: &Outcome) {
    let (killed, total) = score(&outcome.verdicts);
    println!("{}: {killed} of {total} killed, {:.0} s", outcome.kernel, outcome.seconds);
    for verdict in outcome.verdicts.iter().filter(|v| v.killed_by.is_none()) {
        let Mutant { line, kind, old, new } = &verdict.mutant;
        let new = if new.is_empty() { "(deleted)" } else { new };
        println!("  survived, line {}, {kind}: {} -> {}", line + 1, tidy(old), tidy(new));
    }
}

fn print_summary(outcomes: &[Outcome]) {
    let all = || outcomes.iter().flat_map(|o| &o.verdicts);
    println!("\n{:<10} {:>8} {:>8}", "mutation", "killed", "of");
    for kind in Kind::ALL {
        let total = all().filter(|v| v.mutant.kind == kind).count();
        let killed = all().filter(|v| v.mutant.kind == kind && v.killed_by.is_some()).count();
        println!("{:<10} {killed:>8} {total:>8}", kind.to_string());
    }
    let mut classes: Vec<(&str, usize)> = Vec::new();
    for class in all().filter_map(|v| v.killed_by.as_deref().map(class)) {
        match classes.iter_mut().find(|(name, _)| *name == class) {
            Some((_, count)) => *count += 1,
            None => classes.push((class, 1)),
        }
    }
    classes.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
    println!("\nnoticed by");
    for (class, count) in classes {
        println!("  {count:>7}  {class}");
    }
    let (killed, total): (usize, usize) =
        outcomes.iter().map(|o| score(&o.verdicts)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let share = 100.0 * killed as f64 / total.max(1) as f64;
    println!("\nscore: {killed} of {total} mutants killed ({share:.1} %), {} survived", total - killed);
}

fn print_json(outcomes: &[Outcome]) {
    let kernels = outcomes.iter().map(|outcome| {
        let (killed, total) = score(&outcome.verdicts);
        let mutants = outcome.verdicts.iter().map(|verdict| {
            let Mutant { line, kind, old, new } = &verdict.mutant;
            json!({
                "line": line + 1,
                "kind": kind.to_string(),
                "old": tidy(old),
                "new": tidy(new),
                "killed_by": verdict.killed_by,
            })
        });
        json!({
            "kernel": outcome.kernel,
            "killed": killed,
            "total": total,
            "seconds": outcome.seconds,
            "mutants": mutants.collect::<Vec<_>>(),
        })
    });
    println!("{:#}", json!(kernels.collect::<Vec<_>>()));
}

fn score(verdicts: &[Verdict]) -> (usize, usize) {
    (verdicts.iter().filter(|v| v.killed_by.is_some()).count(), verdicts.len())
}

/// One space where the assembler's text has tabs.
fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A bar on the error stream, where a terminal watches it.
struct Progress {
    what: String,
    total: usize,
    done: AtomicUsize,
    shown: bool,
}

impl Progress {
    fn new(what: String, total: usize) -> Self {
        Self { what, total, done: AtomicUsize::new(0), shown: std::io::stderr().is_terminal() }
    }

    fn step(&self) {
        const WIDTH: usize = 30;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if self.shown {
            let full = WIDTH * done / self.total.max(1);
            let bar = format!("{}{}", "#".repeat(full), ".".repeat(WIDTH - full));
            eprint!("\r[{bar}] {done}/{} {}", self.total, self.what);
        }
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
            // Best effort: a bar that stays is no failure.
            let _ = std::io::stderr().flush();
        }
    }
}
