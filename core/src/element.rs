//! The three element types of tensors: `f32`, `bf16`, `f16`.

use half::{bf16, f16};

/// The name of an element type, for plans, reports and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit brain float: the exponent of `f32`, 8 bits of significand.
    Bf16,
    /// 16-bit IEEE float: 11 bits of significand, largest finite value 65504.
    F16,
}

impl DType {
    /// The size of one element.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// An element type of tensors. Sealed: implemented for `f32`, `bf16` and `f16` only, so that kernels can choose
/// an instruction set by [`Element::DTYPE`].
pub trait Element:
    sealed::Sealed + bytemuck::Pod + Default + Send + Sync + PartialEq + std::fmt::Debug
{
    /// The type's name as a value.
    const DTYPE: DType;
    /// Widens exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
    /// Rounds to nearest, ties to even, in one step (no double rounding through `f32`).
    fn from_f64(x: f64) -> Self;
    /// Neither NaN nor infinite. Looks at the bits alone, so that a loop over a row vectorises for every type.
    fn is_finite(self) -> bool;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        Self::from_f64(x)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
    #[inline(always)]
    fn from_f64(x: f64) -> Self {
        Self::from_f64(x)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.is_finite()
    }
}
