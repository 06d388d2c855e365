//! The sixteen barriers of a CTA.

use super::warp::{Status, Warp};
use crate::FaultKind;
use crate::check::{Arrived, Clocks};
use crate::ir::{Barrier, BarrierKind};
use crate::memory::{Checked, Trouble, lanes};

/// One barrier in the phase that is open.
#[derive(Clone, Debug, Default)]
struct State {
    /// Threads that complete the phase; zero while nobody has arrived.
    expected: u32,
    arrived_threads: u32,
    /// Warps that have arrived, and those of them that wait.
    arrived: u32,
    waiting: u32,
    reduces: bool,
    /// Reductions over the predicates of the arrivals.
    count: u32,
    all: bool,
    any: bool,
    published: Arrived,
}

/// All barriers of a CTA.
#[derive(Debug)]
pub struct Barriers {
    states: Vec<State>,
    /// What each waiting warp's instruction is.
    requests: Vec<Option<Barrier>>,
}

const BARRIERS: usize = 16;

impl Barriers {
    /// The barriers of a CTA of `warps` warps.
    pub fn new(warps: usize) -> Self {
        Barriers { states: vec![State::default(); BARRIERS], requests: vec![None; warps] }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.states.fill(State::default());
        self.requests.fill(None);
    }

    /// Warp `index` arrives with all its lanes. Completes the phase if it was the last.
    pub fn arrive(
        &mut self,
        warps: &mut [Warp],
        clocks: &mut Clocks,
        index: usize,
        barrier: Barrier,
    ) -> Checked<()> {
        let fail = |message: String| Err(Trouble::warp(FaultKind::BarrierMisuse, message));
        let w = &warps[index];
        let first = w.alive.trailing_zeros() as usize;
        let same = |reg| lanes(w.alive).all(|lane| w.regs.get32(reg)[lane] == w.regs.get32(reg)[first]);
        if !same(barrier.id) || barrier.count.is_some_and(|count| !same(count)) {
            return fail("lanes of one warp name different barriers or thread counts".into());
        }
        let id = w.regs.get32(barrier.id)[first];
        let all = warps.len() as u32 * 32;
        let expected = barrier.count.map_or(all, |count| warps[index].regs.get32(count)[first]);
        let Some(state) = self.states.get_mut(id as usize) else {
            return fail(format!("barrier {id} does not exist: a CTA has {BARRIERS}"));
        };
        if expected == 0 || !expected.is_multiple_of(32) || expected > all {
            return fail(format!(
                "barrier {id} expects {expected} threads: a multiple of 32 up to {all} is possible"
            ));
        }
        if state.expected != 0 && state.expected != expected {
            let before = state.expected;
            return fail(format!(
                "barrier {id} expects {expected} threads here and {before} where others arrived"
            ));
        }
        if state.arrived >> index & 1 != 0 {
            return fail(format!(
                "warp {index} arrives twice at barrier {id} before the other warps have come"
            ));
        }
        let reduction = match barrier.kind {
            BarrierKind::Popc { p, negated, .. } | BarrierKind::Vote { p, negated, .. } => {
                let w = &warps[index];
                Some((w.regs.pred(p) ^ if negated { u32::MAX } else { 0 }) & w.alive)
            }
            BarrierKind::Sync | BarrierKind::Arrive => None,
        };
        if state.arrived != 0 && state.reduces != reduction.is_some() {
            return fail(format!("barrier {id} is met by a reduction and a plain barrier in the same phase"));
        }
        if state.arrived == 0 {
            *state = State { expected, all: true, reduces: reduction.is_some(), ..State::default() };
        }
        if let Some(yes) = reduction {
            state.count += yes.count_ones();
            state.all &= yes == warps[index].alive;
            state.any |= yes != 0;
        }
        state.arrived |= 1 << index;
        state.arrived_threads += 32;
        clocks.arrive(index, barrier.kind != BarrierKind::Arrive, &mut state.published);
        if barrier.kind != BarrierKind::Arrive {
            state.waiting |= 1 << index;
            warps[index].status = Status::AtBarrier(id);
            self.requests[index] = Some(barrier);
        }
        if state.arrived_threads == expected {
            let done = std::mem::take(state);
            self.complete(warps, clocks, &done);
        }
        Ok(())
    }

    fn complete(&mut self, warps: &mut [Warp], clocks: &mut Clocks, state: &State) {
        clocks.complete();
        for index in lanes(state.waiting) {
            let w = &mut warps[index];
            match self.requests[index].take().map(|barrier| barrier.kind) {
                Some(BarrierKind::Popc { d, .. }) => {
                    w.regs.set32::<true>(d, [state.count; 32], w.alive, w.alive)
                }
                Some(BarrierKind::Vote { all, d, .. }) => {
                    let value = if all { state.all } else { state.any };
                    w.regs.set_pred::<true>(d, if value { u32::MAX } else { 0 }, w.alive, w.alive);
                }
                _ => {}
            }
            clocks.wait(index, &state.published);
            w.pass_barrier();
        }
    }

    /// What each barrier with arrivals waits for, for a report.
    pub fn describe(&self) -> String {
        let open = self.states.iter().enumerate().filter(|(_, state)| state.arrived != 0);
        open.map(|(id, state)| {
            let (arrived, expected) = (state.arrived_threads, state.expected);
            let warps: Vec<String> = lanes(state.arrived).map(|warp| warp.to_string()).collect();
            format!("barrier {id} has {arrived} of {expected} threads (warps {})", warps.join(" "))
        })
        .collect::<Vec<_>>()
        .join("; ")
    }
}
