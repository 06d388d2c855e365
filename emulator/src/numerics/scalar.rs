//! f32 arithmetic: `add sub mul fma div rcp sqrt min max`.
//!
//! The results are those of IEEE 754 except that every NaN is the canonical one, that `.ftz` treats subnormal inputs as
//! zero of their sign and does the same to results, and that `.sat` clamps to `[0, 1]` with NaN as +0.

use super::convert::flush;
use super::format::{add_odd, div_odd, sqrt_odd};
use super::{CANONICAL_NAN_F32, Format, Lanes, Round, map1, map2, map3};

/// Modifiers of an f32 instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// `.rn .rz .rm .rp`.
    pub round: Round,
    /// `.ftz`.
    pub ftz: bool,
    /// `.sat`.
    pub saturate: bool,
}

impl Mode {
    /// `.rn` with nothing else: what compiled kernels use.
    pub const RN: Self = Self { round: Round::Nearest, ftz: false, saturate: false };
    /// `.rn.ftz`.
    pub const RN_FTZ: Self = Self { round: Round::Nearest, ftz: true, saturate: false };
}

/// `add.f32`.
#[inline(always)]
pub fn add_f32(a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    match mode {
        Mode::RN => map2(a, b, |x, y| canonical(f32::from_bits(x) + f32::from_bits(y))),
        Mode::RN_FTZ => map2(a, b, |x, y| flush(canonical(flushed(x) + flushed(y)))),
        _ => general(a, b, &[0; 32], mode, |x, y, _| sum(x, y, mode.round)),
    }
}

/// `sub.f32`.
#[inline(always)]
pub fn sub_f32(a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    add_f32(a, &map1(b, |x| x ^ 0x8000_0000), mode)
}

/// `mul.f32`.
#[inline(always)]
pub fn mul_f32(a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    match mode {
        Mode::RN => map2(a, b, |x, y| canonical(f32::from_bits(x) * f32::from_bits(y))),
        Mode::RN_FTZ => map2(a, b, |x, y| flush(canonical(flushed(x) * flushed(y)))),
        _ => general(a, b, &[0; 32], mode, |x, y, _| x * y),
    }
}

/// `fma.f32`. One instruction per lane where the caller was compiled with FMA, else the C library's function.
#[inline(always)]
pub fn fma_f32(a: &Lanes, b: &Lanes, c: &Lanes, mode: Mode) -> Lanes {
    match mode {
        Mode::RN => map3(a, b, c, |x, y, z| {
            canonical(f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)))
        }),
        Mode::RN_FTZ => map3(a, b, c, |x, y, z| flush(canonical(flushed(x).mul_add(flushed(y), flushed(z))))),
        // The product of two f32 is exact in f64.
        _ => general(a, b, c, mode, |x, y, z| sum(x * y, z, mode.round)),
    }
}

/// `div.rn.f32` and its directed siblings; the approximate forms are in [`super::mufu`].
#[inline(always)]
pub fn div_f32(a: &Lanes, b: &Lanes, mode: Mode) -> Lanes {
    match mode {
        Mode::RN => map2(a, b, |x, y| canonical(f32::from_bits(x) / f32::from_bits(y))),
        _ => general(a, b, &[0; 32], mode, |x, y, _| div_odd(x, y)),
    }
}

/// `rcp.rn.f32` and its directed siblings.
#[inline(always)]
pub fn rcp_f32(a: &Lanes, mode: Mode) -> Lanes {
    div_f32(&[1f32.to_bits(); 32], a, mode)
}

/// `sqrt.rn.f32` and its directed siblings.
#[inline(always)]
pub fn sqrt_f32(a: &Lanes, mode: Mode) -> Lanes {
    match mode {
        Mode::RN => map1(a, |x| canonical(f32::from_bits(x).sqrt())),
        _ => general(a, &[0; 32], &[0; 32], mode, |x, _, _| sqrt_odd(x)),
    }
}

/// `max.f32`: the other operand where one is NaN (with `nan`, the canonical NaN), and −0 < +0.
#[inline(always)]
pub fn max_f32(a: &Lanes, b: &Lanes, ftz: bool, nan: bool) -> Lanes {
    if ftz {
        map2(a, b, |x, y| larger(flush(x), flush(y), nan))
    } else {
        map2(a, b, |x, y| larger(x, y, nan))
    }
}

/// `min.f32`, the mirror of [`max_f32`].
#[inline(always)]
pub fn min_f32(a: &Lanes, b: &Lanes, ftz: bool, nan: bool) -> Lanes {
    if ftz {
        map2(a, b, |x, y| smaller(flush(x), flush(y), nan))
    } else {
        map2(a, b, |x, y| smaller(x, y, nan))
    }
}

/// `abs.f32`.
#[inline(always)]
pub fn abs_f32(a: &Lanes, ftz: bool) -> Lanes {
    map1(a, |x| sign_operation(x, x & 0x7fff_ffff, ftz))
}

/// `neg.f32`.
#[inline(always)]
pub fn neg_f32(a: &Lanes, ftz: bool) -> Lanes {
    map1(a, |x| sign_operation(x, x ^ 0x8000_0000, ftz))
}

#[inline(always)]
fn sign_operation(x: u32, changed: u32, ftz: bool) -> u32 {
    if is_nan(x) {
        CANONICAL_NAN_F32
    } else if ftz {
        flush(changed)
    } else {
        changed
    }
}

#[inline(always)]
fn canonical(x: f32) -> u32 {
    if x.is_nan() { CANONICAL_NAN_F32 } else { x.to_bits() }
}

#[inline(always)]
fn flushed(bits: u32) -> f32 {
    f32::from_bits(flush(bits))
}

#[inline(always)]
fn is_nan(x: u32) -> bool {
    x & 0x7fff_ffff > 0x7f80_0000
}

/// Maps f32 bits to integers of the same order, with −0 just below +0.
#[inline(always)]
fn ordered(x: u32) -> i32 {
    x as i32 ^ (((x as i32) >> 31) as u32 >> 1) as i32
}

#[inline(always)]
fn larger(x: u32, y: u32, nan: bool) -> u32 {
    let number = if ordered(x) >= ordered(y) { x } else { y };
    without_nan(x, y, number, nan)
}

#[inline(always)]
fn smaller(x: u32, y: u32, nan: bool) -> u32 {
    let number = if ordered(x) <= ordered(y) { x } else { y };
    without_nan(x, y, number, nan)
}

#[inline(always)]
fn without_nan(x: u32, y: u32, number: u32, nan: bool) -> u32 {
    let (x_nan, y_nan) = (is_nan(x), is_nan(y));
    let chosen = if x_nan { y } else { number };
    let chosen = if y_nan { x } else { chosen };
    if (x_nan & y_nan) | (nan & (x_nan | y_nan)) { CANONICAL_NAN_F32 } else { chosen }
}

/// The sum rounded to odd; a cancellation to zero is −0 only when rounding down.
fn sum(x: f64, y: f64, round: Round) -> f64 {
    let exact = add_odd(x, y);
    if exact == 0.0 && x.is_sign_negative() != y.is_sign_negative() {
        if round == Round::Down { -0.0 } else { 0.0 }
    } else {
        exact
    }
}

/// `.sat`: `[0, 1]`, with NaN and −0 as +0.
fn saturated(x: u32) -> u32 {
    let value = f32::from_bits(x);
    if value > 1.0 {
        1f32.to_bits()
    } else if value > 0.0 {
        x
    } else {
        0
    }
}

/// Any rounding mode: `f` computes in f64, rounded to odd, and one narrowing follows.
#[inline(never)]
fn general(a: &Lanes, b: &Lanes, c: &Lanes, mode: Mode, f: impl Fn(f64, f64, f64) -> f64) -> Lanes {
    let input = |x: u32| f32::from_bits(if mode.ftz { flush(x) } else { x }) as f64;
    map3(a, b, c, |x, y, z| {
        let exact = f(input(x), input(y), input(z));
        let rounded = Format::F32.narrow(exact, mode.round, false);
        let rounded = if mode.ftz { flush(rounded) } else { rounded };
        if mode.saturate { saturated(rounded) } else { rounded }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: u32 = 0xffc0_1234;
    const SPECIAL: [f32; 16] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
        1.1754942e-38,
        3.5,
        -7.25e20,
        1.0000001,
    ];

    fn random(state: &mut u64) -> u32 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = (*state >> 32) as u32;
        // Half of the numbers near one, so that sums cancel and round.
        if *state >> 20 & 1 != 0 { x & 0x80ff_ffff | 0x3f00_0000 } else { x }
    }

    fn operands(count: usize) -> impl Iterator<Item = (u32, u32, u32)> {
        let all = SPECIAL.map(f32::to_bits);
        let directed =
            all.into_iter().flat_map(move |x| all.into_iter().flat_map(move |y| all.map(|z| (x, y, z))));
        let mut state = 11;
        directed.chain((0..count).map(move |_| (random(&mut state), random(&mut state), random(&mut state))))
    }

    #[test]
    fn the_general_path_agrees_with_the_host_when_rounding_to_nearest() {
        let same = |fast: u32, x: u32, y: u32, z: u32, f: &dyn Fn(f64, f64, f64) -> f64, what: &str| {
            let slow = general(&[x; 32], &[y; 32], &[z; 32], Mode::RN, f)[0];
            assert_eq!(fast, slow, "{what} of {x:#010x} {y:#010x} {z:#010x}");
        };
        for (x, y, z) in operands(20_000) {
            let (a, b, c) = (&[x; 32], &[y; 32], &[z; 32]);
            same(add_f32(a, b, Mode::RN)[0], x, y, z, &|x, y, _| sum(x, y, Round::Nearest), "add");
            same(mul_f32(a, b, Mode::RN)[0], x, y, z, &|x, y, _| x * y, "mul");
            same(fma_f32(a, b, c, Mode::RN)[0], x, y, z, &|x, y, z| sum(x * y, z, Round::Nearest), "fma");
            same(div_f32(a, b, Mode::RN)[0], x, y, z, &|x, y, _| div_odd(x, y), "div");
            same(sqrt_f32(a, Mode::RN)[0], x, y, z, &|x, _, _| sqrt_odd(x), "sqrt");
        }
    }

    #[test]
    fn directed_rounding_brackets_the_nearest_result() {
        let at = |round| Mode { round, ..Mode::RN };
        for (x, y, z) in operands(10_000) {
            let (a, b, c) = (&[x; 32], &[y; 32], &[z; 32]);
            for f in [
                add_f32,
                mul_f32,
                |a: &Lanes, b: &Lanes, mode| fma_f32(a, b, &[NAN ^ 0x4040_0000; 32], mode),
                div_f32,
            ] {
                let of = |round| f32::from_bits(f(a, b, at(round))[0]);
                let (down, near, up, zero) =
                    (of(Round::Down), of(Round::Nearest), of(Round::Up), of(Round::Zero));
                if near.is_nan() {
                    assert!(down.is_nan() && up.is_nan() && zero.is_nan());
                    continue;
                }
                assert!(down <= near && near <= up, "{x:#x} {y:#x}: {down:e} {near:e} {up:e}");
                assert!(down == up || up.to_bits().abs_diff(down.to_bits()) <= 1 || down == 0.0 || up == 0.0);
                assert_eq!(zero, if near.is_sign_negative() { up } else { down }, "{x:#x} {y:#x}");
            }
            let root = |round| f32::from_bits(sqrt_f32(c, at(round))[0]);
            assert!(root(Round::Down) <= root(Round::Up) || root(Round::Up).is_nan());
        }
    }

    #[test]
    fn cancellation_is_minus_zero_only_downwards() {
        let (one, minus) = (&[1f32.to_bits(); 32], &[(-1f32).to_bits(); 32]);
        let at = |round| add_f32(one, minus, Mode { round, ..Mode::RN })[0];
        assert_eq!(
            [at(Round::Nearest), at(Round::Zero), at(Round::Up), at(Round::Down)],
            [0, 0, 0, 0x8000_0000]
        );
    }

    #[test]
    fn nans_are_canonical() {
        let (nan, one) = (&[NAN; 32], &[1f32.to_bits(); 32]);
        let infinity = &[f32::INFINITY.to_bits(); 32];
        for mode in [Mode::RN, Mode::RN_FTZ, Mode { round: Round::Up, ..Mode::RN }] {
            assert_eq!(add_f32(nan, one, mode)[0], CANONICAL_NAN_F32);
            assert_eq!(sub_f32(infinity, infinity, mode)[0], CANONICAL_NAN_F32);
            assert_eq!(mul_f32(one, nan, mode)[0], CANONICAL_NAN_F32);
            assert_eq!(fma_f32(infinity, &[0; 32], one, mode)[0], CANONICAL_NAN_F32);
            assert_eq!(sqrt_f32(&[(-1f32).to_bits(); 32], mode)[0], CANONICAL_NAN_F32);
        }
        assert_eq!(neg_f32(nan, false)[0], CANONICAL_NAN_F32);
    }

    #[test]
    fn ftz_flushes_inputs_and_results_with_their_sign() {
        let small = |x: f32| [x.to_bits(); 32];
        assert_eq!(add_f32(&small(-1e-40), &small(-1e-40), Mode::RN_FTZ)[0], 0x8000_0000);
        assert_eq!(mul_f32(&small(-1e-20), &small(1e-20), Mode::RN_FTZ)[0], 0x8000_0000);
        assert_eq!(mul_f32(&small(1e-40), &small(1e30), Mode::RN_FTZ)[0], 0);
        assert_eq!(div_f32(&small(1.0), &small(-1e-40), Mode::RN_FTZ)[0], f32::NEG_INFINITY.to_bits());
        assert_eq!(fma_f32(&small(1e-40), &small(1e30), &small(2.0), Mode::RN_FTZ)[0], 2f32.to_bits());
        assert_eq!(max_f32(&small(1e-40), &small(-1.0), true, false)[0], 0);
        assert_eq!(abs_f32(&small(-1e-40), true)[0], 0);
    }

    #[test]
    fn min_and_max_of_zeros_and_nans() {
        let (nan, one) = (&[NAN; 32], &[1f32.to_bits(); 32]);
        let (plus, minus) = (&[0; 32], &[0x8000_0000; 32]);
        assert_eq!((max_f32(plus, minus, false, false)[0], max_f32(minus, plus, false, false)[0]), (0, 0));
        assert_eq!(min_f32(plus, minus, false, false)[0], 0x8000_0000);
        assert_eq!(min_f32(minus, plus, false, false)[0], 0x8000_0000);
        for f in [max_f32, min_f32] {
            assert_eq!((f(nan, one, false, false)[0], f(one, nan, false, false)[0]), (one[0], one[0]));
            assert_eq!(f(nan, one, false, true)[0], CANONICAL_NAN_F32);
            assert_eq!(f(nan, nan, false, false)[0], CANONICAL_NAN_F32);
        }
        for (x, y, _) in operands(2_000) {
            let (p, q) = (f32::from_bits(x), f32::from_bits(y));
            if !p.is_nan() && !q.is_nan() && p != q {
                assert_eq!(max_f32(&[x; 32], &[y; 32], false, false)[0], if p > q { x } else { y });
                assert_eq!(min_f32(&[x; 32], &[y; 32], false, true)[0], if p < q { x } else { y });
            }
        }
    }

    #[test]
    fn sat_clamps() {
        let mode = Mode { saturate: true, ..Mode::RN };
        let at = |x: f32| f32::from_bits(add_f32(&[x.to_bits(); 32], &[0x8000_0000; 32], mode)[0]);
        assert_eq!([at(2.0), at(-2.0), at(0.25), at(f32::NAN)], [1.0, 0.0, 0.25, 0.0]);
        assert_eq!(at(-0.0).to_bits(), 0);
    }
}
