//! Calls of anti-diagonal scores, run and compared.

use lacuna_core::{AttentionShape, Layout, Result, XAttentionCompat, XAttentionOptions};
use lacuna_kernels_host::antidiagonal_score::Plan;
use lacuna_reference::testing::{Case, Rng, ShapeLimits, Tensor, Tolerance, assert_close};
use lacuna_reference::{BlockScores, antidiagonal_score};

use super::tensor::{Half, OnDevice, random};
use super::{Device, unwrap};

/// Queries and keys, and what is asked of them.
#[derive(Clone)]
pub struct Call<T> {
    pub shape: AttentionShape,
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub options: XAttentionOptions,
    pub causal: bool,
}

impl<T: Half> Call<T> {
    /// Standard normal numbers in memory of random strides.
    pub fn random(rng: &mut Rng, shape: AttentionShape, options: XAttentionOptions, causal: bool) -> Self {
        let q = random(rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
        let k = random(rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
        Self { shape, q, k, options, causal }
    }

    /// A ragged batch of a few hundred tokens, with options of any kind.
    pub fn of_seed(seed: u64, head_dim: usize, max_tokens: usize) -> Self {
        let mut rng = Rng::new(seed);
        let group_sizes: &[usize] = &[1, 2, 4, 8];
        let limits = ShapeLimits {
            max_tokens,
            max_heads_k: 2,
            head_dims: &[head_dim],
            group_sizes,
            ..Default::default()
        };
        let shape = rng.shape(&limits);
        let options = random_options(&mut rng);
        let causal = rng.chance(0.7);
        Self::random(&mut rng, shape, options, causal)
    }

    /// `[sequence][head][m_block][n_block]`.
    pub fn run(&self, device: &Device) -> Result<Vec<f32>> {
        let mut plan = Plan::<T>::new(&device.context, &self.shape, &self.options, self.causal)?;
        let mut scores = plan.new_scores()?;
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let stream = device.context.default_stream();
        plan.run(&stream, &q.view(), &k.view(), &mut scores)?;
        scores.to_host(&stream)
    }

    pub fn expect(&self) -> BlockScores {
        antidiagonal_score(&self.shape, &self.q.view(), &self.k.view(), &self.options, self.causal).unwrap()
    }

    /// Panics unless the scores are those of the reference.
    #[track_caller]
    pub fn check(&self, device: &Device, want: &BlockScores, case: &Case) -> Vec<f32> {
        let got = unwrap(self.run(device), case);
        // Mean logits stay below 10 or so: products in f32 leave them with errors of some 1e-6.
        assert_close(&got, &want.rows().concat(), Tolerance { max: 2e-4, mean: 2e-6 }, case);
        got
    }
}

/// The reference's form of scores.
pub fn to_reference(shape: &AttentionShape, block_size: usize, scores: &[f32]) -> BlockScores {
    let (mut rest, mut rows) = (scores, Vec::new());
    for b in 0..shape.seqlens.batch() {
        let n_blocks = shape.seqlens.seqlen_k(b).div_ceil(block_size);
        for _ in 0..shape.num_heads * shape.seqlens.seqlen_q(b).div_ceil(block_size) {
            let (row, others) = rest.split_at(n_blocks);
            rows.push(row.iter().map(|&x| x as f64).collect());
            rest = others;
        }
    }
    assert!(rest.is_empty(), "{} scores too many", rest.len());
    BlockScores::new(shape, block_size, rows).unwrap()
}

/// Options that differ from case to case.
pub fn random_options(rng: &mut Rng) -> XAttentionOptions {
    XAttentionOptions {
        stride: *rng.choose(&[4, 8, 16]),
        block_size: *rng.choose(&[64, 128]),
        norm: *rng.choose(&[1.0, 2.0]),
        softmax_scale: *rng.choose(&[None, None, Some(0.3), Some(-0.2), Some(0.0)]),
        gqa_interleave: rng.chance(0.5),
        chunk_size: rng.chance(0.7).then_some(256),
        compat: XAttentionCompat {
            chunk_align_past: rng.chance(0.3),
            tail_group: rng.chance(0.5),
            ..Default::default()
        },
        ..Default::default()
    }
}

/// Queries and keys of 16 `f32` features in 64 of f16: halves of a number that add up to its first 22 bits. Their products
/// are those of the original to as many.
pub fn in_halves(q: &Tensor<f32>, k: &Tensor<f32>) -> (Tensor<half::f16>, Tensor<half::f16>) {
    let halves = |x: &Tensor<f32>, low: fn(usize) -> bool| {
        let [tokens, heads, head_dim] = x.view().shape();
        Tensor::from_fn(Layout::thd(tokens, heads, 4 * head_dim), |token, head, d| {
            let x = x.view().row(token, head)[d % head_dim] as f64;
            let high = half::f16::from_f64(x).to_f64();
            if low(d / head_dim) { x - high } else { high }
        })
    };
    (halves(q, |part| part >= 2), halves(k, |part| part % 2 == 1))
}
