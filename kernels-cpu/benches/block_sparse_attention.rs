//! Block-sparse causal attention at several densities: throughput counted on the listed blocks, `4 * head_dim`
//! floating-point operations for each of their pairs, so that it compares with that of density 1.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench block_sparse_attention`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Element, Seqlens, TensorViewMut};
use lacuna_kernels_cpu::block_sparse_attention::Plan;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, Tensor};

const SEQLEN: usize = 8192;
const HEADS: usize = 8;
const HEADS_K: usize = 2;
const HEAD_DIM: usize = 128;

/// The diagonal, the first column, and visible blocks at random up to `density`.
fn mask(rng: &mut Rng, shape: &AttentionShape, block: usize, density: f64) -> BlockMask {
    let mut mask = BlockMask::empty(shape, block, block).unwrap();
    for _ in 0..shape.num_heads {
        for m in 0..mask.m_blocks(0) {
            let row: Vec<u32> =
                (0..=m as u32).filter(|&n| n == 0 || n == m as u32 || rng.chance(density)).collect();
            mask.push_row(&row).unwrap();
        }
    }
    mask
}

fn block_sparse<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group("block_sparse_attention");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let mut rng = Rng::new(1);
    let q = Tensor::<T>::random(&mut rng, SEQLEN, HEADS, HEAD_DIM);
    let k = Tensor::<T>::random(&mut rng, SEQLEN, HEADS_K, HEAD_DIM);
    let v = Tensor::<T>::random(&mut rng, SEQLEN, HEADS_K, HEAD_DIM);
    let seqlens = Seqlens::single(SEQLEN, SEQLEN).unwrap();
    let shape = AttentionShape::new(HEADS, HEADS_K, HEAD_DIM, seqlens).unwrap();
    let mut out = vec![T::default(); SEQLEN * HEADS * HEAD_DIM];
    for (block, density) in [(128, 1.0), (128, 0.1), (64, 0.1), (32, 0.1)] {
        let mask = mask(&mut rng, &shape, block, density);
        let mut plan = Plan::<T>::new(&shape, &AttentionOptions::default(), block, block).unwrap();
        let flops = 4 * HEAD_DIM * block * block * mask.indices().len();
        group.throughput(Throughput::Elements(flops as u64));
        let name = format!("{}/{}/block{block}", Isa::current().name(), T::DTYPE);
        group.bench_function(BenchmarkId::new(name, format!("{:.0}%", 100.0 * mask.density(true))), |b| {
            b.iter(|| {
                let mut out = TensorViewMut::thd(&mut out, SEQLEN, HEADS, HEAD_DIM).unwrap();
                plan.run(&q.view(), &k.view(), &v.view(), &mask, black_box(&mut out), None).unwrap();
            });
        });
    }
}

criterion_group!(all, block_sparse::<bf16>, block_sparse::<f32>);
criterion_main!(all);
