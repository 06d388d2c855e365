//! The vector operations of every instruction set against plain code.

mod common;

use common::on_every_isa;
use half::{bf16, f16};
use lacuna_core::Element;
use lacuna_kernels_cpu::simd::{Dot, Kernel, Operand};
use lacuna_reference::testing::Rng;

/// Widens and rounds back whole vectors of `T`.
struct Convert<'a, T> {
    narrow: &'a [T],
    wide: &'a mut [f32],
    rounded: &'a mut [T],
}

impl<T: Element> Kernel for Convert<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        for i in (0..self.narrow.len()).step_by(S::LANES) {
            // SAFETY: the lengths are equal and multiples of 16.
            unsafe {
                s.store(self.wide.as_mut_ptr().add(i), s.load_widened(self.narrow.as_ptr().add(i)));
                s.store_rounded(self.rounded.as_mut_ptr().add(i), s.load(self.wide.as_ptr().add(i)));
            }
        }
    }
}

/// Rounds `f32` to `T`.
struct Round<'a, T>(&'a [f32], &'a mut [T]);

impl<T: Element> Kernel for Round<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        for i in (0..self.0.len()).step_by(S::LANES) {
            // SAFETY: the lengths are equal and multiples of 16.
            unsafe { s.store_rounded(self.1.as_mut_ptr().add(i), s.load(self.0.as_ptr().add(i))) };
        }
    }
}

fn same<T: Element>(a: T, b: T) -> bool {
    let (a, b) = (a.to_f32(), b.to_f32());
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

fn conversions<T: Element>(from_bits: impl Fn(u16) -> T) {
    let narrow: Vec<T> = (0..=u16::MAX).map(from_bits).collect();
    let mut rng = Rng::new(1);
    // Random bits: every exponent, ties among them, NaN, infinities, subnormals.
    let numbers: Vec<f32> = (0..1 << 16)
        .map(|_| {
            let bits = rng.next_u64() as u32;
            f32::from_bits(if rng.chance(0.3) { bits & 0xffff_8000 } else { bits })
        })
        .collect();
    on_every_isa(|isa| {
        let (mut wide, mut rounded) = (vec![0.0f32; narrow.len()], vec![T::default(); narrow.len()]);
        isa.run::<f32, _>(Convert { narrow: &narrow, wide: &mut wide, rounded: &mut rounded });
        for ((&n, &w), &r) in narrow.iter().zip(&wide).zip(&rounded) {
            assert!(same(n.to_f32(), w) && same(n, r), "{isa:?}: {n:?} {w} {r:?}");
        }
        isa.run::<f32, _>(Round(&numbers, &mut rounded));
        for (&x, &r) in numbers.iter().zip(&rounded) {
            assert!(same(r, T::from_f32(x)), "{isa:?}: {x} to {r:?}, not {:?}", T::from_f32(x));
        }
    });
}

#[test]
fn conversions_equal_those_of_the_element_types() {
    conversions::<bf16>(bf16::from_bits);
    conversions::<f16>(f16::from_bits);
}

struct Transpose<'a>(&'a [[u32; 16]; 16], &'a mut [u32; 256]);

impl Kernel for Transpose<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let rows = self.0.each_ref().map(|row| row.as_ptr());
        // SAFETY: 16 rows of 16 words, 256 words.
        unsafe { s.transpose_16x16(&rows, self.1.as_mut_ptr()) };
    }
}

#[test]
fn transpose_moves_bits() {
    // Signalling NaN patterns among them, which arithmetic would change.
    let rows: [[u32; 16]; 16] =
        std::array::from_fn(|r| std::array::from_fn(|w| 0x7f80_0000 + (16 * r + w) as u32));
    on_every_isa(|isa| {
        let mut out = [0; 256];
        isa.run::<f32, _>(Transpose(&rows, &mut out));
        for (i, &word) in out.iter().enumerate() {
            assert_eq!(word, rows[i % 16][i / 16], "{isa:?}");
        }
    });
}

struct Lanes<'a>(&'a mut Vec<(Vec<f32>, f32, f32)>);

impl Kernel for Lanes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let numbers: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        for lo in -2..S::LANES as i32 + 2 {
            for hi in -2..S::LANES as i32 + 2 {
                let mut out = vec![0.0; S::LANES];
                // SAFETY: both hold LANES elements.
                let v = unsafe { s.select_range(s.load(numbers.as_ptr()), lo, hi, s.splat(-1.0)) };
                // SAFETY: as above.
                unsafe { s.store(out.as_mut_ptr(), v) };
                for (lane, &x) in out.iter().enumerate() {
                    let inside = (lane as i32) >= lo && (lane as i32) < hi;
                    assert_eq!(x, if inside { numbers[lane] } else { -1.0 });
                }
                self.0.push((out, s.reduce_add(v), s.reduce_max(v)));
            }
        }
    }
}

#[test]
fn selections_and_reductions_take_the_lanes_they_should() {
    on_every_isa(|isa| {
        let mut got = Vec::new();
        isa.run::<f32, _>(Lanes(&mut got));
        for (lanes, sum, max) in got {
            assert_eq!(sum, lanes.iter().sum::<f32>(), "{isa:?}");
            assert_eq!(max, lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max), "{isa:?}");
        }
    });
}
