//! FlexPrefill's searches, run and compared.

use half::f16;
use lacuna_core::{AttentionShape, BlockMask, Element, FlexPrefillOptions, Layout};
use lacuna_kernels_host::DeviceBlockMask;
use lacuna_kernels_host::flex_prefill::{HeadReport, Plan};
use lacuna_reference::testing::{Case, MaskBounds, Rng, Tensor};
use lacuna_reference::{FlexPrefillHead, flex_prefill, flex_prefill_bounds};

use super::tensor::{Half, OnDevice};
use super::{Device, strided};

/// Queries and keys of one search.
#[derive(Clone)]
pub struct Search<T> {
    pub shape: AttentionShape,
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub options: FlexPrefillOptions,
}

/// The blocks, and what was decided per (sequence, head).
pub type Found = (BlockMask, Vec<HeadReport>);

impl<T: Half> Search<T> {
    /// Standard normal numbers, and a spike of `strength` along one feature in all queries and in some keys, so that heads
    /// differ in kind.
    pub fn spiky(rng: &mut Rng, shape: &AttentionShape, options: &FlexPrefillOptions, strength: f64) -> Self {
        let mut spiky = |tokens: usize, heads: usize, always: bool| {
            let layout = strided(rng, tokens, heads, shape.head_dim);
            Tensor::from_fn(layout, |t, h, d| {
                let spike = d == h % shape.head_dim && (always || t % 23 == h);
                rng.normal() + if spike { strength } else { 0.0 }
            })
        };
        let q = spiky(shape.seqlens.total_q(), shape.num_heads, true);
        let k = spiky(shape.seqlens.total_k(), shape.num_heads_k, false);
        Self { shape: shape.clone(), q, k, options: options.clone() }
    }

    /// Small integers: products, and sums of a few hundred of them, are exact in every type and order.
    pub fn integers(rng: &mut Rng, shape: &AttentionShape, options: &FlexPrefillOptions) -> Self {
        let (dim, heads, heads_k) = (shape.head_dim, shape.num_heads, shape.num_heads_k);
        let q = Tensor::sparse_integers(rng, shape.seqlens.total_q(), heads, dim);
        let k = Tensor::sparse_integers(rng, shape.seqlens.total_k(), heads_k, dim);
        Self { shape: shape.clone(), q, k, options: options.clone() }
    }

    /// On the device.
    pub fn run(&self, device: &Device) -> lacuna_core::Result<Found> {
        let context = &device.context;
        let stream = context.default_stream();
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let mut plan = Plan::<T>::new(context, &self.shape, &self.options)?;
        let block_size = self.options.block_size;
        let mut mask = DeviceBlockMask::for_search(context, &self.shape, block_size, true)?;
        plan.run(&stream, &q.view(), &k.view(), &mut mask)?;
        Ok((mask.to_host(&stream)?, plan.reports(&stream)?))
    }

    /// On the device; panics if it fails.
    #[track_caller]
    pub fn found(&self, device: &Device, case: &Case) -> Found {
        super::unwrap(self.run(device), case)
    }

    /// What the reference allows.
    pub fn expect(&self) -> Expected {
        let Self { shape, q, k, options } = self;
        let heads = flex_prefill(shape, &q.view(), &k.view(), options).unwrap().heads;
        let bounds = flex_prefill_bounds(shape, &q.view(), &k.view(), options, MaskBounds::EPS).unwrap();
        Expected { bounds, heads }
    }
}

/// See [`Search::expect`].
pub struct Expected {
    pub bounds: MaskBounds,
    pub heads: Vec<Option<FlexPrefillHead>>,
}

impl Expected {
    #[track_caller]
    pub fn assert(&self, (mask, heads): &Found, case: &Case) {
        self.bounds.assert_contain(mask, case);
        assert_eq!(heads.len(), self.heads.len(), "{case}");
        for (got, want) in heads.iter().zip(&self.heads) {
            let Some(want) = want else {
                assert_eq!(*got, HeadReport { dense: true, ..Default::default() }, "{case}");
                continue;
            };
            assert!(!got.dense, "{case}");
            // Errors of D^2 below 1e-6 are errors of D below 1e-3 where D is nearly 0.
            let (d, e) = (got.sqrt_jsd as f64, want.sqrt_jsd);
            let same = (d * d - e * e).abs() < 1e-6 || (d.is_nan() && (e.is_nan() || e < 1e-3));
            assert!(same || (e.is_nan() && d < 1e-3), "{got:?} {want:?}\n  repeat: {case}");
            if got.query_aware == want.query_aware {
                let near = |a: usize, b: usize| a.abs_diff(b) <= 1;
                assert!(
                    near(got.vertical_blocks, want.vertical_blocks)
                        && near(got.slash_blocks, want.slash_blocks),
                    "{got:?} {want:?}\n  repeat: {case}"
                );
            }
        }
    }
}

/// f32 tensors of 16 features as 64 of f16 whose products are those of the former to 2^-22: every number is the sum of two
/// halves, `q' = [high, high, low, low]`, `k' = [high, low, high, low]`.
pub fn split(q: &Tensor<f32>, k: &Tensor<f32>) -> (Tensor<f16>, Tensor<f16>) {
    let of = |x: &Tensor<f32>, low: [bool; 4]| {
        let [tokens, heads, dim] = x.view().shape();
        Tensor::from_fn(Layout::thd(tokens, heads, 4 * dim), |t, h, d| {
            let value = x.view().row(t, h)[d % dim];
            let high = f16::from_f32(value).to_f32();
            (if low[d / dim] { value - high } else { high }) as f64
        })
    };
    (of(q, [false, false, true, true]), of(k, [false, true, false, true]))
}
