//! The tokens before a sequence's queries, and how the published code counts them.

use lacuna_core::XAttentionOptions;

/// More tokens than a sequence can have, in whole blocks.
const MOST_TOKENS: usize = isize::MAX as usize / 4 + 1;

/// The past of one sequence, as the options want it counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// `seqlen_k - seqlen_q`; with `chunk_align_past`, of the lengths rounded up to whole chunks.
    pub tokens: isize,
    /// Query rows that one pass of the published code handles.
    chunk_size: usize,
}

impl Past {
    pub fn new(seqlen_q: usize, seqlen_k: usize, options: &XAttentionOptions) -> Self {
        let chunk_size = options.chunk_size.unwrap_or_else(|| {
            let n = seqlen_k.max(1).next_power_of_two();
            n.max(2048).min((1 << 28) / n).max(2048)
        });
        // Chunks of any size are accepted; beyond all lengths they differ in nothing.
        let chunk_size = chunk_size.min(MOST_TOKENS);
        let count = |len: usize| {
            if options.compat.chunk_align_past { len.next_multiple_of(chunk_size) } else { len }
        };
        Self { tokens: count(seqlen_k) as isize - count(seqlen_q) as isize, chunk_size }
    }

    /// Whether query block `m` belongs to the first chunk, with nothing before it.
    pub fn in_first_chunk(&self, m: usize, options: &XAttentionOptions) -> bool {
        self.tokens == 0 && m < self.chunk_size / options.block_size
    }
}
