//! Attention calls of the three attention stems, run and compared.

use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Error, Layout, Result, VerticalSlashIndex};
use lacuna_kernels_host::block_sparse_attention::DeviceBlockMask;
use lacuna_kernels_host::vertical_slash::DeviceVerticalSlashIndex;
use lacuna_kernels_host::{DeviceBuffer, block_sparse_attention, dense_attention, vertical_slash};
use lacuna_reference::AttentionOutput;
use lacuna_reference::testing::{self, Case, Rng, Tensor, Tolerance, nans};

use super::Device;
use super::tensor::{Half, OnDevice, random, strided};

/// Outputs and log-sum-exps as a kernel left them.
pub type Output<T> = (Vec<T>, Vec<f32>);

/// The queries, keys and values of one call.
#[derive(Clone)]
pub struct Inputs<T> {
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub v: Tensor<T>,
    /// Strides of the output.
    pub out: Layout,
}

impl<T: Half> Inputs<T> {
    /// Standard normal numbers in memory of random strides.
    pub fn random(rng: &mut Rng, shape: &AttentionShape) -> Self {
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        Self {
            q: random(rng, total_q, shape.num_heads, shape.head_dim),
            k: random(rng, total_k, shape.num_heads_k, shape.head_dim),
            v: random(rng, total_k, shape.num_heads_k, shape.head_dim),
            out: strided(rng, total_q, shape.num_heads, shape.head_dim),
        }
    }

    /// Given tensors, the output contiguous.
    pub fn of(q: Tensor<T>, k: Tensor<T>, v: Tensor<T>) -> Self {
        let [tokens, heads, head_dim] = q.view().shape();
        Self { q, k, v, out: Layout::thd(tokens, heads, head_dim) }
    }

    /// Dense attention on the device.
    pub fn dense(
        &self,
        device: &Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Output<T>> {
        let plan = dense_attention::Plan::<T>::new(&device.context, shape, options)?;
        self.run(device, |stream, q, k, v, out, lse| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut(), Some(lse))
        })
    }

    /// Dense attention on the device, the LSE not asked for.
    pub fn dense_without_lse(
        &self,
        device: &Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
    ) -> Result<Output<T>> {
        let plan = dense_attention::Plan::<T>::new(&device.context, shape, options)?;
        self.run(device, |stream, q, k, v, out, _| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut(), None)
        })
    }

    /// Block-sparse attention on the device.
    pub fn block_sparse(
        &self,
        device: &Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
        mask: &BlockMask,
    ) -> Result<Output<T>> {
        let plan = block_sparse_attention::Plan::<T>::new(
            &device.context,
            shape,
            options,
            mask.block_m(),
            mask.block_n(),
        )?;
        let mask = DeviceBlockMask::from_host(&device.context, mask)?;
        self.run(device, |stream, q, k, v, out, lse| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &mask, &mut out.view_mut(), Some(lse))
        })
    }

    /// Attention over the keys of an index on the device.
    pub fn vertical_slash(
        &self,
        device: &Device,
        shape: &AttentionShape,
        options: &AttentionOptions,
        index: &VerticalSlashIndex,
    ) -> Result<Output<T>> {
        let plan = vertical_slash::AttentionPlan::<T>::new(&device.context, shape, options)?;
        let index = DeviceVerticalSlashIndex::from_host(&device.context, index)?;
        self.run(device, |stream, q, k, v, out, lse| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &index, &mut out.view_mut(), Some(lse))
        })
    }

    /// Copies the inputs over, poisons the outputs, calls `launch`, and copies them back.
    pub fn run(
        &self,
        device: &Device,
        launch: impl FnOnce(
            &lacuna_kernels_host::Stream,
            &OnDevice<T>,
            &OnDevice<T>,
            &OnDevice<T>,
            &mut OnDevice<T>,
            &mut DeviceBuffer<f32>,
        ) -> Result<()>,
    ) -> Result<Output<T>> {
        let [tokens, heads, _] = self.q.view().shape();
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let v = OnDevice::copy(device, &self.v.view(), "v");
        let mut out = OnDevice::poisoned(device, self.out, "out");
        let mut lse = DeviceBuffer::from_host(&device.context, &nans::<f32>(heads * tokens), "softmax_lse")?;
        let stream = device.context.default_stream();
        launch(&stream, &q, &k, &v, &mut out, &mut lse)?;
        Ok((out.read(device), lse.to_host(&stream)?))
    }

    /// See [`Spoil`].
    pub fn spoil(&mut self, rng: &mut Rng, spoil: Spoil) {
        (self.k, self.v) = spoil.apply(rng, &self.k, &self.v);
    }

    /// What the reference gives for these inputs, with the tolerance of others that hold nothing but numbers.
    pub fn expect_spoilt(
        &self,
        clean: &Expected,
        shape: &AttentionShape,
        options: &AttentionOptions,
        sees: impl Fn(usize, usize, usize, usize) -> bool,
    ) -> Expected {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let want = lacuna_reference::masked_attention(shape, &q, &k, &v, options, &sees).unwrap();
        Expected { want, tolerance: clean.tolerance }
    }

    /// Attention over the pairs that `sees` allows, and the tolerance for a kernel of this type.
    pub fn expect(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        sees: impl Fn(usize, usize, usize, usize) -> bool,
    ) -> Expected {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let want = lacuna_reference::masked_attention(shape, &q, &k, &v, options, &sees).unwrap();
        let twin = testing::twin_attention(shape, &q, &k, &v, options, &sees).unwrap();
        Expected { tolerance: Tolerance::attention::<T>(&want.out, &twin.out), want }
    }
}

/// NaN and infinities in single elements of keys and values. (Infinite keys are left out: they make it depend on the order
/// of sums what is finite.)
#[derive(Debug, Clone, Copy)]
pub enum Spoil {
    /// One element of every token's values.
    EveryValue,
    /// One element of the values in about one token of four, and of the keys in one of sixteen.
    SomeKeysAndValues,
}

impl Spoil {
    pub const BOTH: [Self; 2] = [Self::EveryValue, Self::SomeKeysAndValues];

    pub fn apply<T: Half>(self, rng: &mut Rng, k: &Tensor<T>, v: &Tensor<T>) -> (Tensor<T>, Tensor<T>) {
        let [tokens, heads, head_dim] = k.view().shape();
        let (in_v, in_k) = match self {
            Self::EveryValue => (1.0, 0.0),
            Self::SomeKeysAndValues => (0.25, 0.0625),
        };
        let mut spoilt = |tensor: &Tensor<T>, share: f64, values: &[f64]| {
            let bad: Vec<Option<(usize, usize, f64)>> = (0..tokens)
                .map(|_| {
                    rng.chance(share).then(|| (rng.below(heads), rng.below(head_dim), *rng.choose(values)))
                })
                .collect();
            let view = tensor.view();
            Tensor::from_fn(*view.layout(), |token, head, d| match bad[token] {
                Some((h, at, value)) if (h, at) == (head, d) => value,
                _ => view.row(token, head)[d].to_f32() as f64,
            })
        };
        (spoilt(k, in_k, &[f64::NAN]), spoilt(v, in_v, &[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]))
    }
}

/// What the reference gives, and how far from it a result may lie.
pub struct Expected {
    pub want: AttentionOutput,
    pub tolerance: Tolerance,
}

impl Expected {
    /// Panics unless the call went well, and output and log-sum-exp are within the tolerance of their type.
    #[track_caller]
    pub fn assert<T: Half>(&self, got: Result<Output<T>, Error>, case: &Case) -> Output<T> {
        let (out, lse) = unwrap(got, case);
        testing::assert_close(&out, &self.want.out, self.tolerance, case);
        testing::assert_close(&lse, &self.want.softmax_lse, Tolerance::LSE, case);
        (out, lse)
    }

    /// The same for an output whose log-sum-exp was not asked for.
    #[track_caller]
    pub fn assert_out<T: Half>(&self, got: Result<Vec<T>, Error>, case: &Case) {
        testing::assert_close(&unwrap(got, case), &self.want.out, self.tolerance, case);
    }
}

/// The result, or a panic that says how to repeat the case.
#[track_caller]
pub fn unwrap<V>(got: Result<V, Error>, case: &Case) -> V {
    got.unwrap_or_else(|why| panic!("{why}\n  repeat: {case}"))
}

/// Panics unless both outputs hold the same bits.
#[track_caller]
pub fn assert_same<T: Half>(got: &Output<T>, want: &Output<T>, case: &Case) {
    testing::assert_bits(&got.0, &want.0, case);
    testing::assert_bits(&got.1, &want.1, case);
}

/// Options that differ from case to case.
pub fn random_options(rng: &mut Rng) -> AttentionOptions {
    AttentionOptions {
        causal: rng.chance(0.7),
        softmax_scale: *rng.choose(&[None, None, None, Some(0.5), Some(-0.1), Some(0.0)]),
        gqa_interleave: rng.chance(0.3),
    }
}

/// Every block with probability `density`, those that the causal mask hides among them.
pub fn random_mask(
    rng: &mut Rng,
    shape: &AttentionShape,
    block_m: usize,
    block_n: usize,
    density: f64,
) -> BlockMask {
    let mut mask = BlockMask::empty(shape, block_m, block_n).unwrap();
    for b in 0..shape.seqlens.batch() {
        for _ in 0..shape.num_heads * mask.m_blocks(b) {
            let row: Vec<u32> = (0..mask.n_blocks(b) as u32).filter(|_| rng.chance(density)).collect();
            mask.push_row(&row).unwrap();
        }
    }
    mask
}

/// The pairs that a mask lists, causal mask aside.
pub fn sees(mask: &BlockMask) -> impl Fn(usize, usize, usize, usize) -> bool {
    |b, h, i, j| mask.row(b, h, i / mask.block_m()).binary_search(&((j / mask.block_n()) as u32)).is_ok()
}
