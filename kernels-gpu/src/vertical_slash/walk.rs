//! From the columns and slashes of a head to the keys that a tile of rows reads.
//!
//! The rows of a tile end before position `end`. A slash at offset `o` calls for the 64 keys that end with its last element
//! in the tile, `end - o`. Of the blocks of 64 keys that cover all calls, each is found from the one before, which stops at
//! key `stop`:
//!
//! ```text
//! x = the least end - o beyond stop        stop' = max(stop + 64, x)        block = stop' - 64 .. stop'
//! ```
//!
//! from `stop = 0` on: intervals that touch are chained by whole blocks, and one that stands alone ends at its own key. A
//! column that lies in no block is read by itself. These are the blocks and the columns of MInference's index conversion.

use crate::key_tiles::{Gathered, KeyTiles};
use crate::tile_size::{COLUMN_RING, WARP};

/// Keys of a block, and of a gathered tile.
const TILE: i32 = 64;

/// No block: beyond every key.
const NONE: i32 = i32::MAX;

/// Set in the number of a gathered tile, above its count and its place in the ring. Keys are below.
const GATHERED: i32 = 1 << 30;

/// What a chunk holds outside its list.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// What the lanes of a warp do together.
pub(super) trait Warp {
    /// A value for each lane.
    type Chunk: Copy;

    /// The entries of `list` at the positions that `position` gives to lanes, [`OUTSIDE`] at those not below its length.
    ///
    /// # Safety
    /// The list is there.
    unsafe fn load(&self, list: List, position: impl Fn(u32) -> u32) -> Self::Chunk;

    /// A bit for each lane: whether its value is below `limit`.
    fn below(&self, chunk: Self::Chunk, limit: u32) -> u32;

    /// The value of a lane.
    fn get(&self, chunk: Self::Chunk, lane: u32) -> u32;

    /// Writes the values of the lanes whose bits are set to the ring, in order, from place `place` on.
    fn append(&mut self, chunk: Self::Chunk, lanes: u32, place: u32);

    /// The address of a place in the ring.
    fn address(&self, place: u32) -> u32;
}

/// A list in global memory, ascending.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) entries: *const u32,
    pub(super) len: u32,
}

/// The walk along both lists.
pub(super) struct MixedTiles<W: Warp> {
    warp: W,
    slashes: List,
    /// Slashes at hand, the largest in lane 0; and the 32 below them.
    chunk: W::Chunk,
    ahead: W::Chunk,
    /// Slashes below those at hand.
    left: u32,
    columns: List,
    /// Columns at hand, the least in lane 0.
    column_chunk: W::Chunk,
    /// Where those after them begin.
    next_column: u32,
    /// Behind the last row of the tile.
    end: i32,
    /// No row sees a key from here on.
    key_limit: i32,
    /// The block to give next.
    block: i32,
    /// Columns before this one are in a block given, or in the ring.
    passed: i32,
    /// Columns ever written to the ring, and those of them that were given.
    written: u32,
    given: u32,
}

impl<W: Warp> MixedTiles<W> {
    /// The walk for rows that end before position `end` and see no key from `key_limit` on.
    ///
    /// # Safety
    /// The lists are there; all lanes of the warp call this and what the walk offers together.
    #[inline(always)]
    pub(super) unsafe fn new(warp: W, columns: List, slashes: List, end: i32, key_limit: i32) -> Self {
        // SAFETY: the caller's.
        unsafe {
            // Those beyond the rows have no part in the tile.
            let slashes = List { len: count_below(&warp, slashes, end.max(0) as u32), ..slashes };
            let left = slashes.len.saturating_sub(WARP);
            let chunk = warp.load(slashes, |lane| slashes.len.wrapping_sub(1 + lane));
            let largest = warp.get(chunk, 0) as i32;
            let first = if key_limit > 0 && slashes.len > 0 { (end - largest - TILE).max(0) } else { NONE };
            Self {
                ahead: warp.load(slashes, |lane| left.wrapping_sub(1 + lane)),
                chunk,
                left,
                slashes,
                column_chunk: warp.load(columns, |lane| lane),
                next_column: WARP,
                columns,
                warp,
                end,
                key_limit,
                block: first,
                passed: 0,
                written: 0,
                given: 0,
            }
        }
    }

    /// Finds the block behind one that stops at `stop`.
    #[inline(always)]
    fn find_block(&mut self, stop: i32) {
        self.block = NONE;
        // Blocks that no row sees end the walk: only blocks like them follow, and no column lies between.
        while stop < self.key_limit {
            let lanes = self.warp.below(self.chunk, (self.end - stop) as u32);
            if lanes != 0 {
                let slash = self.warp.get(self.chunk, lanes.trailing_zeros());
                let block = stop.max(self.end - slash as i32 - TILE);
                if block < self.key_limit {
                    self.block = block;
                }
                break;
            }
            if self.left == 0 {
                break;
            }
            self.chunk = self.ahead;
            self.left = self.left.saturating_sub(WARP);
            let left = self.left;
            // SAFETY: `new` was promised the list.
            self.ahead = unsafe { self.warp.load(self.slashes, |lane| left.wrapping_sub(1 + lane)) };
        }
    }

    /// The last tile: of the columns that are left.
    #[inline(always)]
    fn give_rest(&mut self) -> i32 {
        match self.written - self.given {
            0 => -1,
            count => self.give(count),
        }
    }

    /// A tile of the next `count` columns.
    #[inline(always)]
    fn give(&mut self, count: u32) -> i32 {
        let place = self.given % COLUMN_RING;
        self.given += count;
        GATHERED | (count * COLUMN_RING + place) as i32
    }
}

impl<W: Warp> KeyTiles for MixedTiles<W> {
    const WHOLE_FIRST: bool = true;
    const GATHERS: bool = true;

    #[inline(always)]
    fn advance(&mut self) -> i32 {
        while self.block != NONE {
            let before = self.warp.below(self.column_chunk, self.block as u32);
            let lanes = before & !self.warp.below(self.column_chunk, self.passed as u32);
            if lanes != 0 {
                self.warp.append(self.column_chunk, lanes, self.written);
                self.written += lanes.count_ones();
            }
            if before == u32::MAX {
                let next = self.next_column;
                self.next_column += WARP;
                // SAFETY: `new` was promised the list.
                self.column_chunk = unsafe { self.warp.load(self.columns, |lane| next + lane) };
            } else {
                self.passed = self.block;
            }
            if self.written - self.given >= TILE as u32 {
                return self.give(TILE as u32);
            }
            if before != u32::MAX {
                let block = self.block;
                self.passed = block + TILE;
                self.find_block(block + TILE);
                return block;
            }
        }
        self.give_rest()
    }

    #[inline(always)]
    fn advance_behind_mask(&mut self) -> i32 {
        // A block with a mask stops behind the first row's own key. What offset 0 calls for from there on begins there: blocks
        // follow without a gap, and no column lies between them.
        let block = self.block;
        if block == NONE {
            return self.give_rest();
        }
        self.block = if block + TILE < self.key_limit { block + TILE } else { NONE };
        block
    }

    #[inline(always)]
    fn gathered(&self, n: i32) -> Option<Gathered> {
        (n & GATHERED != 0).then(|| {
            let (count, place) = ((n - GATHERED) as u32 / COLUMN_RING, n as u32 % COLUMN_RING);
            Gathered { list: self.warp.address(place), count }
        })
    }
}

/// How many entries of a list are below `limit`: of 32 of them at a time.
///
/// # Safety
/// The list is there; reached by all lanes of the warp.
#[inline(always)]
unsafe fn count_below(warp: &impl Warp, list: List, limit: u32) -> u32 {
    let (mut first, mut end) = (0, list.len);
    while first < end {
        let step = (end - first) / WARP + 1;
        // SAFETY: the caller's; the entries are among those of the list.
        let entries = unsafe { warp.load(List { len: end, ..list }, |lane| first + lane * step) };
        let below = warp.below(entries, limit).count_ones();
        if below == 0 {
            break;
        }
        first += (below - 1) * step + 1;
        end = end.min(first + step - 1);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lanes of a warp; places in the ring are their own addresses.
    struct HostWarp {
        ring: [u32; COLUMN_RING as usize],
    }

    impl Warp for HostWarp {
        type Chunk = [u32; WARP as usize];

        unsafe fn load(&self, list: List, position: impl Fn(u32) -> u32) -> Self::Chunk {
            core::array::from_fn(|lane| match position(lane as u32) {
                // SAFETY: the caller's.
                at if at < list.len => unsafe { list.entries.add(at as usize).read() },
                _ => OUTSIDE,
            })
        }

        fn below(&self, chunk: Self::Chunk, limit: u32) -> u32 {
            (0..WARP).map(|lane| u32::from(chunk[lane as usize] < limit) << lane).sum()
        }

        fn get(&self, chunk: Self::Chunk, lane: u32) -> u32 {
            chunk[lane as usize]
        }

        fn append(&mut self, chunk: Self::Chunk, lanes: u32, place: u32) {
            let set = (0..WARP).filter(|lane| lanes >> lane & 1 == 1);
            for (place, lane) in (place..).zip(set) {
                self.ring[(place % COLUMN_RING) as usize] = chunk[lane as usize];
            }
        }

        fn address(&self, place: u32) -> u32 {
            place
        }
    }

    fn list(entries: &[u32]) -> List {
        List { entries: entries.as_ptr(), len: entries.len() as u32 }
    }

    /// The blocks and columns of a tile of rows, in the order of the walk; both lists ascend.
    fn walk(columns: &[u32], slashes: &[u32], end: i32, key_limit: i32) -> (Vec<u32>, Vec<u32>) {
        let warp = HostWarp { ring: [OUTSIDE; COLUMN_RING as usize] };
        // SAFETY: the lists are there.
        let mut tiles = unsafe { MixedTiles::new(warp, list(columns), list(slashes), end, key_limit) };
        let read = |tiles: &MixedTiles<HostWarp>, n| {
            let Gathered { list, count } = tiles.gathered(n)?;
            Some(tiles.warp.ring[list as usize..][..count as usize].to_vec())
        };
        let (mut blocks, mut singles, mut masked) = (Vec::new(), Vec::new(), false);
        let mut n = tiles.advance();
        while n >= 0 {
            let keys = read(&tiles, n);
            // As the forward pass does it.
            masked |= keys.as_ref().map_or(n > (end - 63).min(key_limit) - 64, |keys| keys.len() < 64);
            let next = if masked { tiles.advance_behind_mask() } else { tiles.advance() };
            assert_eq!(read(&tiles, n), keys, "kept until the next tile is at hand");
            match keys {
                Some(keys) => {
                    assert!(keys.len() == 64 || next < 0, "only the last gathered tile is not full");
                    singles.extend(keys);
                }
                None => blocks.push(n as u32),
            }
            n = next;
        }
        assert!(tiles.advance() < 0);
        assert!(MixedTiles::<HostWarp>::WHOLE_FIRST && MixedTiles::<HostWarp>::GATHERS && blocks.is_sorted());
        (blocks, singles)
    }

    /// The published conversion, which merges ranges of keys as it goes along the slashes.
    fn published(columns: &[u32], slashes: &[u32], end: i32, k_len: i32) -> (Vec<u32>, Vec<u32>) {
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for x in slashes.iter().rev().filter(|&&o| (o as i32) < end).map(|&o| (end - o as i32).max(64)) {
            match ranges.last_mut() {
                Some((_, stop)) if x <= *stop => {}
                Some((_, stop)) if x <= *stop + 64 => *stop += 64,
                _ => ranges.push((x - 64, x)),
            }
        }
        let blocks = ranges.iter().flat_map(|&(start, stop)| (start..stop.min(k_len)).step_by(64));
        let last = ranges.last().map_or(0, |&(start, _)| start);
        let single = |c: i32| c < last && !ranges.iter().any(|&(start, stop)| (start..stop).contains(&c));
        (blocks.map(|b| b as u32).collect(), columns.iter().copied().filter(|&c| single(c as i32)).collect())
    }

    #[test]
    fn golden_vectors_of_the_published_conversion() {
        let rows = |n: i32, columns: &[u32], slashes: &[u32]| -> Vec<_> {
            (64..n + 64).step_by(64).map(|end| walk(columns, slashes, end, end.min(n))).collect()
        };
        let want: [(&[u32], &[u32]); 5] = [
            (&[0], &[]),
            (&[0, 64], &[]),
            (&[28, 92, 156], &[0, 1, 5]),
            (&[0, 92, 156, 220], &[70]),
            (&[6, 156, 220, 284], &[0, 1, 5, 70, 130]),
        ];
        let got = rows(300, &[0, 1, 5, 70, 130, 200], &[0, 1, 64, 100, 250]);
        assert_eq!(got, want.map(|(b, c)| (b.to_vec(), c.to_vec())));
        let want: [(&[u32], &[u32]); 4] =
            [(&[0], &[]), (&[64], &[10]), (&[0, 128], &[]), (&[64, 192], &[10])];
        assert_eq!(rows(256, &[10, 200], &[0, 128]), want.map(|(b, c)| (b.to_vec(), c.to_vec())));
    }

    #[test]
    fn gives_what_the_published_conversion_gives() {
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        };
        for seed in 0..500 {
            let k_len = 1 + random(6000);
            // From a few entries to every other one, alone or in runs.
            let mut entries = |most: u64| -> Vec<u32> {
                let (share, run) = (1 + random(most), 1 + random(80));
                (0..k_len)
                    .filter(|i| (i / run).wrapping_mul(2654435761) % 1024 < share)
                    .map(|i| i as u32)
                    .collect()
            };
            let (columns, mut slashes) = (entries(500), entries(200));
            if slashes.first() != Some(&0) {
                slashes.insert(0, 0);
            }
            for row in [0, random(k_len), random(k_len), k_len - 1] {
                let end = row as i32 + 64;
                let key_limit = end.min(k_len as i32);
                let (blocks, singles) = published(&columns, &slashes, end, key_limit);
                let got = walk(&columns, &slashes, end, key_limit);
                assert!(got == (blocks, singles), "seed {seed}, {k_len} keys, rows before {end}");
            }
        }
    }

    #[test]
    fn rows_before_the_first_key_read_nothing() {
        assert_eq!(walk(&[0, 3], &[0, 5], -20, 0), (vec![], vec![]));
        assert_eq!(walk(&[0, 3], &[0, 5], 40, 0), (vec![], vec![]));
        assert_eq!(walk(&[0, 3], &[], 200, 150), (vec![], vec![]));
    }

    #[test]
    fn counts_the_entries_below_a_limit() {
        let warp = HostWarp { ring: [0; COLUMN_RING as usize] };
        for len in [0, 1, 31, 32, 33, 64, 1000, 1024, 1025, 40000] {
            let entries: Vec<u32> = (0..len).map(|i| 3 * i + 1).collect();
            for limit in (0..3 * len + 5).step_by(1 + len as usize / 50) {
                // SAFETY: the list is there.
                let got = unsafe { count_below(&warp, list(&entries), limit) };
                assert_eq!(got, entries.partition_point(|&x| x < limit) as u32, "{len} {limit}");
            }
        }
    }
}
