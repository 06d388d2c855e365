//! The architectures that images are built for.

use std::fmt;

/// An architecture to build an image for, by the oldest GPU that runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Arch {
    /// Ampere and everything newer: `mma.sync`, `ldmatrix`, `cp.async`.
    Sm80,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: &[Self] = &[Self::Sm80];

    /// The name that rustc, llc and ptxas know: `sm_80`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
        }
    }

    /// The PTX version that images carry, the lowest that llc writes for this architecture. It decides the oldest
    /// driver that loads them (7.0: CUDA 11.0), so that raising it wants a reason.
    pub const fn ptx_version(self) -> &'static str {
        match self {
            Self::Sm80 => "7.0",
        }
    }

    /// The GPUs that the image is assembled for when ptxas is at hand, with the dynamic shared memory a CTA may ask for
    /// on each, in bytes (CUDA C++ Programming Guide, technical specifications per compute capability).
    pub const fn assembled_for(self) -> &'static [(&'static str, u32)] {
        match self {
            Self::Sm80 => {
                &[("sm_80", 163 * 1024), ("sm_86", 99 * 1024), ("sm_89", 99 * 1024), ("sm_90", 227 * 1024)]
            }
        }
    }

    /// The most dynamic shared memory that a CTA may ask for on [`name`](Self::name) itself, in bytes.
    pub const fn max_dynamic_smem_bytes(self) -> u32 {
        self.assembled_for()[0].1
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
