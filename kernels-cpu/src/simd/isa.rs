//! The choice of an instruction set.

use std::cell::Cell;
use std::sync::OnceLock;

use half::{bf16, f16};
use lacuna_core::{DType, Element};

use super::portable::Portable;
use super::{Dot, Operand, Widened};

#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// An instruction set that kernels are compiled for.
///
/// Plans take [`Isa::current`] when they are made and keep it: the best that the machine has, unless the environment
/// variable `LACUNA_ISA` names a lesser one (`avx512bf16`, `avx512`, `avx2`, `portable`), or [`Isa::scope`] does.
/// Names of instruction sets that are unknown or that the machine lacks are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Vectors of four that any compiler turns into SSE2 or NEON.
    Portable,
    /// AVX2, FMA and F16C: 256-bit vectors.
    Avx2,
    /// AVX-512 F, BW, DQ, VL: 512-bit vectors.
    Avx512,
    /// AVX-512 with `vdpbf16ps`: twice the rate for `bf16`.
    Avx512Bf16,
}

/// Code that [`Isa::run`] compiles for every instruction set.
pub trait Kernel {
    /// What it returns.
    type Output;
    /// The code. Mark the implementation `#[inline(always)]`.
    fn run<S: Dot<P>, P: Operand>(self, simd: S) -> Self::Output;
}

thread_local! {
    static SCOPED: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// All instruction sets, the least first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// The name `LACUNA_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => Avx512::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Avx512::new_bf16().is_some(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Those this machine has, the least first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|isa| isa.is_available())
    }

    /// The best this machine has.
    pub fn best() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().max().unwrap_or(Self::Portable))
    }

    /// What plans made on this thread use.
    pub fn current() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        SCOPED.get().unwrap_or_else(|| {
            *CHOSEN.get_or_init(|| {
                let name = std::env::var("LACUNA_ISA").unwrap_or_default();
                Self::available()
                    .find(|isa| isa.name().eq_ignore_ascii_case(&name))
                    .unwrap_or_else(Self::best)
            })
        })
    }

    /// Runs `f` with [`Isa::current`] being `self` on this thread, for comparing instruction sets with one another.
    /// Without effect when the machine lacks it.
    ///
    /// ```
    /// use lacuna_kernels_cpu::simd::Isa;
    /// Isa::Portable.scope(|| assert_eq!(Isa::current(), Isa::Portable));
    /// ```
    pub fn scope<R>(self, f: impl FnOnce() -> R) -> R {
        struct Restore(Option<Isa>);
        impl Drop for Restore {
            fn drop(&mut self) {
                SCOPED.set(self.0);
            }
        }
        let _restore = Restore(SCOPED.get());
        if self.is_available() {
            SCOPED.set(Some(self));
        }
        f()
    }

    /// Runs a kernel whose operands are packed for elements of type `T`: `bf16` pairs where the machine multiplies
    /// them, `f32` otherwise.
    #[inline]
    pub fn run<T: Element, K: Kernel>(self, kernel: K) -> K::Output {
        match T::DTYPE {
            DType::Bf16 => self.run_bf16_or::<f32, K>(kernel),
            DType::F32 | DType::F16 => self.run_operand::<f32, K>(kernel),
        }
    }

    /// As [`Isa::run`], with operands that are as small in memory as `T` and widened when they are loaded.
    #[inline]
    pub fn run_narrow<T: Element, K: Kernel>(self, kernel: K) -> K::Output {
        match T::DTYPE {
            DType::F32 => self.run_operand::<f32, K>(kernel),
            DType::Bf16 => self.run_bf16_or::<Widened<bf16>, K>(kernel),
            DType::F16 => self.run_operand::<Widened<f16>, K>(kernel),
        }
    }

    /// The size of the packed operands of [`Isa::run`] for `T`.
    pub fn operand_bytes<T: Element>(self) -> usize {
        if self == Self::Avx512Bf16 && T::DTYPE == DType::Bf16 { 2 } else { 4 }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn run_bf16_or<P: Operand, K: Kernel>(self, kernel: K) -> K::Output
    where
        Portable: Dot<P>,
        Avx2: Dot<P>,
        Avx512: Dot<P>,
    {
        match (self, Avx512::new_bf16()) {
            // SAFETY: `new_bf16` has checked the features of the entry function.
            (Self::Avx512Bf16, Some(simd)) => unsafe { enter_avx512_bf16(simd, kernel) },
            _ => self.run_operand::<P, K>(kernel),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn run_operand<P: Operand, K: Kernel>(self, kernel: K) -> K::Output
    where
        Portable: Dot<P>,
        Avx2: Dot<P>,
        Avx512: Dot<P>,
    {
        if self >= Self::Avx512
            && let Some(simd) = Avx512::new()
        {
            // SAFETY: `new` has checked the features of the entry function.
            return unsafe { enter_avx512::<P, K>(simd, kernel) };
        }
        if self >= Self::Avx2
            && let Some(simd) = Avx2::new()
        {
            // SAFETY: `new` has checked the features of the entry function.
            return unsafe { enter_avx2::<P, K>(simd, kernel) };
        }
        kernel.run::<Portable, P>(Portable)
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    fn run_bf16_or<P: Operand, K: Kernel>(self, kernel: K) -> K::Output
    where
        Portable: Dot<P>,
    {
        self.run_operand::<P, K>(kernel)
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[inline]
    fn run_operand<P: Operand, K: Kernel>(self, kernel: K) -> K::Output
    where
        Portable: Dot<P>,
    {
        kernel.run::<Portable, P>(Portable)
    }
}

/// # Safety
/// The machine must have AVX2, FMA and F16C, as the token proves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn enter_avx2<P: Operand, K: Kernel>(simd: Avx2, kernel: K) -> K::Output
where
    Avx2: Dot<P>,
{
    kernel.run::<Avx2, P>(simd)
}

/// # Safety
/// The machine must have AVX-512 F, BW, DQ and VL, as the token proves.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn enter_avx512<P: Operand, K: Kernel>(simd: Avx512, kernel: K) -> K::Output
where
    Avx512: Dot<P>,
{
    kernel.run::<Avx512, P>(simd)
}

/// # Safety
/// As [`enter_avx512`], and AVX512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn enter_avx512_bf16<K: Kernel>(simd: Avx512, kernel: K) -> K::Output {
    kernel.run::<Avx512, bf16>(simd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scope_restores_and_ignores_what_is_missing() {
        let before = Isa::current();
        Isa::Portable.scope(|| {
            assert_eq!(Isa::current(), Isa::Portable);
            for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
                isa.scope(|| assert_eq!(Isa::current(), Isa::Portable));
            }
        });
        assert_eq!(Isa::current(), before);
        assert!(Isa::best() >= before);
    }
}
