//! The query rows that pass by: queries of the window x heads of a group.

use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group};
use crate::arch::global::ld_global_b32;
use crate::arch::math::div_rem;
use crate::arch::shared::{ld_shared_v4_b32, st_shared_v2_f32};
use crate::forward::{THREADS, Thread};
use crate::params::ColumnMassParams;
use crate::product::TILE_N;
use crate::smem::chunk_offset;
use crate::tile_size::ELEMENT_BYTES;

/// Bytes of what is known of the rows of a step.
pub(super) const FACTS_BYTES: u32 = TILE_N * 8;

/// The packed rows of one KV head as a CTA sees them.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    pub(super) q: u64,
    pub(super) softmax_lse: u64,
    /// The first key of the CTA, from which limits count.
    pub(super) first_key: i32,
    pub(super) params: &'a ColumnMassParams,
}

impl PackedRows<'_> {
    /// How many there are.
    #[inline(always)]
    pub(super) fn count(self) -> u32 {
        self.params.q_len * self.params.group
    }

    /// The first row of the first step of which some row sees the first key.
    #[inline(always)]
    pub(super) fn first(self) -> u32 {
        if self.params.limit_step == 0 {
            return 0;
        }
        let blind = (self.first_key + 1 - self.params.first_limit).max(0) as u32;
        blind.min(self.params.q_len) * self.params.group / TILE_N * TILE_N
    }

    /// The query of the window and the head of the group of row `row`.
    #[inline(always)]
    fn unpack(self, row: u32) -> (u32, u32) {
        // SAFETY: a launch has heads.
        unsafe { div_rem(row, self.params.group) }
    }

    /// Query `i` sees the keys of the CTA before this one.
    #[inline(always)]
    fn limit(self, i: u32) -> i32 {
        self.params.first_limit - self.first_key + (i * self.params.limit_step) as i32
    }

    /// Row `row` sees the keys of the CTA before this one; rows after it see no fewer.
    #[inline(always)]
    pub(super) fn limit_of_row(self, row: u32) -> i32 {
        self.limit(self.unpack(row).0)
    }

    /// Begins to copy the step of rows from `first` on, of `8 DT` features, zeros for rows that do not exist, and closes
    /// the group.
    ///
    /// # Safety
    /// Reached by all threads of the CTA; the stage is free, and `q` holds the rows.
    #[inline(always)]
    pub(super) unsafe fn begin<const DT: usize>(self, stage: u32, head_k: u32, first: u32, thread: Thread) {
        let (row, chunk) = (thread.index / DT as u32, thread.index % DT as u32);
        for row in (0..TILE_N).step_by(THREADS as usize / DT).map(|pass| pass + row) {
            let (i, group_head) = self.unpack(first + row);
            let head = head_k * self.params.head_step_k + group_head * self.params.head_step;
            let source = self.q + self.params.q.offset(self.params.q_start + i, head, ELEMENT_BYTES);
            let target = stage + chunk_offset(TILE_N, row, chunk);
            // SAFETY: the caller's; rows that do not exist are not read.
            unsafe { cp_async_cg_16_zfill(target, source + chunk as u64 * 16, i < self.params.q_len) };
        }
        cp_async_commit_group();
    }

    /// What is known of row `first + lane`: what is added to its scaled scores, and its limit.
    ///
    /// # Safety
    /// `softmax_lse` holds the rows.
    #[inline(always)]
    pub(super) unsafe fn facts(self, head_k: u32, first: u32, lane: u32) -> [f32; 2] {
        let (i, group_head) = self.unpack(first + lane);
        if i >= self.params.q_len {
            return [f32::NEG_INFINITY, f32::from_bits(i32::MIN as u32)];
        }
        let head = head_k * self.params.head_step_k + group_head * self.params.head_step;
        let at = head as u64 * self.params.total_q as u64 + (self.params.q_start + i) as u64;
        // SAFETY: the caller's.
        let lse = f32::from_bits(unsafe { ld_global_b32(self.softmax_lse + at * 4) });
        // A row that attends to nothing adds nothing.
        let shift = if lse == f32::NEG_INFINITY { lse } else { -(lse * core::f32::consts::LOG2_E) };
        [shift, f32::from_bits(self.limit(i) as u32)]
    }

    /// Keeps the facts of a lane's row.
    ///
    /// # Safety
    /// `facts` is the place of a step's that nothing reads meanwhile.
    #[inline(always)]
    pub(super) unsafe fn put_facts(facts: u32, lane: u32, of_row: [f32; 2]) {
        // SAFETY: the caller's.
        unsafe { st_shared_v2_f32(facts + lane * 8, of_row) };
    }
}

/// The facts of rows `8 n + 2 (lane % 4)` and the next: shifts, then limits.
///
/// # Safety
/// They are there.
#[inline(always)]
pub(super) unsafe fn facts_of_pair(facts: u32, n: u32, lane: u32) -> ([f32; 2], [i32; 2]) {
    // SAFETY: the caller's.
    let [a, i, b, j] = unsafe { ld_shared_v4_b32(facts + (8 * n + lane % 4 * 2) * 8) };
    ([f32::from_bits(a), f32::from_bits(b)], [i as i32, j as i32])
}
