//! Where the tokens of a sequence lie.

use crate::params::Strides;
use crate::tile_size::ELEMENT_BYTES;

impl Strides {
    /// The byte offset of the row of `token` and `head` in a tensor of elements of `element_bytes`.
    #[inline(always)]
    pub(crate) fn offset(self, token: u32, head: u32, element_bytes: u32) -> u64 {
        (token as u64 * self.token + head as u64 * self.head) * element_bytes as u64
    }

    /// Bytes from a token to the next in a tensor of 16-bit elements.
    #[inline(always)]
    pub(crate) fn token_bytes(self) -> u64 {
        self.token * ELEMENT_BYTES as u64
    }
}
