//! The arithmetic of the device, on lane arrays.
//!
//! Every function takes one register of a warp as `[u32; 32]` (bit patterns; 16-bit values lie in the low half, pairs of
//! them low half first) and returns the result of all 32 lanes; the caller applies its execution mask. None of them can
//! fail, and each result depends on the bits of its operands alone, never on the host's SIMD level.
//!
//! | file | what | class |
//! | --- | --- | --- |
//! | [`format`](mod@format) | floating-point formats, one correctly rounding narrow step | exact |
//! | [`convert`] | conversions between f32, f16, bf16, fp8 and integers | exact |
//! | [`scalar`] | f32 `add sub mul fma div rcp sqrt min max` | exact |
//! | [`half`] | f16x2 and bf16x2 arithmetic | exact |
//! | [`mufu`] | `.approx` functions of the special-function unit | ulp, see [`mufu::Function::class`] |
//! | [`mma`] | tensor-core products, published bit-accurate model | exact |
//!
//! *Exact* means that one result is right and a device must give the same bits. None of it has been compared with a
//! device yet; captured instruction vectors are to do that.

mod class;
pub mod convert;
pub mod format;
pub mod half;
pub mod mma;
#[cfg(test)]
mod mma_oracle;
#[cfg(target_arch = "x86_64")]
mod mma_simd;
mod mma_step;
pub mod mufu;
pub mod scalar;

pub use class::Class;
pub use format::{Format, Round};

/// One 32-bit register of a warp.
pub type Lanes = [u32; 32];

/// One 64-bit register of a warp.
pub type WideLanes = [u64; 32];

/// The NaN that every f32 instruction returns, whatever NaN it was given.
pub const CANONICAL_NAN_F32: u32 = 0x7fff_ffff;

/// The NaN that every f16 and bf16 instruction returns.
pub const CANONICAL_NAN_16: u32 = 0x7fff;

#[inline(always)]
pub(crate) fn map1(a: &Lanes, f: impl Fn(u32) -> u32) -> Lanes {
    let mut d = [0; 32];
    for i in 0..32 {
        d[i] = f(a[i]);
    }
    d
}

#[inline(always)]
pub(crate) fn map2(a: &Lanes, b: &Lanes, f: impl Fn(u32, u32) -> u32) -> Lanes {
    let mut d = [0; 32];
    for i in 0..32 {
        d[i] = f(a[i], b[i]);
    }
    d
}

#[inline(always)]
pub(crate) fn map3(a: &Lanes, b: &Lanes, c: &Lanes, f: impl Fn(u32, u32, u32) -> u32) -> Lanes {
    let mut d = [0; 32];
    for i in 0..32 {
        d[i] = f(a[i], b[i], c[i]);
    }
    d
}
