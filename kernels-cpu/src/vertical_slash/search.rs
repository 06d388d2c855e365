//! Which columns and diagonals weigh most for the last queries.

use lacuna_core::{AttentionShape, Element, Result, TensorView, VerticalSlashIndex, VerticalSlashOptions};

use crate::buffer::{SharedPtr, zeroed_vec};
use crate::per_type::per_type;
use crate::probe::{Probe, ProbeOptions};
use crate::{schedule, top_k};

const OP: &str = "vertical_slash";

/// The fewest columns and diagonals the published search keeps.
const MIN_VERTICAL: usize = 30;
const MIN_SLASH: usize = 50;

/// The search for one shape, causal.
///
/// For every (sequence, head): with `m = min(last_q, seqlen_q)`, `p[i, :]` is the softmax of the `i`-th of the last `m`
/// query rows, which stands at key `seqlen_k - m + i` and sees the keys up to there. Column `j` scores
/// `sum_i p[i, j]`, offset `o` scores `sum_i p[i, seqlen_k - m + i - o]`; the first `sink` columns and the first `recent`
/// offsets come before all others. The `max(vertical_size, 30)` best columns and the `max(slash_size, 50)` best offsets are
/// kept, as far as there are as many, ties to the lowest index. A sequence without keys keeps offset 0 alone.
///
/// Two passes over the keys in `f32`; memory for two scores for each key and head.
///
/// ```
/// use lacuna_core::{AttentionShape, Seqlens, TensorView, VerticalSlashOptions};
/// use lacuna_kernels_cpu::vertical_slash::SearchPlan;
/// let shape = AttentionShape::new(2, 1, 64, Seqlens::single(256, 256)?)?;
/// let options = VerticalSlashOptions { vertical_size: 30, slash_size: 100, ..Default::default() };
/// let (q, k) = (vec![0.0f32; 256 * 2 * 64], vec![0.0f32; 256 * 64]);
/// let mut plan = SearchPlan::new(&shape, &options)?;
/// let index = plan.search(&TensorView::thd(&q, 256, 2, 64)?, &TensorView::thd(&k, 256, 1, 64)?)?;
/// assert_eq!(index.columns(0, 0, 3), (0..30).collect::<Vec<u32>>());
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct SearchPlan<T> {
    shape: AttentionShape,
    options: VerticalSlashOptions,
    probe: Probe<T>,
    /// Columns and offsets of every (sequence, head), `[sequence][head][2][most]`, and how many.
    kept: Vec<u32>,
    counts: Vec<usize>,
    most: usize,
    scratch: Vec<Scratch>,
    index: VerticalSlashIndex,
}

#[derive(Default)]
struct Scratch {
    keys: Vec<u64>,
    indices: Vec<u32>,
}

impl<T: Element> SearchPlan<T> {
    /// Validates the options and allocates.
    ///
    /// # Errors
    /// Options out of range, sizes that overflow.
    pub fn new(shape: &AttentionShape, options: &VerticalSlashOptions) -> Result<Self> {
        options.check(OP)?;
        let probe = ProbeOptions {
            op: OP,
            last_q: options.last_q,
            softmax_scale: shape.softmax_scale(options.softmax_scale),
            gqa_interleave: options.gqa_interleave,
            round: false,
        };
        let most = options.vertical_size.max(MIN_VERTICAL).max(options.slash_size.max(MIN_SLASH));
        let most = most.min(shape.seqlens.max_seqlen_k());
        let items = shape.seqlens.batch().saturating_mul(shape.num_heads);
        Ok(Self {
            probe: Probe::new(shape, probe, |_| true)?,
            kept: zeroed_vec(OP, &[items, 2, most])?,
            counts: zeroed_vec(OP, &[items, 2])?,
            most,
            scratch: (0..rayon::current_num_threads())
                .map(|_| Scratch {
                    keys: Vec::with_capacity(shape.seqlens.max_seqlen_k()),
                    indices: Vec::with_capacity(most),
                })
                .collect(),
            index: VerticalSlashIndex::empty(shape)?,
            shape: shape.clone(),
            options: options.clone(),
        })
    }

    /// Searches `q` `[total_q, num_heads, head_dim]` against `k` `[total_k, num_heads_k, head_dim]`.
    ///
    /// # Errors
    /// Tensors of another shape than the plan's; [`lacuna_core::Error::NotFinite`] for the first value that is not finite
    /// among the keys and the last `last_q` queries of a sequence that has both; an invalid argument when finite values
    /// make logits that are not.
    pub fn search(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<&VerticalSlashIndex> {
        self.shape.check_q(OP, "q", q)?;
        self.shape.check_k(OP, "k", k)?;
        let mut result = Ok(());
        per_type!(T, Search, Search { plan: self, q, k, result: &mut result }, run);
        result.map(|()| &self.index)
    }

    fn run(&mut self, q: &TensorView<T>, k: &TensorView<T>) -> Result<()> {
        self.probe.run(q, k)?;
        let (heads, most, options) = (self.shape.num_heads, self.most, &self.options);
        let (probe, seqlens) = (&self.probe, &self.shape.seqlens);
        let kept = SharedPtr(self.kept.as_mut_ptr());
        let counts = SharedPtr(self.counts.as_mut_ptr());
        schedule::for_each(&mut self.scratch, seqlens.batch() * heads, |scratch, item| {
            let (b, head) = (item / heads, item % heads);
            let Scratch { keys, indices } = scratch;
            for kind in [0, 1] {
                if kind == 0 {
                    let columns = probe.vertical(b, head).flatten().copied();
                    let k = options.vertical_size.max(MIN_VERTICAL);
                    top_k::select(columns, k, |j| j < options.sink, keys, indices);
                } else {
                    let offsets = probe.slash(b, head).flatten().copied().rev();
                    let k = options.slash_size.max(MIN_SLASH);
                    top_k::select(offsets, k, |o| o < options.recent, keys, indices);
                    indices.reverse();
                }
                // SAFETY: every item has its own lists and counts; no list is longer than `most`.
                unsafe {
                    let out = kept.add((item * 2 + kind) * most).0;
                    std::ptr::copy_nonoverlapping(indices.as_ptr(), out, indices.len());
                    counts.add(item * 2 + kind).0.write(indices.len());
                }
            }
        });
        self.index.clear();
        for (item, counts) in self.counts.chunks_exact(2).enumerate() {
            let (columns, slashes) = self.kept[item * 2 * most..][..2 * most].split_at(most);
            let slashes = if counts[1] == 0 { &[0][..] } else { &slashes[..counts[1]] };
            self.index.push_head(&columns[..counts[0]], slashes)?;
        }
        Ok(())
    }
}

/// One call of [`SearchPlan::search`].
struct Search<'a, T: Element> {
    plan: &'a mut SearchPlan<T>,
    q: &'a TensorView<'a, T>,
    k: &'a TensorView<'a, T>,
    result: &'a mut Result<()>,
}

impl<T: Element> Search<'_, T> {
    fn run(self) {
        *self.result = self.plan.run(self.q, self.k);
    }
}
