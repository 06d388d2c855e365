//! Clustering a block of 2048 token features, and the largest of 128k scores.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench k_means`, with `LACUNA_ISA` for another instruction set.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use lacuna_core::KMeansOptions;
use lacuna_kernels_cpu::{k_means::k_means, top_k::top_k};
use lacuna_reference::testing::{Rng, Tensor};

fn benches(c: &mut Criterion) {
    let mut rng = Rng::new(1);
    let points = Tensor::<f32>::random(&mut rng, 2048, 1, 2048);
    let options = KMeansOptions { clusters: 256, max_iterations: 10, ..Default::default() };
    let mut group = c.benchmark_group("k_means");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    group.bench_function("2048x2048 into 256, 10 rounds", |b| {
        b.iter(|| k_means(&points.view(), &options).unwrap().representatives.len());
    });
    group.finish();
    let mut group = c.benchmark_group("top_k");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let scores: Vec<f32> = rng.normals(131072);
    group.bench_function("256 of 131072", |b| b.iter(|| top_k(&scores, 256, None).unwrap().len()));
}

criterion_group!(all, benches);
criterion_main!(all);
