//! Dense causal attention: throughput counted on the visible pairs, `4 * head_dim` floating-point operations each.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench dense_attention`, with `LACUNA_ISA` for another instruction set.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, Element, Seqlens, TensorViewMut};
use lacuna_kernels_cpu::dense_attention::Plan;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, Tensor};

const HEADS: usize = 8;
const HEADS_K: usize = 2;

fn dense<T: Element>(c: &mut Criterion, seqlen: usize, head_dim: usize) {
    let mut group = c.benchmark_group("dense_attention");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    let mut rng = Rng::new(1);
    let q = Tensor::<T>::random(&mut rng, seqlen, HEADS, head_dim);
    let k = Tensor::<T>::random(&mut rng, seqlen, HEADS_K, head_dim);
    let v = Tensor::<T>::random(&mut rng, seqlen, HEADS_K, head_dim);
    let shape =
        AttentionShape::new(HEADS, HEADS_K, head_dim, Seqlens::single(seqlen, seqlen).unwrap()).unwrap();
    let mut plan = Plan::<T>::new(&shape, &AttentionOptions::default()).unwrap();
    let mut out = vec![T::default(); seqlen * HEADS * head_dim];
    let flops = 4 * head_dim * HEADS * seqlen * (seqlen + 1) / 2;
    group.throughput(Throughput::Elements(flops as u64));
    let name = format!("{}/{}/hdim{head_dim}", Isa::current().name(), T::DTYPE);
    group.bench_function(BenchmarkId::new(name, seqlen), |b| {
        b.iter(|| {
            let mut out = TensorViewMut::thd(&mut out, seqlen, HEADS, head_dim).unwrap();
            plan.run(&q.view(), &k.view(), &v.view(), black_box(&mut out), None).unwrap();
        });
    });
}

fn benches(c: &mut Criterion) {
    dense::<bf16>(c, 8192, 128);
    dense::<bf16>(c, 8192, 64);
    dense::<f32>(c, 4096, 128);
}

criterion_group!(all, benches);
criterion_main!(all);
