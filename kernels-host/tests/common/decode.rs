//! Calls of decode attention, run and compared.

use lacuna_core::{AttentionOptions, AttentionShape, DecodeShape, Error, Layout, Seqlens};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::decode_attention::Plan;
use lacuna_reference::decode_attention;
use lacuna_reference::testing::{self, Case, Rng, Tensor, Tolerance, nans};

use super::Device;
use super::attention::{Expected, Output, Spoil};
use super::tensor::{Half, OnDevice, random, relayout, strided};

/// One call: queries, caches of a common capacity, and how much of each is filled.
#[derive(Clone)]
pub struct Call<T> {
    pub q: Tensor<T>,
    pub k_cache: Tensor<T>,
    pub v_cache: Tensor<T>,
    pub cache_seqlens: Vec<u32>,
    pub out: Layout,
    pub options: AttentionOptions,
}

#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub seqlen_q: usize,
    pub heads: usize,
    pub heads_k: usize,
    pub head_dim: usize,
    pub capacity: usize,
}

impl<T: Half> Call<T> {
    /// Standard normal numbers, NaN in the caches past what is filled. Caches are `B,S,H,D` or `B,H,S,D`.
    pub fn random(rng: &mut Rng, sizes: Sizes, cache_seqlens: &[u32], options: AttentionOptions) -> Self {
        let Sizes { seqlen_q, heads, heads_k, head_dim, capacity } = sizes;
        let batch = cache_seqlens.len();
        let layout = if rng.chance(0.5) {
            Layout::bshd(batch, capacity, heads_k, head_dim)
        } else {
            Layout::bhsd(batch, heads_k, capacity, head_dim)
        };
        let mut cache = || {
            Tensor::from_fn(layout, |t, _, _| {
                let normal = rng.normal();
                if t % capacity < cache_seqlens[t / capacity] as usize { normal } else { f64::NAN }
            })
        };
        let (k_cache, v_cache) = (cache(), cache());
        let q = random(rng, batch * seqlen_q, heads, head_dim);
        let out = strided(rng, batch * seqlen_q, heads, head_dim);
        Self { q, k_cache, v_cache, cache_seqlens: cache_seqlens.to_vec(), out, options }
    }

    pub fn plan(&self, device: &Device, max_seqlen_k: usize) -> Result<Plan<T>, Error> {
        let [total_q, heads, head_dim] = self.q.view().shape();
        let batch = self.cache_seqlens.len();
        let heads_k = self.k_cache.view().shape()[1];
        let sizes = DecodeShape {
            batch,
            max_seqlen_q: total_q / batch,
            num_heads: heads,
            num_heads_k: heads_k,
            head_dim,
            max_seqlen_k,
        };
        Plan::new(&device.context, &sizes, &self.options)
    }

    pub fn run(&self, device: &Device) -> Result<Output<T>, Error> {
        let capacity = self.k_cache.view().shape()[0] / self.cache_seqlens.len();
        self.run_with(device, &mut self.plan(device, capacity)?)
    }

    pub fn run_with(&self, device: &Device, plan: &mut Plan<T>) -> Result<Output<T>, Error> {
        self.run_asking(device, plan, true)
    }

    /// Run on the device, the LSE asked for or not.
    pub fn run_asking(
        &self,
        device: &Device,
        plan: &mut Plan<T>,
        want_lse: bool,
    ) -> Result<Output<T>, Error> {
        let context = &device.context;
        let [total_q, heads, _] = self.q.view().shape();
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k_cache.view(), "k_cache");
        let v = OnDevice::copy(device, &self.v_cache.view(), "v_cache");
        let mut out = OnDevice::poisoned(device, self.out, "out");
        let mut lse = DeviceBuffer::from_host(context, &nans::<f32>(heads * total_q), "softmax_lse")?;
        let stream = context.default_stream();
        plan.run(
            &stream,
            &q.view(),
            &k.view(),
            &v.view(),
            &self.cache_seqlens,
            &mut out.view_mut(),
            want_lse.then_some(&mut lse),
        )?;
        Ok((out.read(device), lse.to_host(&stream)?))
    }

    /// See [`Spoil`].
    pub fn spoil(&mut self, rng: &mut Rng, spoil: Spoil) {
        (self.k_cache, self.v_cache) = spoil.apply(rng, &self.k_cache, &self.v_cache);
    }

    /// Queries without gaps: what lies behind the last row is out of bounds.
    pub fn with_contiguous_queries(mut self) -> Self {
        let [tokens, heads, head_dim] = self.q.view().shape();
        self.q = relayout(&self.q, Layout::thd(tokens, heads, head_dim));
        self
    }

    /// Keys of zeros, but for those from `first` on, whose logits are 200 at the default scale for queries of ones.
    pub fn decided_by_keys_from(mut self, first: usize) -> Self {
        let [_, _, head_dim] = self.q.view().shape();
        let logit = 200.0 / (head_dim as f64).sqrt();
        self.q = Tensor::from_fn(*self.q.view().layout(), |_, _, _| 1.0);
        self.k_cache =
            Tensor::from_fn(
                *self.k_cache.view().layout(),
                |token, _, _| {
                    if token < first { 0.0 } else { logit }
                },
            );
        self
    }

    /// What the reference gives, and the tolerance of the twin.
    pub fn expect(&self) -> Expected {
        let (q, k, v) = (self.q.view(), self.k_cache.view(), self.v_cache.view());
        let want = decode_attention(&q, &k, &v, &self.cache_seqlens, &self.options).unwrap();
        // The twin takes the padded caches as a ragged batch of full length.
        let batch = self.cache_seqlens.len();
        let [total_q, heads, head_dim] = q.shape();
        let (seqlen_q, capacity) = (total_q / batch, k.shape()[0] / batch);
        let seqlens = Seqlens::uniform(batch, seqlen_q, capacity).unwrap();
        let shape = AttentionShape::new(heads, k.shape()[1], head_dim, seqlens).unwrap();
        let all = AttentionOptions { causal: false, ..self.options };
        let twin = testing::twin_attention(&shape, &q, &k, &v, &all, |b, _, i, j| {
            let len = self.cache_seqlens[b] as usize;
            j < len && (!self.options.causal || j + seqlen_q <= i + len)
        });
        Expected { tolerance: Tolerance::attention::<T>(&want.out, &twin.unwrap().out), want }
    }

    /// Run on the device and compared with the reference.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) -> Output<T> {
        self.expect().assert(self.run(device), case)
    }
}
