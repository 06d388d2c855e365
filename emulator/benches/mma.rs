//! Tensor-core instructions per second on one core, fragments in and out. The goal is a million of `m16n8k16`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lacuna_emulator::numerics::Lanes;
use lacuna_emulator::numerics::mma::{MmaType, MmaUnit, mma_m16n8k16, mma_m16n8k16_f16};
use std::hint::black_box;

fn random(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u32
    }
}

/// Pairs of numbers of magnitude 0.25 to 4: sign and fraction random, exponent field one of four.
fn operands<const N: usize>(ty: MmaType, seed: u64) -> [Lanes; N] {
    let mut next = random(seed);
    let format = ty.format();
    let half = 1 << (format.exponent_bits - 1);
    let mut number = || {
        let x = next();
        let field = half - 3 + (x >> 20 & 3);
        (x & 0x8000) | field << format.fraction_bits | x & ((1 << format.fraction_bits) - 1)
    };
    std::array::from_fn(|_| std::array::from_fn(|_| number() | number() << 16))
}

fn mma(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("mma_m16n8k16");
    group.throughput(Throughput::Elements(1));
    for unit in [MmaUnit::Ampere, MmaUnit::Hopper] {
        for ty in [MmaType::Bf16, MmaType::F16] {
            let (a, b) = (operands::<4>(ty, 1), operands::<2>(ty, 2));
            let mut c = [[0; 32]; 4];
            group.bench_function(format!("f32_{ty:?}/{unit:?}"), |bencher| {
                bencher.iter(|| c = mma_m16n8k16(unit, ty, black_box(&a), black_box(&b), black_box(&c)))
            });
        }
        let (a, b) = (operands::<4>(MmaType::F16, 1), operands::<2>(MmaType::F16, 2));
        group.bench_function(format!("f16_F16/{unit:?}"), |bencher| {
            bencher.iter(|| mma_m16n8k16_f16(unit, black_box(&a), black_box(&b), black_box(&[[0; 32]; 2])))
        });
    }
    group.finish();
}

criterion_group!(benches, mma);
criterion_main!(benches);
