//! What one launch has: the kernel, its memory, its counters, and the state of the CTAs that run.

use std::collections::BTreeMap;

use crate::check::{Clocks, CtaClock, SharedShadow, Synchronised};
use crate::ir::Kernel;
use crate::memory::Global;
use crate::report::Totals;
use crate::rng::Rng;
use crate::{AdvisoryKind, Arch, Options};

/// How often an instruction was executed. Lanes are counted by those that did not take part: most often there are none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Executed {
    pub warps: u64,
    pub idle_lanes: u64,
}

impl Executed {
    pub fn lanes(self) -> u64 {
        32 * self.warps - self.idle_lanes
    }
}

/// A remark, by instruction and kind: how often and the first occasion.
pub type Remarks = BTreeMap<(u32, AdvisoryKind), (u64, String)>;

/// One launch.
pub struct Session<'a> {
    pub kernel: &'a Kernel,
    pub arch: Arch,
    pub options: Options,
    pub global: &'a mut Global,
    pub params: Vec<u8>,
    pub executed: Vec<Executed>,
    /// Traffic of each instruction; what it shares with [`Session::executed`] is filled in at the end.
    pub traffic: Vec<Totals>,
    pub remarks: Remarks,
    /// What atomics have published.
    pub published: Synchronised,
    /// Warp instructions so far.
    pub steps: u64,
    pub rng: Rng,
    /// Races between CTAs are looked for.
    pub watch_ctas: bool,
}

impl Session<'_> {
    /// Adds to the remarks on the instruction at `pc`.
    #[cold]
    pub fn remark(&mut self, pc: u32, kind: AdvisoryKind, count: u32, message: impl FnOnce() -> String) {
        let entry = self.remarks.entry((pc, kind)).or_insert_with(|| (0, message()));
        entry.0 += u64::from(count);
    }
}

/// What the warps of a CTA share.
pub struct CtaState {
    pub index: u64,
    pub cta: [u32; 3],
    pub shared: Vec<u8>,
    /// Of `shared`; empty when nothing is checked.
    pub shadow: SharedShadow,
    pub clocks: Clocks,
    pub clock: CtaClock,
}
