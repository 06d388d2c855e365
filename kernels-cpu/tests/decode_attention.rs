//! Decode attention against the reference, on every instruction set.

mod common;

use common::{Inputs, on_every_isa};
use half::{bf16, f16};
use lacuna_core::{
    AttentionOptions, AttentionShape, DecodeShape, Element, Layout, Result, Seqlens, TensorViewMut,
};
use lacuna_kernels_cpu::decode_attention::Plan;
use lacuna_reference::case;
use lacuna_reference::testing::{self, HEAD_DIMS, Number, Rng, Tensor};

fn decode_shape(
    batch: usize,
    max_seqlen_q: usize,
    num_heads: usize,
    num_heads_k: usize,
    head_dim: usize,
    max_seqlen_k: usize,
) -> DecodeShape {
    DecodeShape { batch, max_seqlen_q, num_heads, num_heads_k, head_dim, max_seqlen_k }
}

struct Case<T> {
    heads: usize,
    heads_k: usize,
    seqlen_q: usize,
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
    cache_seqlens: Vec<u32>,
    options: AttentionOptions,
}

impl<T: Element> Case<T> {
    /// Caches of `capacity` tokens, NaN past those in use.
    fn random(rng: &mut Rng, capacity: usize, seqlen_q: usize) -> Self {
        let batch = rng.range(1..=3);
        let heads_k = rng.range(1..=2);
        let heads = heads_k * rng.choose(&[1, 2, 4, 8]);
        let dim = *rng.choose(&HEAD_DIMS);
        let layout = if rng.chance(0.5) {
            Layout::bhsd(batch, heads_k, capacity, dim)
        } else {
            Layout::bshd(batch, capacity, heads_k, dim)
        };
        let [mut k, mut v] = [0, 1].map(|_| Tensor::from_fn(layout, |_, _, _| rng.normal()));
        let cache_seqlens: Vec<u32> = (0..batch)
            .map(|b| {
                let used = if rng.chance(0.2) { 0 } else { rng.range(0..=capacity) };
                k.poison(b * capacity + used..(b + 1) * capacity);
                v.poison(b * capacity + used..(b + 1) * capacity);
                used as u32
            })
            .collect();
        let options = AttentionOptions {
            causal: rng.chance(0.7),
            gqa_interleave: rng.chance(0.3),
            softmax_scale: *rng.choose(&[None, None, Some(-0.2)]),
        };
        let q = Tensor::random_strided(rng, batch * seqlen_q, heads, dim);
        Self { heads, heads_k, seqlen_q, q, k, v, cache_seqlens, options }
    }

    /// The tokens in use as a ragged batch: what dense attention sees.
    fn compact(&self) -> (AttentionShape, Inputs<T>) {
        let [cache_tokens, heads_k, dim] = self.k.view().shape();
        let capacity = cache_tokens / self.cache_seqlens.len();
        let (mut cu_seqlens_q, mut cu_seqlens_k, mut tokens) = (vec![0], vec![0], Vec::new());
        for (b, &len) in self.cache_seqlens.iter().enumerate() {
            cu_seqlens_q.push(((b + 1) * self.seqlen_q) as u32);
            cu_seqlens_k.push(cu_seqlens_k[b] + len);
            tokens.extend(b * capacity..b * capacity + len as usize);
        }
        let used = |cache: &Tensor<T>| {
            Tensor::from_fn(Layout::thd(tokens.len(), heads_k, dim), |t, h, d| {
                cache.view().row(tokens[t], h)[d].to_f32() as f64
            })
        };
        let seqlens = Seqlens::new(cu_seqlens_q, cu_seqlens_k).unwrap();
        let shape = AttentionShape::new(self.heads, self.heads_k, dim, seqlens).unwrap();
        (shape, Inputs { q: self.q.clone(), k: used(&self.k), v: used(&self.v) })
    }

    fn run(&self) -> (Vec<T>, Vec<f32>) {
        let [total_q, heads, dim] = self.q.view().shape();
        let (mut out, mut lse) =
            (testing::nans::<T>(total_q * heads * dim), testing::nans::<f32>(heads * total_q));
        let mut view = TensorViewMut::thd(&mut out, total_q, heads, dim).unwrap();
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let batch = self.cache_seqlens.len();
        let capacity = k.shape()[0] / batch;
        // A plan for more rows than there are.
        let max_seqlen_q = (self.seqlen_q + 3).min(64);
        Plan::new(&decode_shape(batch, max_seqlen_q, self.heads, self.heads_k, dim, capacity), &self.options)
            .and_then(|mut plan| plan.run(&q, &k, &v, &self.cache_seqlens, &mut view, Some(&mut lse)))
            .unwrap();
        (out, lse)
    }
}

fn seeded<T: Element + Number>() {
    for seed in testing::seeds(8) {
        let mut rng = Rng::new(seed);
        let capacity = *rng.choose(&[1, 100, 1023, 1024, 1025, 2200]);
        let seqlen_q = if capacity > 200 { rng.range(1..=4) } else { *rng.choose(&[1, 16, 64]) };
        let this = Case::<T>::random(&mut rng, capacity, seqlen_q);
        let (shape, inputs) = this.compact();
        let expected = inputs.expect(&shape, &this.options, |_, _, _, _| true);
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {shape:?} of {capacity}, {:?}", this.options);
            expected.assert(&this.run(), &case);
        });
    }
}

#[test]
fn seeded_caches_f32() {
    seeded::<f32>();
}

#[test]
fn seeded_caches_bf16() {
    seeded::<bf16>();
}

#[test]
fn seeded_caches_f16() {
    seeded::<f16>();
}

#[test]
fn a_sequence_does_not_depend_on_the_batch_or_the_threads() {
    for seed in testing::seeds(4) {
        let mut rng = Rng::new(seed);
        let this = Case::<bf16>::random(&mut rng, 2500, 2);
        let (out, lse) = this.run();
        let case = case!(seed, "{:?}", this.cache_seqlens);
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let again = pool.install(|| this.run());
            testing::assert_bits(&again.0, &out, &case);
            testing::assert_bits(&again.1, &lse, &case);
        }
        let row = out.len() / this.cache_seqlens.len();
        for (b, &len) in this.cache_seqlens.iter().enumerate() {
            // A smaller cache holds the same tokens.
            let tokens = b * 2500..b * 2500 + len as usize;
            let alone = Case {
                q: this.q.tokens(b * 2..b * 2 + 2),
                k: this.k.tokens(tokens.clone()),
                v: this.v.tokens(tokens),
                cache_seqlens: vec![len],
                ..this
            };
            testing::assert_bits(&alone.run().0, &out[b * row..][..row], &case);
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let data = vec![0.0f32; 4 * 100 * 2 * 16];
    let q = lacuna_core::TensorView::bshd(&data, 2, 3, 4, 16).unwrap();
    let cache = lacuna_core::TensorView::bshd(&data, 2, 100, 2, 16).unwrap();
    let odd = lacuna_core::TensorView::thd(&data, 199, 2, 16).unwrap();
    let options = AttentionOptions::default();
    let mut plan = Plan::<f32>::new(&decode_shape(2, 3, 4, 2, 16, 80), &options).unwrap();
    let mut out = vec![0.0f32; 2 * 3 * 4 * 16];
    let mut run = |q, k, v, lens: &[u32]| -> Result<()> {
        plan.run(q, k, v, lens, &mut TensorViewMut::bshd(&mut out, 2, 3, 4, 16).unwrap(), None)
    };
    assert!(run(&q, &cache, &cache, &[80, 0]).is_ok());
    assert!(run(&q, &cache, &cache, &[81, 0]).is_err());
    assert!(run(&q, &cache, &cache, &[80]).is_err());
    assert!(run(&q, &cache, &odd, &[80, 0]).is_err());
    assert!(run(&cache, &cache, &cache, &[80, 0]).is_err());
    for seqlen_q in [0, 65] {
        assert!(Plan::<f32>::new(&decode_shape(2, seqlen_q, 4, 2, 16, 80), &options).is_err());
    }
    assert!(Plan::<f32>::new(&decode_shape(2, 1, 3, 2, 16, 80), &options).is_err());
    assert!(Plan::<f32>::new(&decode_shape(1 << 20, 64, 1 << 40, 1, 256, 1 << 12), &options).is_err());
}
