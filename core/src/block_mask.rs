//! Which key blocks each query block reads: the contract between pattern search and attention.

use crate::{AttentionShape, Error, Result, Seqlens};

/// Block lists in CSR form, one row per (sequence, query head, query block).
///
/// Query block `m` of a sequence covers its rows `m * block_m ..`; key block `n` covers its keys `n * block_n ..`,
/// both counted from the start of this call's queries and of the sequence's keys. A row lists the key blocks to
/// read, ascending. Rows are ordered by sequence, then head, then query block. The element-wise causal and tail
/// masks are the attention kernel's business: a listed block may be partly or wholly masked.
///
/// ```
/// use lacuna_core::{AttentionShape, BlockMask, Seqlens};
/// let shape = AttentionShape::new(2, 1, 64, Seqlens::single(300, 300)?)?;
/// let mask = BlockMask::dense(&shape, 128, 128, true)?;
/// assert_eq!(mask.row(0, 1, 2), &[0, 1, 2]);
/// assert_eq!(mask.density(true), 1.0);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockMask {
    block_m: usize,
    block_n: usize,
    num_heads: usize,
    seqlens: Seqlens,
    /// First row of each sequence, and the number of rows at the end.
    row_starts: Vec<usize>,
    indptr: Vec<u32>,
    indices: Vec<u32>,
}

impl BlockMask {
    /// A mask with no rows yet, to be filled by [`BlockMask::push_row`] in row order.
    pub fn empty(shape: &AttentionShape, block_m: usize, block_n: usize) -> Result<Self> {
        const OP: &str = "BlockMask";
        for (arg, b) in [("block_m", block_m), ("block_n", block_n)] {
            if b == 0 {
                return Err(Error::invalid(OP, arg, "at least 1", b));
            }
        }
        let mut row_starts = vec![0usize];
        for b in 0..shape.seqlens.batch() {
            let rows = shape
                .num_heads
                .checked_mul(shape.seqlens.seqlen_q(b).div_ceil(block_m))
                .and_then(|n| row_starts[b].checked_add(n))
                .ok_or_else(|| Error::TooLarge {
                    op: OP,
                    what: "the number of block rows",
                    limit: u32::MAX as u64,
                    got: format!("{} heads of {} tokens", shape.num_heads, shape.seqlens.seqlen_q(b)),
                })?;
            row_starts.push(rows);
        }
        Ok(Self {
            block_m,
            block_n,
            num_heads: shape.num_heads,
            seqlens: shape.seqlens.clone(),
            row_starts,
            indptr: vec![0],
            indices: Vec::new(),
        })
    }

    /// From CSR arrays made elsewhere. Checks everything: row count, ascending `indptr`, ascending indices in range.
    pub fn from_csr(
        shape: &AttentionShape,
        block_m: usize,
        block_n: usize,
        indptr: Vec<u32>,
        indices: Vec<u32>,
    ) -> Result<Self> {
        const OP: &str = "BlockMask::from_csr";
        let mut mask = Self::empty(shape, block_m, block_n)?;
        if indptr.len() != mask.num_rows() + 1 {
            return Err(Error::shape(OP, "indptr", [mask.num_rows() + 1], [indptr.len()]));
        }
        if indptr[0] != 0 || indptr[indptr.len() - 1] as usize != indices.len() {
            return Err(Error::invalid(
                OP,
                "indptr",
                format_args!("from 0 to the number of indices ({})", indices.len()),
                format_args!("{} to {}", indptr[0], indptr[indptr.len() - 1]),
            ));
        }
        if let Some(r) = indptr.windows(2).position(|w| w[0] > w[1]) {
            return Err(Error::invalid(
                OP,
                "indptr",
                "ascending",
                format_args!("{} before {} at row {r}", indptr[r], indptr[r + 1]),
            ));
        }
        for b in 0..mask.seqlens.batch() {
            for row in mask.row_starts[b]..mask.row_starts[b + 1] {
                let list = &indices[indptr[row] as usize..indptr[row + 1] as usize];
                check_row(OP, list, mask.n_blocks(b))?;
            }
        }
        (mask.indptr, mask.indices) = (indptr, indices);
        Ok(mask)
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.indptr.truncate(1);
        self.indices.clear();
    }

    /// Appends the next row, in the order sequence, head, query block. `blocks` must ascend.
    pub fn push_row(&mut self, blocks: &[u32]) -> Result<()> {
        const OP: &str = "BlockMask::push_row";
        let row = self.indptr.len() - 1;
        if row >= self.num_rows() {
            return Err(Error::invalid(OP, "row", format_args!("below {}", self.num_rows()), row));
        }
        let b = self.row_starts.partition_point(|&start| start <= row) - 1;
        check_row(OP, blocks, self.n_blocks(b))?;
        let end = u32::try_from(self.indices.len() + blocks.len()).map_err(|_| Error::TooLarge {
            op: OP,
            what: "the number of listed blocks",
            limit: u32::MAX as u64,
            got: (self.indices.len() + blocks.len()).to_string(),
        })?;
        self.indices.extend_from_slice(blocks);
        self.indptr.push(end);
        Ok(())
    }

    /// Fills every row with the blocks `keep(sequence, head, m_block, n_block)` says, among those that the causal
    /// mask leaves visible.
    fn from_fn(
        shape: &AttentionShape,
        block_m: usize,
        block_n: usize,
        causal: bool,
        keep: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Self> {
        let mut mask = Self::empty(shape, block_m, block_n)?;
        let mut row = Vec::new();
        for b in 0..mask.seqlens.batch() {
            for _head in 0..mask.num_heads {
                for m in 0..mask.m_blocks(b) {
                    row.clear();
                    row.extend(
                        (0..mask.visible_blocks(b, m, causal)).filter(|&n| keep(b, m, n)).map(|n| n as u32),
                    );
                    mask.push_row(&row)?;
                }
            }
        }
        Ok(mask)
    }

    /// Every visible block.
    pub fn dense(shape: &AttentionShape, block_m: usize, block_n: usize, causal: bool) -> Result<Self> {
        Self::from_fn(shape, block_m, block_n, causal, |_, _, _| true)
    }

    /// Attention sinks and a sliding window (StreamingLLM; the A-shape of MInference): a block is kept when one of its
    /// causal pairs has its key among the first `sink` tokens, or less than `local` tokens behind its query.
    pub fn sink_and_local(
        shape: &AttentionShape,
        block_m: usize,
        block_n: usize,
        sink: usize,
        local: usize,
    ) -> Result<Self> {
        Self::from_fn(shape, block_m, block_n, true, |b, m, n| {
            let first = (m * block_m) as isize + shape.seqlens.past(b);
            let n_last = ((n + 1) * block_n - 1) as isize;
            n * block_n < sink || (local > 0 && n_last + (local as isize) > first)
        })
    }

    /// The tri-shape: sink and local blocks for all query blocks but those that hold one of the last `last` query
    /// rows, which are dense.
    pub fn tri_shape(
        shape: &AttentionShape,
        block_m: usize,
        block_n: usize,
        sink: usize,
        local: usize,
        last: usize,
    ) -> Result<Self> {
        Self::from_fn(shape, block_m, block_n, true, |b, m, n| {
            let seqlen_q = shape.seqlens.seqlen_q(b);
            let first = (m * block_m) as isize + shape.seqlens.past(b);
            let n_last = ((n + 1) * block_n - 1) as isize;
            let in_last = ((m + 1) * block_m).min(seqlen_q) + last > seqlen_q;
            in_last || n * block_n < sink || (local > 0 && n_last + (local as isize) > first)
        })
    }

    /// Tokens attend within their own chunk of `chunk` tokens only (chunks counted from the first key token). A block
    /// is kept when it holds a causal pair of one chunk.
    pub fn block_diagonal(
        shape: &AttentionShape,
        block_m: usize,
        block_n: usize,
        chunk: usize,
    ) -> Result<Self> {
        if chunk == 0 {
            return Err(Error::invalid("BlockMask::block_diagonal", "chunk", "at least 1", chunk));
        }
        Self::from_fn(shape, block_m, block_n, true, |b, m, n| {
            // The first visible row of the block reaches back furthest.
            let first = ((m * block_m) as isize + shape.seqlens.past(b)).max(0) as usize;
            (n + 1) * block_n > first / chunk * chunk
        })
    }

    /// Query tokens of a block.
    pub fn block_m(&self) -> usize {
        self.block_m
    }

    /// Key tokens of a block.
    pub fn block_n(&self) -> usize {
        self.block_n
    }

    /// Query heads.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// The lengths the mask was made for.
    pub fn seqlens(&self) -> &Seqlens {
        &self.seqlens
    }

    /// Rows over all sequences, heads and query blocks.
    pub fn num_rows(&self) -> usize {
        self.row_starts[self.row_starts.len() - 1]
    }

    /// Whether every row has been pushed.
    pub fn is_complete(&self) -> bool {
        self.indptr.len() == self.num_rows() + 1
    }

    /// Query blocks of sequence `b`.
    pub fn m_blocks(&self, b: usize) -> usize {
        self.seqlens.seqlen_q(b).div_ceil(self.block_m)
    }

    /// Key blocks of sequence `b`.
    pub fn n_blocks(&self, b: usize) -> usize {
        self.seqlens.seqlen_k(b).div_ceil(self.block_n)
    }

    /// How many key blocks query block `m` can see at all.
    pub fn visible_blocks(&self, b: usize, m: usize, causal: bool) -> usize {
        if !causal {
            return self.n_blocks(b);
        }
        let last_row = ((m + 1) * self.block_m).min(self.seqlens.seqlen_q(b)) as isize - 1;
        let last_key = last_row + self.seqlens.past(b);
        if last_key < 0 { 0 } else { (last_key as usize / self.block_n + 1).min(self.n_blocks(b)) }
    }

    /// The number of a row in `indptr`.
    pub fn row_index(&self, b: usize, head: usize, m: usize) -> usize {
        self.row_starts[b] + head * self.m_blocks(b) + m
    }

    /// The key blocks of one row, ascending.
    ///
    /// # Panics
    /// When the row does not exist, as slice indexing does.
    pub fn row(&self, b: usize, head: usize, m: usize) -> &[u32] {
        let row = self.row_index(b, head, m);
        &self.indices[self.indptr[row] as usize..self.indptr[row + 1] as usize]
    }

    /// Row offsets into [`BlockMask::indices`].
    pub fn indptr(&self) -> &[u32] {
        &self.indptr
    }

    /// Key blocks of all rows.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    /// Kept visible blocks over all visible blocks, over all sequences and heads (XAttention's definition: a dense
    /// causal mask has density 1). 1 when nothing is visible.
    pub fn density(&self, causal: bool) -> f64 {
        let (mut kept, mut visible) = (0u64, 0u64);
        for b in 0..self.seqlens.batch() {
            for m in 0..self.m_blocks(b) {
                let limit = self.visible_blocks(b, m, causal);
                for head in 0..self.num_heads {
                    kept += self.row(b, head, m).partition_point(|&n| (n as usize) < limit) as u64;
                    visible += limit as u64;
                }
            }
        }
        if visible == 0 { 1.0 } else { kept as f64 / visible as f64 }
    }

    /// Refuses a mask that was not made for `shape`, or is incomplete.
    pub fn check(&self, op: &'static str, shape: &AttentionShape) -> Result<()> {
        if self.num_heads != shape.num_heads || self.seqlens != shape.seqlens {
            return Err(Error::invalid(
                op,
                "block_mask",
                format_args!("made for {} heads and {:?}", shape.num_heads, shape.seqlens),
                format_args!("{} heads and {:?}", self.num_heads, self.seqlens),
            ));
        }
        if !self.is_complete() {
            return Err(Error::shape(op, "block_mask.indptr", [self.num_rows() + 1], [self.indptr.len()]));
        }
        Ok(())
    }
}

fn check_row(op: &'static str, blocks: &[u32], n_blocks: usize) -> Result<()> {
    if let Some(i) = blocks.windows(2).position(|w| w[0] >= w[1]) {
        return Err(Error::invalid(
            op,
            "indices",
            "strictly ascending within a row",
            format_args!("{} before {}", blocks[i], blocks[i + 1]),
        ));
    }
    match blocks.last() {
        Some(&n) if n as usize >= n_blocks => {
            Err(Error::invalid(op, "indices", format_args!("below {n_blocks} key blocks"), n))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(q: usize, k: usize) -> AttentionShape {
        AttentionShape::new(2, 1, 16, Seqlens::single(q, k).unwrap()).unwrap()
    }

    /// Blocks that hold a visible pair, by looking at every pair.
    fn by_pairs(q: usize, k: usize, b: usize, keep: impl Fn(usize, usize) -> bool) -> Vec<Vec<u32>> {
        let past = k as isize - q as isize;
        (0..q.div_ceil(b))
            .map(|m| {
                let hit = |n: usize| {
                    (m * b..((m + 1) * b).min(q)).any(|i| {
                        (n * b..((n + 1) * b).min(k)).any(|j| {
                            let i = i as isize + past;
                            j as isize <= i && keep(i as usize, j)
                        })
                    })
                };
                (0..k.div_ceil(b)).filter(|&n| hit(n)).map(|n| n as u32).collect()
            })
            .collect()
    }

    fn rows(mask: &BlockMask) -> Vec<Vec<u32>> {
        (0..mask.m_blocks(0)).map(|m| mask.row(0, 1, m).to_vec()).collect()
    }

    proptest! {
        #[test]
        fn static_masks_equal_their_pairwise_definition(
            q in 1usize..40, past in 0usize..20, b in 1usize..9, sink in 0usize..12, local in 0usize..20,
            last in 0usize..12, chunk in 1usize..20,
        ) {
            let k = q + past;
            let s = shape(q, k);
            prop_assert_eq!(rows(&BlockMask::dense(&s, b, b, true).unwrap()), by_pairs(q, k, b, |_, _| true));
            prop_assert_eq!(
                rows(&BlockMask::sink_and_local(&s, b, b, sink, local).unwrap()),
                by_pairs(q, k, b, |i, j| j < sink || i - j < local)
            );
            prop_assert_eq!(
                rows(&BlockMask::block_diagonal(&s, b, b, chunk).unwrap()),
                by_pairs(q, k, b, |i, j| i / chunk == j / chunk)
            );
            // Tri-shape is dense for whole query blocks: the pair test must not look at rows one by one.
            let dense_from = (q.saturating_sub(last) / b) * b + past;
            prop_assert_eq!(
                rows(&BlockMask::tri_shape(&s, b, b, sink, local, last).unwrap()),
                by_pairs(q, k, b, |i, j| (last > 0 && i >= dense_from) || j < sink || i - j < local)
            );
        }
    }

    #[test]
    fn density_counts_visible_blocks_only() {
        let s = shape(512, 512);
        assert_eq!(BlockMask::dense(&s, 128, 128, true).unwrap().density(true), 1.0);
        assert_eq!(BlockMask::dense(&s, 128, 128, false).unwrap().density(true), 1.0);
        // Diagonal and column 0: 1 + 2 + 2 + 2 of 10.
        assert_eq!(BlockMask::sink_and_local(&s, 128, 128, 1, 1).unwrap().density(true), 0.7);
        assert_eq!(BlockMask::dense(&shape(0, 0), 128, 128, true).unwrap().density(true), 1.0);
    }

    #[test]
    fn refuses_bad_lists() {
        let s = shape(300, 300);
        let csr = |indptr: Vec<u32>, indices: Vec<u32>| BlockMask::from_csr(&s, 128, 128, indptr, indices);
        assert!(csr(vec![0; 7], vec![]).is_ok());
        for (indptr, indices, says) in [
            (vec![0; 6], vec![], "indptr"),
            (vec![0, 0, 0, 0, 0, 0, 1], vec![3], "below 3 key blocks, got 3"),
            (vec![0, 0, 0, 0, 0, 0, 2], vec![1, 1], "strictly ascending"),
            (vec![0, 2, 1, 1, 1, 1, 1], vec![0], "ascending"),
            (vec![0, 0, 0, 0, 0, 0, 1], vec![], "number of indices (0)"),
        ] {
            let message = csr(indptr, indices).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
        assert!(BlockMask::empty(&s, 0, 128).unwrap_err().to_string().contains("block_m must be at least 1"));
    }
}
