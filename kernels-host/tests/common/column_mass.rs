//! Calls of column mass, run and compared.

use std::ops::Range;

use lacuna_core::{AttentionOptions, AttentionShape, Error, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::column_mass::Plan;
use lacuna_reference::testing::{Case, Rng, Tensor};
use lacuna_reference::{column_mass, masked_attention};

use super::Device;
use super::tensor::{Half, OnDevice, random, relayout};

/// Queries, keys and the LSE of their attention.
#[derive(Clone)]
pub struct Call<T> {
    pub shape: AttentionShape,
    pub options: AttentionOptions,
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub lse: Vec<f32>,
}

impl<T: Half> Call<T> {
    /// Standard normal numbers in memory of random strides.
    pub fn random(rng: &mut Rng, shape: &AttentionShape, options: AttentionOptions) -> Self {
        let q = random(rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
        let k = random(rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
        Self::of(shape, options, q, k)
    }

    pub fn of(shape: &AttentionShape, options: AttentionOptions, q: Tensor<T>, k: Tensor<T>) -> Self {
        let all = |_, _, _, _| true;
        let attention = masked_attention(shape, &q.view(), &k.view(), &k.view(), &options, all).unwrap();
        let lse = attention.softmax_lse.iter().map(|&x| x as f32).collect();
        Self { shape: shape.clone(), options, q, k, lse }
    }

    /// The same without gaps.
    pub fn contiguous(self) -> Self {
        let thd = |tensor: &Tensor<T>| {
            let [tokens, heads, dim] = tensor.view().shape();
            relayout(tensor, Layout::thd(tokens, heads, dim))
        };
        Self { q: thd(&self.q), k: thd(&self.k), ..self }
    }

    /// Added on the device to what `mass` holds, so many times.
    pub fn run(
        &self,
        device: &Device,
        b: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        mass: &[f32],
        times: usize,
    ) -> Result<Vec<f32>, Error> {
        let plan = Plan::<T>::new(&device.context, &self.shape, &self.options)?;
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let lse = DeviceBuffer::from_host(&device.context, &self.lse, "softmax_lse")?;
        let mut mass = DeviceBuffer::from_host(&device.context, mass, "mass")?;
        let stream = device.context.default_stream();
        for _ in 0..times {
            let (rows, columns) = (rows.clone(), columns.clone());
            plan.run(&stream, &q.view(), &k.view(), &lse, b, rows, columns, &mut mass)?;
        }
        mass.to_host(&stream)
    }

    /// Run on masses of 0.5 and compared.
    #[track_caller]
    pub fn check(
        &self,
        device: &Device,
        b: usize,
        rows: Range<usize>,
        columns: Range<usize>,
        case: &Case,
    ) -> Vec<f32> {
        let mut want = vec![0.5f64; columns.len()];
        let (q, k) = (self.q.view(), self.k.view());
        let (r, c) = (rows.clone(), columns.clone());
        column_mass(&self.shape, &q, &k, &self.lse, b, r, c, &self.options, &mut want).unwrap();
        let start = vec![0.5; columns.len()];
        let got = self.run(device, b, rows, columns, &start, 1).unwrap_or_else(|why| panic!("{why}"));
        // Tensor cores truncate what they add: logits around 20 are known to a few 1e-6.
        assert_eq!(got.len(), want.len());
        for (at, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let near = (got as f64 - want).abs() <= 1e-5 * want || (got.is_nan() && want.is_nan());
            assert!(near, "worst at {at}: got {got}, want {want}\n  repeat: {case}");
        }
        got
    }
}
