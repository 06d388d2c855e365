//! Decode attention, one query row: throughput is the bytes of keys and values over time, to be held against the
//! machine's read bandwidth.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench decode_attention`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionOptions, DecodeShape, Element, Layout, TensorViewMut};
use lacuna_kernels_cpu::decode_attention::Plan;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, Tensor};

const HEADS: usize = 32;
const HEADS_K: usize = 8;
const HEAD_DIM: usize = 128;

fn decode<T: Element>(c: &mut Criterion) {
    let seqlen_k = 16384;
    let mut group = c.benchmark_group("decode_attention");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let mut rng = Rng::new(1);
    let q = Tensor::<T>::random(&mut rng, 1, HEADS, HEAD_DIM);
    let mut out = vec![T::default(); HEADS * HEAD_DIM];
    let shape = DecodeShape {
        batch: 1,
        max_seqlen_q: 1,
        num_heads: HEADS,
        num_heads_k: HEADS_K,
        head_dim: HEAD_DIM,
        max_seqlen_k: seqlen_k,
    };
    let mut plan = Plan::<T>::new(&shape, &AttentionOptions::default()).unwrap();
    group.throughput(Throughput::Bytes((2 * seqlen_k * HEADS_K * HEAD_DIM * size_of::<T>()) as u64));
    for (layout_name, layout) in [
        ("bshd", Layout::bshd(1, seqlen_k, HEADS_K, HEAD_DIM)),
        ("bhsd", Layout::bhsd(1, HEADS_K, seqlen_k, HEAD_DIM)),
    ] {
        let [k, v] = [0, 1].map(|_| Tensor::<T>::from_fn(layout, |_, _, _| rng.normal()));
        let name = format!("{}/{}/{layout_name}", Isa::current().name(), T::DTYPE);
        group.bench_function(BenchmarkId::new(name, seqlen_k), |b| {
            b.iter(|| {
                let mut out = TensorViewMut::thd(&mut out, 1, HEADS, HEAD_DIM).unwrap();
                let cache_seqlens = [seqlen_k as u32];
                plan.run(&q.view(), &k.view(), &v.view(), &cache_seqlens, black_box(&mut out), None).unwrap();
            });
        });
    }
}

criterion_group!(all, decode::<bf16>, decode::<f32>);
criterion_main!(all);
