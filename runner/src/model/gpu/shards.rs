//! Attention over a context in shards: each shard by itself, for a mixer of the host to make one result of.

use std::ops::Range;

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, Stream, decode_attention, dense_attention};
use lacuna::{AttentionOptions, AttentionShape, Element, Seqlens};

use super::buffers::{Tokens, download};
use super::kv_cache::KvCache;
use super::marks::Marks;
use super::operations::Parts;
use crate::Result;
use crate::error::allocate;
use crate::model::Config;
use crate::model::kv_session::{LayerInputs, PartialAttention, Shards, check_inputs};

/// The attention of one pass over the shards that lie here. Results go through the host, which mixes them.
pub(super) struct ShardPlans<'a, 's, T: Element> {
    shards: &'a mut Shards<'s>,
    /// Tokens cached, and those of the pass.
    end: usize,
    /// The rows that each shard has with the tokens of the pass, and its plan; one token alone goes by the decoder's.
    rows: Vec<Range<usize>>,
    plans: Vec<Option<dense_attention::Plan<T>>>,
    /// Of one shard.
    softmax_lse: DeviceBuffer<f32>,
    mixed: Vec<f32>,
    rounded: Vec<T>,
    /// Of the last layer.
    density: f64,
}

impl<'a, 's, T: Element + Pod> ShardPlans<'a, 's, T> {
    /// Plans a pass of `len` tokens after `past` cached ones.
    pub fn new(
        context: &Context,
        config: &Config,
        shards: &'a mut Shards<'s>,
        past: usize,
        len: usize,
    ) -> Result<Self> {
        let rows = shards.rows_in_pass(past, len);
        let (heads, heads_k) = (config.num_attention_heads, config.num_key_value_heads);
        let joins = |shard: usize| shards.joins_last && shard + 1 == rows.len();
        let plan = |(shard, rows): (usize, &Range<usize>)| -> Result<_> {
            if len == 1 {
                return Ok(None);
            }
            let seqlens = Seqlens::single(len, rows.len())?;
            let shape = AttentionShape::new(heads, heads_k, config.head_dim, seqlens)?;
            let options = AttentionOptions { causal: joins(shard) || shards.causal, ..Default::default() };
            Ok(Some(dense_attention::Plan::new(context, &shape, &options)?))
        };
        let plans = rows.iter().enumerate().map(plan).collect::<Result<_>>()?;
        let what = "activations";
        Ok(Self {
            shards,
            end: past + len,
            rows,
            plans,
            softmax_lse: DeviceBuffer::uninit(context, heads * len, what)?,
            mixed: allocate(what, len * config.q_size())?,
            rounded: allocate(what, len * config.q_size())?,
            density: 1.0,
        })
    }

    /// Runs a layer's attention over the shards that the mixer chooses.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &Parts<T>,
        decode: &mut decode_attention::Plan<T>,
        tokens: &mut Tokens<T>,
        marks: &Marks,
    ) -> Result<()> {
        let Parts { stream, cache, .. } = parts;
        let mut inputs = Inputs { layer, stream, tokens, cache, end: self.end };
        let chosen = self.shards.choose(layer, self.rows.len(), &mut inputs)?;
        marks.searched.record(stream)?;
        let mut results = Vec::with_capacity(self.rows.len());
        for ((rows, plan), chosen) in self.rows.iter().zip(&self.plans).zip(chosen) {
            if !chosen {
                results.push(None);
                continue;
            }
            let (k, v) = cache.views(layer, rows.clone())?;
            let (q, mut out) = tokens.attention_mut()?;
            let lse = Some(&mut self.softmax_lse);
            match plan {
                Some(plan) => plan.run(stream, &q, &k, &v, &mut out, lse)?,
                None => decode.run(stream, &q, &k, &v, &[rows.len() as u32], &mut out, lse)?,
            }
            results.push(Some(PartialAttention {
                out: download(&tokens.attention, stream, self.mixed.len())?,
                softmax_lse: self.softmax_lse.to_host(stream)?,
            }));
        }
        self.shards.mixer.mix(layer, &results, &mut self.mixed)?;
        self.rounded.iter_mut().zip(&self.mixed).for_each(|(rounded, &x)| *rounded = T::from_f32(x));
        tokens.attention.copy_from_host(stream, &self.rounded)?;
        self.density = results.iter().flatten().count() as f64 / results.len().max(1) as f64;
        Ok(marks.attended.record(stream)?)
    }

    /// The part of the shards that the last layer read.
    pub fn density(&self) -> f64 {
        self.density
    }
}

/// A layer's queries, and the cached keys.
struct Inputs<'a, T> {
    layer: usize,
    stream: &'a Stream,
    tokens: &'a Tokens<T>,
    cache: &'a KvCache<T>,
    end: usize,
}

impl<T: Element + Pod> LayerInputs for Inputs<'_, T> {
    fn q(&mut self) -> Result<Vec<f32>> {
        download(&self.tokens.q, self.stream, self.tokens.q.len())
    }

    fn k(&mut self, rows: Range<usize>) -> Result<Vec<f32>> {
        check_inputs(&rows, self.end)?;
        self.cache.read_k(self.stream, self.layer, rows)
    }
}
