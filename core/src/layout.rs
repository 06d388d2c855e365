//! Shapes and strides of `[tokens, heads, head_dim]` tensors.

use crate::{Error, Result};

/// Where the elements of a tensor lie.
///
/// A tensor has `batch x seqlen` tokens, numbered through over the whole batch, `heads` heads and `head_dim`
/// contiguous features. `B,S,H,D`, `B,H,S,D` and ragged `T,H,D` tensors are the same thing with different
/// strides. All strides are in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Sequences of equal length that lie at `batch_stride` from one another; 1 for ragged tensors.
    pub batch: usize,
    /// Tokens of each of them.
    pub seqlen: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head; the last dimension, contiguous.
    pub head_dim: usize,
    /// Elements from a sequence to the next.
    pub batch_stride: usize,
    /// Elements from a token to the next.
    pub token_stride: usize,
    /// Elements from a head to the next.
    pub head_stride: usize,
}

impl Layout {
    /// Contiguous `[tokens, heads, head_dim]`.
    pub fn thd(tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self::bshd(1, tokens, heads, head_dim)
    }

    /// Contiguous `[batch, seqlen, heads, head_dim]`. Sizes that overflow are caught by [`Layout::required_len`].
    pub fn bshd(batch: usize, seqlen: usize, heads: usize, head_dim: usize) -> Self {
        let token_stride = heads.saturating_mul(head_dim);
        let batch_stride = seqlen.saturating_mul(token_stride);
        Self { batch, seqlen, heads, head_dim, batch_stride, token_stride, head_stride: head_dim }
    }

    /// Contiguous `[batch, heads, seqlen, head_dim]`.
    pub fn bhsd(batch: usize, heads: usize, seqlen: usize, head_dim: usize) -> Self {
        let head_stride = seqlen.saturating_mul(head_dim);
        let batch_stride = heads.saturating_mul(head_stride);
        Self { batch, seqlen, heads, head_dim, batch_stride, token_stride: head_dim, head_stride }
    }

    /// Tokens over the whole batch.
    pub fn tokens(&self) -> usize {
        self.batch * self.seqlen
    }

    /// `[tokens, heads, head_dim]`, for messages and comparisons.
    pub fn shape(&self) -> [usize; 3] {
        [self.tokens(), self.heads, self.head_dim]
    }

    /// The offset of `(token, head, 0)`.
    #[inline]
    pub fn offset(&self, token: usize, head: usize) -> usize {
        let (b, t) = if self.batch == 1 { (0, token) } else { (token / self.seqlen, token % self.seqlen) };
        b * self.batch_stride + t * self.token_stride + head * self.head_stride
    }

    /// How many elements a buffer must hold for this layout, or [`Error::TooLarge`] when that overflows `usize`.
    pub fn required_len(&self, op: &'static str) -> Result<usize> {
        let dims = [
            (self.batch, self.batch_stride),
            (self.seqlen, self.token_stride),
            (self.heads, self.head_stride),
            (self.head_dim, 1),
        ];
        let too_large = || Error::TooLarge {
            op,
            what: "the tensor's extent in elements",
            limit: isize::MAX as u64,
            got: format!("{self:?}"),
        };
        // `tokens()` multiplies unchecked; refuse here what would overflow there.
        self.batch.checked_mul(self.seqlen).ok_or_else(too_large)?;
        if dims.iter().any(|&(n, _)| n == 0) {
            return Ok(0);
        }
        let mut last = 0usize;
        for (n, stride) in dims {
            last = (n - 1).checked_mul(stride).and_then(|x| last.checked_add(x)).ok_or_else(too_large)?;
        }
        last.checked_add(1).filter(|&n| n <= isize::MAX as usize).ok_or_else(too_large)
    }

    /// Whether no two `(batch, token, head)` rows share an element: what a mutable view needs.
    ///
    /// Sufficient, not necessary: dimensions sorted by stride must each step over all the smaller ones.
    pub fn is_disjoint(&self) -> bool {
        let mut dims = [
            (self.batch, self.batch_stride),
            (self.seqlen, self.token_stride),
            (self.heads, self.head_stride),
        ];
        if dims.iter().any(|&(n, _)| n == 0) || self.head_dim == 0 {
            return true;
        }
        dims.sort_by_key(|&(_, stride)| stride);
        let mut covered = self.head_dim;
        for (n, stride) in dims.into_iter().filter(|&(n, _)| n > 1) {
            if stride < covered {
                return false;
            }
            covered = match (n - 1).checked_mul(stride).and_then(|x| x.checked_add(covered)) {
                Some(x) => x,
                None => return false,
            };
        }
        true
    }
}
