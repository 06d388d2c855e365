//! The tokens before a sequence's queries, and how XAttention's published code counts them.

use lacuna_core::XAttentionOptions;

/// The past of one sequence, as the options want it counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past {
    /// [`XAttentionOptions::past`].
    pub tokens: isize,
    /// Query rows that one pass of the published code handles.
    chunk_rows: usize,
}

impl Past {
    pub fn new(seqlen_q: usize, seqlen_k: usize, options: &XAttentionOptions) -> Self {
        Self { tokens: options.past(seqlen_q, seqlen_k), chunk_rows: options.chunk_rows(seqlen_k) }
    }

    /// Whether query block `m` belongs to the first chunk, with nothing before it.
    pub fn in_first_chunk(&self, m: usize, options: &XAttentionOptions) -> bool {
        self.tokens == 0 && m < self.chunk_rows / options.block_size
    }
}
