//! Memory of the machine and the addresses it is reached by.
//!
//! A generic address names its space in the bits from 40 up: 1 is shared memory, 2 local, 3 the parameters, and from
//! [`FIRST_SLOT`] on each allocation of global memory has a window of its own. Address arithmetic that leaves an
//! allocation cannot land in another one.

mod bitmap;
mod global;

pub use bitmap::Bitmap;
pub use global::{Global, Place};

use crate::FaultKind;
use crate::ir::Space;

/// Bits of an address inside its window.
pub const WINDOW_BITS: u32 = 40;
/// Mask of those bits.
pub const OFFSET_MASK: u64 = (1 << WINDOW_BITS) - 1;
/// Window of the first allocation in global memory.
pub const FIRST_SLOT: u64 = 16;

/// The generic address at which a space begins; global memory is its own generic space.
pub const fn window(space: Space) -> u64 {
    match space {
        Space::Shared => 1 << WINDOW_BITS,
        Space::Local => 2 << WINDOW_BITS,
        Space::Param => 3 << WINDOW_BITS,
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

/// The space that a generic address lies in; addresses below the windows count as global, where they are wild.
pub const fn space_of(address: u64) -> Space {
    match address >> WINDOW_BITS {
        1 => Space::Shared,
        2 => Space::Local,
        3 => Space::Param,
        _ => Space::Global,
    }
}

/// One access of up to 16 bytes per lane.
pub type Staging = [[u8; 16]; 32];

/// Something wrong, before the place in the kernel is added.
#[derive(Debug)]
pub struct Trouble {
    pub kind: FaultKind,
    pub lane: Option<u32>,
    pub message: String,
    /// Name of the allocation and offset in it.
    pub allocation: Option<(String, u64)>,
}

impl Trouble {
    /// Trouble of one lane.
    #[cold]
    pub fn lane(kind: FaultKind, lane: u32, message: impl Into<String>) -> Box<Self> {
        Box::new(Trouble { kind, lane: Some(lane), message: message.into(), allocation: None })
    }

    /// Trouble of a warp or CTA.
    #[cold]
    pub fn warp(kind: FaultKind, message: impl Into<String>) -> Box<Self> {
        Box::new(Trouble { kind, lane: None, message: message.into(), allocation: None })
    }

    /// The same at `offset` of an allocation.
    pub fn at(mut self: Box<Self>, name: &str, offset: u64) -> Box<Self> {
        self.allocation = Some((name.to_owned(), offset));
        self
    }
}

/// Result of what may go wrong in a kernel.
pub type Checked<T> = Result<T, Box<Trouble>>;

/// The lanes of a mask.
#[inline(always)]
pub fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros();
        mask &= mask - 1;
        Some(lane as usize)
    })
}
