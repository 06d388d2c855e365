//! The sizes of one decode call: a few query rows per sequence over padded caches.

use crate::{AttentionShape, Element, Error, Result, Seqlens, TensorView, TensorViewMut};

/// Query rows of a sequence that decode attention takes at most; longer queries are dense attention's.
pub const MAX_DECODE_SEQLEN_Q: usize = 64;

/// The largest sizes of a decode plan, and the check of its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeShape {
    /// Sequences.
    pub batch: usize,
    /// New tokens of a sequence, at most; in `1..=64`.
    pub max_seqlen_q: usize,
    /// Query heads.
    pub num_heads: usize,
    /// KV heads.
    pub num_heads_k: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Filled tokens of a cache, at most.
    pub max_seqlen_k: usize,
}

/// The sizes of one call, which may be below the plan's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeCall {
    /// New tokens of each sequence.
    pub seqlen_q: usize,
    /// Tokens from one sequence's cache to the next one's.
    pub capacity: usize,
}

impl DecodeShape {
    /// Checks the sizes, and gives them as those of full caches.
    ///
    /// # Errors
    /// `max_seqlen_q` outside 1..=64; as [`AttentionShape::new`].
    pub fn full(&self, op: &'static str) -> Result<AttentionShape> {
        if !(1..=MAX_DECODE_SEQLEN_Q).contains(&self.max_seqlen_q) {
            let expected = format_args!("in 1..={MAX_DECODE_SEQLEN_Q}").to_string();
            return Err(Error::invalid(op, "max_seqlen_q", expected, self.max_seqlen_q));
        }
        let seqlens = Seqlens::uniform(self.batch, self.max_seqlen_q, self.max_seqlen_k)?;
        AttentionShape::new(self.num_heads, self.num_heads_k, self.head_dim, seqlens)
    }

    /// Refuses tensors and lengths of a call that do not fit.
    ///
    /// # Errors
    /// A tensor or list of another shape; a `cache_seqlen` above the capacity or `max_seqlen_k`.
    pub fn check_call<T: Element>(
        &self,
        op: &'static str,
        q: &TensorView<T>,
        k_cache: &TensorView<T>,
        v_cache: &TensorView<T>,
        cache_seqlens: &[u32],
        out: &TensorViewMut<T>,
        softmax_lse: Option<&[f32]>,
    ) -> Result<DecodeCall> {
        let Self { batch, num_heads, head_dim, .. } = *self;
        let [total_q, ..] = q.shape();
        let seqlen_q = total_q.checked_div(batch).unwrap_or(0);
        if seqlen_q > self.max_seqlen_q || q.shape() != [batch * seqlen_q, num_heads, head_dim] {
            let expected = format!("[{batch} x up to {}, {num_heads}, {head_dim}]", self.max_seqlen_q);
            return Err(Error::ShapeMismatch { op, arg: "q", expected, got: format!("{:?}", q.shape()) });
        }
        if out.shape() != q.shape() {
            return Err(Error::shape(op, "out", q.shape(), out.shape()));
        }
        let capacity = k_cache.shape()[0].checked_div(batch).unwrap_or(0);
        let cache = [batch * capacity, self.num_heads_k, head_dim];
        for (arg, got) in [("k_cache", k_cache.shape()), ("v_cache", v_cache.shape())] {
            if got != cache {
                return Err(Error::shape(op, arg, cache, got));
            }
        }
        if cache_seqlens.len() != batch {
            return Err(Error::shape(op, "cache_seqlens", [batch], [cache_seqlens.len()]));
        }
        let limit = capacity.min(self.max_seqlen_k);
        if let Some(n) = cache_seqlens.iter().find(|&&n| n as usize > limit) {
            return Err(Error::invalid(op, "cache_seqlens", format_args!("at most {limit}"), n));
        }
        match softmax_lse {
            Some(lse) if lse.len() != num_heads * total_q => {
                Err(Error::shape(op, "softmax_lse", [num_heads, total_q], [lse.len()]))
            }
            _ => Ok(DecodeCall { seqlen_q, capacity }),
        }
    }
}
