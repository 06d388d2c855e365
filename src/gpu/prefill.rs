//! Prefill attention under a pattern, on device memory: the search and the attention over what it kept, on one stream.

use lacuna_kernels_host::block_mask::DeviceBlockMask;
use lacuna_kernels_host::vertical_slash::{self, DeviceVerticalSlashIndex};
use lacuna_kernels_host::{
    Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream, block_sparse_attention, dense_attention,
    flex_prefill, x_attention,
};

use crate::pattern::{self, Pattern, Selection};
use crate::{AttentionOptions, AttentionShape, BlockMask, Element, Error, Result, VerticalSlashIndex};

/// A pattern's search and its attention on one device, for calls of fixed sizes.
///
/// Planning allocates; running only launches. Nothing goes back to the host between the search and the attention, and
/// both can be captured in a [`Graph`](lacuna_kernels_host::Graph).
///
/// # Examples
/// ```
/// # #[cfg(feature = "emulator")] {
/// use half::bf16;
/// use lacuna::gpu::{DeviceTensor, prefill};
/// use lacuna::{Arch, AttentionOptions, AttentionShape, Device, Pattern, Seqlens, TensorView};
///
/// let context = Device::Emulated(Arch::Sm80).context()?.expect("not the CPU");
/// let stream = context.default_stream();
/// let shape = AttentionShape::new(2, 1, 64, Seqlens::single(300, 300)?)?;
/// let (q, kv) = (vec![bf16::from_f32(0.5); 300 * 2 * 64], vec![bf16::from_f32(0.25); 300 * 64]);
/// let q = DeviceTensor::from_host(&context, &TensorView::thd(&q, 300, 2, 64)?, "q")?;
/// let kv = DeviceTensor::from_host(&context, &TensorView::thd(&kv, 300, 1, 64)?, "kv")?;
/// let mut out = DeviceTensor::uninit(&context, *q.layout(), "out")?;
///
/// let pattern = Pattern::XAttention(Default::default());
/// let mut plan = prefill::Plan::new(&context, &shape, &AttentionOptions::default(), &pattern)?;
/// plan.search(&stream, &q.view(), &kv.view())?;
/// plan.attend(&stream, &q.view(), &kv.view(), &kv.view(), &mut out.view_mut()?, None)?;
/// assert_eq!(out.to_host(&stream)?[0], bf16::from_f32(0.25));
/// println!("kept {:.0} % of the blocks", 100.0 * plan.fetch_selection(&stream)?.density(true));
/// # }
/// # Ok::<(), lacuna::Error>(())
/// ```
#[derive(Debug)]
pub struct Plan<T: Element> {
    parts: Parts<T>,
    fetched: Fetched,
}

#[derive(Debug)]
enum Parts<T: Element> {
    Dense(dense_attention::Plan<T>),
    Blocks {
        search: BlockSearch<T>,
        block_mask: DeviceBlockMask,
        attention: Box<block_sparse_attention::Plan<T>>,
    },
    VerticalSlash {
        search: Box<vertical_slash::SearchPlan<T>>,
        index: DeviceVerticalSlashIndex,
        attention: Box<vertical_slash::AttentionPlan<T>>,
    },
}

#[derive(Debug)]
enum BlockSearch<T: Element> {
    /// The mask is fixed.
    Static,
    FlexPrefill(Box<flex_prefill::Plan<T>>),
    XAttention(Box<x_attention::Plan<T>>),
}

/// The last selection that was copied to the host.
#[derive(Debug)]
enum Fetched {
    Dense,
    Blocks(BlockMask),
    VerticalSlash(VerticalSlashIndex),
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape` under `pattern` on the context's device.
    ///
    /// # Errors
    /// As [`pattern::Plan::new`] and the attention's plan; besides, what the device's kernels do not take: block sizes that
    /// are no multiple of 64 (searches: other than 64 and 128), head dims other than 64 and 128, `f32`.
    pub fn new(
        context: &Context,
        shape: &AttentionShape,
        options: &AttentionOptions,
        pattern: &Pattern,
    ) -> Result<Self> {
        let resolved = pattern::Resolved::new(shape, options, pattern)?;
        let blocks = |search: BlockSearch<T>, block_size: usize, block_mask| -> Result<Parts<T>> {
            let attention =
                block_sparse_attention::Plan::new(context, shape, options, block_size, block_size)?;
            Ok(Parts::Blocks { search, block_mask, attention: Box::new(attention) })
        };
        let parts = match resolved {
            pattern::Resolved::Dense => Parts::Dense(dense_attention::Plan::new(context, shape, options)?),
            pattern::Resolved::Static(mask) => {
                let block_size = mask.block_m();
                blocks(BlockSearch::Static, block_size, DeviceBlockMask::from_host(context, &mask)?)?
            }
            pattern::Resolved::FlexPrefill(options) => {
                let search = flex_prefill::Plan::new(context, shape, &options)?;
                let mask = search.empty_mask()?;
                blocks(BlockSearch::FlexPrefill(Box::new(search)), options.block_size, mask)?
            }
            pattern::Resolved::XAttention(x_options) => {
                let search = x_attention::Plan::new(context, shape, &x_options, options.causal)?;
                let mask = search.empty_mask()?;
                blocks(BlockSearch::XAttention(Box::new(search)), x_options.block_size, mask)?
            }
            pattern::Resolved::VerticalSlash(slash_options) => {
                let search = vertical_slash::SearchPlan::new(context, shape, &slash_options)?;
                Parts::VerticalSlash {
                    index: search.empty_index()?,
                    search: Box::new(search),
                    attention: Box::new(vertical_slash::AttentionPlan::new(context, shape, options)?),
                }
            }
        };
        Ok(Self { parts, fetched: Fetched::Dense })
    }

    /// Queues the search: chooses what [`Plan::attend`] reads. Values that are not finite make the choice arbitrary, within
    /// the blocks that exist.
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] where a tensor does not fit the plan, and what the driver
    /// reports.
    pub fn search(&mut self, stream: &Stream, q: &DeviceView<T>, k: &DeviceView<T>) -> Result<()> {
        match &mut self.parts {
            Parts::Dense(_) => Ok(()),
            Parts::Blocks { search, block_mask, .. } => match search {
                BlockSearch::Static => Ok(()),
                BlockSearch::FlexPrefill(plan) => plan.run(stream, q, k, block_mask),
                BlockSearch::XAttention(plan) => plan.run(stream, q, k, block_mask),
            },
            Parts::VerticalSlash { search, index, .. } => search.run(stream, q, k, index),
        }
    }

    /// As [`Plan::search`] for [`Pattern::XAttention`], with `thresholds` in the place of the options' own: one per query
    /// head, from 0 to 1, as each layer of a model may have its own.
    ///
    /// # Errors
    /// As [`Plan::search`], and [`Error::InvalidArgument`] for a pattern without a threshold.
    pub fn search_with_thresholds(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        thresholds: &DeviceBuffer<f32>,
    ) -> Result<()> {
        match &mut self.parts {
            Parts::Blocks { search: BlockSearch::XAttention(plan), block_mask, .. } => {
                plan.run_with_thresholds(stream, q, k, thresholds, block_mask)
            }
            _ => {
                Err(Error::invalid("prefill", "thresholds", "given for XAttention alone", "another pattern"))
            }
        }
    }

    /// Queues the attention over what the last search chose.
    ///
    /// # Errors
    /// As [`dense_attention::Plan::run`].
    pub fn attend(
        &mut self,
        stream: &Stream,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
        out: &mut DeviceViewMut<T>,
        softmax_lse: Option<&mut DeviceBuffer<f32>>,
    ) -> Result<()> {
        match &mut self.parts {
            Parts::Dense(plan) => plan.run(stream, q, k, v, out, softmax_lse),
            Parts::Blocks { block_mask, attention, .. } => {
                attention.run(stream, q, k, v, block_mask, out, softmax_lse)
            }
            Parts::VerticalSlash { index, attention, .. } => {
                attention.run(stream, q, k, v, index, out, softmax_lse)
            }
        }
    }

    /// Waits for the stream, and copies what the last search chose to the host.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn fetch_selection(&mut self, stream: &Stream) -> Result<Selection<'_>> {
        self.fetched = match &self.parts {
            Parts::Dense(_) => Fetched::Dense,
            Parts::Blocks { block_mask, .. } => Fetched::Blocks(block_mask.to_host(stream)?),
            Parts::VerticalSlash { index, .. } => Fetched::VerticalSlash(index.to_host(stream)?),
        };
        Ok(match &self.fetched {
            Fetched::Dense => Selection::Dense,
            Fetched::Blocks(mask) => Selection::Blocks(mask),
            Fetched::VerticalSlash(index) => Selection::VerticalSlash(index),
        })
    }
}
