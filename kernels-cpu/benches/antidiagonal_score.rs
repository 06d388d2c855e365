//! XAttention's scores and selection at 32k tokens: milliseconds to hold against dense attention's seconds.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench antidiagonal_score`, with `LACUNA_ISA` for another instruction set.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::{AttentionShape, Seqlens, XAttentionOptions};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_kernels_cpu::{antidiagonal_score, block_select};
use lacuna_reference::testing::{Rng, Tensor};

const SEQLEN: usize = 32768;
const HEADS: usize = 8;

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("antidiagonal_score");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(3));
    let mut rng = Rng::new(1);
    let q = Tensor::<bf16>::random(&mut rng, SEQLEN, HEADS, 128);
    let k = Tensor::<bf16>::random(&mut rng, SEQLEN, 2, 128);
    let shape = AttentionShape::new(HEADS, 2, 128, Seqlens::single(SEQLEN, SEQLEN).unwrap()).unwrap();
    let isa = Isa::current().name();
    for stride in [16, 8] {
        let options = XAttentionOptions { stride, ..Default::default() };
        let mut plan = antidiagonal_score::Plan::new(&shape, &options, true).unwrap();
        let flops = 128 * HEADS * SEQLEN / stride * (SEQLEN + stride);
        group.throughput(Throughput::Elements(flops as u64));
        group.bench_function(BenchmarkId::new(format!("{isa}/bf16/hdim128/stride{stride}"), SEQLEN), |b| {
            b.iter(|| plan.run(&q.view(), &k.view()).unwrap().scores().len());
        });
    }
    group.finish();
    let mut group = c.benchmark_group("block_select");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    let options = XAttentionOptions::default();
    let mut plan = antidiagonal_score::Plan::new(&shape, &options, true).unwrap();
    let scores = plan.run(&q.view(), &k.view()).unwrap();
    let mut select = block_select::Plan::new(&shape, &options, true).unwrap();
    group.bench_function(BenchmarkId::new("threshold0.9", SEQLEN), |b| {
        b.iter(|| select.run(scores).unwrap().indices().len());
    });
}

criterion_group!(all, benches);
criterion_main!(all);
