//! The rows of a tile: query tokens x query heads that read one KV head.

use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group};
use crate::arch::math::div_rem;
use crate::forward::{THREADS, sign_queries};
use crate::mask::Mask;
use crate::params::DecodeParams;
use crate::smem::chunk_offset;
use crate::tile_size::ELEMENT_BYTES;

/// The packed rows of a tile, of which some may not exist.
#[derive(Clone, Copy)]
pub(super) struct PackedRows {
    /// The first query token of the sequence, on the token axis.
    pub(super) q_start: u32,
    /// The first row of the tile, among all of the sequence and KV head.
    pub(super) first: u32,
    /// How many these are.
    pub(super) count: u32,
    /// Query heads that read the KV head.
    pub(super) group: u32,
    /// By query token.
    pub(super) mask: Mask,
}

impl PackedRows {
    /// The query token and the head in the group of row `row` of the tile.
    #[inline(always)]
    fn unpack(self, row: u32) -> (u32, u32) {
        // SAFETY: a launch has heads.
        unsafe { div_rem(self.first + row, self.group) }
    }

    /// Row `row` of the tile sees the keys before this one.
    #[inline(always)]
    pub(super) fn limit(self, row: u32) -> i32 {
        self.mask.limit(self.unpack(row).0)
    }

    /// Begins to copy the queries of `tile_m` rows of `8 DT` features to `smem`, zeros for rows that do not exist, and
    /// applies the scale's sign.
    ///
    /// # Safety
    /// Reached by all threads of the CTA; `smem` is theirs, and `q` holds the rows.
    #[inline(always)]
    pub(super) unsafe fn begin_queries<const DT: usize>(
        self,
        q: u64,
        head_k: u32,
        smem: u32,
        tile_m: u32,
        thread: u32,
        params: &DecodeParams,
    ) {
        let (first, chunk) = (thread / DT as u32, thread % DT as u32);
        let rows = (0..tile_m).step_by(THREADS as usize / DT).map(|pass| pass + first);
        let target = |row| smem + chunk_offset(tile_m, row, chunk);
        for row in rows.clone() {
            let (token, group_head) = self.unpack(row);
            let head = head_k * params.head_step_k + group_head * params.head_step;
            let source = q + params.q.offset(self.q_start + token, head, ELEMENT_BYTES) + chunk as u64 * 16;
            // SAFETY: the caller's; rows that do not exist are not read.
            unsafe { cp_async_cg_16_zfill(target(row), source, self.first + row < self.count) };
        }
        cp_async_commit_group();
        // SAFETY: the chunks that this thread copies.
        unsafe { sign_queries(rows.map(target), params.softmax_scale) };
    }
}
