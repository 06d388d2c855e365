//! Instruction sets: which there are, which one this machine gets, and the vector operations kernels are written in.
//!
//! A kernel is written once, generic over [`Simd`] (vectors of `f32`) and [`Dot`] (the multiply-accumulate of packed
//! operands), put into a struct that implements [`Kernel`], and started by [`Isa::run`], which compiles it once per
//! instruction set and enters the right copy:
//!
//! ```
//! use lacuna_kernels_cpu::simd::{Dot, Isa, Kernel, Operand};
//!
//! struct Sum<'a>(&'a [f32]);
//! impl Kernel for Sum<'_> {
//!     type Output = f32;
//!     #[inline(always)]
//!     fn run<S: Dot<P>, P: Operand>(self, s: S) -> f32 {
//!         let (chunks, tail) = self.0.split_at(self.0.len() / S::LANES * S::LANES);
//!         let mut acc = s.splat(0.0);
//!         for chunk in chunks.chunks_exact(S::LANES) {
//!             // SAFETY: `chunk` holds LANES elements.
//!             acc = s.add(acc, unsafe { s.load(chunk.as_ptr()) });
//!         }
//!         s.reduce_add(acc) + tail.iter().sum::<f32>()
//!     }
//! }
//! let numbers: Vec<f32> = (0..100).map(|i| i as f32).collect();
//! assert_eq!(Isa::current().run::<f32, _>(Sum(&numbers)), 4950.0);
//! ```
//!
//! Everything below `run` must be `#[inline(always)]` and must not go through closures that the optimiser might leave
//! outside: only code that ends up inside the entry function is compiled with the instruction set's features.
//!
//! # Operands
//!
//! | element type | AVX512-BF16 | the other instruction sets |
//! |---|---|---|
//! | `f32` | `f32` | `f32` |
//! | `bf16` | `bf16` pairs, `vdpbf16ps` | widened to `f32` while packing |
//! | `f16` | widened to `f32` while packing | widened to `f32` while packing |
//!
//! `vdpbf16ps` multiplies pairs of `bf16` and accumulates in `f32`, rounding to nearest even and taking subnormal
//! inputs and results as zero. All sums run in ascending order of the inner index, so that a row of a product does not
//! depend on the rows around it.

mod isa;
mod math;
pub mod matmul;
mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use half::bf16;
use lacuna_core::Element;

pub use isa::{Isa, Kernel};

/// Vectors of `f32`.
///
/// A value of an implementing type is the proof that the machine has the instructions; it has no size.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type F32: Copy;
    /// Elements of a vector; divides 16.
    const LANES: usize;

    /// The same value in every lane.
    fn splat(self, x: f32) -> Self::F32;

    /// `LANES` values from memory.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` elements; any alignment.
    unsafe fn load(self, p: *const f32) -> Self::F32;

    /// `LANES` values to memory.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` elements; any alignment.
    unsafe fn store(self, p: *mut f32, v: Self::F32);

    /// `LANES` values of any element type, widened exactly.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` elements; any alignment.
    unsafe fn load_widened<T: Element>(self, p: *const T) -> Self::F32;

    /// `LANES` values rounded to any element type, to nearest even.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` elements; any alignment.
    unsafe fn store_rounded<T: Element>(self, p: *mut T, v: Self::F32);

    /// `a + b`
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a - b`
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b`
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a / b`
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once where the machine has it (all but the portable path on old x86).
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a > b ? a : b`: `b` when either is NaN, so that `max(limit, x)` keeps a NaN in `x`.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// To the nearest integer, ties to even. Exact for |x| < 2^22.
    fn round(self, x: Self::F32) -> Self::F32;
    /// `p * 2^n` for an integral `n` in -127 ..= 127 and `p` in [1/2, 2]; results below the normal range become 0.
    fn scale_by_power(self, p: Self::F32, n: Self::F32) -> Self::F32;

    /// Lanes `lo .. hi` of `v`, the others from `other`. Bounds may lie outside the vector.
    fn select_range(self, v: Self::F32, lo: i32, hi: i32, other: Self::F32) -> Self::F32;

    /// The sum of all lanes, in a fixed order.
    fn reduce_add(self, v: Self::F32) -> f32;
    /// The largest lane.
    fn reduce_max(self, v: Self::F32) -> f32;

    /// Transposes 16 x 16 words of 32 bits, moved bit by bit: `dst[w * 16 + r] = rows[r][w]`.
    ///
    /// # Safety
    /// Every row must be valid for reading 16 words, `dst` for writing 256, any alignment; they must not overlap.
    unsafe fn transpose_16x16(self, rows: &[*const u32; 16], dst: *mut u32);

    /// Asks for the cache line of `p` in the second-level cache; a hint, valid for any pointer.
    #[inline(always)]
    fn prefetch<T>(self, _p: *const T) {}

    /// `2^x` for x <= 0 up to rounding: relative error below 2e-7, 0 below about -126.5, NaN for NaN.
    #[inline(always)]
    fn exp2(self, x: Self::F32) -> Self::F32 {
        math::exp2(self, x)
    }
}

/// An element of a packed right-hand operand.
///
/// Lanes stand for 16 columns; a step takes `PAIR` consecutive inner indices, which lie next to one another.
pub trait Operand: Copy + Default + Send + Sync + 'static {
    /// Elements of the left-hand operand, row-major.
    type Left: Operand;
    /// Inner indices of a step.
    const PAIR: usize;
    /// Rounds to nearest even.
    fn from_f32(x: f32) -> Self;
    /// Widens exactly.
    fn to_f32(self) -> f32;
}

impl Operand for f32 {
    type Left = f32;
    const PAIR: usize = 1;
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Operand for bf16 {
    type Left = bf16;
    const PAIR: usize = 2;
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// A 16-bit element that is widened to `f32` as it is loaded: half the memory traffic of `f32`, for weights that are
/// read once.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct Widened<T>(pub T);

impl<T: Element> Operand for Widened<T> {
    type Left = f32;
    const PAIR: usize = 1;
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self(T::from_f32(x))
    }
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.0.to_f32()
    }
}

/// A packed operand that is multiplied as `f32`.
pub trait FloatOperand: Operand<Left = f32> {
    /// `LANES` elements as `f32`.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES` elements; any alignment.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32;
}

impl FloatOperand for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: the caller's.
        unsafe { s.load(p) }
    }
}

impl<T: Element> FloatOperand for Widened<T> {
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::F32 {
        // SAFETY: the caller's; `Widened` is transparent.
        unsafe { s.load_widened(p.cast::<T>()) }
    }
}

/// The multiply-accumulate of an instruction set for one kind of packed operand.
pub trait Dot<P: Operand>: Simd {
    /// Rows of the register tile of the matrix micro-kernels.
    const ROWS: usize;
    /// Columns of the register tile, in groups of 16.
    const GROUPS: usize;
    /// One step: `LANES` columns of the right-hand side, or one row of the left-hand side in every lane.
    type Step: Copy;

    /// `LANES` columns of one step.
    ///
    /// # Safety
    /// `p` must be valid for reading `LANES * PAIR` elements; any alignment.
    unsafe fn load_step(self, p: *const P) -> Self::Step;

    /// One step of one row, in every lane.
    ///
    /// # Safety
    /// `p` must be valid for reading `PAIR` elements; any alignment.
    unsafe fn broadcast_step(self, p: *const P::Left) -> Self::Step;

    /// `acc` plus, lane by lane, the sum of products of the step.
    fn dot(self, acc: Self::F32, a: Self::Step, b: Self::Step) -> Self::F32;

    /// Rounds `LANES` values to the left-hand operand type.
    ///
    /// # Safety
    /// `p` must be valid for writing `LANES` elements; any alignment.
    unsafe fn store_left(self, p: *mut P::Left, v: Self::F32);
}

/// Writes a row of elements as left-hand operands: copied where they are of the same type, widened where they are not.
///
/// # Safety
/// `to` must be valid for writing `row.len()` elements.
#[inline(always)]
pub unsafe fn store_left<S: Dot<P>, P: Operand, T: Element>(s: S, row: &[T], to: *mut P::Left) {
    // SAFETY: the caller vouches for the destination; operands of two bytes are `bf16`, and so are the elements then.
    unsafe {
        if size_of::<P::Left>() == size_of::<T>() {
            to.cast::<T>().copy_from_nonoverlapping(row.as_ptr(), row.len());
            return;
        }
        let (to, whole) = (to.cast::<f32>(), row.len() / S::LANES * S::LANES);
        for i in (0..whole).step_by(S::LANES) {
            s.store(to.add(i), s.load_widened(row.as_ptr().add(i)));
        }
        for i in whole..row.len() {
            to.add(i).write(row[i].to_f32());
        }
    }
}
