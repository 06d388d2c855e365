//! Which columns and diagonals weigh most for the last queries.

use std::marker::PhantomData;

use lacuna_core::{AttentionShape, Element, Error, Result, VerticalSlashOptions};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::TokenTopKParams;
use lacuna_kernels_gpu::tile_size::PROBE_ROWS;

use super::{DeviceVerticalSlashIndex, OP, RawVerticalSlashIndex};
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::RawStream;
use crate::launch::Launch;
use crate::probe::{self, Probe};
use crate::search::SearchCall;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

/// The fewest columns and diagonals the published search keeps.
const MIN_VERTICAL: usize = 30;
const MIN_SLASH: usize = 50;

/// The search for one shape, causal: four launches, two of the probe and one for each list.
///
/// For every (sequence, head): with `m = min(last_q, seqlen_q)`, `p[i, :]` is the softmax of the `i`-th of the last `m`
/// query rows, which stands at key `seqlen_k - m + i` and sees the keys up to there. Column `j` scores
/// `sum_i p[i, j]`, offset `o` scores `sum_i p[i, seqlen_k - m + i - o]`; the first `sink` columns and the first `recent`
/// offsets come before all others. The `max(vertical_size, 30)` best columns and the `max(slash_size, 50)` best offsets are
/// kept, as far as there are as many, ties to the lowest index.
///
/// # Numerics
/// Those of [`crate::probe::Plan`]. Queries of the probe, and keys, have to be finite: a head with one that is not keeps the
/// columns and offsets that come before all others and, for the rest of either list, the lowest.
#[derive(Debug)]
pub struct SearchPlan<T> {
    context: Context,
    shape: AttentionShape,
    call: SearchCall,
    probe: Probe,
    columns: Selection,
    slashes: Selection,
    element: PhantomData<T>,
}

/// The choice of one list of every head.
#[derive(Debug)]
struct Selection {
    launch: Launch,
    params: TokenTopKParams,
}

impl Selection {
    /// Keeps the `k` best, the first `forced` before all others.
    fn new(context: &Context, shape: &AttentionShape, k: usize, forced: usize) -> Result<Self> {
        let (heads, batch) = (shape.num_heads, shape.seqlens.batch());
        let most = shape.seqlens.max_seqlen_k();
        let what = ["", "the number of query heads", "the number of sequences"];
        Ok(Self {
            launch: Launch::new(context, OP, &kernel::top_k_tokens().kernel, [1, heads, batch], what)?,
            params: TokenTopKParams {
                num_heads: check::to_u32(OP, "num_heads", heads)?,
                k: check::to_u32(OP, "the number of keys of a sequence", k.min(most))?,
                forced: forced.min(most) as u32,
                descending: 0,
            },
        })
    }

    fn len(&self) -> usize {
        self.params.k as usize
    }
}

impl<T: Element> SearchPlan<T> {
    /// Validates the options, allocates what the search keeps between its launches, and uploads the table of sequences.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range (`last_q` is at most 128 on a device), for a type or head dim that
    /// the kernels do not take; [`Error::TooLarge`] for sizes that a launch does not hold; [`Error::Device`] for what the
    /// device refuses.
    pub fn new(context: &Context, shape: &AttentionShape, options: &VerticalSlashOptions) -> Result<Self> {
        options.check(OP)?;
        let probe = probe::Options {
            last_q: options.last_q,
            softmax_scale: options.softmax_scale,
            gqa_interleave: options.gqa_interleave,
            round: false,
        };
        let (vertical, slash) = (options.vertical_size.max(MIN_VERTICAL), options.slash_size.max(MIN_SLASH));
        Ok(Self {
            call: SearchCall::new(context, OP, shape, PROBE_ROWS as usize, true)?,
            probe: Probe::new::<T>(context, OP, shape, &probe)?,
            columns: Selection::new(context, shape, vertical, options.sink)?,
            slashes: Selection::new(context, shape, slash, options.recent)?,
            context: context.clone(),
            shape: shape.clone(),
            element: PhantomData,
        })
    }

    /// An index with room for what the search finds, no more and no less: what [`SearchPlan::run`] takes.
    ///
    /// # Errors
    /// As [`DeviceVerticalSlashIndex::empty`].
    pub fn empty_index(&self) -> Result<DeviceVerticalSlashIndex> {
        DeviceVerticalSlashIndex::empty(&self.context, &self.shape, self.columns.len(), self.slashes.len())
    }

    /// Queues the search of `q`, `[total_q, num_heads, head_dim]`, against `k`, `[total_k, num_heads_k, head_dim]`, which
    /// overwrites `index`. Addresses and strides are multiples of 16 bytes.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor or the room of the index does not fit the plan, [`Error::InvalidArgument`]
    /// for a tensor that is not aligned, an index of another shape, or what lies on another device.
    pub fn run(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        index: &mut DeviceVerticalSlashIndex,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let AttentionShape { num_heads, num_heads_k, head_dim, seqlens, .. } = &self.shape;
        arg("stream").stream(&self.context, stream)?;
        let q = arg("q").view(&self.context, q, [seqlens.total_q(), *num_heads, *head_dim])?;
        let k = arg("k").view(&self.context, k, [seqlens.total_k(), *num_heads_k, *head_dim])?;
        index.check(&self.context, *num_heads, seqlens)?;
        index.check_room(self.columns.len(), self.slashes.len())?;
        // SAFETY: tensors and index have the plan's shape and lie on its device; buffers live until queued work is done.
        unsafe { self.run_raw(stream.raw(), q, k, &index.raw()) }
    }

    /// As [`SearchPlan::run`], on addresses and a stream of any owner. Alignment is checked.
    ///
    /// # Safety
    /// `q` and `k` are as for [`crate::dense_attention::Plan::run_raw`]. The arrays of `index` have a row for every (sequence,
    /// query head), whose steps are those of [`SearchPlan::empty_index`]; nothing else uses them until the work is done. No
    /// other run of this plan is under way: those before are on the same stream or ordered by events.
    ///
    /// # Errors
    /// An address or stride that is no multiple of 16 bytes, [`Error::ShapeMismatch`] for other steps, and what the driver
    /// reports.
    pub unsafe fn run_raw(
        &mut self,
        stream: RawStream,
        q: RawTensor,
        k: RawTensor,
        index: &RawVerticalSlashIndex,
    ) -> Result<()> {
        let (want, got) =
            ([self.columns.params.k, self.slashes.params.k], [index.column_step, index.slash_step]);
        if want != got {
            let usize = |x: [u32; 2]| x.map(|x| x as usize);
            return Err(Error::shape(
                OP,
                "the room for columns and slashes of index",
                usize(want),
                usize(got),
            ));
        }
        let sequences = self.call.sequences.ptr();
        // SAFETY: the caller's promise for tensors and index; the table and the scores are the plan's, and the selections
        // come after the probe on the same stream.
        unsafe {
            self.probe.launch::<T>(OP, stream, q, k, sequences)?;
            let lists = [
                (&self.columns, self.probe.vertical(), index.columns, index.column_counts),
                (&self.slashes, self.probe.slash(), index.slashes, index.slash_counts),
            ];
            for (selection, scores, entries, counts) in lists {
                let pointers = [scores.ptr(), sequences, entries, counts];
                selection.launch.run(stream, pointers, &selection.params)?;
            }
        }
        Ok(())
    }

    /// Bytes of device memory that the plan keeps beside its table of sequences: two scores for each key and query head, and
    /// what the probe needs, of the same order.
    pub fn workspace_bytes(&self) -> usize {
        self.probe.workspace_bytes()
    }
}
