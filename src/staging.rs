//! Tensors of the host on their way to a device and back.

use lacuna_kernels_host::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream};

use crate::{AttentionShape, Element, Layout, Result, TensorView, TensorViewMut};

/// Device memory for the tensors of one attention call, and host memory to pack them in.
pub(crate) struct Staging<T: Element> {
    stream: Stream,
    q_layout: Layout,
    k_layout: Layout,
    q: DeviceBuffer<T>,
    k: DeviceBuffer<T>,
    v: DeviceBuffer<T>,
    out: DeviceBuffer<T>,
    softmax_lse: DeviceBuffer<f32>,
    packed: Vec<T>,
}

/// The tensors of one call, on the device.
pub(crate) struct Staged<'a, T> {
    pub(crate) stream: &'a Stream,
    pub(crate) q: DeviceView<'a, T>,
    pub(crate) k: DeviceView<'a, T>,
    pub(crate) v: DeviceView<'a, T>,
    pub(crate) out: DeviceViewMut<'a, T>,
    pub(crate) softmax_lse: Option<&'a mut DeviceBuffer<f32>>,
}

impl<T: Element> Staging<T> {
    /// For the tensors of `shape`.
    pub(crate) fn of_shape(context: &Context, shape: &AttentionShape) -> Result<Self> {
        let AttentionShape { num_heads, num_heads_k, head_dim, seqlens } = shape;
        Self::new(
            context,
            Layout::thd(seqlens.total_q(), *num_heads, *head_dim),
            Layout::thd(seqlens.total_k(), *num_heads_k, *head_dim),
        )
    }

    /// For queries of `q_layout` and keys and values of `k_layout`, both contiguous.
    pub(crate) fn new(context: &Context, q_layout: Layout, k_layout: Layout) -> Result<Self> {
        let (q_len, k_len) = (q_layout.required_len("q")?, k_layout.required_len("k")?);
        let [total_q, num_heads, _] = q_layout.shape();
        Ok(Self {
            stream: context.default_stream(),
            q: DeviceBuffer::uninit(context, q_len, "q")?,
            k: DeviceBuffer::uninit(context, k_len, "k")?,
            v: DeviceBuffer::uninit(context, k_len, "v")?,
            out: DeviceBuffer::uninit(context, q_len, "out")?,
            softmax_lse: DeviceBuffer::uninit(context, total_q * num_heads, "softmax_lse")?,
            packed: vec![T::default(); q_len.max(k_len)],
            q_layout,
            k_layout,
        })
    }

    /// Where it queues its copies, and what it is given to launch.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Copies the inputs to the device, calls `launch`, and copies the results back. The shapes have been checked.
    /// `source` is the token of the host's keys and values for each of the device's; `None`: zero.
    pub(crate) fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        source: impl Fn(usize) -> Option<usize>,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
        launch: impl FnOnce(Staged<'_, T>) -> Result<()>,
    ) -> Result<()> {
        let stream = &self.stream;
        let all = |token| Some(token);
        self.q.copy_from_host(stream, pack(q, &self.q_layout, all, &mut self.packed))?;
        self.k.copy_from_host(stream, pack(k, &self.k_layout, &source, &mut self.packed))?;
        self.v.copy_from_host(stream, pack(v, &self.k_layout, &source, &mut self.packed))?;
        launch(Staged {
            stream,
            q: DeviceView::new(&self.q, 0, self.q_layout)?,
            k: DeviceView::new(&self.k, 0, self.k_layout)?,
            v: DeviceView::new(&self.v, 0, self.k_layout)?,
            out: DeviceViewMut::new(&mut self.out, 0, self.q_layout)?,
            softmax_lse: softmax_lse.is_some().then_some(&mut self.softmax_lse),
        })?;
        let [tokens, heads, head_dim] = self.q_layout.shape();
        let packed = &mut self.packed[..tokens * heads * head_dim];
        self.out.copy_to_host(stream, 0, packed)?;
        for token in 0..tokens {
            for head in 0..heads {
                let at = (token * heads + head) * head_dim;
                out.row_mut(token, head).copy_from_slice(&packed[at..at + head_dim]);
            }
        }
        match softmax_lse {
            Some(to) => self.softmax_lse.copy_to_host(stream, 0, to),
            None => Ok(()),
        }
    }
}

/// The tensor as contiguous memory of `layout`'s shape.
fn pack<'a, T: Element>(
    host: &TensorView<T>,
    layout: &Layout,
    source: impl Fn(usize) -> Option<usize>,
    packed: &'a mut [T],
) -> &'a [T] {
    let [tokens, heads, head_dim] = layout.shape();
    let packed = &mut packed[..tokens * heads * head_dim];
    let rows = (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head)));
    for (row, (token, head)) in packed.chunks_exact_mut(head_dim).zip(rows) {
        match source(token) {
            Some(token) => row.copy_from_slice(host.row(token, head)),
            None => row.fill(T::default()),
        }
    }
    packed
}
