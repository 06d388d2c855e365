//! The packed products alone, on one thread: what the processor gives them, and so the ceiling of attention.
//!
//! `cargo bench -p lacuna-kernels-cpu --bench matmul`, with `LACUNA_ISA` for another instruction set.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use lacuna_core::Element;
use lacuna_kernels_cpu::simd::matmul::{PANEL, times_columns};
use lacuna_kernels_cpu::simd::{Dot, Isa, Kernel, Operand};

/// A tile of queries against a tile of keys, head dim 128, as attention forms them.
const ROWS: usize = 128;
const COLUMNS: usize = 128;
const INNER: usize = 128;

struct Products {
    iterations: u64,
}

impl Kernel for Products {
    type Output = Duration;

    // Into the entry point that has the instruction set.
    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) -> Duration {
        let a = [P::Left::default(); ROWS * INNER];
        let b = [P::default(); COLUMNS * INNER];
        let mut c = [0.0f32; ROWS * COLUMNS];
        let panels: Vec<*const P> = b.chunks_exact(PANEL * INNER).map(<[P]>::as_ptr).collect();
        let start = Instant::now();
        for _ in 0..self.iterations {
            let (a, c) = (black_box(a.as_ptr()), black_box(c.as_mut_ptr()));
            // SAFETY: the extents are those of the three arrays; a panel is 16 columns of `INNER`.
            unsafe { times_columns(s, ROWS, INNER, a, INNER, &panels, c, COLUMNS, false) };
        }
        start.elapsed()
    }
}

fn products<T: Element>(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    group.throughput(Throughput::Elements((2 * ROWS * COLUMNS * INNER) as u64));
    let isa = Isa::current();
    group.bench_function(format!("{}/{}", isa.name(), T::DTYPE), |b| {
        b.iter_custom(|iterations| isa.run::<T, _>(Products { iterations }));
    });
}

criterion_group!(all, products::<bf16>, products::<f32>);
criterion_main!(all);
