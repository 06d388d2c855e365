//! What a launch reports when nothing was wrong: exact counts and remarks.

use std::fmt;

use crate::SourceLine;

/// Classes of instructions in the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Branches, returns, traps, clocks.
    Control,
    /// Moves, selections, address conversions, parameter loads.
    Move,
    /// Integer and logical arithmetic.
    Integer,
    /// 32-bit floating point.
    Float,
    /// 16-bit floating point.
    Half,
    /// The special function unit: `ex2`, `rcp`, `lg2` and their like.
    Special,
    /// Conversions between types.
    Convert,
    /// Comparisons and predicate logic.
    Compare,
    /// Loads and stores of global memory and constants.
    Global,
    /// Loads and stores of shared memory, `ldmatrix` and `stmatrix` with them.
    Shared,
    /// Loads and stores of local memory.
    Local,
    /// Loads and stores that find their space by the address.
    Generic,
    /// `atom` and `red`.
    Atomic,
    /// `cp.async` with its groups and waits.
    AsyncCopy,
    /// Shuffles, votes, matches and reductions of a warp.
    Warp,
    /// `mma`.
    Matrix,
    /// Barriers of a CTA or a warp.
    Barrier,
    /// Fences, prefetches and cache policies.
    Fence,
}

/// Sums over instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Instructions issued, once per warp or part of a warp.
    pub warp_instructions: u64,
    /// The same counted once per lane that executes (its guard true).
    pub lane_instructions: u64,
    /// Branches at which lanes of a warp parted.
    pub divergent_branches: u64,
    /// Requests to global memory: one per warp instruction, asynchronous copies and atomics included.
    pub global_requests: u64,
    /// Sectors of 32 bytes that those requests touch.
    pub global_sectors: u64,
    /// Bytes that those requests move.
    pub global_bytes: u64,
    /// Requests to shared memory; `ldmatrix` makes one per 8×8 matrix, and so does `stmatrix`.
    pub shared_requests: u64,
    /// Phases of up to 128 bytes that those requests need, bank conflicts included. A request of 16 bytes per lane has
    /// four phases even without a conflict; see [`Totals::shared_phases`].
    pub shared_wavefronts: u64,
    /// The wavefronts that the same requests would need if no two lanes of a phase met in a bank.
    pub shared_phases: u64,
    /// Bytes that those requests move.
    pub shared_bytes: u64,
    /// Bytes moved to and from local memory.
    pub local_bytes: u64,
    /// Warp-wide matrix products.
    pub mma: u64,
    /// Multiply-adds in those.
    pub macs: u64,
}

impl Totals {
    /// Adds `other`, field by field.
    pub fn add(&mut self, other: &Totals) {
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        self.divergent_branches += other.divergent_branches;
        self.global_requests += other.global_requests;
        self.global_sectors += other.global_sectors;
        self.global_bytes += other.global_bytes;
        self.shared_requests += other.shared_requests;
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_phases += other.shared_phases;
        self.shared_bytes += other.shared_bytes;
        self.local_bytes += other.local_bytes;
        self.mma += other.mma;
        self.macs += other.macs;
    }

    /// Wavefronts per conflict-free wavefront: 1.0 means no bank conflict. NaN without shared requests.
    pub fn shared_conflict_factor(&self) -> f64 {
        self.shared_wavefronts as f64 / self.shared_phases as f64
    }

    /// Sectors per global request. NaN without global requests.
    pub fn sectors_per_request(&self) -> f64 {
        self.global_sectors as f64 / self.global_requests as f64
    }
}

/// The counts of one instruction of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LineCounters {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// The instruction as written there.
    pub text: String,
    /// Its class.
    pub class: Class,
    /// Its counts.
    pub counts: Totals,
}

/// Counts per instruction, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// One entry per instruction of the kernel, executed or not.
    pub lines: Vec<LineCounters>,
}

impl Counters {
    /// Sum over all instructions.
    pub fn totals(&self) -> Totals {
        self.sum(|_| true)
    }

    /// Sum over the instructions of a class.
    pub fn class(&self, class: Class) -> Totals {
        self.sum(|line| line.class == class)
    }

    /// Sum over the instructions on one line of the text.
    pub fn line(&self, line: u32) -> Totals {
        self.sum(|entry| entry.line == line)
    }

    /// Sum over the instructions whose text starts with `opcode`.
    pub fn opcode(&self, opcode: &str) -> Totals {
        self.sum(|line| line.text.trim_start_matches(guard).trim_start().starts_with(opcode))
    }

    /// Instructions that no warp ever issued.
    pub fn never_executed(&self) -> impl Iterator<Item = &LineCounters> {
        self.lines.iter().filter(|line| line.counts.warp_instructions == 0)
    }

    /// Share of the instructions that some warp issued.
    pub fn coverage(&self) -> f64 {
        1.0 - self.never_executed().count() as f64 / self.lines.len().max(1) as f64
    }

    /// Adds the counts of another launch of the same kernel, so that coverage is that of both. Counts of a different
    /// kernel are refused.
    pub fn merge(&mut self, other: &Counters) -> Result<(), String> {
        if self.lines.is_empty() {
            self.lines.clone_from(&other.lines);
            return Ok(());
        }
        let same = |(a, b): (&LineCounters, &LineCounters)| a.line == b.line && a.text == b.text;
        if self.lines.len() != other.lines.len() || !self.lines.iter().zip(&other.lines).all(same) {
            return Err("counters of different kernels cannot be merged".into());
        }
        for (line, more) in self.lines.iter_mut().zip(&other.lines) {
            line.counts.add(&more.counts);
        }
        Ok(())
    }

    fn sum(&self, take: impl Fn(&LineCounters) -> bool) -> Totals {
        let mut totals = Totals::default();
        self.lines.iter().filter(|line| take(line)).for_each(|line| totals.add(&line.counts));
        totals
    }
}

/// Kinds of remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum AdvisoryKind {
    /// A NaN came out of an instruction that no NaN went into.
    NanBirth,
    /// The same value was stored twice without an order between the stores.
    SameValueRace,
    /// A thread ended with asynchronous copies that no wait has published.
    CopyNeverWaitedFor,
}

/// Something that is not wrong in itself, once per kind and instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advisory {
    /// What kind of remark.
    pub kind: AdvisoryKind,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction as written there.
    pub instruction: String,
    /// Line of Rust, where the module was loaded with a line table.
    pub source: Option<SourceLine>,
    /// How many lanes met it.
    pub count: u64,
    /// The first of them.
    pub message: String,
}

impl fmt::Display for Advisory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Advisory { kind, ptx_line, instruction, count, message, .. } = self;
        write!(f, "{kind:?} at PTX line {ptx_line} ({count}×): {instruction}: {message}")
    }
}

/// What a launch that ended well reports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Name of the kernel.
    pub kernel: String,
    /// Exact counts per instruction.
    pub counters: Counters,
    /// Remarks, in the order of the text.
    pub advisories: Vec<Advisory>,
}

/// Characters of a guard such as `@!%p12` before an opcode.
fn guard(c: char) -> bool {
    matches!(c, '@' | '!' | '%' | 'p' | '0'..='9')
}
