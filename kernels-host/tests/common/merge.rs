//! Merges of states, run and compared.

use lacuna_core::{DType, Error, Layout, TensorView};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::merge_state::Plan;
use lacuna_reference::merge_state;
use lacuna_reference::testing::{self, Case, Rng, Tensor, Tolerance, nans};

use super::Device;
use super::attention::unwrap;
use super::tensor::{Half, OnDevice, strided};

/// Partial results: parts of `[tokens, heads, head_dim]`, their LSEs `[parts, heads, tokens]`.
pub struct Parts<P> {
    pub parts: usize,
    pub tokens: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub out: Tensor<P>,
    pub lse: Vec<f32>,
}

impl<P: Half> Parts<P> {
    /// Normal outputs; LSEs of all magnitudes, `-inf` with NaN outputs among them.
    pub fn random(rng: &mut Rng, parts: usize, tokens: usize, heads: usize, head_dim: usize) -> Self {
        let lse: Vec<f32> = (0..parts * heads * tokens)
            .map(|_| match rng.below(8) {
                0 => f32::NEG_INFINITY,
                1 => 200.0,
                2 => -200.0,
                _ => 3.0 * rng.normal() as f32,
            })
            .collect();
        // Parts lie in a batch: tokens and heads strided, parts one behind the other.
        let one = strided(rng, tokens, heads, head_dim);
        let extent = one.required_len("part").unwrap().next_multiple_of(8) + 16;
        let layout = Layout { batch: parts, seqlen: tokens, batch_stride: extent, ..one };
        let out = Tensor::from_fn(layout, |t, h, _| {
            let (part, t) = (t / tokens, t % tokens);
            let normal = rng.normal();
            if lse[(part * heads + h) * tokens + t] == f32::NEG_INFINITY { f64::NAN } else { normal }
        });
        Self { parts, tokens, heads, head_dim, out, lse }
    }

    pub fn part_lse(&self, part: usize) -> &[f32] {
        let rows = self.heads * self.tokens;
        &self.lse[part * rows..][..rows]
    }

    /// Merged on the device.
    pub fn run<T: Half>(&self, device: &Device) -> Result<(Vec<T>, Vec<f32>), Error> {
        self.run_with(device, true)
    }

    /// Merged on the device, the LSE not asked for.
    pub fn run_without_lse<T: Half>(&self, device: &Device) -> Result<(Vec<T>, Vec<f32>), Error> {
        self.run_with(device, false)
    }

    fn run_with<T: Half>(&self, device: &Device, want_lse: bool) -> Result<(Vec<T>, Vec<f32>), Error> {
        let context = &device.context;
        let plan = Plan::<P, T>::new(context, self.parts, self.tokens, self.heads, self.head_dim)?;
        let parts = OnDevice::copy(device, &self.out.view(), "parts");
        let part_lse = DeviceBuffer::from_host(context, &self.lse, "part_lse")?;
        let out = Layout::thd(self.tokens, self.heads, self.head_dim);
        let mut out = OnDevice::<T>::poisoned(device, out, "out");
        let mut lse =
            DeviceBuffer::from_host(context, &nans::<f32>(self.heads * self.tokens), "softmax_lse")?;
        let stream = context.default_stream();
        let wanted = want_lse.then_some(&mut lse);
        plan.run(&stream, &parts.view(), &part_lse, &mut out.view_mut(), wanted)?;
        Ok((out.read(device), lse.to_host(&stream)?))
    }

    /// Merged on the device and compared with the reference.
    pub fn check<T: Half>(&self, device: &Device, case: &Case) -> (Vec<T>, Vec<f32>) {
        let contiguous: Vec<Tensor<P>> =
            (0..self.parts).map(|p| self.out.tokens(p * self.tokens..(p + 1) * self.tokens)).collect();
        let parts: Vec<(TensorView<P>, &[f32])> =
            contiguous.iter().enumerate().map(|(p, t)| (t.view(), self.part_lse(p))).collect();
        let want = merge_state(&parts).unwrap();
        let (out, lse) = unwrap(self.run::<T>(device), case);
        if self.parts == 0 {
            assert!(out.iter().all(|x| x.to_f64() == 0.0) && lse.iter().all(|&x| x == f32::NEG_INFINITY));
            return (out, lse);
        }
        // f32 sums of up to eight terms, exponentials of 2 ulp, one rounding to `T`.
        let unit = match T::DTYPE {
            DType::Bf16 => 2f64.powi(-8),
            DType::F16 => 2f64.powi(-11),
            DType::F32 => 2e-6,
        };
        let largest = want.out.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
        testing::assert_close(&out, &want.out, Tolerance::absolute(largest * unit + 2e-6), case);
        // LSEs of 200 have an f32 ulp of 1.5e-5.
        testing::assert_close(&lse, &want.softmax_lse, Tolerance::absolute(5e-5), case);
        (out, lse)
    }
}
