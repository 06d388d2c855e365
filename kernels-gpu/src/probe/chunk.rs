//! What a CTA of the probe works on, and its queries and keys.

use crate::arch::copy_sm80::{cp_async_cg_16_zfill, cp_async_commit_group, cp_async_wait_group};
use crate::arch::math::div_rem;
use crate::arch::shared::{ld_shared_v4_b32, st_shared_v4_b32};
use crate::arch::special_register::cta;
use crate::element::Element;
use crate::forward::{THREADS, Thread, TileCopy, sign_queries};
use crate::mask::hide;
use crate::params::{ProbeParams, SearchSequence};
use crate::product::{Products, TILE_M, TILE_N};
use crate::smem::chunk_offset;
use crate::tile_size::{ELEMENT_BYTES, probe_chunk_keys};

/// A chunk of the keys of a sequence, for one query head.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    /// The query head, and the KV head that it reads.
    pub(super) head: u32,
    head_k: u32,
    /// Which chunk of the sequence it is.
    pub(super) index: u32,
    /// Its first key, and how many keys a chunk has.
    pub(super) first_key: u32,
    pub(super) keys: u32,
    pub(super) sequence: SearchSequence,
    /// Of the 128 rows, those that do not exist: the first.
    pub(super) absent: u32,
    /// The sequence and query head among all.
    pub(super) sequence_head: u64,
}

impl Chunk {
    /// The CTA's, unless its sequence has no such chunk.
    ///
    /// # Safety
    /// Launched as [`crate::kernel`] says.
    #[inline(always)]
    pub(super) unsafe fn of_cta(sequences: *const SearchSequence, params: &ProbeParams) -> Option<Self> {
        let [chunk_and_head, head_k, b] = cta();
        // SAFETY: the caller's.
        let (index, group_head, sequence) = unsafe {
            let (index, group_head) = div_rem(chunk_and_head, params.group);
            (index, group_head, sequences.add(b as usize).read())
        };
        let keys = probe_chunk_keys(sequence.k_len);
        let first_key = index as u64 * keys as u64;
        if first_key >= sequence.k_len as u64 {
            return None;
        }
        let head = head_k * params.head_step_k + group_head * params.head_step;
        Some(Self {
            head,
            head_k,
            index,
            first_key: first_key as u32,
            keys,
            sequence,
            absent: TILE_M - params.last_q.min(sequence.q_len),
            sequence_head: b as u64 * params.num_heads as u64 + head as u64,
        })
    }

    /// Whether the sequence has no queries.
    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.absent == TILE_M
    }

    /// Whether some row of the warp exists.
    #[inline(always)]
    pub(super) fn has_rows(&self, warp: u32) -> bool {
        warp * 32 + 32 > self.absent
    }

    /// The chunk's keys end here, or those of the sequence: no key from `limit` on is read.
    #[inline(always)]
    pub(super) fn key_limit(&self, beyond: u32) -> i32 {
        self.sequence.k_len.min(self.first_key + self.keys + beyond) as i32
    }

    /// Where the results of the sequence and head begin in `vertical` and `slash`, in elements.
    #[inline(always)]
    pub(super) fn scores(&self, params: &ProbeParams) -> u64 {
        let SearchSequence { k_start, k_len, .. } = self.sequence;
        params.num_heads as u64 * k_start as u64 + self.head as u64 * k_len as u64
    }

    /// Where what is known of the rows lies in the workspace: the address of row 0 of a chunk.
    #[inline(always)]
    pub(super) fn partial(&self, partial: u64, index: u32, params: &ProbeParams) -> u64 {
        let chunk = self.sequence_head * params.max_chunks as u64 + index as u64;
        partial + chunk * (TILE_M * 8) as u64
    }

    /// Begins to copy the 128 rows of `8 DT` features to `smem`, zeros for those that do not exist, and closes the group.
    ///
    /// # Safety
    /// Reached by all threads of the CTA; `smem` is theirs, and `q` holds the rows.
    #[inline(always)]
    pub(super) unsafe fn begin_queries<const DT: usize>(
        &self,
        q: u64,
        smem: u32,
        thread: Thread,
        params: &ProbeParams,
    ) {
        let first = self.sequence.q_start + self.sequence.q_len - (TILE_M - self.absent);
        let base = q + params.q.offset(first, self.head, ELEMENT_BYTES);
        for (row, chunk, target) in targets::<DT>(smem, thread) {
            let source = base + row.saturating_sub(self.absent) as u64 * params.q.token_bytes();
            // SAFETY: the caller's; rows that do not exist are not read.
            unsafe { cp_async_cg_16_zfill(target, source + chunk as u64 * 16, row >= self.absent) };
        }
        cp_async_commit_group();
    }

    /// Waits for the queries, and scales and rounds them, or applies the scale's sign.
    ///
    /// # Safety
    /// As [`Chunk::begin_queries`], after it and the copies of one step of keys. Other threads see them after a barrier.
    #[inline(always)]
    pub(super) unsafe fn finish_queries<E: Element, const DT: usize>(
        &self,
        smem: u32,
        thread: Thread,
        params: &ProbeParams,
    ) {
        cp_async_wait_group::<1>();
        let targets = targets::<DT>(smem, thread).map(|(_, _, target)| target);
        // SAFETY: the thread's own copies, which have arrived.
        unsafe {
            if params.round == 0 {
                sign_queries(targets, params.softmax_scale);
                return;
            }
            for target in targets {
                let words = ld_shared_v4_b32(target).map(|pair| {
                    let [lo, hi] = E::unpack(pair).map(|x| x * params.query_scale);
                    E::pack(lo, hi)
                });
                st_shared_v4_b32(target, words);
            }
        }
    }

    /// Copies of the head's keys.
    #[inline(always)]
    pub(super) fn key_copy<const DT: usize>(
        &self,
        k: u64,
        thread: Thread,
        params: &ProbeParams,
    ) -> TileCopy<DT> {
        let base = k + params.k.offset(self.sequence.k_start, self.head_k, ELEMENT_BYTES);
        TileCopy::new(thread.index, TILE_N, base, params.k.token_bytes())
    }

    /// Takes the scores of keys that a row does not see to `-inf`: those from `k_len - 127 + row` on.
    #[inline(always)]
    pub(super) fn mask(&self, scores: &mut Products, n: i32, thread: Thread) {
        let first_limit = self.sequence.k_len as i32 - (TILE_M as i32 - 1);
        if n + TILE_N as i32 <= first_limit {
            return;
        }
        for i in 0..2 {
            for half in 0..2 {
                let row = thread.warp * 32 + (16 * i + 8 * half) as u32 + thread.lane / 4;
                hide(&mut scores[i], half, first_limit + row as i32 - n - thread.column() as i32);
            }
        }
    }
}

/// The thread's chunks of the tile of queries: row, chunk, and address.
#[inline(always)]
fn targets<const DT: usize>(smem: u32, thread: Thread) -> impl Iterator<Item = (u32, u32, u32)> {
    let (first, chunk) = (thread.index / DT as u32, thread.index % DT as u32);
    let rows = (0..TILE_M).step_by(THREADS as usize / DT).map(move |pass| pass + first);
    rows.map(move |row| (row, chunk, smem + chunk_offset(TILE_M, row, chunk)))
}

/// Begins to copy the step of keys from `n` on, as zeros from `limit` on, and closes the group.
///
/// # Safety
/// The stage is free; the keys before the limit exist.
#[inline(always)]
pub(super) unsafe fn begin_keys<const DT: usize>(keys: &TileCopy<DT>, stage: u32, n: i32, limit: i32) {
    // SAFETY: the caller's.
    unsafe {
        if n + TILE_N as i32 <= limit {
            keys.whole(stage, n as u32);
        } else {
            keys.cut(stage, n as u32, limit);
        }
    }
    cp_async_commit_group();
}

/// Rounds scores to the element type.
#[inline(always)]
pub(super) fn round<E: Element>(scores: &mut Products) {
    for tile in scores.as_flattened_mut() {
        let [a, b] = E::unpack(E::pack(tile[0], tile[1]));
        let [c, d] = E::unpack(E::pack(tile[2], tile[3]));
        *tile = [a, b, c, d];
    }
}
