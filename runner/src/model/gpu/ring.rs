//! Ring attention: the keys and values of all ranks go round, through the host, and each rank's queries read those that come
//! before them.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream, dense_attention, merge_state};
use lacuna::{AttentionOptions, AttentionShape, Element, Layout, Seqlens};

use super::buffers::Tokens;
use super::marks::Marks;
use super::operations::Parts;
use crate::comm::Communicator;
use crate::error::allocate;
use crate::model::Config;
use crate::{Error, Result};

/// The attention of one pass, of which this rank has some tokens.
pub(super) struct Ring<'a, T: Element> {
    comm: &'a dyn Communicator,
    results: Results<T>,
    /// By the step of the ring: the plan for what comes from the rank that is so many ranks before this one.
    plans: Vec<Step<T>>,
    merge: merge_state::Plan<T, T>,
    /// What came from another rank: keys, then values, `[heads_k, tokens, head_dim]`.
    kv: DeviceBuffer<T>,
}

/// The plan of a step, for so many keys.
struct Step<T> {
    keys: usize,
    plan: dense_attention::Plan<T>,
}

/// The results of the steps.
struct Results<T> {
    /// Tokens, query heads, KV heads and features of a head.
    len: usize,
    heads: usize,
    heads_k: usize,
    head_dim: usize,
    /// `[steps, len, heads, head_dim]`
    out: DeviceBuffer<T>,
    /// `[steps, heads, len]`
    softmax_lse: DeviceBuffer<f32>,
}

impl<'a, T: Element + Pod> Ring<'a, T> {
    /// Plans a pass of `len` tokens.
    pub fn new(context: &Context, config: &Config, comm: &'a dyn Communicator, len: usize) -> Result<Self> {
        const WHAT: &str = "results of the ring";
        let steps = comm.rank() + 1;
        let Config { num_attention_heads: heads, num_key_value_heads: heads_k, head_dim, .. } = *config;
        let rows = steps.saturating_mul(heads * len);
        Ok(Self {
            comm,
            results: Results {
                len,
                heads,
                heads_k,
                head_dim,
                out: DeviceBuffer::uninit(context, rows.saturating_mul(head_dim), WHAT)?,
                softmax_lse: DeviceBuffer::uninit(context, rows, WHAT)?,
            },
            plans: Vec::with_capacity(steps),
            merge: merge_state::Plan::new(context, steps, len, heads, head_dim)?,
            kv: DeviceBuffer::uninit(context, 0, RECEIVED)?,
        })
    }

    /// Runs a layer's attention, while keys and values go round.
    pub fn run(
        &mut self,
        layer: usize,
        parts: &Parts<T>,
        tokens: &mut Tokens<T>,
        marks: &Marks,
    ) -> Result<()> {
        let Parts { model, stream, cache, .. } = parts;
        marks.searched.record(stream)?;
        let (rank, size) = (self.comm.rank(), self.comm.world_size());
        let [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
        // The session was empty: its rows are those of the pass.
        let own = 0..self.results.len;
        let mut message = Vec::new();
        if size > 1 {
            cache.read(stream, layer, own.clone(), &mut message)?;
        }
        let (q, mut out) = tokens.attention_mut()?;
        for step in 0..size {
            // What goes round started here, then one rank before, and so on; on its way while it is read.
            if step + 1 < size {
                self.comm.send(next, &message)?;
            }
            if step == 0 {
                let (k, v) = cache.views(layer, own.clone())?;
                let plan = self.results.plan(&model.context, &mut self.plans, step, own.len())?;
                self.results.attend(plan, stream, step, &q, &k, &v)?;
            } else if step <= rank {
                let keys = self.results.upload(&model.context, stream, &message, &mut self.kv)?;
                let layout = Layout::bhsd(1, self.results.heads_k, keys, self.results.head_dim);
                let k = DeviceView::new(&self.kv, 0, layout)?;
                let v = DeviceView::new(&self.kv, self.kv.len() / 2, layout)?;
                let plan = self.results.plan(&model.context, &mut self.plans, step, keys)?;
                self.results.attend(plan, stream, step, &q, &k, &v)?;
            }
            if step + 1 < size {
                message = self.comm.recv(previous)?;
            }
        }
        let Results { len, heads, head_dim, softmax_lse, .. } = &self.results;
        let layout = Layout::bshd(rank + 1, *len, *heads, *head_dim);
        let results = DeviceView::new(&self.results.out, 0, layout)?;
        self.merge.run(stream, &results, softmax_lse, &mut out, None)?;
        Ok(marks.attended.record(stream)?)
    }
}

/// What the memory of another rank's keys and values is called.
const RECEIVED: &str = "keys and values of a rank";

impl<T: Element + Pod> Results<T> {
    /// The plan of a step over so many keys: that of the layer before, where it had as many.
    fn plan<'p>(
        &self,
        context: &Context,
        plans: &'p mut Vec<Step<T>>,
        step: usize,
        keys: usize,
    ) -> Result<&'p dense_attention::Plan<T>> {
        if plans.get(step).is_none_or(|planned| planned.keys != keys) {
            let seqlens = Seqlens::single(self.len, keys)?;
            let shape = AttentionShape::new(self.heads, self.heads_k, self.head_dim, seqlens)?;
            let options = AttentionOptions { causal: step == 0, ..Default::default() };
            let plan = dense_attention::Plan::new(context, &shape, &options)?;
            // Steps come in order.
            plans.truncate(step);
            plans.push(Step { keys, plan });
        }
        Ok(&plans[step].plan)
    }

    /// Queues the attention of a step.
    fn attend(
        &mut self,
        plan: &dense_attention::Plan<T>,
        stream: &Stream,
        step: usize,
        q: &DeviceView<T>,
        k: &DeviceView<T>,
        v: &DeviceView<T>,
    ) -> Result<()> {
        let Self { len, heads, head_dim, out, softmax_lse, .. } = self;
        let rows = *heads * *len;
        let out = DeviceViewMut::new(out, step * rows * *head_dim, Layout::thd(*len, *heads, *head_dim))?;
        let lse = softmax_lse.ptr().offset(step * rows * size_of::<f32>());
        // SAFETY: the tensors have the plan's shape and lie on its device, as does the step's part of the log-sum-exps; all
        // that uses them is on this stream.
        Ok(unsafe { plan.run_raw(stream.raw(), q.raw(), k.raw(), v.raw(), out.raw(), lse) }?)
    }

    /// Puts what another rank sent into device memory, and says how many tokens it has.
    fn upload(
        &self,
        context: &Context,
        stream: &Stream,
        message: &[u8],
        kv: &mut DeviceBuffer<T>,
    ) -> Result<usize> {
        let token_bytes = 2 * self.heads_k * self.head_dim * size_of::<T>();
        let tokens = message.len() / token_bytes;
        if tokens * token_bytes != message.len() || tokens == 0 {
            let expected = format_args!("whole tokens of {token_bytes} bytes").to_string();
            return Err(Error::invalid(RECEIVED, expected, message.len()));
        }
        let mut host: Vec<T> = allocate(RECEIVED, message.len() / size_of::<T>())?;
        bytemuck::cast_slice_mut(&mut host).copy_from_slice(message);
        if kv.len() != host.len() {
            *kv = DeviceBuffer::uninit(context, host.len(), RECEIVED)?;
        }
        kv.copy_from_host(stream, &host)?;
        Ok(tokens)
    }
}
