//! Exact attention over shards, and the exchange that every way of mixing needs.

use lacuna::merge_state::merge_states;
use lacuna::{TensorView, TensorViewMut};

use crate::comm::Communicator;
use crate::model::{Config, PartialAttention, ShardMixer};
use crate::{Error, Result};

/// Sizes of a layer's partial results.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub heads: usize,
    pub heads_k: usize,
    pub head_dim: usize,
}

impl Heads {
    pub fn new(config: &Config) -> Self {
        Self {
            heads: config.num_attention_heads,
            heads_k: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// The tokens of a pass whose attention has so many numbers.
    pub fn tokens(self, out: &[f32]) -> usize {
        out.len() / (self.heads * self.head_dim)
    }
}

/// Gives all ranks the partial results of all shards, in the shards' order.
pub(super) fn gather(
    comm: &dyn Communicator,
    parts: &[Option<PartialAttention>],
    [out_len, lse_len]: [usize; 2],
) -> Result<Vec<Option<PartialAttention>>> {
    if comm.world_size() == 1 {
        return Ok(parts.to_vec());
    }
    // A byte says whether the shard was read; the numbers follow if it was.
    let mut message = Vec::with_capacity(parts.len() * (1 + 4 * (out_len + lse_len)));
    for part in parts {
        message.push(u8::from(part.is_some()));
        for list in part.iter().flat_map(|part| [&part.out, &part.softmax_lse]) {
            message.extend_from_slice(bytemuck::cast_slice(list));
        }
    }
    let mut all = Vec::new();
    for (rank, message) in comm.all_gather(&message)?.into_iter().enumerate() {
        let malformed = || Error::Rank { rank, what: "sent a partial result of another size".into() };
        let mut rest = &message[..];
        while let Some((&read, after)) = rest.split_first() {
            rest = after;
            if read == 0 {
                all.push(None);
                continue;
            }
            let (numbers, after) = rest.split_at_checked(4 * (out_len + lse_len)).ok_or_else(malformed)?;
            rest = after;
            let mut out: Vec<f32> = bytemuck::allocation::pod_collect_to_vec(numbers);
            let softmax_lse = out.split_off(out_len);
            all.push(Some(PartialAttention { out, softmax_lse }));
        }
    }
    Ok(all)
}

/// Merges partial results by their log-sum-exp, in `f32` and in their order: attention over all of their keys.
pub(super) fn merge(heads: Heads, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
    let (tokens, Heads { heads, head_dim, .. }) = (heads.tokens(out), heads);
    let states = parts
        .iter()
        .flatten()
        .map(|part| Ok((TensorView::thd(&part.out, tokens, heads, head_dim)?, &part.softmax_lse[..])))
        .collect::<Result<Vec<_>>>()?;
    Ok(merge_states(&states, &mut TensorViewMut::thd(out, tokens, heads, head_dim)?, None)?)
}

/// Exact attention over all shards.
pub(super) struct Exact<'m> {
    pub comm: &'m dyn Communicator,
    pub heads: Heads,
}

impl ShardMixer for Exact<'_> {
    fn mix(&mut self, _: usize, parts: &[Option<PartialAttention>], out: &mut [f32]) -> Result<()> {
        let lse_len = self.heads.heads * self.heads.tokens(out);
        merge(self.heads, &gather(self.comm, parts, [out.len(), lse_len])?, out)
    }
}
