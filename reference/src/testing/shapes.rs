//! Shapes worth testing. Variety beats size.

use lacuna_core::{AttentionShape, Seqlens};

use super::Rng;

/// Pairs (seqlen_q, seqlen_k) at which attention kernels have been caught.
pub const LENGTHS: [(usize, usize); 12] = [
    (1, 1),
    (64, 128),
    (239, 1),
    (799, 3),
    (1023, 1024),
    (113, 203),
    (128, 217),
    (113, 211),
    (108, 256),
    (3, 513),
    (511, 1),
    (1, 3),
];

/// Head dims: the common ones, then those that need padding.
pub const HEAD_DIMS: [usize; 9] = [64, 96, 128, 256, 32, 40, 59, 80, 111];

/// Lengths around the edges of tiles or blocks of `b` tokens.
pub fn edge_lengths(b: usize) -> [usize; 6] {
    [b - 1, b, b + 1, 2 * b, 2 * b + 1, 8 * b - 3]
}

/// Bounds for [`Rng::shape`].
#[derive(Debug, Clone)]
pub struct ShapeLimits<'a> {
    /// Most sequences in the batch. Default 3.
    pub max_batch: usize,
    /// Most query tokens, and most past tokens, of a sequence. Default 150.
    pub max_tokens: usize,
    /// Most KV heads. Default 3.
    pub max_heads_k: usize,
    /// Query heads per KV head. Default 1, 2, 3, 4.
    pub group_sizes: &'a [usize],
    /// Head dims. Default 16, 32, 40, 64.
    pub head_dims: &'a [usize],
}

impl Default for ShapeLimits<'_> {
    fn default() -> Self {
        Self {
            max_batch: 3,
            max_tokens: 150,
            max_heads_k: 3,
            group_sizes: &[1, 2, 3, 4],
            head_dims: &[16, 32, 40, 64],
        }
    }
}

impl Rng {
    /// A ragged batch: zero lengths, no past, more queries than keys, decode rows and plain prefill all occur.
    pub fn shape(&mut self, limits: &ShapeLimits) -> AttentionShape {
        let (mut cu_seqlens_q, mut cu_seqlens_k) = (vec![0], vec![0]);
        for b in 0..self.range(1..=limits.max_batch) {
            let seqlen_q = match self.below(8) {
                0 => 0,
                1 => 1,
                _ => self.range(0..=limits.max_tokens),
            };
            let seqlen_k = match self.below(8) {
                0 => 0,
                1 => self.range(0..=seqlen_q),
                2..5 => seqlen_q,
                _ => seqlen_q + self.range(0..=limits.max_tokens),
            };
            cu_seqlens_q.push(cu_seqlens_q[b] + seqlen_q as u32);
            cu_seqlens_k.push(cu_seqlens_k[b] + seqlen_k as u32);
        }
        let num_heads_k = self.range(1..=limits.max_heads_k);
        let num_heads = num_heads_k * self.choose(limits.group_sizes);
        let seqlens = Seqlens::new(cu_seqlens_q, cu_seqlens_k).expect("ascending from 0");
        AttentionShape::new(num_heads, num_heads_k, *self.choose(limits.head_dims), seqlens)
            .expect("limits in range")
    }
}
