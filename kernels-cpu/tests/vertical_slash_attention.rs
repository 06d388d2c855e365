//! Vertical-slash attention against the reference, on every instruction set.

mod common;

use common::{Inputs, on_every_isa};
use half::bf16;
use lacuna_core::{AttentionOptions, Element, VerticalSlashIndex};
use lacuna_kernels_cpu::vertical_slash::AttentionPlan;
use lacuna_reference::case;
use lacuna_reference::testing::{self, Number, Rng, ShapeLimits};

const TILE: usize = VerticalSlashIndex::TILE;

fn seeded<T: Element + Number>() {
    for seed in testing::seeds(8) {
        let mut rng = Rng::new(seed);
        let shape =
            rng.shape(&ShapeLimits { max_tokens: 300, max_batch: 2, max_heads_k: 2, ..Default::default() });
        let mut index = VerticalSlashIndex::empty(&shape).unwrap();
        for b in 0..shape.seqlens.batch() {
            for _ in 0..shape.num_heads {
                let seqlen_k = shape.seqlens.seqlen_k(b) as u32;
                let density = *rng.choose(&[0.01, 0.1, 0.6]);
                let columns: Vec<u32> = (0..seqlen_k).filter(|_| rng.chance(density)).collect();
                let mut slashes: Vec<u32> = (1..seqlen_k).rev().filter(|_| rng.chance(0.01)).collect();
                slashes.push(0);
                index.push_head(&columns, &slashes).unwrap();
            }
        }
        let options = AttentionOptions { gqa_interleave: rng.chance(0.3), ..Default::default() };
        let inputs = Inputs::<T>::random(&mut rng, &shape);
        let expected = inputs.expect(&shape, &options, |b, h, i, j| {
            let m = i / TILE;
            index.columns(b, h, m).contains(&(j as u32))
                || index.blocks(b, h, m).iter().any(|&s| (s as usize..s as usize + TILE).contains(&j))
        });
        on_every_isa(|isa| {
            let got = inputs.run(&shape, |q, k, v, out, lse| {
                AttentionPlan::new(&shape, &options)?.run(q, k, v, &index, out, lse)
            });
            expected.assert(&got, &case!(seed, "{isa:?} {shape:?}"));
        });
    }
}

#[test]
fn seeded_indices_f32() {
    seeded::<f32>();
}

#[test]
fn seeded_indices_bf16() {
    seeded::<bf16>();
}

#[test]
fn is_causal_only() {
    let shape = Rng::new(1).shape(&ShapeLimits::default());
    let options = AttentionOptions { causal: false, ..Default::default() };
    assert!(AttentionPlan::<f32>::new(&shape, &options).is_err());
}
