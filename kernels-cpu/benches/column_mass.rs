//! Column mass of 64 query rows over 32k keys: what a summary of a prompt costs for each layer.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench column_mass`, with `LACUNA_ISA` for another instruction set.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, Seqlens};
use lacuna_kernels_cpu::column_mass::column_mass;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, Tensor};

fn benches(c: &mut Criterion) {
    const ROWS: usize = 64;
    const KEYS: usize = 32768;
    const HEADS: usize = 8;
    let mut group = c.benchmark_group("column_mass");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    let mut rng = Rng::new(1);
    let q = Tensor::<bf16>::random(&mut rng, ROWS, HEADS, 128);
    let k = Tensor::<bf16>::random(&mut rng, KEYS, 2, 128);
    let shape = AttentionShape::new(HEADS, 2, 128, Seqlens::single(ROWS, KEYS).unwrap()).unwrap();
    let (lse, mut mass) = (vec![11.0f32; HEADS * ROWS], vec![0.0f32; KEYS]);
    let options = AttentionOptions::default();
    group.throughput(Throughput::Elements((2 * 128 * HEADS * ROWS * KEYS) as u64));
    group.bench_function(BenchmarkId::new(format!("{}/bf16/hdim128", Isa::current().name()), KEYS), |b| {
        b.iter(|| {
            column_mass(&shape, &q.view(), &k.view(), &lse, 0, 0..ROWS, 0..KEYS, &options, &mut mass)
                .unwrap();
        });
    });
}

criterion_group!(all, benches);
criterion_main!(all);
