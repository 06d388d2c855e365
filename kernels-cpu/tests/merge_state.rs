//! Merging of states against the reference and against attention over all keys at once.

mod common;

use common::{Inputs, on_every_isa};
use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, Element, Seqlens, TensorView, TensorViewMut};
use lacuna_kernels_cpu::{
    dense_attention::Plan,
    merge_state::{merge_state, merge_states},
};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, Tensor, Tolerance};

fn merge<T: Element>(
    states: &[(TensorView<T>, &[f32])],
    [tokens, heads, dim]: [usize; 3],
) -> (Vec<T>, Vec<f32>) {
    let (mut out, mut lse) = (testing::nans::<T>(tokens * heads * dim), testing::nans::<f32>(heads * tokens));
    let mut view = TensorViewMut::thd(&mut out, tokens, heads, dim).unwrap();
    match states {
        [(a, lse_a), (b, lse_b)] => merge_state(a, lse_a, b, lse_b, &mut view, Some(&mut lse)).unwrap(),
        _ => merge_states(states, &mut view, Some(&mut lse)).unwrap(),
    }
    (out, lse)
}

#[test]
fn equals_the_reference_whatever_the_weights() {
    for seed in testing::seeds(20) {
        let mut rng = Rng::new(seed);
        let shape = [rng.range(1..=40), rng.range(1..=3), *rng.choose(&[1, 7, 64, 300])];
        let [tokens, heads, dim] = shape;
        let parts: Vec<(Tensor<f32>, Vec<f32>)> = (0..rng.range(1..=5))
            .map(|_| {
                let lse = (0..heads * tokens)
                    .map(|_| match rng.below(6) {
                        0 => f32::NEG_INFINITY,
                        1 => 200.0,
                        2 => -200.0,
                        _ => rng.normal() as f32,
                    })
                    .collect();
                (Tensor::random_strided(&mut rng, tokens, heads, dim), lse)
            })
            .collect();
        let states: Vec<(TensorView<f32>, &[f32])> = parts.iter().map(|(o, l)| (o.view(), &l[..])).collect();
        let want = lacuna_reference::merge_state(&states).unwrap();
        let (out, lse) = merge(&states, shape);
        let case = case!(seed, "{} states of {shape:?}", states.len());
        testing::assert_close(&out, &want.out, Tolerance::absolute(2e-6), &case);
        testing::assert_close(&lse, &want.softmax_lse, Tolerance::absolute(2e-5), &case);
        // The neutral state changes nothing, whatever it holds.
        let poison = testing::nans::<f32>(tokens * heads * dim);
        let nothing = vec![f32::NEG_INFINITY; heads * tokens];
        let mut more = states.clone();
        more.insert(0, (TensorView::thd(&poison, tokens, heads, dim).unwrap(), &nothing));
        let again = merge(&more, shape);
        testing::assert_bits(&again.0, &out, &case);
        testing::assert_bits(&again.1, &lse, &case);
    }
}

#[test]
fn of_nothing_is_nothing() {
    let (out, lse) = merge::<bf16>(&[], [3, 2, 8]);
    assert!(out.iter().all(|x| *x == bf16::ZERO) && lse.iter().all(|&x| x == f32::NEG_INFINITY));
}

#[test]
fn attention_over_parts_of_the_keys_merges_to_the_whole() {
    for seed in testing::seeds(4) {
        let mut rng = Rng::new(seed);
        let (seqlen_q, seqlen_k) = (rng.range(1..=70), rng.range(1..=300));
        let whole = |k: usize| AttentionShape::new(4, 2, 64, Seqlens::single(seqlen_q, k).unwrap()).unwrap();
        let options = AttentionOptions { causal: false, ..Default::default() };
        let inputs = Inputs::<f32>::random(&mut rng, &whole(seqlen_k));
        let cuts: Vec<usize> = [0, rng.below(seqlen_k + 1), rng.below(seqlen_k + 1), seqlen_k].into();
        let mut cuts = cuts;
        cuts.sort_unstable();
        on_every_isa(|isa| {
            let attend = |inputs: &Inputs<f32>, shape: &AttentionShape| {
                inputs.run(shape, |q, k, v, out, lse| Plan::new(shape, &options)?.run(q, k, v, out, lse))
            };
            let parts: Vec<_> = cuts
                .windows(2)
                .map(|w| {
                    let part = Inputs {
                        q: inputs.q.clone(),
                        k: inputs.k.tokens(w[0]..w[1]),
                        v: inputs.v.tokens(w[0]..w[1]),
                    };
                    attend(&part, &whole(w[1] - w[0]))
                })
                .collect();
            let states: Vec<(TensorView<f32>, &[f32])> = parts
                .iter()
                .map(|(out, lse)| (TensorView::thd(out, seqlen_q, 4, 64).unwrap(), &lse[..]))
                .collect();
            let (out, lse) = merge(&states, [seqlen_q, 4, 64]);
            let (want, want_lse) = attend(&inputs, &whole(seqlen_k));
            let widen = |x: &[f32]| x.iter().map(|&x| x as f64).collect::<Vec<_>>();
            let case = case!(seed, "{isa:?} {seqlen_q} x {cuts:?}");
            testing::assert_close(&out, &widen(&want), Tolerance::absolute(2e-6), &case);
            testing::assert_close(&lse, &widen(&want_lse), Tolerance::absolute(1e-5), &case);
        });
    }
}

#[test]
fn refuses_other_shapes() {
    let data = [0.0f32; 24];
    let a = TensorView::thd(&data, 3, 2, 4).unwrap();
    let b = TensorView::thd(&data, 2, 3, 4).unwrap();
    let mut out = [0.0f32; 24];
    let mut out = TensorViewMut::thd(&mut out, 3, 2, 4).unwrap();
    assert!(merge_state(&a, &[0.0; 6], &b, &[0.0; 6], &mut out, None).is_err());
    assert!(merge_state(&a, &[0.0; 6], &a, &[0.0; 5], &mut out, None).is_err());
    assert!(merge_state(&a, &[0.0; 6], &a, &[0.0; 6], &mut out, Some(&mut [0.0; 5])).is_err());
}
