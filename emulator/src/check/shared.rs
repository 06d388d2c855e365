//! Races in shared memory between the warps of a CTA, and between the lanes of a warp.
//!
//! Time is counted per CTA and moves when a barrier completes or a warp arrives without waiting. A barrier orders what its
//! participants did before their arrival before what those that waited do afterwards; `bar.warp.sync` does the same for
//! the lanes of its mask. An asynchronous copy owns its destination from issue until the issuing thread's wait has
//! published it. Of reads and later writes within one warp no order is asked: the lanes of a load have their values before
//! the warp's next instruction stores.

use std::collections::HashMap;

use super::Kind;
use crate::FaultKind;
use crate::memory::{Checked, Trouble};

/// Warps a CTA can have.
const MAX_WARPS: usize = 32;

/// The lane of an access made on behalf of all lanes, as `ldmatrix` does.
pub const ALL_LANES: u8 = 32;

/// Who accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accessor {
    pub warp: u8,
    pub lane: u8,
}

/// What the warps and lanes of a CTA are ordered after.
#[derive(Debug)]
pub struct Clocks {
    now: u32,
    /// `warps[w][v]`: accesses of warp `v` before this time are ordered before warp `w`.
    warps: Vec<[u32; MAX_WARPS]>,
    lanes: Vec<LaneClocks>,
}

/// What the lanes of a warp are ordered after, within the warp. Its time moves at every `bar.warp.sync` and barrier.
#[derive(Clone, Copy, Debug)]
struct LaneClocks {
    now: u32,
    /// Accesses of the warp before this time are ordered before the lane.
    synced: [u32; 32],
    /// The least of them.
    all_synced: u32,
}

const UNORDERED: LaneClocks = LaneClocks { now: 1, synced: [0; 32], all_synced: 0 };

/// What has arrived at a barrier: for each warp the time before which its accesses are published.
pub type Arrived = [u32; MAX_WARPS];

impl Clocks {
    /// Clocks of a CTA of `warps` warps.
    pub fn new(warps: usize) -> Self {
        Clocks { now: 1, warps: vec![[0; MAX_WARPS]; warps], lanes: vec![UNORDERED; warps] }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.now = 1;
        self.warps.fill([0; MAX_WARPS]);
        self.lanes.fill(UNORDERED);
    }

    /// `warp` publishes what it did so far in `arrived`. One that does not wait goes on at a later time; of one that waits,
    /// time moves at the completion, so that all reads between two barriers have the same time.
    pub fn arrive(&mut self, warp: usize, waits: bool, arrived: &mut Arrived) {
        for (to, &from) in arrived.iter_mut().zip(&self.warps[warp]) {
            *to = from.max(*to);
        }
        arrived[warp] = self.now + 1;
        self.now += u32::from(!waits);
    }

    /// A barrier has completed; [`Clocks::wait`] follows for each warp that waited.
    pub fn complete(&mut self) {
        self.now += 1;
    }

    /// `warp` has waited for what arrived.
    pub fn wait(&mut self, warp: usize, arrived: &Arrived) {
        for (to, &from) in self.warps[warp].iter_mut().zip(arrived) {
            *to = from.max(*to);
        }
        self.sync_lanes(warp, u32::MAX);
    }

    /// `bar.warp.sync` of the lanes in `mask`.
    pub fn sync_lanes(&mut self, warp: usize, mask: u32) {
        let lanes = &mut self.lanes[warp];
        lanes.now += 1;
        for (lane, time) in lanes.synced.iter_mut().enumerate() {
            if mask >> lane & 1 != 0 {
                *time = lanes.now;
            }
        }
        lanes.all_synced = lanes.synced.into_iter().min().unwrap_or(0);
    }

    /// Whether the write of a cell is ordered before `who`.
    #[inline(always)]
    fn write_ordered(&self, cell: &Cell, who: Accessor) -> bool {
        let by = cell.writer;
        if by.warp != who.warp {
            return cell.write_time < self.warps[usize::from(who.warp)][usize::from(by.warp)];
        }
        let lanes = &self.lanes[usize::from(who.warp)];
        let synced = lanes.synced.get(usize::from(who.lane)).copied().unwrap_or(lanes.all_synced);
        cell.write_lane_time < synced || by.lane == who.lane && who.lane != ALL_LANES
    }

    #[inline(always)]
    fn lane_now(&self, who: Accessor) -> u32 {
        self.lanes[usize::from(who.warp)].now
    }
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    /// Zero: no write yet.
    write_time: u32,
    /// The same in the time of the writer's warp.
    write_lane_time: u32,
    writer: Accessor,
    /// Warps that have read since, and when the last of them did.
    readers: u32,
    read_time: u32,
    /// Which bytes have been written.
    init: u8,
    strong_write: bool,
    /// The readers' times differ and are kept aside.
    several_times: bool,
    /// The bytes have cells of their own.
    split: bool,
    in_flight: Option<Accessor>,
}

const FRESH: Cell = Cell {
    write_time: 0,
    write_lane_time: 0,
    writer: Accessor { warp: 0, lane: 0 },
    readers: 0,
    read_time: 0,
    init: 0,
    strong_write: false,
    several_times: false,
    split: false,
    in_flight: None,
};

/// What happened to each word of a CTA's shared memory.
#[derive(Debug)]
pub struct SharedShadow {
    cells: Vec<Cell>,
    /// Words that are accessed in parts, by byte.
    bytes: HashMap<u32, Cell>,
    /// When each warp read, by byte, where one time does not tell.
    read_times: HashMap<u32, [u32; MAX_WARPS]>,
}

impl SharedShadow {
    /// The shadow of `bytes` bytes.
    pub fn new(bytes: usize) -> Self {
        SharedShadow {
            cells: vec![FRESH; bytes.div_ceil(4)],
            bytes: HashMap::new(),
            read_times: HashMap::new(),
        }
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.cells.fill(FRESH);
        self.bytes.clear();
        self.read_times.clear();
    }

    /// Notes an access of `bytes` bytes at `address`, which lie inside.
    #[inline]
    pub fn access(
        &mut self,
        clocks: &Clocks,
        who: Accessor,
        address: u32,
        bytes: u32,
        kind: Kind,
    ) -> Checked<()> {
        self.each(address, bytes, |cell, times, at, need| cell.touch(times, clocks, who, at, need, kind))
    }

    /// Notes that an asynchronous copy of `who` to these bytes begins.
    pub fn begin_copy(&mut self, clocks: &Clocks, who: Accessor, address: u32, bytes: u32) -> Checked<()> {
        self.each(address, bytes, |cell, times, at, need| {
            cell.touch(times, clocks, who, at, need, Kind::Write)?;
            cell.in_flight = Some(who);
            Ok(())
        })
    }

    /// Notes that the copy has landed and the thread that issued it has waited for it.
    pub fn end_copy(&mut self, clocks: &Clocks, who: Accessor, address: u32, bytes: u32) -> Checked<()> {
        self.each(address, bytes, |cell, _, _, _| {
            // The write belongs to the moment of the wait: from there on barriers publish it.
            (cell.in_flight, cell.writer) = (None, who);
            (cell.write_time, cell.write_lane_time) = (clocks.now, clocks.lane_now(who));
            Ok(())
        })
    }

    #[inline]
    fn each(
        &mut self,
        address: u32,
        bytes: u32,
        mut visit: impl FnMut(&mut Cell, &mut HashMap<u32, [u32; MAX_WARPS]>, u32, u8) -> Checked<()>,
    ) -> Checked<()> {
        let end = address + bytes;
        for word in address / 4..end.div_ceil(4) {
            let (first, last) = (word * 4, word * 4 + 4);
            let cell = &mut self.cells[word as usize];
            if address <= first && end >= last && !cell.split {
                visit(cell, &mut self.read_times, first, 0xf)?;
                continue;
            }
            if !cell.split {
                cell.split = true;
                for i in 0..4 {
                    let part = Cell { init: cell.init >> i & 1, split: false, ..*cell };
                    if let Some(times) = self.read_times.get(&first).copied().filter(|_| cell.several_times) {
                        self.read_times.insert(first + i, times);
                    }
                    self.bytes.insert(first + i, part);
                }
            }
            for byte in address.max(first)..end.min(last) {
                let part = self.bytes.entry(byte).or_insert(FRESH);
                visit(part, &mut self.read_times, byte, 1)?;
            }
        }
        Ok(())
    }
}

impl Cell {
    #[inline(always)]
    fn touch(
        &mut self,
        times: &mut HashMap<u32, [u32; MAX_WARPS]>,
        clocks: &Clocks,
        who: Accessor,
        at: u32,
        need: u8,
        kind: Kind,
    ) -> Checked<()> {
        if let Some(owner) = self.in_flight {
            return Err(in_flight(kind, at, owner));
        }
        let both_strong = kind.strong() && self.strong_write;
        if self.write_time != 0 && !both_strong && !clocks.write_ordered(self, who) {
            return Err(race(kind, at, "write", self.writer.warp, Some(self.writer.lane)));
        }
        let own = 1 << who.warp;
        if kind.writes() {
            if self.readers & !own != 0 {
                self.check_readers(times, clocks, who, at, kind)?;
            }
            (self.write_time, self.write_lane_time) = (clocks.now, clocks.lane_now(who));
            self.writer = who;
            self.readers = 0;
            self.several_times = false;
            self.init |= need;
            self.strong_write = kind.strong();
            return Ok(());
        }
        if self.init & need != need {
            return Err(uninitialised(at));
        }
        if self.readers & !own == 0 || self.read_time == clocks.now && !self.several_times {
            self.readers |= own;
        } else {
            self.note_read(times, clocks, who, at);
        }
        self.read_time = clocks.now;
        Ok(())
    }

    /// A read when other warps have read before, at other times.
    #[cold]
    fn note_read(
        &mut self,
        times: &mut HashMap<u32, [u32; MAX_WARPS]>,
        clocks: &Clocks,
        who: Accessor,
        at: u32,
    ) {
        let known = &clocks.warps[usize::from(who.warp)];
        let all_ordered =
            crate::memory::lanes(self.readers & !(1 << who.warp)).all(|warp| self.read_time < known[warp]);
        if all_ordered {
            // Whoever is ordered after this read is ordered after those as well.
            self.readers = 1 << who.warp;
            self.several_times = false;
            return;
        }
        let (readers, time, had) = (self.readers, self.read_time, self.several_times);
        let entry = times.entry(at).or_default();
        if !had {
            for warp in 0..MAX_WARPS {
                entry[warp] = if readers >> warp & 1 != 0 { time } else { 0 };
            }
        }
        entry[usize::from(who.warp)] = clocks.now;
        self.readers |= 1 << who.warp;
        self.several_times = true;
    }

    #[cold]
    fn check_readers(
        &self,
        times: &HashMap<u32, [u32; MAX_WARPS]>,
        clocks: &Clocks,
        who: Accessor,
        at: u32,
        kind: Kind,
    ) -> Checked<()> {
        let known = &clocks.warps[usize::from(who.warp)];
        let several = times.get(&at).filter(|_| self.several_times);
        for warp in crate::memory::lanes(self.readers & !(1 << who.warp)) {
            if several.map_or(self.read_time, |times| times[warp]) >= known[warp] {
                return Err(race(kind, at, "read", warp as u8, None));
            }
        }
        Ok(())
    }
}

fn verb(kind: Kind) -> &'static str {
    if kind.writes() { "write" } else { "read" }
}

#[cold]
fn race(kind: Kind, at: u32, earlier: &str, warp: u8, lane: Option<u8>) -> Box<Trouble> {
    let lane = lane.filter(|&lane| lane < 32).map_or(String::new(), |lane| format!(", lane {lane}"));
    let message = format!(
        "{} of shared byte {at:#x} without an order after the {earlier} by warp {warp}{lane}: is a barrier missing?",
        verb(kind)
    );
    Trouble::warp(FaultKind::SharedRace, message).at("shared memory", at.into())
}

#[cold]
fn in_flight(kind: Kind, at: u32, owner: Accessor) -> Box<Trouble> {
    let message = format!(
        "{} of shared byte {at:#x} while an asynchronous copy by warp {}, lane {} is in flight: is a wait missing?",
        verb(kind),
        owner.warp,
        owner.lane
    );
    Trouble::warp(FaultKind::CopyInFlight, message).at("shared memory", at.into())
}

#[cold]
fn uninitialised(at: u32) -> Box<Trouble> {
    let message = format!("shared byte {at:#x} is read and was never written");
    Trouble::warp(FaultKind::UninitialisedRead, message).at("shared memory", at.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(warp: u8) -> Accessor {
        Accessor { warp, lane: 0 }
    }

    /// All of `warps` meet at a barrier.
    fn barrier(clocks: &mut Clocks, warps: &[usize]) {
        let mut arrived = Arrived::default();
        warps.iter().for_each(|&warp| clocks.arrive(warp, true, &mut arrived));
        clocks.complete();
        warps.iter().for_each(|&warp| clocks.wait(warp, &arrived));
    }

    fn access(shadow: &mut SharedShadow, clocks: &Clocks, warp: u8, kind: Kind) -> bool {
        shadow.access(clocks, who(warp), 0, 4, kind).is_ok()
    }

    #[test]
    fn a_barrier_of_some_warps_orders_those() {
        let (mut clocks, mut shadow) = (Clocks::new(3), SharedShadow::new(16));
        assert!(access(&mut shadow, &clocks, 0, Kind::Write));
        barrier(&mut clocks, &[0, 1]);
        assert!(access(&mut shadow, &clocks, 1, Kind::Read));
        assert!(!access(&mut shadow, &clocks, 2, Kind::Read));
        // What warp 1 learnt it passes on.
        barrier(&mut clocks, &[1, 2]);
        assert!(access(&mut shadow, &clocks, 2, Kind::Read));
    }

    #[test]
    fn a_write_must_come_after_every_read() {
        let (mut clocks, mut shadow) = (Clocks::new(4), SharedShadow::new(16));
        access(&mut shadow, &clocks, 0, Kind::Write);
        barrier(&mut clocks, &[0, 1, 2, 3]);
        assert!(access(&mut shadow, &clocks, 1, Kind::Read));
        // Time moves between the reads, without an order between the readers.
        barrier(&mut clocks, &[0, 3]);
        assert!(access(&mut shadow, &clocks, 2, Kind::Read));
        barrier(&mut clocks, &[0, 2]);
        assert!(!access(&mut shadow, &clocks, 0, Kind::Write), "warp 1 has not been waited for");
        barrier(&mut clocks, &[0, 1]);
        assert!(access(&mut shadow, &clocks, 0, Kind::Write));
    }

    #[test]
    fn an_arrival_publishes_what_came_before_it() {
        let (mut clocks, mut shadow) = (Clocks::new(2), SharedShadow::new(16));
        let mut arrived = Arrived::default();
        assert!(access(&mut shadow, &clocks, 0, Kind::Write));
        clocks.arrive(0, false, &mut arrived);
        assert!(shadow.access(&clocks, who(0), 4, 4, Kind::Write).is_ok());
        clocks.arrive(1, true, &mut arrived);
        clocks.complete();
        clocks.wait(1, &arrived);
        assert!(access(&mut shadow, &clocks, 1, Kind::Read));
        assert!(shadow.access(&clocks, who(1), 4, 4, Kind::Read).is_err());
    }

    #[test]
    fn parts_of_a_word_belong_to_different_warps() {
        let (mut clocks, mut shadow) = (Clocks::new(2), SharedShadow::new(16));
        assert!(shadow.access(&clocks, who(0), 0, 2, Kind::Write).is_ok());
        assert!(shadow.access(&clocks, who(1), 2, 2, Kind::Write).is_ok());
        assert!(shadow.access(&clocks, who(1), 0, 4, Kind::Read).is_err());
        barrier(&mut clocks, &[0, 1]);
        assert!(shadow.access(&clocks, who(1), 0, 4, Kind::Read).is_ok());
    }
}
