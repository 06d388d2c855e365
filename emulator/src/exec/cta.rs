//! A CTA: its warps and the order they run in.

use super::barriers::Barriers;
use super::dispatch::Runner;
use super::run::Stop;
use super::session::{CtaState, Session};
use super::warp::{Status, Warp};
use crate::check::{Clocks, CtaClock, SharedShadow};
use crate::ir::{Kernel, SPECIAL};
use crate::memory::{Checked, Trouble};
use crate::numerics::Lanes;
use crate::{FaultKind, LaunchShape, Scheduler};

/// Instructions of a warp's turn. Long, since switching costs; a warp that blocks gives up its turn anyway.
const TURN: u64 = 1 << 16;
/// Turns of a CTA before another may go on, so that CTAs can wait for each other.
const CTA_TURNS: u32 = 32;
/// Turns of the others after which a starved warp gets one.
const STARVATION: u32 = 32;

/// A CTA and what it needs to be started again as another.
pub struct Cta {
    pub state: CtaState,
    pub warps: Vec<Warp>,
    barriers: Barriers,
    /// The warp that ran last.
    last: usize,
    starved: u32,
}

/// A warp's trouble.
pub struct Failed {
    pub trouble: Box<Trouble>,
    pub warp: usize,
    pub cta: [u32; 3],
    pub pc: usize,
}

/// Where `%ctaid` stands among the special registers.
const CTAID: usize = 6;

/// Sets the special registers but `%ctaid`.
fn set_special(w: &mut Warp, kernel: &Kernel, shape: &LaunchShape, num_warps: u32) {
    let first = w.id * 32;
    let [nx, ny, _] = shape.block;
    let each = |f: &dyn Fn(u32) -> u32| -> Lanes { std::array::from_fn(|lane| f(lane as u32)) };
    let same = |value: u32| [value; 32];
    let dynamic = shape.dynamic_smem_bytes;
    let values: [Lanes; SPECIAL.len()] = [
        each(&|lane| (first + lane) % nx),
        each(&|lane| (first + lane) / nx % ny),
        each(&|lane| (first + lane) / (nx * ny)),
        same(shape.block[0]),
        same(shape.block[1]),
        same(shape.block[2]),
        same(0),
        same(0),
        same(0),
        same(shape.grid[0]),
        same(shape.grid[1]),
        same(shape.grid[2]),
        each(&|lane| lane),
        same(w.id),
        same(num_warps),
        each(&|lane| 1 << lane),
        each(&|lane| (1 << lane) - 1),
        each(&|lane| u32::MAX >> (31 - lane)),
        each(&|lane| u32::MAX.checked_shl(lane + 1).unwrap_or(0)),
        each(&|lane| u32::MAX << lane),
        same(dynamic),
        same(kernel.static_shared_bytes + dynamic),
    ];
    for (index, value) in values.into_iter().enumerate() {
        w.regs.set_special(index, value);
    }
}

impl Cta {
    /// A CTA of this shape; [`Cta::start`] makes it a certain one.
    pub fn new(kernel: &Kernel, shape: &LaunchShape, checks: bool, ctas: u32) -> Self {
        let threads = shape.threads() as u32;
        let mut warps: Vec<Warp> =
            (0..threads.div_ceil(32)).map(|id| Warp::new(kernel, id, threads)).collect();
        let num_warps = warps.len() as u32;
        warps.iter_mut().for_each(|w| set_special(w, kernel, shape, num_warps));
        let shared = (kernel.static_shared_bytes + shape.dynamic_smem_bytes) as usize;
        Cta {
            state: CtaState {
                index: 0,
                cta: [0; 3],
                shared: vec![0; shared],
                shadow: SharedShadow::new(if checks { shared } else { 0 }),
                clocks: Clocks::new(warps.len()),
                clock: CtaClock::new(0, ctas),
            },
            barriers: Barriers::new(warps.len()),
            warps,
            last: 0,
            starved: 0,
        }
    }

    /// Becomes CTA number `index` of the grid.
    pub fn start(&mut self, shape: &LaunchShape, index: u64) {
        let [gx, gy, _] = shape.grid.map(u64::from);
        let cta = [index % gx, index / gx % gy, index / (gx * gy)].map(|n| n as u32);
        self.state.index = index;
        self.state.cta = cta;
        // A new CTA finds whatever was there; all ones make NaN of any float.
        self.state.shared.fill(0xff);
        self.state.shadow.reset();
        self.state.clocks.reset();
        self.state.clock = CtaClock::new(index as u32, shape.ctas() as u32);
        self.barriers.reset();
        self.last = self.warps.len() - 1;
        self.starved = 0;
        for w in &mut self.warps {
            w.reset();
            for (axis, index) in (CTAID..CTAID + 3).enumerate() {
                w.regs.set_special(index, [cta[axis]; 32]);
            }
        }
    }

    /// Runs for a while; true when the CTA has ended.
    pub fn run(&mut self, s: &mut Session, runner: Runner) -> Result<bool, Failed> {
        for _ in 0..CTA_TURNS {
            let Some((index, turn)) = self.next(s) else {
                return if self.warps.iter().all(|w| w.status == Status::Done) {
                    Ok(true)
                } else {
                    Err(self.deadlock())
                };
            };
            self.last = index;
            let stop = runner(s, &mut self.state, &mut self.warps[index], turn);
            let stop = stop.and_then(|stop| self.settle(index, stop));
            stop.map_err(|trouble| self.failed(index, trouble))?;
            if s.steps > s.options.step_budget {
                let message = format!(
                    "the launch has executed its budget of {} warp instructions",
                    s.options.step_budget
                );
                let mut failed = self.failed(index, Trouble::warp(FaultKind::StepBudget, message));
                // The instruction that it would have executed next.
                failed.pc = (self.warps[index].pc as usize).min(s.kernel.code.len() - 1);
                return Err(failed);
            }
        }
        Ok(false)
    }

    fn settle(&mut self, index: usize, stop: Stop) -> Checked<()> {
        match stop {
            Stop::Turn => Ok(()),
            Stop::Finished => {
                self.warps[index].status = Status::Done;
                Ok(())
            }
            Stop::Arrived(barrier) => {
                self.barriers.arrive(&mut self.warps, &mut self.state.clocks, index, barrier)
            }
        }
    }

    /// The warp that runs next and for how long.
    fn next(&mut self, s: &mut Session) -> Option<(usize, u64)> {
        let count = self.warps.len();
        let ready = |index: usize| self.warps[index].status == Status::Ready;
        let after = |start: usize| (0..count).map(move |i| (start + i) % count);
        match s.options.scheduler {
            Scheduler::RoundRobin => {
                after(self.last + 1).find(|&index| ready(index)).map(|index| (index, TURN))
            }
            Scheduler::Random(_) => {
                let start = s.rng.below(count);
                let turn = 1 + s.rng.below(128) as u64;
                after(start).find(|&index| ready(index)).map(|index| (index, turn))
            }
            Scheduler::Adversarial(seed) => {
                let victim = (seed.wrapping_add(self.state.index) % count as u64) as usize;
                let favoured = after(self.last).find(|&index| index != victim && ready(index));
                // The one that runs keeps on, as far ahead of the others as it may; after many turns without an end the
                // victim has its chance, since the others may be waiting for it.
                self.starved = if favoured.is_some() { self.starved + 1 } else { 0 };
                if self.starved > STARVATION {
                    self.starved = 0;
                    self.last = (self.last + 1) % count;
                    return Some((if ready(victim) { victim } else { favoured? }, TURN));
                }
                favoured.or(ready(victim).then_some(victim)).map(|index| (index, TURN))
            }
        }
    }

    fn deadlock(&self) -> Failed {
        let index = self.warps.iter().position(|w| w.status != Status::Done).unwrap_or(0);
        let gone: Vec<String> =
            (self.warps.iter().filter(|w| w.status == Status::Done)).map(|w| w.id.to_string()).collect();
        let mut message = format!("no warp of the CTA can go on: {}", self.barriers.describe());
        if !gone.is_empty() {
            message += &format!("; warps {} have ended", gone.join(" "));
        }
        self.failed(index, Trouble::warp(FaultKind::Deadlock, message))
    }

    fn failed(&self, warp: usize, trouble: Box<Trouble>) -> Failed {
        let pc = (self.warps[warp].pc as usize).saturating_sub(1);
        Failed { trouble, warp, cta: self.state.cta, pc }
    }
}
