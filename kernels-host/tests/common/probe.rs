//! Probes, run and compared with plain sums in f64.

use lacuna_core::{AttentionShape, Error, Layout};
use lacuna_kernels_host::Context;
use lacuna_kernels_host::probe::{Options, Plan};
use lacuna_reference::testing::{Case, Rng, Tensor};

use super::Device;
use super::tensor::{Half, OnDevice, random, relayout};

/// One call.
#[derive(Clone)]
pub struct Call<T> {
    pub shape: AttentionShape,
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub options: Options,
}

/// What plain sums give.
struct Expected {
    vertical: Vec<f64>,
    slash: Vec<f64>,
    largest_logit: f64,
}

/// Sums by key and by offset, `[sequence][head][k_len]`.
#[derive(Debug)]
pub struct Scores {
    pub vertical: Vec<f32>,
    pub slash: Vec<f32>,
}

impl<T: Half> Call<T> {
    /// Standard normal numbers in memory of random strides.
    pub fn random(rng: &mut Rng, shape: &AttentionShape, options: Options) -> Self {
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        Self {
            shape: shape.clone(),
            q: random(rng, total_q, shape.num_heads, shape.head_dim),
            k: random(rng, total_k, shape.num_heads_k, shape.head_dim),
            options,
        }
    }

    /// The same without gaps.
    pub fn contiguous(self) -> Self {
        let thd = |tensor: &Tensor<T>| {
            let [tokens, heads, dim] = tensor.view().shape();
            relayout(tensor, Layout::thd(tokens, heads, dim))
        };
        Self { q: thd(&self.q), k: thd(&self.k), ..self }
    }

    pub fn plan(&self, context: &Context) -> Result<Plan<T>, Error> {
        Plan::new(context, &self.shape, &self.options)
    }

    pub fn run(&self, device: &Device) -> Scores {
        self.run_with(device, &mut self.plan(&device.context).unwrap())
    }

    pub fn run_with(&self, device: &Device, plan: &mut Plan<T>) -> Scores {
        self.try_run_with(device, plan).unwrap_or_else(|why| panic!("{why}"))
    }

    pub fn try_run_with(&self, device: &Device, plan: &mut Plan<T>) -> Result<Scores, Error> {
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let stream = device.context.default_stream();
        plan.run(&stream, &q.view(), &k.view())?;
        Ok(Scores { vertical: plan.vertical().to_host(&stream)?, slash: plan.slash().to_host(&stream)? })
    }

    /// Run on the device; every sum within a few f32 roundings of its largest logit, which is what a probability is known to.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) -> Scores {
        let expected = self.expect();
        self.compare(&expected, 4e-6 + 4e-7 * expected.largest_logit, device, case)
    }

    /// Run on the device; every sum within `tolerance` of itself.
    #[track_caller]
    pub fn check_within(&self, tolerance: f64, device: &Device, case: &Case) -> Scores {
        self.compare(&self.expect(), tolerance, device, case)
    }

    #[track_caller]
    fn compare(&self, expected: &Expected, tolerance: f64, device: &Device, case: &Case) -> Scores {
        let got = self.run(device);
        let Expected { vertical, slash, .. } = expected;
        for (name, got, want) in [("vertical", &got.vertical, vertical), ("slash", &got.slash, slash)] {
            assert_eq!(got.len(), want.len(), "{name}\n  repeat: {case}");
            for (at, (&got, &want)) in got.iter().zip(want).enumerate() {
                // Sums that vanish beside the largest are zero on the device.
                let near = (got as f64 - want).abs() <= tolerance * want + 1e-30;
                assert!(near, "worst at {at} of {name}: got {got}, want {want}\n  repeat: {case}");
            }
        }
        got
    }

    /// Both sums, as `lacuna_reference::flex_prefill` describes them, but for the division by the rows.
    fn expect(&self) -> Expected {
        let (shape, options) = (&self.shape, &self.options);
        let scale = shape.softmax_scale(options.softmax_scale) as f64;
        let round = |x: f64| if options.round { T::from_f64(x).to_f32() as f64 } else { x };
        let (mut vertical, mut slash, mut largest_logit) = (Vec::new(), Vec::new(), 0.0);
        for b in 0..shape.seqlens.batch() {
            let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
            let (rows, k_len) = (options.last_q.min(q_range.len()), k_range.len());
            for h in 0..shape.num_heads {
                let head_k = shape.head_k(h, options.gqa_interleave);
                let first = vertical.len();
                vertical.resize(first + k_len, 0.0);
                slash.resize(first + k_len, 0.0);
                for i in 0..rows {
                    let Some(position) = (k_len + i).checked_sub(rows) else { continue };
                    let q: Vec<f64> =
                        self.q.view().row(q_range.end - rows + i, h).iter().map(|x| x.to_f64()).collect();
                    let logits: Vec<f64> = (0..=position)
                        .map(|j| {
                            let k = self.k.view();
                            let pairs = q.iter().zip(k.row(k_range.start + j, head_k));
                            if options.round {
                                round(pairs.map(|(q, k)| round(q * scale) * k.to_f64()).sum())
                            } else {
                                scale * pairs.map(|(q, k)| q * k.to_f64()).sum::<f64>()
                            }
                        })
                        .collect();
                    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
                    for (j, x) in logits.into_iter().enumerate() {
                        largest_logit = x.abs().max(largest_logit);
                        let p = (x - max).exp() / sum;
                        vertical[first + j] += p;
                        slash[first + position - j] += p;
                    }
                }
            }
        }
        Expected { vertical, slash, largest_logit }
    }
}
