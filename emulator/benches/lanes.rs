//! Time of one instruction for the 32 lanes of a warp, compiled for AVX2 and FMA as the interpreter's loop is.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lacuna_emulator::numerics::mufu::{Function, approx_f32};
use lacuna_emulator::numerics::{Format, Lanes, convert, half, scalar};
use std::hint::black_box;

/// Numbers of magnitude 0.25 to 4.
fn numbers(seed: u64) -> Lanes {
    let mut state = seed;
    std::array::from_fn(|_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = (state >> 32) as u32;
        x & 0x807f_ffff | (125 + (x >> 24 & 3)) << 23
    })
}

#[derive(Clone, Copy)]
struct Operands {
    a: Lanes,
    b: Lanes,
    c: Lanes,
}

type Instruction = fn(&Operands) -> Lanes;

macro_rules! instructions {
    ($($name:literal: |$o:ident| $body:expr;)*) => {
        [$(($name, {
            #[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma"))]
            fn vectorised($o: &Operands) -> Lanes {
                $body
            }
            // SAFETY: `lanes` has seen that the host has AVX2 and FMA.
            #[allow(unused_unsafe)]
            let call: Instruction = |o| unsafe { vectorised(o) };
            call
        }),)*]
    };
}

fn lanes(criterion: &mut Criterion) {
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        eprintln!("lanes: this host has no AVX2 and FMA");
        return;
    }
    let instructions = instructions! {
        "fma.rn.f32": |o| scalar::fma_f32(&o.a, &o.b, &o.c, scalar::Mode::RN);
        "fma.rn.ftz.f32": |o| scalar::fma_f32(&o.a, &o.b, &o.c, scalar::Mode::RN_FTZ);
        "max.f32": |o| scalar::max_f32(&o.a, &o.b, false, false);
        "ex2.approx.ftz.f32": |o| approx_f32(Function::Ex2, &o.a, true);
        "lg2.approx.ftz.f32": |o| approx_f32(Function::Lg2, &o.a, true);
        "rcp.approx.ftz.f32": |o| approx_f32(Function::Rcp, &o.a, true);
        "cvt.rn.bf16x2.f32": |o| convert::bf16x2_from_f32(&o.a, &o.b, convert::Narrow::default());
        "cvt.rn.f16x2.f32": |o| convert::f16x2_from_f32(&o.a, &o.b, convert::Narrow::default());
        "cvt.f32.f16": |o| convert::f32_from_f16(&o.a);
        "fma.rn.bf16x2": |o| half::fma(Format::BF16, &o.a, &o.b, &o.c, half::Mode::default());
    };
    let mut group = criterion.benchmark_group("lanes");
    group.throughput(Throughput::Elements(32));
    let operands = Operands { a: numbers(1), b: numbers(2), c: numbers(3) };
    for (name, instruction) in instructions {
        group.bench_function(name, |bencher| bencher.iter(|| instruction(black_box(&operands))));
    }
    group.finish();
}

criterion_group!(benches, lanes);
criterion_main!(benches);
