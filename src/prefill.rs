//! Prefill attention under a pattern: search, then attention over what it kept.

use std::time::{Duration, Instant};

use crate::staging::Staging;
use crate::{
    AttentionOptions, AttentionShape, Device, Element, Pattern, Report, Result, Selection, TensorView,
    TensorViewMut, block_sparse_attention, cpu, dense_attention, gpu, pattern,
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
    engine: Engine<T>,
}

enum Engine<T: Element> {
    Cpu { search: Box<pattern::Plan<T>>, attention: Attention<T> },
    Gpu(Box<OnGpu<T>>),
}

enum Attention<T: Element> {
    Dense(dense_attention::Plan<T>),
    BlockSparse(block_sparse_attention::Plan<T>),
    VerticalSlash(Box<cpu::vertical_slash::AttentionPlan<T>>),
}

struct OnGpu<T: Element> {
    shape: AttentionShape,
    plan: gpu::prefill::Plan<T>,
    staging: Staging<T>,
    /// Whether the pattern reads `k` to choose.
    searches: bool,
    /// Before the search, between it and the attention, and after.
    events: [gpu::Event; 3],
}

impl<T: Element> Plan<T> {
    /// Plans calls of `shape` under `pattern`; the search and the attention run on `device`.
    ///
    /// # Errors
    /// As [`pattern::Plan::new`] and the attention's plan; on a GPU as [`gpu::prefill::Plan::new`].
    pub fn new(
        device: Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
        pattern: &Pattern,
    ) -> Result<Self> {
        let engine = match device.context()? {
            Some(context) => Engine::Gpu(Box::new(OnGpu {
                plan: gpu::prefill::Plan::new(&context, shape, options, pattern)?,
                staging: Staging::of_shape(&context, shape)?,
                shape: shape.clone(),
                searches: pattern.searches(),
                events: [context.new_event()?, context.new_event()?, context.new_event()?],
            })),
            None => {
                let search = Box::new(pattern::Plan::new(shape, options, pattern)?);
                let attention = match (pattern, pattern.block_size()) {
                    (Pattern::VerticalSlash(_), _) => Attention::VerticalSlash(Box::new(
                        cpu::vertical_slash::AttentionPlan::new(shape, options)?,
                    )),
                    (_, Some(block)) => Attention::BlockSparse(block_sparse_attention::Plan::new(
                        device, shape, options, block, block,
                    )?),
                    (_, None) => Attention::Dense(dense_attention::Plan::new(device, shape, options)?),
                };
                Engine::Cpu { search, attention }
            }
        };
        Ok(Self { causal: options.causal, engine })
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
        let (search, attention) = match &mut self.engine {
            Engine::Cpu { search, attention } => (search, attention),
            Engine::Gpu(on_gpu) => {
                let [search, attention] = on_gpu.run(q, k, v, out, softmax_lse)?;
                let selection = on_gpu.plan.fetch_selection(on_gpu.staging.stream())?;
                let density = selection.density(self.causal);
                observe(selection);
                return Ok(Report { density, search, attention });
            }
        };
        let start = Instant::now();
        let selection = search.search(q, k)?;
        let search = start.elapsed();
        let density = selection.density(self.causal);
        observe(selection);
        let start = Instant::now();
        match (attention, selection) {
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

impl<T: Element> OnGpu<T> {
    /// The whole call; returns the device's time of search and attention.
    fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<[Duration; 2]> {
        let Self { shape, plan, staging, searches, events: [start, searched, end] } = self;
        shape.check_call("prefill", q, k, v, out, softmax_lse.as_deref())?;
        cpu::check_finite("prefill", "q", q)?;
        if *searches {
            cpu::check_finite("prefill", "k", k)?;
        }
        staging.run(q, k, v, Some, out, softmax_lse, |mut on| {
            start.record(on.stream)?;
            plan.search(on.stream, &on.q, &on.k)?;
            searched.record(on.stream)?;
            plan.attend(on.stream, &on.q, &on.k, &on.v, &mut on.out, on.softmax_lse)?;
            end.record(on.stream)
        })?;
        let seconds = |from: &gpu::Event, to: &gpu::Event| -> Result<Duration> {
            Ok(Duration::from_secs_f32(from.elapsed_ms(to)?.max(0.0) / 1e3))
        };
        Ok([seconds(start, searched)?, seconds(searched, end)?])
    }
}
