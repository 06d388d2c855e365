//! The cases of the mutation run execute the whole of every kernel.

#[expect(dead_code, reason = "the mutation run uses the rest")]
#[path = "../examples/mutate/checks/mod.rs"]
mod checks;
mod common;

use std::sync::atomic::{AtomicUsize, Ordering};

use common::Device;
use common::device::emulator;
use lacuna_emulator::Options;
use lacuna_kernels_gpu::kernel::{KERNELS, Kernel};

/// Instructions of a kernel that some case executes, at least.
fn least(kernel: &str) -> f64 {
    // Decode attention sets its accumulators for a split of which no row of the tile sees a key; no case comes there.
    if kernel.starts_with("decode_attention") && kernel.ends_with("_rows") {
        return 0.96;
    }
    // Selections look at four times 512 blocks at a time; sequences of more than 512 are too long for a case.
    if kernel.starts_with("flex_prefill") && kernel.ends_with("_decide") { 0.97 } else { 0.99 }
}

#[test]
fn every_instruction_is_executed() {
    let next = AtomicUsize::new(0);
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(kernel) = KERNELS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    assert_is_executed(kernel);
                }
            });
        }
    });
}

fn assert_is_executed(kernel: &Kernel) {
    let (context, driver) = emulator(Options::default());
    let device = Device { context, margin: 0 };
    let checks = checks::of_kernel(kernel.name).unwrap_or_else(|| panic!("no case for {}", kernel.name));
    for check in checks {
        driver.set_options(Options { scheduler: check.scheduler, ..Options::default() });
        (check.run)(&device);
    }
    let counters =
        driver.report(kernel.name).unwrap_or_else(|| panic!("{} did not run", kernel.name)).counters;
    let missed: Vec<String> =
        counters.never_executed().map(|line| format!("line {}: {}", line.line, line.text)).collect();
    assert!(
        counters.coverage() >= least(kernel.name),
        "{}: {:.1} % executed; never:\n{}",
        kernel.name,
        100.0 * counters.coverage(),
        missed.join("\n")
    );
}
