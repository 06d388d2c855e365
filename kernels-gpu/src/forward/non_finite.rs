//! Values that are NaN or infinite, in tiles that some rows see in part.

use core::ops::Range;

use crate::arch::global::ld_global_b32;
use crate::arch::shared::{ld_shared_v4_b32, st_shared_v4_b32};
use crate::element::Element;

/// Takes the values in this thread's chunks that are not finite to zero; whether there were any.
///
/// # Safety
/// The chunks are this thread's own copies, and have arrived.
#[inline(always)]
pub(crate) unsafe fn clear<E: Element>(chunks: impl Iterator<Item = u32>) -> bool {
    let mut any = 0;
    for chunk in chunks {
        // SAFETY: the caller's.
        unsafe {
            let words = ld_shared_v4_b32(chunk);
            let found = words.map(E::non_finite);
            any |= found[0] | found[1] | found[2] | found[3];
            st_shared_v4_b32(chunk, core::array::from_fn(|i| words[i] ^ found[i]));
        }
    }
    any != 0
}

/// Adds the values of `keys` that are not finite to the outputs of the rows that see them: those whose limit,
/// `limits(i, half)`, is greater than the key. `column` is the address of the first column that this lane holds in the
/// value of key 0.
///
/// # Safety
/// The keys exist.
#[inline(always)]
pub(crate) unsafe fn carry<E: Element, const MT: usize, const DT: usize>(
    out: &mut [[[f32; 4]; DT]; MT],
    column: u64,
    row_bytes: u64,
    keys: Range<i32>,
    limits: impl Fn(usize, usize) -> i32,
) {
    for key in keys {
        let row = column + key as u64 * row_bytes;
        for n in 0..DT {
            // SAFETY: the caller's.
            let [lo, hi] = E::unpack(unsafe { E::non_finite(ld_global_b32(row + n as u64 * 16)) });
            for i in 0..MT {
                for half in 0..2 {
                    if key < limits(i, half) {
                        out[i][n][2 * half] += lo;
                        out[i][n][2 * half + 1] += hi;
                    }
                }
            }
        }
    }
}
