//! Attention over the cached rows from one on, under a pattern.

use std::ops::Range;

use bytemuck::Pod;
use lacuna::gpu::{self, Context, DeviceBuffer, Stream, column_mass};
use lacuna::{AttentionOptions, AttentionShape, Element, Seqlens, Threshold};

use super::buffers::Tokens;
use super::marks::Marks;
use super::operations::Parts;
use crate::Result;
use crate::error::allocate;
use crate::model::kv_session::ColumnMass;
use crate::model::{Config, ForwardOptions, Observer};

/// A pattern's plans for one pass.
pub(super) struct Cached<T: Element> {
    /// The rows that are read, those of the pass among them.
    rows: Range<usize>,
    attention: gpu::prefill::Plan<T>,
    /// Layer by layer, where the options have a table of them.
    thresholds: Vec<Option<DeviceBuffer<f32>>>,
    mass: Option<Mass<T>>,
}

/// The column mass of a pass.
struct Mass<T> {
    plan: column_mass::Plan<T>,
    /// Counted from the first row that is read.
    asked: ColumnMass,
    /// Of a layer.
    softmax_lse: DeviceBuffer<f32>,
    /// Of the layers so far.
    sum: DeviceBuffer<f32>,
}

impl<T: Element + Pod> Cached<T> {
    /// Plans a pass of `len` tokens after `past` cached ones, of which it reads those from `from` on.
    pub fn new(
        context: &Context,
        config: &Config,
        options: &ForwardOptions,
        from: usize,
        past: usize,
        len: usize,
        column_mass: Option<ColumnMass>,
    ) -> Result<Self> {
        let seqlens = Seqlens::single(len, past - from + len)?;
        let (heads, heads_k) = (config.num_attention_heads, config.num_key_value_heads);
        let shape = AttentionShape::new(heads, heads_k, config.head_dim, seqlens)?;
        let attention_options = AttentionOptions::default();
        let attention = gpu::prefill::Plan::new(context, &shape, &attention_options, &options.pattern)?;
        let thresholds = (0..config.num_hidden_layers).map(|layer| thresholds_of(context, options, layer));
        let mass = |ColumnMass { rows, columns }| -> Result<_> {
            let what = "column mass";
            let columns = columns.start - from..columns.end - from;
            Ok(Mass {
                plan: column_mass::Plan::new(context, &shape, &attention_options)?,
                softmax_lse: DeviceBuffer::uninit(context, heads * len, what)?,
                sum: DeviceBuffer::from_host(context, &allocate(what, columns.len())?, what)?,
                asked: ColumnMass { rows, columns },
            })
        };
        Ok(Self {
            rows: from..past + len,
            attention,
            thresholds: thresholds.collect::<Result<_>>()?,
            mass: column_mass.map(mass).transpose()?,
        })
    }

    /// Queues a layer's search and attention, and the addition of its column mass.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &Parts<T>,
        tokens: &mut Tokens<T>,
        marks: &Marks,
    ) -> Result<()> {
        let Self { rows, attention, thresholds, mass } = self;
        let stream = parts.stream;
        let (k, v) = parts.cache.views(layer, rows.clone())?;
        let (q, mut out) = tokens.attention_mut()?;
        match &thresholds[layer] {
            Some(thresholds) => attention.search_with_thresholds(stream, &q, &k, thresholds)?,
            None => attention.search(stream, &q, &k)?,
        }
        marks.searched.record(stream)?;
        let lse = mass.as_mut().map(|mass| &mut mass.softmax_lse);
        attention.attend(stream, &q, &k, &v, &mut out, lse)?;
        marks.attended.record(stream)?;
        if let Some(Mass { plan, asked: ColumnMass { rows, columns }, softmax_lse, sum }) = mass {
            plan.run(stream, &q, &k, softmax_lse, 0, rows.clone(), columns.clone(), sum)?;
        }
        Ok(())
    }

    /// The part of the blocks that the last search chose.
    pub fn density(&mut self, stream: &Stream, layer: usize, observer: &mut dyn Observer) -> Result<f64> {
        let selection = self.attention.fetch_selection(stream)?;
        let density = selection.density(true);
        observer.selection(layer, selection);
        Ok(density)
    }

    /// The column mass of all layers; empty where none was asked for.
    pub fn column_mass(&self, stream: &Stream) -> Result<Vec<f32>> {
        let Some(Mass { sum, .. }) = &self.mass else { return Ok(Vec::new()) };
        Ok(sum.to_host(stream)?)
    }
}

/// The thresholds of a layer's heads, where the options have a table of them.
fn thresholds_of(
    context: &Context,
    options: &ForwardOptions,
    layer: usize,
) -> Result<Option<DeviceBuffer<f32>>> {
    let Some(table) = &options.thresholds else { return Ok(None) };
    let Threshold::PerHead(of_heads) = table.of_layer(layer) else {
        unreachable!("a layer of a table has a threshold per head")
    };
    Ok(Some(DeviceBuffer::from_host(context, &of_heads, "thresholds")?))
}
