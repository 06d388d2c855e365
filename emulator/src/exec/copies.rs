//! Asynchronous copies of the threads of a warp: issued, gathered into groups, waited for.
//!
//! Groups belong to the thread. A copy lands as late as it may: at the wait that publishes it.

use std::collections::VecDeque;

/// One thread's copy.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub lane: u32,
    /// Group of its thread, counted from the first.
    group: u32,
    /// Address in shared memory.
    pub dst: u32,
    /// Address in global memory.
    pub src: u64,
    pub bytes: u32,
    /// Bytes to read; the rest is zero.
    pub src_bytes: u32,
    /// It has landed before anybody waited for it.
    pub early: bool,
}

/// What the threads of a warp have under way.
#[derive(Debug, Default)]
pub struct Copies {
    pending: VecDeque<Copy>,
    /// Groups that each thread has closed.
    groups: [u32; 32],
}

impl Copies {
    /// Forgets everything.
    pub fn reset(&mut self) {
        self.pending.clear();
        self.groups = [0; 32];
    }

    /// Adds a copy to the open group of its thread.
    pub fn issue(
        &mut self,
        lane: usize,
        dst: u32,
        src: u64,
        bytes: u32,
        src_bytes: u32,
        early: bool,
    ) -> Copy {
        let copy = Copy { lane: lane as u32, group: self.groups[lane], dst, src, bytes, src_bytes, early };
        self.pending.push_back(copy);
        copy
    }

    /// Closes the open groups of the lanes in `mask`.
    pub fn commit(&mut self, mask: u32) {
        for lane in crate::memory::lanes(mask) {
            self.groups[lane] += 1;
        }
    }

    /// Takes out what the lanes in `mask` wait for when at most `keep` of the latest closed groups may stay under way;
    /// without `keep`, everything, the open group included.
    pub fn wait(&mut self, mask: u32, keep: Option<u32>) -> Vec<Copy> {
        let groups = self.groups;
        let due = |copy: &Copy| {
            mask >> copy.lane & 1 != 0
                && keep.is_none_or(|keep| copy.group < groups[copy.lane as usize].saturating_sub(keep))
        };
        let mut landed = Vec::new();
        self.pending.retain(|copy| {
            let now = due(copy);
            if now {
                landed.push(*copy);
            }
            !now
        });
        landed
    }

    /// How many copies of the lanes in `mask` nobody has waited for.
    pub fn under_way(&self, mask: u32) -> usize {
        self.pending.iter().filter(|copy| mask >> copy.lane & 1 != 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_belong_to_the_thread() {
        let mut copies = Copies::default();
        copies.issue(0, 0, 0, 16, 16, false);
        copies.commit(1);
        copies.issue(0, 16, 0, 16, 16, false);
        copies.commit(1);
        copies.issue(1, 32, 0, 16, 16, false);
        // Lane 1 has closed no group: neither its own wait nor that of lane 0 lands its copy.
        assert_eq!(copies.wait(0b11, Some(1)).iter().map(|copy| copy.dst).collect::<Vec<_>>(), [0]);
        assert_eq!(copies.wait(0b10, Some(0)).len(), 0);
        assert_eq!(copies.wait(0b01, Some(0)).iter().map(|copy| copy.dst).collect::<Vec<_>>(), [16]);
        assert_eq!(copies.under_way(u32::MAX), 1);
        assert_eq!(copies.wait(0b10, None).len(), 1);
    }
}
