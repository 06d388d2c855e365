//! FlexPrefill's search at 32k tokens: milliseconds to hold against dense attention's seconds.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench flex_prefill`, with `LACUNA_ISA` for another instruction set.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionShape, FlexPrefillOptions, Seqlens};
use lacuna_kernels_cpu::flex_prefill::Plan;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::testing::{Rng, Tensor};

fn benches(c: &mut Criterion) {
    const SEQLEN: usize = 32768;
    let mut group = c.benchmark_group("flex_prefill");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    let mut rng = Rng::new(1);
    let q = Tensor::<bf16>::random(&mut rng, SEQLEN, 8, 128);
    let k = Tensor::<bf16>::random(&mut rng, SEQLEN, 2, 128);
    let shape = AttentionShape::new(8, 2, 128, Seqlens::single(SEQLEN, SEQLEN).unwrap()).unwrap();
    // No head is query-aware at 0, all are at 1.
    for tau in [0.0, 1.0] {
        let options = FlexPrefillOptions { tau, ..Default::default() };
        let mut plan = Plan::new(&shape, &options).unwrap();
        let name = format!("{}/bf16/hdim128/tau{tau}", Isa::current().name());
        group.bench_function(BenchmarkId::new(name, SEQLEN), |b| {
            b.iter(|| plan.search(&q.view(), &k.view()).unwrap().indices().len());
        });
    }
}

criterion_group!(all, benches);
criterion_main!(all);
