//! Global memory: allocations far apart, each with its name and the bytes that have been written.

use std::ops::Range;

use super::{Bitmap, Checked, FIRST_SLOT, OFFSET_MASK, Trouble, WINDOW_BITS};
use crate::FaultKind;
use crate::check::GlobalShadow;

/// A byte of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub slot: usize,
    pub offset: usize,
}

/// One allocation, perhaps freed.
#[derive(Debug)]
pub struct Allocation {
    pub name: String,
    pub bytes: Vec<u8>,
    valid: Bitmap,
    /// Every byte is valid; spares the bitmap.
    complete: bool,
    live: bool,
    pub read_only: bool,
    /// Who accessed what in the launch that runs.
    pub shadow: GlobalShadow,
}

/// All allocations there ever were; windows are not used twice.
#[derive(Debug, Default)]
pub struct Global {
    allocations: Vec<Allocation>,
}

/// Every byte of uninitialised memory, so that a result computed from it is conspicuous: two of them make a bf16 NaN and
/// four an f32 NaN.
const POISON: u8 = 0xff;

impl Global {
    /// The address that allocation `index` has or will have.
    pub fn address_of(index: usize) -> u64 {
        (FIRST_SLOT + index as u64) << WINDOW_BITS
    }

    /// How many allocations there are.
    pub fn len(&self) -> usize {
        self.allocations.len()
    }

    /// A new allocation; its address.
    pub fn allocate(&mut self, bytes: usize, name: &str) -> u64 {
        self.allocations.push(Allocation {
            name: name.to_owned(),
            bytes: vec![POISON; bytes],
            valid: Bitmap::new(bytes),
            complete: false,
            live: true,
            read_only: false,
            shadow: GlobalShadow::default(),
        });
        Self::address_of(self.allocations.len() - 1)
    }

    /// Frees the allocation that starts at `address`.
    pub fn free(&mut self, address: u64) -> Checked<()> {
        let place = self.place(address, 0)?;
        let allocation = &mut self.allocations[place.slot];
        if place.offset != 0 {
            let message =
                format!("`{}` is freed by an address {} bytes into it", allocation.name, place.offset);
            return Err(Trouble::warp(FaultKind::WildPointer, message));
        }
        allocation.live = false;
        allocation.bytes = Vec::new();
        allocation.valid = Bitmap::default();
        Ok(())
    }

    /// The allocation of a place.
    pub fn allocation(&self, slot: usize) -> &Allocation {
        &self.allocations[slot]
    }

    /// The same for changes.
    pub fn allocation_mut(&mut self, slot: usize) -> &mut Allocation {
        &mut self.allocations[slot]
    }

    /// Copies `bytes` bytes and what they are worth; the places may overlap.
    pub fn copy(&mut self, from: Place, to: Place, bytes: usize) -> Checked<()> {
        let source = from.offset..from.offset + bytes;
        if from.slot == to.slot {
            let allocation = &mut self.allocations[from.slot];
            allocation.bytes.copy_within(source.clone(), to.offset);
            if !allocation.complete {
                let valid = allocation.valid.clone();
                allocation.valid.copy_from(&valid, source, to.offset);
            }
            return Ok(());
        }
        let Ok([source_allocation, target]) = self.allocations.get_disjoint_mut([from.slot, to.slot]) else {
            return Err(Trouble::warp(
                FaultKind::WildPointer,
                "a copy between allocations that do not exist",
            ));
        };
        target.bytes[to.offset..to.offset + bytes].copy_from_slice(&source_allocation.bytes[source.clone()]);
        let end = to.offset + bytes;
        if source_allocation.complete {
            target.mark(to.offset..end, true);
        } else if bytes > 0 {
            target.mark(to.offset..end, false);
            target.valid.copy_from(&source_allocation.valid, source, to.offset);
        }
        Ok(())
    }

    /// Forgets the accesses of the last launch.
    pub fn clear_shadows(&mut self) {
        self.allocations.iter_mut().for_each(|allocation| allocation.shadow.clear());
    }

    /// Where `bytes` bytes from `address` on lie.
    #[inline(always)]
    pub fn place(&self, address: u64, bytes: usize) -> Checked<Place> {
        let slot = (address >> WINDOW_BITS).wrapping_sub(FIRST_SLOT) as usize;
        let offset = (address & OFFSET_MASK) as usize;
        match self.allocations.get(slot) {
            Some(allocation) if offset + bytes <= allocation.bytes.len() && allocation.live => {
                Ok(Place { slot, offset })
            }
            _ => Err(self.bad_address(address, bytes)),
        }
    }

    #[cold]
    fn bad_address(&self, address: u64, bytes: usize) -> Box<Trouble> {
        let slot = (address >> WINDOW_BITS).wrapping_sub(FIRST_SLOT) as usize;
        let offset = address & OFFSET_MASK;
        // Just below an allocation the offset has wrapped into the window before.
        let before = (1 << WINDOW_BITS) - offset;
        if let Some(next) = self.allocations.get(slot.wrapping_add(1)).filter(|_| before <= 1 << 32) {
            let message = format!("{bytes} bytes at an address {before} bytes below `{}`", next.name);
            return Trouble::warp(FaultKind::OutOfBounds, message).at(&next.name, 0);
        }
        match self.allocations.get(slot) {
            Some(Allocation { name, live: false, .. }) => {
                let message = format!("{bytes} bytes at offset {offset} of `{name}`, which was freed");
                Trouble::warp(FaultKind::UseAfterFree, message).at(name, offset)
            }
            Some(Allocation { name, bytes: all, .. }) => {
                let size = all.len();
                let message = format!("{bytes} bytes at offset {offset} of `{name}`, which has {size}");
                Trouble::warp(FaultKind::OutOfBounds, message).at(name, offset)
            }
            None => {
                let space = match address >> WINDOW_BITS {
                    _ if address == 0 => " (null)",
                    0 => " (close to null)",
                    1 => " (shared memory)",
                    2 => " (local memory)",
                    3 => " (parameters)",
                    _ => "",
                };
                let message =
                    format!("{bytes} bytes at address {address:#x}{space}, which is no global memory");
                Trouble::warp(FaultKind::WildPointer, message)
            }
        }
    }
}

impl Allocation {
    /// Fails unless every byte of a range has been written.
    #[inline(always)]
    pub fn require_valid(&self, range: Range<usize>) -> Checked<()> {
        if self.complete || self.valid.all(range.clone()) { Ok(()) } else { Err(self.invalid(range)) }
    }

    #[cold]
    fn invalid(&self, range: Range<usize>) -> Box<Trouble> {
        let first = self.valid.first_clear(range).unwrap_or(0) as u64;
        let message = format!("byte {first} of `{}` is read and was never written", self.name);
        Trouble::warp(FaultKind::UninitialisedRead, message).at(&self.name, first)
    }

    /// Notes that a range has been written, or (`value` false) has lost its value.
    #[inline(always)]
    pub fn mark(&mut self, range: Range<usize>, value: bool) {
        if self.complete && value || range.is_empty() {
            return;
        }
        if self.complete {
            self.complete = false;
            self.valid.set(0..self.bytes.len(), true);
        }
        self.complete = value && range == (0..self.bytes.len());
        self.valid.set(range, value);
    }

    /// Fails when the allocation must not be written.
    #[inline(always)]
    pub fn require_writable(&self, offset: usize) -> Checked<()> {
        if self.read_only {
            let message = format!("a store into `{}`, which is read-only", self.name);
            return Err(Trouble::warp(FaultKind::ReadOnly, message).at(&self.name, offset as u64));
        }
        Ok(())
    }
}
