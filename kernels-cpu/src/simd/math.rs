//! Elementary functions on vectors.

use super::Simd;

/// `2^f - 1` over `f` for f in [-1/2, 1/2]: minimax in the relative error of `2^f`, 9.2e-8 at most before rounding.
#[expect(clippy::approx_constant, reason = "the best coefficient is near ln 2, and another number")]
const EXP2: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];

/// The smallest argument that is told apart: `2^-127` and below are 0.
const EXP2_MIN: f32 = -127.0;

#[inline(always)]
pub(super) fn exp2<S: Simd>(s: S, x: S::F32) -> S::F32 {
    // The limit stands first: a NaN in x survives.
    let x = s.max(s.splat(EXP2_MIN), x);
    let n = s.round(x);
    let f = s.sub(x, n);
    let mut p = s.splat(EXP2[4]);
    p = s.mul_add(p, f, s.splat(EXP2[3]));
    p = s.mul_add(p, f, s.splat(EXP2[2]));
    p = s.mul_add(p, f, s.splat(EXP2[1]));
    p = s.mul_add(p, f, s.splat(EXP2[0]));
    // The constant term is exactly 1: integral powers are exact.
    p = s.mul_add(p, f, s.splat(1.0));
    s.scale_by_power(p, n)
}

#[cfg(test)]
mod tests {
    use crate::simd::{Dot, Isa, Kernel, Operand};

    struct Exp2<'a>(&'a mut [f32]);
    impl Kernel for Exp2<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Dot<P>, P: Operand>(self, s: S) {
            for x in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk holds LANES elements.
                unsafe { s.store(x.as_mut_ptr(), s.exp2(s.load(x.as_ptr()))) };
            }
        }
    }

    #[test]
    fn exp2_is_accurate_exact_at_integers_and_keeps_nan() {
        for isa in Isa::available() {
            let xs: Vec<f32> = (0..1 << 16).map(|i| -(i as f32) * (126.0 / 65536.0)).collect();
            let mut ys = xs.clone();
            isa.run::<f32, _>(Exp2(&mut ys));
            for (x, y) in xs.iter().zip(&ys) {
                let want = (*x as f64).exp2();
                assert!(((*y as f64 - want) / want).abs() < 2e-7, "{isa:?}: 2^{x} = {y}, not {want}");
                if x.fract() == 0.0 {
                    assert_eq!(*y as f64, want, "{isa:?}");
                }
            }
            let mut edge = [f32::NEG_INFINITY; 16];
            edge[1] = f32::NAN;
            edge[2] = -1e30;
            edge[3] = -127.6;
            isa.run::<f32, _>(Exp2(&mut edge));
            assert!(edge[1].is_nan(), "{isa:?}");
            edge[1] = 0.0;
            assert_eq!(edge, [0.0; 16], "{isa:?}");
        }
    }
}
