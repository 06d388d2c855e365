//! Attention over a context in shards: each shard by itself, for a mixer to make one result of.

use std::ops::Range;
use std::time::{Duration, Instant};

use lacuna::{
    AttentionOptions, AttentionShape, Device, Element, Report, Seqlens, TensorView, TensorViewMut,
    decode_attention, dense_attention,
};

use super::kv_cache::KvCache;
use crate::Result;
use crate::error::allocate;
use crate::model::Config;
use crate::model::kv_session::{LayerInputs, PartialAttention, Shards, check_inputs};

/// The attention of one pass over the shards that lie here.
pub(super) struct ShardPlans<'a, 's, T: Element> {
    config: &'a Config,
    shards: &'a mut Shards<'s>,
    len: usize,
    /// Tokens cached, and those of the pass.
    end: usize,
    /// The rows that each shard has with the tokens of the pass, and its plan; one token alone goes by the session's.
    rows: Vec<Range<usize>>,
    plans: Vec<Option<dense_attention::Plan<T>>>,
    /// Of one shard.
    out: Vec<T>,
    mixed: Vec<f32>,
}

impl<'a, 's, T: Element> ShardPlans<'a, 's, T> {
    pub fn new(config: &'a Config, shards: &'a mut Shards<'s>, past: usize, len: usize) -> Result<Self> {
        let rows = shards.rows_in_pass(past, len);
        let joins = |shard: usize| shards.joins_last && shard + 1 == rows.len();
        let plan = |(shard, rows): (usize, &Range<usize>)| -> Result<_> {
            if len == 1 {
                return Ok(None);
            }
            let (heads, heads_k) = (config.num_attention_heads, config.num_key_value_heads);
            let seqlens = Seqlens::single(len, rows.len())?;
            let shape = AttentionShape::new(heads, heads_k, config.head_dim, seqlens)?;
            let options = AttentionOptions { causal: joins(shard) || shards.causal, ..Default::default() };
            Ok(Some(dense_attention::Plan::new(Device::Cpu, &shape, &options)?))
        };
        let plans = rows.iter().enumerate().map(plan).collect::<Result<_>>()?;
        let size = len * config.q_size();
        let what = "activations";
        Ok(Self {
            config,
            shards,
            len,
            end: past + len,
            rows,
            plans,
            out: allocate(what, size)?,
            mixed: allocate(what, size)?,
        })
    }

    pub fn run(
        &mut self,
        layer: usize,
        q: &[T],
        cache: &KvCache<T>,
        decode: &mut decode_attention::Plan<T>,
        out: &mut [T],
    ) -> Result<Report> {
        let start = Instant::now();
        let (len, heads, head_dim) = (self.len, self.config.num_attention_heads, self.config.head_dim);
        let chosen =
            self.shards.choose(layer, self.rows.len(), &mut Inputs { layer, q, cache, end: self.end })?;
        let search = start.elapsed();
        let start = Instant::now();
        let mut parts = Vec::with_capacity(self.rows.len());
        for ((rows, plan), chosen) in self.rows.iter().zip(&mut self.plans).zip(chosen) {
            if !chosen {
                parts.push(None);
                continue;
            }
            let (k, v) = cache.views(layer, rows.clone())?;
            let mut softmax_lse = allocate("activations", heads * len)?;
            let lse = Some(&mut softmax_lse[..]);
            let q = TensorView::bshd(q, 1, len, heads, head_dim)?;
            let mut part = TensorViewMut::bshd(&mut self.out, 1, len, heads, head_dim)?;
            match plan {
                Some(plan) => plan.run(&q, &k, &v, &mut part, lse)?,
                None => decode.run(&q, &k, &v, &[rows.len() as u32], &mut part, lse)?,
            }
            parts.push(Some(PartialAttention {
                out: self.out.iter().map(|x| x.to_f32()).collect(),
                softmax_lse,
            }));
        }
        self.shards.mixer.mix(layer, &parts, &mut self.mixed)?;
        out.iter_mut().zip(&self.mixed).for_each(|(out, &x)| *out = T::from_f32(x));
        let density = parts.iter().flatten().count() as f64 / parts.len().max(1) as f64;
        let attention: Duration = start.elapsed();
        Ok(Report { density, search, attention })
    }
}

/// A layer's queries, and the cached keys.
struct Inputs<'a, T> {
    layer: usize,
    q: &'a [T],
    cache: &'a KvCache<T>,
    end: usize,
}

impl<T: Element> LayerInputs for Inputs<'_, T> {
    fn q(&mut self) -> Result<Vec<f32>> {
        Ok(self.q.iter().map(|x| x.to_f32()).collect())
    }

    fn k(&mut self, rows: Range<usize>) -> Result<Vec<f32>> {
        check_inputs(&rows, self.end)?;
        self.cache.read_k(self.layer, rows)
    }
}
