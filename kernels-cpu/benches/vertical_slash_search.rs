//! MInference's vertical-slash search at 32k tokens.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench vertical_slash_search`, with `LACUNA_ISA` for another instruction set.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionShape, Seqlens, VerticalSlashOptions};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_kernels_cpu::vertical_slash::SearchPlan;
use lacuna_reference::testing::{Rng, Tensor};

fn benches(c: &mut Criterion) {
    const SEQLEN: usize = 32768;
    let mut group = c.benchmark_group("vertical_slash_search");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    let mut rng = Rng::new(1);
    let q = Tensor::<bf16>::random(&mut rng, SEQLEN, 8, 128);
    let k = Tensor::<bf16>::random(&mut rng, SEQLEN, 2, 128);
    let shape = AttentionShape::new(8, 2, 128, Seqlens::single(SEQLEN, SEQLEN).unwrap()).unwrap();
    let mut plan = SearchPlan::new(&shape, &VerticalSlashOptions::default()).unwrap();
    group.bench_function(BenchmarkId::new(format!("{}/bf16/hdim128", Isa::current().name()), SEQLEN), |b| {
        b.iter(|| plan.search(&q.view(), &k.view()).unwrap().num_rows());
    });
}

criterion_group!(all, benches);
criterion_main!(all);
