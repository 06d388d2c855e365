//! Races in global memory between CTAs.
//!
//! The actor is the CTA: what its threads owe each other is the business of its barriers. A fence followed by an atomic
//! publishes what the CTA did before; an atomic that sees it, followed by a fence (or one that acquires), orders the CTA
//! after it. This is how the last CTA of a split reduction may read the parts of the others.

use std::collections::HashMap;

use super::Kind;

/// Number of a CTA within its grid, plus one; zero stands for none.
type CtaId = u32;
/// Counts the fences of a CTA.
type Epoch = u32;
/// For each CTA the epoch up to which its accesses are ordered before.
type View = HashMap<CtaId, Epoch>;

/// Reads of more than one CTA since the last write.
const SEVERAL: CtaId = CtaId::MAX;

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    writer: CtaId,
    write_epoch: Epoch,
    reader: CtaId,
    read_epoch: Epoch,
    strong_write: bool,
    /// The four bytes have cells of their own.
    split: bool,
}

const WORDS_PER_PAGE: usize = 256;

/// What the CTAs of the launch did to one allocation, by words of four bytes.
#[derive(Debug, Default)]
pub struct GlobalShadow {
    pages: Vec<Option<Box<[Cell; WORDS_PER_PAGE]>>>,
    /// Words that were accessed in parts.
    bytes: HashMap<usize, Cell>,
}

/// An access that is not ordered after an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// First byte of the word.
    pub offset: usize,
    /// The other CTA's number; none where several had read.
    pub cta: Option<u32>,
    /// Whether the other access was a write.
    pub with_write: bool,
}

/// What a CTA is ordered after.
#[derive(Debug)]
pub struct CtaClock {
    id: CtaId,
    epoch: Epoch,
    known: View,
    /// Seen by a relaxed access; holds from the next fence on.
    seen: View,
    /// Accesses up to the last fence: what an atomic publishes.
    fenced: Option<View>,
    ctas: u32,
}

/// What was published through each word that atomics touched.
pub type Synchronised = HashMap<u64, View>;

fn join(into: &mut View, from: &View) {
    for (&cta, &epoch) in from {
        let known = into.entry(cta).or_default();
        *known = epoch.max(*known);
    }
}

impl CtaClock {
    /// The clock of CTA `index` of `ctas`.
    pub fn new(index: u32, ctas: u32) -> Self {
        CtaClock { id: index + 1, epoch: 1, known: View::new(), seen: View::new(), fenced: None, ctas }
    }

    /// A fence of any thread, of at least the scope of the CTA.
    pub fn fence(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        join(&mut self.known, &seen);
        let mut view = self.known.clone();
        view.insert(self.id, self.epoch);
        self.fenced = Some(view);
        self.epoch += 1;
    }

    /// A strong read, write or both of the word at `address`.
    pub fn synchronise(&mut self, words: &mut Synchronised, address: u64, kind: Access) {
        if kind.releases {
            self.fence();
        }
        if let Some(published) = words.get(&address).filter(|_| kind.reads) {
            join(if kind.acquires { &mut self.known } else { &mut self.seen }, published);
        }
        if let Some(fenced) = self.fenced.as_ref().filter(|_| kind.writes) {
            join(words.entry(address).or_default(), fenced);
        }
    }

    fn ordered_after(&self, cta: CtaId, epoch: Epoch) -> bool {
        if cta == SEVERAL {
            // Which CTAs read is not kept; being ordered after all of them is enough.
            return self.known.len() as u32 + 1 >= self.ctas;
        }
        cta == 0 || cta == self.id || self.known.get(&cta).is_some_and(|&known| known >= epoch)
    }
}

/// How a synchronising access works.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    pub reads: bool,
    pub writes: bool,
    pub acquires: bool,
    pub releases: bool,
}

impl GlobalShadow {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.bytes.clear();
    }

    /// Notes an access to `bytes` bytes at `offset`; the first conflict, if any.
    #[inline]
    pub fn access(&mut self, clock: &CtaClock, offset: usize, bytes: usize, kind: Kind) -> Option<Conflict> {
        let mut conflict = None;
        for word in offset / 4..(offset + bytes).div_ceil(4) {
            let whole = offset <= word * 4 && offset + bytes >= word * 4 + 4;
            let cell = self.cell(word);
            if whole && !cell.split {
                conflict = conflict.or(cell.touch(clock, word * 4, kind));
            } else {
                let from = *cell;
                cell.split = true;
                for byte in offset.max(word * 4)..(offset + bytes).min(word * 4 + 4) {
                    let part = self.bytes.entry(byte).or_insert(Cell { split: false, ..from });
                    conflict = conflict.or(part.touch(clock, byte, kind));
                }
            }
        }
        conflict
    }

    fn cell(&mut self, word: usize) -> &mut Cell {
        let page = word / WORDS_PER_PAGE;
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let page = self.pages[page].get_or_insert_with(|| Box::new([Cell::default(); WORDS_PER_PAGE]));
        &mut page[word % WORDS_PER_PAGE]
    }
}

impl Cell {
    #[inline]
    fn touch(&mut self, clock: &CtaClock, offset: usize, kind: Kind) -> Option<Conflict> {
        let mut conflict = None;
        let both_strong = kind.strong() && self.strong_write;
        if !both_strong && !clock.ordered_after(self.writer, self.write_epoch) {
            conflict = Some(Conflict { offset, cta: Some(self.writer - 1), with_write: true });
        }
        if kind.writes() {
            if !clock.ordered_after(self.reader, self.read_epoch) {
                let cta = (self.reader != SEVERAL).then(|| self.reader - 1);
                conflict = conflict.or(Some(Conflict { offset, cta, with_write: false }));
            }
            *self = Cell {
                writer: clock.id,
                write_epoch: clock.epoch,
                strong_write: kind.strong(),
                split: self.split,
                ..Cell::default()
            };
        } else if kind == Kind::Read {
            self.reader = if clock.ordered_after(self.reader, self.read_epoch) { clock.id } else { SEVERAL };
            self.read_epoch = clock.epoch;
        }
        conflict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATOMIC: Access = Access { reads: true, writes: true, acquires: false, releases: false };

    #[test]
    fn unordered_accesses_of_two_ctas_conflict() {
        let (a, b) = (CtaClock::new(0, 3), CtaClock::new(1, 3));
        let mut shadow = GlobalShadow::default();
        assert_eq!(shadow.access(&a, 0, 16, Kind::Write), None);
        assert_eq!(shadow.access(&a, 0, 16, Kind::Read), None);
        let conflict = shadow.access(&b, 12, 4, Kind::Read).unwrap();
        assert_eq!(conflict, Conflict { offset: 12, cta: Some(0), with_write: true });
        assert_eq!(shadow.access(&b, 16, 4, Kind::Write), None);
        // Reads alone never conflict, but a write after them does.
        assert_eq!(shadow.access(&a, 32, 4, Kind::Read), None);
        assert_eq!(shadow.access(&b, 32, 4, Kind::Read), None);
        assert!(!shadow.access(&a, 32, 4, Kind::Write).unwrap().with_write);
    }

    #[test]
    fn neighbouring_bytes_do_not_conflict() {
        let (a, b) = (CtaClock::new(0, 2), CtaClock::new(1, 2));
        let mut shadow = GlobalShadow::default();
        assert_eq!(shadow.access(&a, 0, 2, Kind::Write), None);
        assert_eq!(shadow.access(&b, 2, 2, Kind::Write), None);
        assert!(shadow.access(&a, 0, 4, Kind::Read).is_some());
    }

    #[test]
    fn fence_and_atomic_order() {
        let (mut a, mut b) = (CtaClock::new(0, 2), CtaClock::new(1, 2));
        let mut shadow = GlobalShadow::default();
        let mut words = Synchronised::new();
        shadow.access(&a, 0, 4, Kind::Write);
        a.fence();
        a.synchronise(&mut words, 640, ATOMIC);
        b.synchronise(&mut words, 640, ATOMIC);
        // The reader's own fence is missing.
        assert!(shadow.access(&b, 0, 4, Kind::Read).is_some());
        b.fence();
        assert!(shadow.access(&b, 0, 4, Kind::Read).is_none());
        // What the writer does after its fence is not published.
        shadow.access(&a, 64, 4, Kind::Write);
        a.synchronise(&mut words, 640, ATOMIC);
        b.synchronise(&mut words, 640, Access { acquires: true, ..ATOMIC });
        assert!(shadow.access(&b, 64, 4, Kind::Read).is_some());
    }

    #[test]
    fn atomics_do_not_conflict_with_each_other() {
        let (a, b) = (CtaClock::new(0, 2), CtaClock::new(1, 2));
        let mut shadow = GlobalShadow::default();
        assert_eq!(shadow.access(&a, 0, 4, Kind::StrongWrite), None);
        assert_eq!(shadow.access(&b, 0, 4, Kind::StrongWrite), None);
        assert!(shadow.access(&a, 0, 4, Kind::Read).is_some());
    }
}
