//! Vectors of four `f32` in plain Rust; SSE2 on old x86, NEON on aarch64.

use lacuna_core::Element;

use super::{Dot, FloatOperand, Simd};

/// The instruction set that every machine has.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

const LANES: usize = 4;
type V = [f32; LANES];

/// Written as a loop over lanes, so that the optimiser sees one vector operation.
macro_rules! lanes {
    ($i:ident => $e:expr) => {{
        let mut r = [0.0f32; LANES];
        for $i in 0..LANES {
            r[$i] = $e;
        }
        r
    }};
}

impl Simd for Portable {
    type F32 = V;
    const LANES: usize = LANES;

    #[inline(always)]
    fn splat(self, x: f32) -> V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for LANES elements; arrays of f32 are read unaligned.
        unsafe { p.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { p.cast::<V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_widened<T: Element>(self, p: *const T) -> V {
        // SAFETY: the caller vouches for LANES elements.
        lanes!(i => unsafe { p.add(i).read_unaligned() }.to_f32())
    }
    #[inline(always)]
    unsafe fn store_rounded<T: Element>(self, p: *mut T, v: V) {
        for i in 0..LANES {
            // SAFETY: the caller vouches for LANES elements.
            unsafe { p.add(i).write_unaligned(T::from_f32(v[i])) };
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        lanes!(i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        lanes!(i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        lanes!(i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        lanes!(i => a[i] / b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        // Without the instruction a fused multiply-add is a library call.
        if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
            lanes!(i => a[i].mul_add(b[i], c[i]))
        } else {
            lanes!(i => a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        lanes!(i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn round(self, x: V) -> V {
        // Adding 1.5 * 2^23 pushes the fraction out of the significand.
        const MAGIC: f32 = 12_582_912.0;
        lanes!(i => (x[i] + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn scale_by_power(self, p: V, n: V) -> V {
        lanes!(i => p[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn select_range(self, v: V, lo: i32, hi: i32, other: V) -> V {
        lanes!(i => if i as i32 >= lo && (i as i32) < hi { v[i] } else { other[i] })
    }
    #[inline(always)]
    fn reduce_add(self, v: V) -> f32 {
        (v[0] + v[2]) + (v[1] + v[3])
    }
    #[inline(always)]
    fn reduce_max(self, v: V) -> f32 {
        let m = |a: f32, b: f32| if a > b { a } else { b };
        m(m(v[0], v[2]), m(v[1], v[3]))
    }
    #[inline(always)]
    unsafe fn transpose_16x16(self, rows: &[*const u32; 16], dst: *mut u32) {
        for w in 0..16 {
            for (r, row) in rows.iter().enumerate() {
                // SAFETY: the caller vouches for 16 words of every row and 256 of the destination.
                unsafe { dst.add(w * 16 + r).write_unaligned(row.add(w).read_unaligned()) };
            }
        }
    }
}

/// The register tile takes half of the registers for accumulators: 4 x 16 of NEON's 32, 2 x 16 of SSE's 16.
impl<P: FloatOperand> Dot<P> for Portable {
    const ROWS: usize = if cfg!(target_arch = "aarch64") { 4 } else { 2 };
    const GROUPS: usize = 1;
    type Step = V;

    #[inline(always)]
    unsafe fn load_step(self, p: *const P) -> V {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { P::load(self, p) }
    }
    #[inline(always)]
    unsafe fn broadcast_step(self, p: *const f32) -> V {
        // SAFETY: the caller vouches for one element.
        [unsafe { p.read_unaligned() }; LANES]
    }
    #[inline(always)]
    fn dot(self, acc: V, a: V, b: V) -> V {
        self.mul_add(a, b, acc)
    }
    #[inline(always)]
    unsafe fn store_left(self, p: *mut f32, v: V) {
        // SAFETY: the caller vouches for LANES elements.
        unsafe { self.store(p, v) }
    }
}
