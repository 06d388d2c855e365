//! Which keys each row tile reads under a vertical-slash pattern: unaligned key tiles for the slashes, single columns
//! for the verticals.

use crate::{AttentionShape, Error, Result, Seqlens};

/// Row tiles, key tiles: 64 tokens both, as MInference has them.
const TILE: usize = 64;

/// The input of the mixed vertical-slash kernel: for every (sequence, query head, tile of 64 query rows) the starts of
/// the 64-key tiles to read and the single key columns to gather, both ascending and counted from the sequence's first
/// key. Key tiles start anywhere and may reach past the row tile or past the last key: both masks apply within them.
/// Columns lie before every row of their tile and in none of its key tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerticalSlashIndex {
    num_heads: usize,
    seqlens: Seqlens,
    row_starts: Vec<usize>,
    /// Heads pushed so far, over all sequences.
    heads: usize,
    /// What was pushed, and where the lists of each head end.
    kept_columns: Vec<u32>,
    kept_slashes: Vec<u32>,
    kept_ends: Vec<[usize; 2]>,
    block_indptr: Vec<u32>,
    block_offset: Vec<u32>,
    column_indptr: Vec<u32>,
    column_index: Vec<u32>,
}

impl VerticalSlashIndex {
    /// Tokens of a row tile and of a key tile.
    pub const TILE: usize = TILE;

    /// An index with no rows yet, to be filled by [`VerticalSlashIndex::push_head`] in order.
    pub fn empty(shape: &AttentionShape) -> Result<Self> {
        let mut row_starts = vec![0usize];
        for b in 0..shape.seqlens.batch() {
            row_starts.push(row_starts[b] + shape.num_heads * shape.seqlens.seqlen_q(b).div_ceil(TILE));
        }
        Ok(Self {
            num_heads: shape.num_heads,
            seqlens: shape.seqlens.clone(),
            row_starts,
            heads: 0,
            kept_columns: Vec::new(),
            kept_slashes: Vec::new(),
            kept_ends: Vec::new(),
            block_indptr: vec![0],
            block_offset: Vec::new(),
            column_indptr: vec![0],
            column_index: Vec::new(),
        })
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.heads = 0;
        self.kept_columns.clear();
        self.kept_slashes.clear();
        self.kept_ends.clear();
        self.block_indptr.truncate(1);
        self.block_offset.clear();
        self.column_indptr.truncate(1);
        self.column_index.clear();
    }

    /// Appends the row tiles of the next (sequence, head) from its kept `columns` (key tokens, ascending) and `slashes`
    /// (offsets query - key, descending, the last one 0); none for the heads of a sequence without queries.
    ///
    /// Every pair (row, row - slash) and (row, column <= row) is covered, no key twice. This is MInference's index
    /// conversion: a slash offset turns into the 64 keys that end with the tile's last diagonal element, touching
    /// intervals are chained by whole tiles, and columns inside a chain are dropped.
    pub fn push_head(&mut self, columns: &[u32], slashes: &[u32]) -> Result<()> {
        const OP: &str = "VerticalSlashIndex::push_head";
        if columns.windows(2).any(|w| w[0] >= w[1]) {
            return Err(Error::invalid(OP, "columns", "strictly ascending", "a list that is not"));
        }
        if slashes.windows(2).any(|w| w[0] <= w[1]) || slashes.last() != Some(&0) {
            return Err(Error::invalid(OP, "slashes", "strictly descending to 0", "a list that is not"));
        }
        let b = self.heads / self.num_heads;
        if b >= self.seqlens.batch() {
            let limit = self.num_heads * self.seqlens.batch();
            return Err(Error::invalid(OP, "head", format_args!("below {limit}"), self.heads));
        }
        self.heads += 1;
        // No row asks for those of a sequence without queries.
        if self.m_tiles(b) > 0 {
            self.kept_columns.extend_from_slice(columns);
            self.kept_slashes.extend_from_slice(slashes);
        }
        self.kept_ends.push([self.kept_columns.len(), self.kept_slashes.len()]);
        let past = self.seqlens.past(b);
        for m in 0..self.m_tiles(b) {
            // The end of the tile's rows, as key positions; tiles before the first key see nothing.
            let end = ((m + 1) * TILE) as isize + past;
            if end > 0 {
                self.convert_tile(end as usize, self.seqlens.seqlen_k(b), columns, slashes);
            }
            for (indptr, list) in
                [(&mut self.block_indptr, &self.block_offset), (&mut self.column_indptr, &self.column_index)]
            {
                indptr.push(u32::try_from(list.len()).map_err(|_| Error::TooLarge {
                    op: OP,
                    what: "the number of listed keys",
                    limit: u32::MAX as u64,
                    got: list.len().to_string(),
                })?);
            }
        }
        Ok(())
    }

    fn convert_tile(&mut self, end: usize, seqlen_k: usize, columns: &[u32], slashes: &[u32]) {
        let first = slashes.partition_point(|&o| o as usize >= end);
        // The end of the 64 keys of a slash; it moves right as the offset falls.
        let key_end = |o: u32| (end - o as usize).max(TILE);
        let mut columns = columns.iter().copied().peekable();
        let (mut start, mut stop) = (key_end(slashes[first]) - TILE, key_end(slashes[first]));
        for &o in &slashes[first + 1..] {
            let x = key_end(o);
            if x > stop + TILE {
                self.flush(start, stop, seqlen_k, &mut columns);
                (start, stop) = (x - TILE, x);
            } else if x > stop {
                stop += TILE;
            }
        }
        self.flush(start, stop, seqlen_k, &mut columns);
    }

    fn flush(
        &mut self,
        start: usize,
        stop: usize,
        seqlen_k: usize,
        columns: &mut std::iter::Peekable<impl Iterator<Item = u32>>,
    ) {
        while let Some(column) = columns.next_if(|&c| (c as usize) < stop) {
            if (column as usize) < start {
                self.column_index.push(column);
            }
        }
        self.block_offset.extend((start..stop.min(seqlen_k)).step_by(TILE).map(|x| x as u32));
    }

    /// Row tiles of sequence `b`.
    pub fn m_tiles(&self, b: usize) -> usize {
        self.seqlens.seqlen_q(b).div_ceil(TILE)
    }

    /// Row tiles over all sequences and heads.
    pub fn num_rows(&self) -> usize {
        self.row_starts[self.row_starts.len() - 1]
    }

    /// The lengths the index was made for.
    pub fn seqlens(&self) -> &Seqlens {
        &self.seqlens
    }

    /// Query heads.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    fn row_index(&self, b: usize, head: usize, m: usize) -> usize {
        self.row_starts[b] + head * self.m_tiles(b) + m
    }

    /// First keys of the key tiles that row tile `m` reads.
    ///
    /// # Panics
    /// When the row does not exist, as slice indexing does.
    pub fn blocks(&self, b: usize, head: usize, m: usize) -> &[u32] {
        let row = self.row_index(b, head, m);
        &self.block_offset[self.block_indptr[row] as usize..self.block_indptr[row + 1] as usize]
    }

    /// Single key columns that row tile `m` reads beside its key tiles.
    ///
    /// # Panics
    /// When the row does not exist, as slice indexing does.
    pub fn columns(&self, b: usize, head: usize, m: usize) -> &[u32] {
        let row = self.row_index(b, head, m);
        &self.column_index[self.column_indptr[row] as usize..self.column_indptr[row + 1] as usize]
    }

    /// The columns and slashes that were pushed for a head, as [`VerticalSlashIndex::push_head`] took them; empty for a
    /// sequence without queries.
    ///
    /// # Panics
    /// When the head was not pushed, as slice indexing does.
    pub fn kept(&self, b: usize, head: usize) -> (&[u32], &[u32]) {
        let i = b * self.num_heads + head;
        let [columns, slashes] = if i == 0 { [0, 0] } else { self.kept_ends[i - 1] };
        let ends = self.kept_ends[i];
        (&self.kept_columns[columns..ends[0]], &self.kept_slashes[slashes..ends[1]])
    }

    /// Kept causal (query, key) pairs over all causal pairs, over all sequences and heads. 1 when nothing is visible.
    pub fn density(&self) -> f64 {
        let (mut kept, mut visible) = (0u64, 0u64);
        for b in 0..self.seqlens.batch() {
            let (seqlen_q, seqlen_k) = (self.seqlens.seqlen_q(b), self.seqlens.seqlen_k(b));
            for m in 0..self.m_tiles(b) {
                // Keys that each row of the tile sees, and of them those at or after `from`.
                let rows = m * TILE..((m + 1) * TILE).min(seqlen_q);
                let seen = |from: usize, to: usize| -> u64 {
                    let last =
                        |i: usize| (i as isize + 1 + self.seqlens.past(b)).clamp(0, to as isize) as usize;
                    if last(rows.start) == to {
                        // Below the diagonal every row sees all of them.
                        return (rows.len() * to.saturating_sub(from)) as u64;
                    }
                    rows.clone().map(|i| last(i).saturating_sub(from) as u64).sum()
                };
                visible += self.num_heads as u64 * seen(0, seqlen_k);
                for head in 0..self.num_heads {
                    kept += (self.columns(b, head, m).len() * rows.len()) as u64;
                    for &start in self.blocks(b, head, m) {
                        kept += seen(start as usize, (start as usize + TILE).min(seqlen_k));
                    }
                }
            }
        }
        if visible == 0 { 1.0 } else { kept as f64 / visible as f64 }
    }

    /// Refuses an index that was not made for `shape`, or is incomplete.
    pub fn check(&self, op: &'static str, shape: &AttentionShape) -> Result<()> {
        if self.num_heads != shape.num_heads || self.seqlens != shape.seqlens {
            return Err(Error::invalid(
                op,
                "index",
                format_args!("made for {} heads and {:?}", shape.num_heads, shape.seqlens),
                format_args!("{} heads and {:?}", self.num_heads, self.seqlens),
            ));
        }
        self.check_complete(op)
    }

    /// Refuses an index with heads missing.
    pub fn check_complete(&self, op: &'static str) -> Result<()> {
        let heads = self.num_heads * self.seqlens.batch();
        if self.heads == heads { Ok(()) } else { Err(Error::shape(op, "index", [heads], [self.heads])) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn index(q: usize, k: usize, columns: &[u32], slashes: &[u32]) -> VerticalSlashIndex {
        let shape = AttentionShape::new(1, 1, 16, Seqlens::single(q, k).unwrap()).unwrap();
        let mut index = VerticalSlashIndex::empty(&shape).unwrap();
        index.push_head(columns, slashes).unwrap();
        index
    }

    fn lists(index: &VerticalSlashIndex) -> Vec<(Vec<u32>, Vec<u32>)> {
        (0..index.m_tiles(0))
            .map(|m| (index.blocks(0, 0, m).to_vec(), index.columns(0, 0, m).to_vec()))
            .collect()
    }

    #[test]
    fn what_was_pushed_is_kept() {
        let shape = AttentionShape::new(2, 1, 16, Seqlens::single(70, 90).unwrap()).unwrap();
        let mut index = VerticalSlashIndex::empty(&shape).unwrap();
        for _ in 0..2 {
            index.clear();
            index.push_head(&[3, 5], &[70, 0]).unwrap();
            index.push_head(&[], &[9, 1, 0]).unwrap();
            assert_eq!(index.kept(0, 0), (&[3, 5][..], &[70, 0][..]));
            assert_eq!(index.kept(0, 1), (&[][..], &[9, 1, 0][..]));
        }
    }

    #[test]
    fn golden_vectors_of_the_published_conversion() {
        let got = lists(&index(300, 300, &[0, 1, 5, 70, 130, 200], &[250, 100, 64, 1, 0]));
        let want: [(&[u32], &[u32]); 5] = [
            (&[0], &[]),
            (&[0, 64], &[]),
            (&[28, 92, 156], &[0, 1, 5]),
            (&[0, 92, 156, 220], &[70]),
            (&[6, 156, 220, 284], &[0, 1, 5, 70, 130]),
        ];
        assert_eq!(got, want.map(|(b, c)| (b.to_vec(), c.to_vec())));
        let got = lists(&index(256, 256, &[10, 200], &[128, 0]));
        let want: [(&[u32], &[u32]); 4] =
            [(&[0], &[]), (&[64], &[10]), (&[0, 128], &[]), (&[64, 192], &[10])];
        assert_eq!(got, want.map(|(b, c)| (b.to_vec(), c.to_vec())));
    }

    proptest! {
        #[test]
        fn covers_every_asked_pair_and_no_key_twice(
            q in 1usize..400, past in 0usize..200, columns in prop::collection::btree_set(0u32..600, 0..20),
            slashes in prop::collection::btree_set(1u32..600, 0..20),
        ) {
            let k = q + past;
            let columns: Vec<u32> = columns.into_iter().filter(|&c| (c as usize) < k).collect();
            let mut slashes: Vec<u32> = slashes.into_iter().rev().filter(|&o| (o as usize) < k).collect();
            slashes.push(0);
            let index = index(q, k, &columns, &slashes);
            let mut pairs = 0u64;
            for i in 0..q {
                let m = i / TILE;
                let mut reads = vec![0u8; k + 2 * TILE];
                for &start in index.blocks(0, 0, m) {
                    reads[start as usize..start as usize + TILE].iter_mut().for_each(|r| *r += 1);
                }
                for &c in index.columns(0, 0, m) {
                    prop_assert!((c as usize) < m * TILE + past);
                    reads[c as usize] += 1;
                }
                prop_assert!(reads.iter().all(|&r| r <= 1));
                let row = i + past;
                pairs += reads[..=row].iter().map(|&r| r as u64).sum::<u64>();
                prop_assert!(columns.iter().all(|&c| c as usize > row || reads[c as usize] == 1));
                prop_assert!(slashes.iter().all(|&o| o as usize > row || reads[row - o as usize] == 1));
            }
            let visible: u64 = (0..q as u64).map(|i| i + 1 + past as u64).sum();
            prop_assert!((index.density() - pairs as f64 / visible as f64).abs() < 1e-12);
        }
    }
}
