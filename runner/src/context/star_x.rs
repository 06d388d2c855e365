//! StarX: Star Attention whose shards are weighed by anti-diagonal scores.
//!
//! The published program (zer0-data/StarXAttention) throws the shards' log-sum-exps away and averages their results with
//! weights from raw sums over a few of each shard's keys: [`StarXMode::Compat`]. For up to half a stride of query tokens all those
//! sums are empty, so that every decoded token takes the plain mean of all shards. [`StarXMode::BiasedLse`] is a form of the same
//! idea that keeps the exact weights and adds to them, or leaves shards out: the score is XAttention's, over all of a shard's keys.

use std::ops::Range;

use rayon::prelude::*;

use super::mix::{Exact, Heads, gather, merge};
use super::prefill::Run;
use super::{StarXMode, StarXOptions, star};
use crate::comm::Communicator;
use crate::model::{LayerInputs, PartialAttention, Session, ShardMixer};
use crate::{Error, Result};

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>, options: &StarXOptions) -> Result<Box<dyn Session + 'm>> {
    let mut shards = star::encode(run, &options.star)?;
    let (comm, heads) = (run.comm, Heads::new(run.config()));
    let (position, causal) = (run.context.len(), options.star.q_causal_on_remote);
    let softmax_scale = (heads.head_dim as f32).sqrt().recip();
    let rows = shards.rows.clone();
    let mixer: Box<dyn ShardMixer + Send + 'm> = match options.mode {
        StarXMode::Compat => {
            let mut summary = Vec::new();
            if let (0, Some(first)) = (comm.rank(), rows.first()) {
                for layer in 0..run.config().num_hidden_layers {
                    summary.extend(mean(&shards.session.read_k(layer, first.clone())?, heads));
                }
            }
            let summary = comm.broadcast(0, bytemuck::cast_slice(&summary))?;
            let StarXOptions { stride, cyclic_heads, .. } = *options;
            let summary = bytemuck::allocation::pod_collect_to_vec(&summary);
            Box::new(Compat {
                comm,
                heads,
                rows,
                summary,
                stride,
                cyclic_heads,
                softmax_scale,
                scores: Vec::new(),
            })
        }
        StarXMode::BiasedLse if options.bias != 0.0 || options.threshold < 1.0 => Box::new(Biased {
            comm,
            heads,
            rows,
            stride: options.stride,
            bias: options.bias,
            threshold: options.threshold,
            softmax_scale,
            first_shard: shards.first_shard,
            group_means: vec![Vec::new(); run.config().num_hidden_layers],
            mass: Vec::new(),
            kept: Vec::new(),
        }),
        StarXMode::ExactLse | StarXMode::BiasedLse if !causal => {
            return shards.into_exact_session(run, position);
        }
        StarXMode::ExactLse | StarXMode::BiasedLse => Box::new(Exact { comm, heads }),
    };
    shards.into_session(run, position, mixer, causal)
}

/// The mean of `keys`, `[rows, heads_k, head_dim]`, over the rows.
fn mean(keys: &[f32], heads: Heads) -> Vec<f32> {
    let size = heads.heads_k * heads.head_dim;
    let rows = keys.len() / size;
    let sum = |i: usize| keys.iter().skip(i).step_by(size).map(|&x| f64::from(x)).sum::<f64>();
    (0..size).map(|i| (sum(i) / rows as f64) as f32).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The published weights.
struct Compat<'m> {
    comm: &'m dyn Communicator,
    heads: Heads,
    rows: Vec<Range<usize>>,
    /// The mean key of the first block, `[layers, heads_k, head_dim]`: the first key of every shard, as far as scores go.
    summary: Vec<f32>,
    stride: usize,
    cyclic_heads: bool,
    softmax_scale: f32,
    /// Of the shards here, `[shards, heads]`.
    scores: Vec<f32>,
}

impl Compat<'_> {
    /// `scale` times the sum over all `stride x stride` tiles on the diagonal of their anti-diagonals, of the first tokens of query
    /// and keys. A pair of which one lies past the last token counts 0.
    fn score(&self, q: &[f32], keys: &[f32], head: usize) -> f32 {
        let Heads { heads, heads_k, head_dim } = self.heads;
        let head_k = if self.cyclic_heads { head % heads_k } else { head / (heads / heads_k) };
        let tokens = (q.len() / (heads * head_dim)).min(keys.len() / (heads_k * head_dim));
        let mut sum = 0.0;
        for row in 0..tokens {
            let (tile, i) = (row / self.stride, row % self.stride);
            let column = tile * self.stride + self.stride - 1 - i;
            if column < tokens {
                let q = &q[(row * heads + head) * head_dim..][..head_dim];
                sum += dot(q, &keys[(column * heads_k + head_k) * head_dim..][..head_dim]);
            }
        }
        sum * self.softmax_scale
    }
}

impl ShardMixer for Compat<'_> {
    fn choose(&mut self, layer: usize, shards: usize, inputs: &mut dyn LayerInputs) -> Result<Vec<bool>> {
        let Heads { heads, heads_k, head_dim } = self.heads;
        let q = inputs.q()?;
        let size = heads_k * head_dim;
        self.scores.clear();
        for rows in &self.rows {
            let first = rows.start..rows.end.min(rows.start + self.heads.tokens(&q));
            let mut keys = self.summary[layer * size..][..size].to_vec();
            keys.extend(inputs.k(first)?);
            let scores: Vec<f32> = (0..heads).map(|head| self.score(&q, &keys, head)).collect();
            self.scores.extend(scores);
        }
        Ok(vec![true; shards])
    }

    fn mix(&mut self, _: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
        let Heads { heads, head_dim, .. } = self.heads;
        let parts = gather(self.comm, parts, [out.len(), heads * self.heads.tokens(out)])?;
        let scores = gather_scores(self.comm, &self.scores)?;
        out.fill(0.0);
        for head in 0..heads {
            let of_shard = |shard: usize| scores[shard * heads + head];
            let max = (0..parts.len()).map(of_shard).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = (0..parts.len()).map(|shard| (of_shard(shard) - max).exp()).sum();
            for (shard, part) in parts.iter().enumerate() {
                let Some(part) = part else { continue };
                let weight = (of_shard(shard) - max).exp() / sum;
                for (out, part) in out
                    .chunks_exact_mut(head_dim)
                    .zip(part.out.chunks_exact(head_dim))
                    .skip(head)
                    .step_by(heads)
                {
                    out.iter_mut().zip(part).for_each(|(out, x)| *out += weight * x);
                }
            }
        }
        Ok(())
    }
}

/// The scores of all shards, in the shards' order.
fn gather_scores(comm: &dyn Communicator, scores: &[f32]) -> Result<Vec<f32>> {
    let all = comm.all_gather(bytemuck::cast_slice(scores))?.concat();
    let whole = || Error::invalid("scores of all ranks", "whole numbers of 4 bytes", all.len());
    if all.len() % 4 == 0 { Ok(bytemuck::allocation::pod_collect_to_vec(&all)) } else { Err(whole()) }
}

/// Exact weights, biased by each shard's share of the anti-diagonal score; shards beyond a share of it are left out.
struct Biased<'m> {
    comm: &'m dyn Communicator,
    heads: Heads,
    rows: Vec<Range<usize>>,
    stride: usize,
    bias: f32,
    threshold: f32,
    softmax_scale: f32,
    /// The shards on the ranks before.
    first_shard: usize,
    /// By layer, made when first needed: the mean keys of groups of `stride` keys, `[groups, heads_k, head_dim]` of each shard.
    group_means: Vec<Vec<Vec<f32>>>,
    /// Of all shards, `[shards, heads]`: the share of the score.
    mass: Vec<f32>,
    /// As `mass`: which heads read which shards.
    kept: Vec<bool>,
}

impl Biased<'_> {
    /// Log-sum-exp over the groups of a shard's keys of their score, `[heads, query groups]`.
    ///
    /// With a stride of query tokens and more: the sums along the anti-diagonals of pairs of groups (XAttention, section 2), each
    /// divided by its number of pairs; query tokens of an incomplete group are passed over. With fewer: the last query token
    /// against the mean key of each group. A last group of fewer keys weighs by their number.
    fn logits(&self, q: &[f32], keys: &Keys) -> Vec<f32> {
        let Heads { heads, heads_k, head_dim } = self.heads;
        let (tokens, stride) = (self.heads.tokens(q), self.stride);
        let groups_q = (tokens / stride).max(1);
        let query = |row: usize, head: usize| &q[(row * heads + head) * head_dim..][..head_dim];
        let log_sum_exp = |i: usize| {
            let (head, group_q) = (i / groups_q, i % groups_q);
            let head_k = head / (heads / heads_k);
            let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
            for group in 0..keys.rows.div_ceil(stride) {
                let len = stride.min(keys.rows - group * stride);
                let score = match keys.data {
                    KeyData::All(all) => {
                        let pair = |i: usize| {
                            let key =
                                &all[((group * stride + i) * heads_k + head_k) * head_dim..][..head_dim];
                            dot(query(group_q * stride + stride - 1 - i, head), key)
                        };
                        (0..len).map(pair).sum::<f32>() / len as f32
                    }
                    KeyData::GroupMeans(means) => dot(
                        query(tokens - 1, head),
                        &means[(group * heads_k + head_k) * head_dim..][..head_dim],
                    ),
                };
                let logit = score * self.softmax_scale + (len as f32 / stride as f32).ln();
                if logit > max {
                    sum = sum * (max - logit).exp() + 1.0;
                    max = logit;
                } else {
                    sum += (logit - max).exp();
                }
            }
            max + sum.ln()
        };
        (0..heads * groups_q).into_par_iter().map(log_sum_exp).collect()
    }

    /// Which heads read which shards, `[shards, heads]`: the heaviest shards that cover the threshold, ties to the first of them;
    /// always the last shard, behind which the query's own tokens stand.
    fn kept(&self) -> Vec<bool> {
        let heads = self.heads.heads;
        let shards = self.mass.len() / heads;
        let mut kept = vec![self.threshold >= 1.0; self.mass.len()];
        if self.threshold < 1.0 {
            for head in 0..heads {
                let mass = |shard: usize| self.mass[shard * heads + head];
                let mut order: Vec<usize> = (0..shards).collect();
                order.sort_by(|&a, &b| mass(b).total_cmp(&mass(a)));
                let mut covered = 0.0;
                for shard in order {
                    kept[shard * heads + head] = true;
                    covered += mass(shard);
                    if covered >= self.threshold {
                        break;
                    }
                }
                kept[(shards - 1) * heads + head] = true;
            }
        }
        kept
    }
}

/// Keys of a shard.
struct Keys<'a> {
    rows: usize,
    data: KeyData<'a>,
}

enum KeyData<'a> {
    /// `[rows, heads_k, head_dim]`
    All(&'a [f32]),
    /// `[groups, heads_k, head_dim]`
    GroupMeans(&'a [f32]),
}

impl ShardMixer for Biased<'_> {
    fn choose(&mut self, layer: usize, shards: usize, inputs: &mut dyn LayerInputs) -> Result<Vec<bool>> {
        let heads = self.heads.heads;
        let q = inputs.q()?;
        let tokens = self.heads.tokens(&q);
        let groups_q = (tokens / self.stride).max(1);
        if tokens < self.stride && self.group_means[layer].is_empty() {
            let size = self.stride * self.heads.heads_k * self.heads.head_dim;
            for rows in &self.rows {
                let keys = inputs.k(rows.clone())?;
                let means = keys.chunks(size).flat_map(|group| mean(group, self.heads)).collect();
                self.group_means[layer].push(means);
            }
        }
        let mut logits = Vec::with_capacity(self.rows.len() * heads * groups_q);
        for (shard, rows) in self.rows.iter().enumerate() {
            let of_shard = if tokens < self.stride {
                let data = KeyData::GroupMeans(&self.group_means[layer][shard]);
                self.logits(&q, &Keys { rows: rows.len(), data })
            } else {
                let keys = inputs.k(rows.clone())?;
                self.logits(&q, &Keys { rows: rows.len(), data: KeyData::All(&keys) })
            };
            logits.extend(of_shard);
        }
        let logits = gather_scores(self.comm, &logits)?;
        self.mass = mass(&logits, heads, groups_q);
        self.kept = self.kept();
        let of_shard = |shard: usize| &self.kept[(self.first_shard + shard) * heads..][..heads];
        Ok((0..shards).map(|shard| of_shard(shard).contains(&true)).collect())
    }

    fn mix(&mut self, _: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
        let (heads, tokens) = (self.heads.heads, self.heads.tokens(out));
        let mut parts = gather(self.comm, parts, [out.len(), heads * tokens])?;
        for (shard, part) in parts.iter_mut().enumerate() {
            let Some(part) = part else { continue };
            for (head, lse) in part.softmax_lse.chunks_exact_mut(tokens).enumerate() {
                let i = shard * heads + head;
                // A shard of no mass at all has a finite logarithm, so that a negative bias stays defined.
                let bias = self.bias * self.mass[i].max(f32::MIN_POSITIVE).ln();
                lse.iter_mut()
                    .for_each(|lse| *lse = if self.kept[i] { *lse + bias } else { f32::NEG_INFINITY });
            }
        }
        merge(self.heads, &parts, out)
    }
}

/// The mean over query groups of the softmax over shards of `logits`, `[shards, heads, query groups]`: `[shards, heads]`.
fn mass(logits: &[f32], heads: usize, groups_q: usize) -> Vec<f32> {
    let row = heads * groups_q;
    let shards = logits.len() / row;
    let mut mass = vec![0.0; shards * heads];
    for i in 0..row {
        let max = (0..shards).map(|shard| logits[shard * row + i]).fold(f32::NEG_INFINITY, f32::max);
        let weight = |shard: usize| (logits[shard * row + i] - max).exp();
        let sum: f32 = (0..shards).map(weight).sum();
        (0..shards)
            .for_each(|shard| mass[shard * heads + i / groups_q] += weight(shard) / sum / groups_q as f32);
    }
    mass
}
