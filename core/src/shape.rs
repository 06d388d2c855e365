//! The sizes of one attention call: heads, head dim, and the lengths of a ragged batch.

use std::ops::Range;

use crate::{Element, Error, Result, TensorView, TensorViewMut};

/// Sequence lengths of a ragged batch, as cumulative offsets into the token axis.
///
/// Sequence `b` owns query tokens `cu_seqlens_q[b]..cu_seqlens_q[b + 1]` and key tokens
/// `cu_seqlens_k[b]..cu_seqlens_k[b + 1]`. Lengths may be zero and may differ between queries and keys; the
/// causal mask is bottom-right aligned: query row `i` sees key `j` iff `j <= i + (seqlen_k - seqlen_q)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seqlens {
    cu_seqlens_q: Vec<u32>,
    cu_seqlens_k: Vec<u32>,
}

impl Seqlens {
    /// From cumulative offsets, each starting at 0, ascending, and of the same length (batch + 1).
    pub fn new(cu_seqlens_q: Vec<u32>, cu_seqlens_k: Vec<u32>) -> Result<Self> {
        const OP: &str = "Seqlens::new";
        for (arg, cu) in [("cu_seqlens_q", &cu_seqlens_q), ("cu_seqlens_k", &cu_seqlens_k)] {
            if cu.first() != Some(&0) {
                return Err(Error::invalid(OP, arg, "a list that starts at 0", format_args!("{cu:?}")));
            }
            if let Some(i) = cu.windows(2).position(|w| w[0] > w[1]) {
                return Err(Error::invalid(
                    OP,
                    arg,
                    "ascending",
                    format_args!("{} before {} at index {i}", cu[i], cu[i + 1]),
                ));
            }
        }
        if cu_seqlens_q.len() != cu_seqlens_k.len() {
            return Err(Error::shape(OP, "cu_seqlens_k", [cu_seqlens_q.len()], [cu_seqlens_k.len()]));
        }
        Ok(Self { cu_seqlens_q, cu_seqlens_k })
    }

    /// `batch` sequences of the same lengths.
    pub fn uniform(batch: usize, seqlen_q: usize, seqlen_k: usize) -> Result<Self> {
        let cu = |n: usize| -> Result<Vec<u32>> {
            (0..=batch)
                .map(|b| b.checked_mul(n).and_then(|x| u32::try_from(x).ok()))
                .collect::<Option<Vec<u32>>>()
                .ok_or_else(|| Error::TooLarge {
                    op: "Seqlens::uniform",
                    what: "the number of tokens in the batch",
                    limit: u32::MAX as u64,
                    got: format!("{batch} x {n}"),
                })
        };
        Self::new(cu(seqlen_q)?, cu(seqlen_k)?)
    }

    /// One sequence.
    pub fn single(seqlen_q: usize, seqlen_k: usize) -> Result<Self> {
        Self::uniform(1, seqlen_q, seqlen_k)
    }

    /// Sequences in the batch.
    pub fn batch(&self) -> usize {
        self.cu_seqlens_q.len() - 1
    }

    /// The cumulative query offsets, `batch + 1` of them.
    pub fn cu_seqlens_q(&self) -> &[u32] {
        &self.cu_seqlens_q
    }

    /// The cumulative key offsets, `batch + 1` of them.
    pub fn cu_seqlens_k(&self) -> &[u32] {
        &self.cu_seqlens_k
    }

    /// Query tokens of sequence `b`, as positions on the token axis.
    pub fn q_range(&self, b: usize) -> Range<usize> {
        self.cu_seqlens_q[b] as usize..self.cu_seqlens_q[b + 1] as usize
    }

    /// Key tokens of sequence `b`, as positions on the token axis.
    pub fn k_range(&self, b: usize) -> Range<usize> {
        self.cu_seqlens_k[b] as usize..self.cu_seqlens_k[b + 1] as usize
    }

    /// Query tokens of sequence `b`.
    pub fn seqlen_q(&self, b: usize) -> usize {
        self.q_range(b).len()
    }

    /// Key tokens of sequence `b`.
    pub fn seqlen_k(&self, b: usize) -> usize {
        self.k_range(b).len()
    }

    /// `seqlen_k - seqlen_q` of sequence `b`: the tokens that came before this call's queries. Negative when there
    /// are more queries than keys; the first rows then see nothing.
    pub fn past(&self, b: usize) -> isize {
        self.seqlen_k(b) as isize - self.seqlen_q(b) as isize
    }

    /// Query tokens over the whole batch.
    pub fn total_q(&self) -> usize {
        self.cu_seqlens_q[self.batch()] as usize
    }

    /// Key tokens over the whole batch.
    pub fn total_k(&self) -> usize {
        self.cu_seqlens_k[self.batch()] as usize
    }

    /// The longest query sequence.
    pub fn max_seqlen_q(&self) -> usize {
        (0..self.batch()).map(|b| self.seqlen_q(b)).max().unwrap_or(0)
    }

    /// The longest key sequence.
    pub fn max_seqlen_k(&self) -> usize {
        (0..self.batch()).map(|b| self.seqlen_k(b)).max().unwrap_or(0)
    }
}

/// The sizes one attention plan is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads` (GQA, MQA).
    pub num_heads_k: usize,
    /// Features of a head.
    pub head_dim: usize,
    /// Lengths of the batch.
    pub seqlens: Seqlens,
}

/// The largest `head_dim` the kernels take.
pub const MAX_HEAD_DIM: usize = 256;

impl AttentionShape {
    /// Checks head counts and head dim.
    pub fn new(num_heads: usize, num_heads_k: usize, head_dim: usize, seqlens: Seqlens) -> Result<Self> {
        const OP: &str = "AttentionShape::new";
        if num_heads_k == 0 || num_heads == 0 || !num_heads.is_multiple_of(num_heads_k) {
            return Err(Error::invalid(
                OP,
                "num_heads",
                format_args!("a positive multiple of num_heads_k ({num_heads_k})"),
                num_heads,
            ));
        }
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(Error::invalid(OP, "head_dim", format_args!("in 1..={MAX_HEAD_DIM}"), head_dim));
        }
        Ok(Self { num_heads, num_heads_k, head_dim, seqlens })
    }

    /// Query heads per KV head.
    pub fn group_size(&self) -> usize {
        self.num_heads / self.num_heads_k
    }

    /// The KV head that query head `h` reads: `h / G`, or `h % num_heads_k` when interleaved.
    pub fn head_k(&self, h: usize, gqa_interleave: bool) -> usize {
        if gqa_interleave { h % self.num_heads_k } else { h / self.group_size() }
    }

    /// `1 / sqrt(head_dim)` unless given.
    pub fn softmax_scale(&self, softmax_scale: Option<f32>) -> f32 {
        softmax_scale.unwrap_or_else(|| (1.0 / (self.head_dim as f64).sqrt()) as f32)
    }

    /// Refuses a `q` whose shape is not `[total_q, num_heads, head_dim]`.
    pub fn check_q<T: Element>(&self, op: &'static str, arg: &'static str, q: &TensorView<T>) -> Result<()> {
        check(op, arg, [self.seqlens.total_q(), self.num_heads, self.head_dim], q.shape())
    }

    /// Refuses a `k` or `v` whose shape is not `[total_k, num_heads_k, head_dim]`.
    pub fn check_k<T: Element>(&self, op: &'static str, arg: &'static str, k: &TensorView<T>) -> Result<()> {
        check(op, arg, [self.seqlens.total_k(), self.num_heads_k, self.head_dim], k.shape())
    }

    /// Refuses an output whose shape is not `[total_q, num_heads, head_dim]`.
    fn check_out(&self, op: &'static str, out: [usize; 3]) -> Result<()> {
        check(op, "out", [self.seqlens.total_q(), self.num_heads, self.head_dim], out)
    }

    /// Refuses an LSE buffer that is not `[num_heads, total_q]`.
    pub fn check_lse(&self, op: &'static str, softmax_lse: Option<&[f32]>) -> Result<()> {
        let want = self.num_heads * self.seqlens.total_q();
        match softmax_lse {
            Some(lse) if lse.len() != want => {
                Err(Error::shape(op, "softmax_lse", [self.num_heads, self.seqlens.total_q()], [lse.len()]))
            }
            _ => Ok(()),
        }
    }

    /// Refuses tensors of one attention call that do not fit.
    pub fn check_call<T: Element>(
        &self,
        op: &'static str,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &TensorViewMut<T>,
        softmax_lse: Option<&[f32]>,
    ) -> Result<()> {
        self.check_q(op, "q", q)?;
        self.check_k(op, "k", k)?;
        self.check_k(op, "v", v)?;
        self.check_out(op, out.shape())?;
        self.check_lse(op, softmax_lse)
    }

    /// Refuses a sequence that is not in the batch, and rows of queries or columns of keys that it does not have.
    pub fn check_window(
        &self,
        op: &'static str,
        b: usize,
        rows: &Range<usize>,
        columns: &Range<usize>,
    ) -> Result<()> {
        if b >= self.seqlens.batch() {
            return Err(Error::invalid(op, "b", format_args!("below {}", self.seqlens.batch()), b));
        }
        for (arg, range, len) in
            [("rows", rows, self.seqlens.seqlen_q(b)), ("columns", columns, self.seqlens.seqlen_k(b))]
        {
            if range.start > range.end || range.end > len {
                return Err(Error::invalid(
                    op,
                    arg,
                    format_args!("within 0..{len}"),
                    format_args!("{range:?}"),
                ));
            }
        }
        Ok(())
    }
}

fn check(op: &'static str, arg: &'static str, want: [usize; 3], got: [usize; 3]) -> Result<()> {
    if want == got { Ok(()) } else { Err(Error::shape(op, arg, want, got)) }
}
