//! What differs between the architectures: limits of a launch, and the name by which numerics are chosen.

use std::fmt;

/// A GPU architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arch {
    /// Ampere data centre (A100).
    Sm80,
    /// Ampere consumer (RTX 30).
    Sm86,
    /// Ada (L4, L40, RTX 40).
    Sm89,
    /// Hopper with its architecture-specific instructions (H100, H200).
    Sm90a,
}

impl Arch {
    /// Every architecture, oldest first.
    pub const ALL: [Arch; 4] = [Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a];

    /// Compute capability as PTX writes it in `.target`: 80, 86, 89, 90.
    pub const fn number(self) -> u32 {
        match self {
            Arch::Sm80 => 80,
            Arch::Sm86 => 86,
            Arch::Sm89 => 89,
            Arch::Sm90a => 90,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arch::Sm90a => f.write_str("sm_90a"),
            other => write!(f, "sm_{}", other.number()),
        }
    }
}

/// The limits a launch is checked against (CUDA C++ Programming Guide, table of compute capabilities).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// The architecture itself.
    pub arch: Arch,
    /// Threads in a CTA.
    pub max_threads_per_cta: u32,
    /// Extent of a CTA in x, y and z.
    pub max_cta_extent: [u32; 3],
    /// Extent of the grid in x, y and z.
    pub max_grid_extent: [u32; 3],
    /// Static plus dynamic shared memory of a CTA, in bytes, after the opt-in of the driver attribute.
    pub max_shared_bytes: u32,
    /// Static shared memory a module may declare, in bytes.
    pub max_static_shared_bytes: u32,
    /// Size of all parameters of a kernel, in bytes.
    pub max_param_bytes: u32,
}

impl Profile {
    /// The limits of `arch`.
    pub const fn of(arch: Arch) -> Profile {
        let max_shared_bytes = match arch {
            Arch::Sm80 => 163 << 10,
            Arch::Sm86 | Arch::Sm89 => 99 << 10,
            Arch::Sm90a => 227 << 10,
        };
        Profile {
            arch,
            max_threads_per_cta: 1024,
            max_cta_extent: [1024, 1024, 64],
            max_grid_extent: [i32::MAX as u32, 65535, 65535],
            max_shared_bytes,
            max_static_shared_bytes: 48 << 10,
            max_param_bytes: 4096,
        }
    }
}
