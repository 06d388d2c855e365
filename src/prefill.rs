//! Prefill attention under a pattern: search, then attention over what it kept.

use std::time::Instant;

use crate::{
    AttentionOptions, AttentionShape, Device, Element, Error, Pattern, Report, Result, Selection, TensorView,
    TensorViewMut, block_sparse_attention, cpu, dense_attention, pattern,
};

/// A pattern's search and its attention, for calls of fixed sizes. Planning allocates, running does not.
///
/// # Examples
/// ```
/// use lacuna::{
///     AttentionOptions, AttentionShape, Device, FlexPrefillOptions, Pattern, Seqlens, TensorView,
///     TensorViewMut, prefill,
/// };
///
/// let (tokens, heads, heads_k, head_dim) = (512, 2, 1, 64);
/// let shape = AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(tokens, tokens)?)?;
/// let pattern = Pattern::FlexPrefill(FlexPrefillOptions { gamma: 0.95, min_budget: 128, ..Default::default() });
/// let (q, kv) = (vec![0.5f32; tokens * heads * head_dim], vec![0.25f32; tokens * heads_k * head_dim]);
/// let mut out = vec![0.0f32; q.len()];
///
/// let mut plan = prefill::Plan::new(Device::Cpu, &shape, &AttentionOptions::default(), &pattern)?;
/// let report = plan.run(
///     &TensorView::thd(&q, tokens, heads, head_dim)?,
///     &TensorView::thd(&kv, tokens, heads_k, head_dim)?,
///     &TensorView::thd(&kv, tokens, heads_k, head_dim)?,
///     &mut TensorViewMut::thd(&mut out, tokens, heads, head_dim)?,
///     None,
/// )?;
/// assert!(report.density <= 1.0);
/// assert!((out[0] - 0.25).abs() < 1e-6);
/// # Ok::<(), lacuna::Error>(())
/// ```
pub struct Plan<T: Element> {
    causal: bool,
    search: pattern::Plan<T>,
    attention: Attention<T>,
}

enum Attention<T: Element> {
    Dense(dense_attention::Plan<T>),
    BlockSparse(block_sparse_attention::Plan<T>),
    VerticalSlash(Box<cpu::vertical_slash::AttentionPlan<T>>),
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape` under `pattern`. The search runs on this machine's processor, the attention on `device`.
    ///
    /// # Errors
    /// As [`pattern::Plan::new`] and the attention's plan; [`Error::InvalidArgument`] for vertical-slash on a GPU, whose
    /// kernels take blocks.
    pub fn new(
        device: Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
        pattern: &Pattern,
    ) -> Result<Self> {
        let search = pattern::Plan::new(shape, options, pattern)?;
        let attention = match (pattern, pattern.block_size()) {
            (Pattern::VerticalSlash(_), _) => {
                if device != Device::Cpu {
                    let expected = "one of blocks, or dense, on this device";
                    return Err(Error::invalid("prefill", "pattern", expected, pattern.name()));
                }
                Attention::VerticalSlash(Box::new(cpu::vertical_slash::AttentionPlan::new(shape, options)?))
            }
            (_, Some(block)) => {
                let plan = block_sparse_attention::Plan::new(device, shape, options, block, block)?;
                Attention::BlockSparse(plan)
            }
            (_, None) => Attention::Dense(dense_attention::Plan::new(device, shape, options)?),
        };
        Ok(Self { causal: options.causal, search, attention })
    }

    /// Searches, then attends. Shapes, empty rows and errors are as for
    /// [`dense_attention::Plan::run`](crate::dense_attention::Plan::run).
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<Report> {
        self.run_observed(q, k, v, out, softmax_lse, |_| ())
    }

    /// As [`Plan::run`], and shows `observe` what the pattern chose.
    pub fn run_observed(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
        observe: impl FnOnce(Selection<'_>),
    ) -> Result<Report> {
        let start = Instant::now();
        let selection = self.search.search(q, k)?;
        let search = start.elapsed();
        let density = selection.density(self.causal);
        observe(selection);
        let start = Instant::now();
        match (&mut self.attention, selection) {
            (Attention::Dense(plan), _) => plan.run(q, k, v, out, softmax_lse)?,
            (Attention::BlockSparse(plan), Selection::Blocks(block_mask)) => {
                plan.run(q, k, v, block_mask, out, softmax_lse)?
            }
            (Attention::VerticalSlash(plan), Selection::VerticalSlash(index)) => {
                cpu::check_finite("prefill", "q", q)?;
                plan.run(q, k, v, index, out, softmax_lse)?
            }
            _ => unreachable!("`new` plans the attention that the pattern's selection needs"),
        }
        Ok(Report { density, search, attention: start.elapsed() })
    }
}
