//! Ring attention: the keys and values of all ranks go round, and each rank's queries read those that come before them.

use std::time::{Duration, Instant};

use bytemuck::Pod;
use lacuna::merge_state::merge_states;
use lacuna::{
    AttentionOptions, AttentionShape, Device, Element, Layout, Report, Seqlens, TensorView, TensorViewMut,
    dense_attention,
};

use super::kv_cache::KvCache;
use crate::comm::Communicator;
use crate::error::allocate;
use crate::model::Config;
use crate::{Error, Result};

/// The attention of one pass, of which this rank has `len` tokens.
pub(super) struct Ring<'a> {
    config: &'a Config,
    comm: &'a dyn Communicator,
    len: usize,
}

impl<'a> Ring<'a> {
    pub fn new(config: &'a Config, comm: &'a dyn Communicator, len: usize) -> Self {
        Self { config, comm, len }
    }

    pub fn run<T: Element + Pod>(
        &self,
        layer: usize,
        q: &[T],
        cache: &KvCache<T>,
        past: usize,
        out: &mut [T],
    ) -> Result<Report> {
        let start = Instant::now();
        let Config { num_attention_heads: heads, num_key_value_heads: heads_k, head_dim, .. } = *self.config;
        let (rank, size) = (self.comm.rank(), self.comm.world_size());
        let [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
        let q = TensorView::thd(q, self.len, heads, head_dim)?;
        let token_bytes = 2 * heads_k * head_dim * size_of::<T>();
        let mut message = Vec::new();
        cache.read(layer, past..past + self.len, &mut message);
        let mut outs: Vec<(Vec<T>, Vec<f32>)> = Vec::with_capacity(rank + 1);
        for step in 0..size {
            // What goes round started here, then one rank before, and so on; on its way while it is read.
            if step + 1 < size {
                self.comm.send(next, &message)?;
            }
            if step <= rank {
                let tokens = message.len() / token_bytes;
                if tokens * token_bytes != message.len() || tokens == 0 {
                    let expected = format_args!("whole tokens of {token_bytes} bytes").to_string();
                    return Err(Error::invalid("keys and values of a rank", expected, message.len()));
                }
                let mut kv: Vec<T> = allocate("keys and values of a rank", message.len() / size_of::<T>())?;
                bytemuck::cast_slice_mut(&mut kv).copy_from_slice(&message);
                let (k, v) = kv.split_at(kv.len() / 2);
                let layout = Layout::bhsd(1, heads_k, tokens, head_dim);
                let seqlens = Seqlens::single(self.len, tokens)?;
                let shape = AttentionShape::new(heads, heads_k, head_dim, seqlens)?;
                let options = AttentionOptions { causal: step == 0, ..Default::default() };
                let mut part = allocate("activations", out.len())?;
                let mut softmax_lse = allocate("activations", heads * self.len)?;
                dense_attention::Plan::new(Device::Cpu, &shape, &options)?.run(
                    &q,
                    &TensorView::new(k, layout)?,
                    &TensorView::new(v, layout)?,
                    &mut TensorViewMut::thd(&mut part, self.len, heads, head_dim)?,
                    Some(&mut softmax_lse),
                )?;
                outs.push((part, softmax_lse));
            }
            if step + 1 < size {
                message = self.comm.recv(previous)?;
            }
        }
        let states = outs
            .iter()
            .map(|(part, lse)| Ok((TensorView::thd(part, self.len, heads, head_dim)?, &lse[..])))
            .collect::<Result<Vec<_>>>()?;
        merge_states(&states, &mut TensorViewMut::thd(out, self.len, heads, head_dim)?, None)?;
        Ok(Report { density: 1.0, search: Duration::ZERO, attention: start.elapsed() })
    }
}
