//! A warp: its registers, and which lanes are where.
//!
//! Divergence follows the thread frontiers of Diamos et al. (MICRO-44, 2011): the fragment with the lowest program
//! counter runs, and fragments that meet merge, so that lanes reconverge as early as the order of the text allows. An
//! instruction that needs lanes which are elsewhere parks its fragment until they come.

use super::copies::Copies;
use super::registers::Registers;
use crate::ir::Kernel;
use crate::memory::Bitmap;

/// Why a fragment does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Ready,
    /// Lanes that its instruction needs are elsewhere.
    Lanes,
    /// It has arrived at an unaligned barrier with this number.
    Barrier(u32),
}

/// Lanes that are together, but not where the running lanes are.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub pc: u32,
    pub mask: u32,
    pub wait: Wait,
}

/// Whether a warp can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ready,
    /// Waits at the barrier with this number.
    AtBarrier(u32),
    Done,
}

/// Backward branches after which another fragment of the warp gets its turn: lanes may wait for each other.
const PATIENCE: u32 = 1 << 12;

/// A warp of a CTA.
#[derive(Debug)]
pub struct Warp {
    pub id: u32,
    pub regs: Registers,
    pub pc: u32,
    /// Lanes that run.
    pub mask: u32,
    /// Lanes that have not exited.
    pub alive: u32,
    /// Lanes that were launched.
    pub launched: u32,
    /// Lowest program counter among the other fragments.
    pub frontier: u32,
    pub others: Vec<Fragment>,
    pub status: Status,
    /// Local memory, lane after lane, and which bytes of it have been written.
    pub local: Vec<u8>,
    pub local_valid: Bitmap,
    pub copies: Copies,
    backward: u32,
}

impl Warp {
    /// Warp `id` of a CTA of `threads` threads.
    pub fn new(kernel: &Kernel, id: u32, threads: u32) -> Self {
        let lanes = (threads - id * 32).min(32);
        let launched = u32::MAX >> (32 - lanes);
        let local = kernel.local_bytes as usize * 32;
        Warp {
            id,
            regs: Registers::new(kernel),
            pc: 0,
            mask: launched,
            alive: launched,
            launched,
            frontier: u32::MAX,
            others: Vec::new(),
            status: Status::Ready,
            local: vec![0; local],
            local_valid: Bitmap::new(local),
            copies: Copies::default(),
            backward: 0,
        }
    }

    /// Back to the first instruction.
    pub fn reset(&mut self) {
        self.regs.reset();
        self.pc = 0;
        self.mask = self.launched;
        self.alive = self.launched;
        self.frontier = u32::MAX;
        self.others.clear();
        self.status = Status::Ready;
        if !self.local.is_empty() {
            self.local_valid.set(0..self.local.len(), false);
        }
        self.copies.reset();
        self.backward = 0;
    }

    /// Sets `mask` lanes aside at `pc`, where they may meet others.
    #[cold]
    pub fn push(&mut self, pc: u32, mask: u32, wait: Wait) {
        let meets =
            |fragment: &&mut Fragment| fragment.pc == pc && !matches!(fragment.wait, Wait::Barrier(_));
        match self.others.iter_mut().find(meets).filter(|_| !matches!(wait, Wait::Barrier(_))) {
            Some(fragment) => {
                fragment.mask |= mask;
                fragment.wait = wait;
            }
            None => self.others.push(Fragment { pc, mask, wait }),
        }
        self.frontier = self.frontier.min(pc);
    }

    /// Lets the lowest fragment run that can; false when there is none.
    #[cold]
    pub fn reschedule(&mut self) -> bool {
        if self.mask != 0 {
            self.push(self.pc, self.mask, Wait::Ready);
            self.mask = 0;
        }
        let ready = self.others.iter().enumerate().filter(|(_, fragment)| fragment.wait == Wait::Ready);
        let Some((index, _)) = ready.min_by_key(|(_, fragment)| fragment.pc) else { return false };
        self.switch_to(index);
        self.frontier = self.others.iter().map(|fragment| fragment.pc).min().unwrap_or(u32::MAX);
        true
    }

    fn switch_to(&mut self, index: usize) {
        let fragment = self.others.swap_remove(index);
        (self.pc, self.mask) = (fragment.pc, fragment.mask);
    }

    /// Notes a backward branch of part of the warp.
    #[cold]
    pub fn backward_branch(&mut self) {
        self.backward += 1;
        if self.backward < PATIENCE {
            return;
        }
        self.backward = 0;
        if let Some(index) = self.others.iter().position(|fragment| fragment.wait == Wait::Ready) {
            self.push(self.pc, self.mask, Wait::Ready);
            self.switch_to(index);
            // It runs wherever it is until its turn ends.
            self.frontier = u32::MAX;
        }
    }

    /// The lanes of `mask` have exited.
    pub fn exit(&mut self, mask: u32) {
        self.alive &= !mask;
        self.mask &= !mask;
        // Whoever waits for lanes may have all there are now.
        self.others
            .iter_mut()
            .filter(|fragment| fragment.wait == Wait::Lanes)
            .for_each(|f| f.wait = Wait::Ready);
    }

    /// Lanes that wait at the unaligned barrier `id`.
    pub fn at_barrier(&self, id: u32) -> u32 {
        let waiting = self.others.iter().filter(|fragment| fragment.wait == Wait::Barrier(id));
        waiting.fold(0, |mask, fragment| mask | fragment.mask)
    }

    /// Fragments at an unaligned barrier go on.
    pub fn pass_barrier(&mut self) {
        let waiting: Vec<Fragment> =
            self.others.extract_if(.., |fragment| matches!(fragment.wait, Wait::Barrier(_))).collect();
        for fragment in waiting {
            self.push(fragment.pc, fragment.mask, Wait::Ready);
        }
        self.status = Status::Ready;
    }
}
