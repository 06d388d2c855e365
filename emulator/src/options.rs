//! How a launch is run: which checks, which order of warps, how long.

/// Order in which warps and CTAs run, and where asynchronous copies land within what is legal.
///
/// A kernel without races gives the same bytes under each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Each warp runs until it blocks; asynchronous copies land as late as legal.
    RoundRobin,
    /// A random runnable warp runs for a random short while; copies land at random legal points.
    Random(u64),
    /// One warp of each CTA, chosen by the seed, runs only when no other can, and CTAs start in reverse order.
    Adversarial(u64),
}

/// Settings of a [`Machine`](crate::Machine); they hold for every launch until changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Races, uninitialised reads, undefined registers and numeric notes. Bounds, alignment, convergence and barriers
    /// are checked in any case.
    pub checks: bool,
    /// Sectors and wavefronts per request. Executed instructions per line are counted in any case.
    pub counters: bool,
    /// Order of execution.
    pub scheduler: Scheduler,
    /// Warp instructions that a launch may execute before it is reported as endless.
    pub step_budget: u64,
    /// CTAs that may be on the machine at once. A kernel whose CTAs wait for each other must not need more than this.
    pub resident_ctas: u32,
}

impl Default for Options {
    /// Everything checked and counted, round robin, about a thousand million steps, eight resident CTAs.
    fn default() -> Self {
        Options {
            checks: true,
            counters: true,
            scheduler: Scheduler::RoundRobin,
            step_budget: 1 << 30,
            resident_ctas: 8,
        }
    }
}

impl Options {
    /// Neither checks nor counters: for benchmarks and for the second of two runs.
    pub fn fast() -> Self {
        Options { checks: false, counters: false, ..Options::default() }
    }
}
