//! Matrix products with packed weights: `2 m n k` floating-point operations for many rows, the bytes of the weights for
//! one.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench gemm`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::{bf16, f16};
use lacuna_core::Element;
use lacuna_kernels_cpu::gemm::{PackedWeights, matmul};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::Rng;

fn gemm<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut rng = Rng::new(1);
    for (m, n, k) in [(512, 2048, 2048), (512, 2048, 8192), (1, 8192, 2048), (4, 8192, 2048)] {
        let mut random = |len: usize| (0..len).map(|_| T::from_f64(rng.normal())).collect::<Vec<T>>();
        let (a, w) = (random(m * k), random(n * k));
        let packed = PackedWeights::new(&w, n, k).unwrap();
        let mut out = vec![T::default(); m * n];
        group.throughput(if m > 4 {
            Throughput::Elements((2 * m * n * k) as u64)
        } else {
            Throughput::Bytes((n * k * size_of::<T>()) as u64)
        });
        let name = format!("{}/{}", Isa::current().name(), T::DTYPE);
        group.bench_function(BenchmarkId::new(name, format!("{m}x{n}x{k}")), |b| {
            b.iter(|| matmul(&a, &packed, black_box(&mut out)).unwrap());
        });
    }
}

criterion_group!(all, gemm::<bf16>, gemm::<f32>, gemm::<f16>);
criterion_main!(all);
