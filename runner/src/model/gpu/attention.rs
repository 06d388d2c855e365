//! What the tokens of a pass read, layer by layer.

use bytemuck::Pod;
use lacuna::Element;
use lacuna::gpu::{Stream, decode_attention};

use super::buffers::Tokens;
use super::cached::Cached;
use super::marks::Marks;
use super::operations::Parts;
use super::ring::Ring;
use super::shards::ShardPlans;
use crate::Result;
use crate::model::Observer;

/// The attention of one pass.
pub(super) enum Attention<'a, 's, T: Element> {
    Cached(Box<Cached<T>>),
    Shards(ShardPlans<'a, 's, T>),
    Ring(Ring<'a, T>),
}

impl<T: Element + Pod> Attention<'_, '_, T> {
    /// Queues a layer's attention, from the queries of all `tokens` to their outputs, and marks where it begins and ends.
    /// `decode` serves a single token over shards.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &Parts<T>,
        decode: &mut decode_attention::Plan<T>,
        tokens: &mut Tokens<T>,
        marks: &Marks,
    ) -> Result<()> {
        marks.projected.record(parts.stream)?;
        match self {
            Self::Cached(cached) => cached.run(layer, parts, tokens, marks),
            Self::Shards(plans) => plans.run(layer, parts, decode, tokens, marks),
            Self::Ring(ring) => ring.run(layer, parts, tokens, marks),
        }
    }

    /// The part of what could be read that the last layer read; the observer is shown what a pattern chose.
    pub fn density(&mut self, stream: &Stream, layer: usize, observer: &mut dyn Observer) -> Result<f64> {
        match self {
            Self::Cached(cached) => cached.density(stream, layer, observer),
            Self::Shards(plans) => Ok(plans.density()),
            Self::Ring(_) => Ok(1.0),
        }
    }

    /// The column mass of all layers; empty where none was asked for.
    pub fn column_mass(&self, stream: &Stream) -> Result<Vec<f32>> {
        match self {
            Self::Cached(cached) => cached.column_mass(stream),
            Self::Shards(_) | Self::Ring(_) => Ok(Vec::new()),
        }
    }
}
