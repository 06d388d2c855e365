//! Kernels for compute capability 8.0 and later.

use super::chunk::{Chunk, begin_keys, round};
use super::diagonals::{WARP_BYTES, load_offset, store_offset};
use super::meeting::{self, Meeting, column_sum};
use super::statistics::{Statistics, Weights};
use crate::arch::copy_sm80::cp_async_wait_group;
use crate::arch::global::{ld_global_v2_b32, st_global_b32, st_global_v2_b32};
use crate::arch::shared::{dynamic_smem, ld_shared_f32, st_shared_b32, st_shared_v4_b32};
use crate::arch::{barrier, shuffle};
use crate::element::{Bf16, Element, F16};
use crate::forward::{Thread, WARPS};
use crate::params::{ProbeParams, SearchSequence};
use crate::product::{Products, Rows, TILE_M, TILE_N, assert_tile, stage_bytes};
use crate::tile_size::{
    ELEMENT_BYTES, WARP, probe_chunks, probe_diagonal_bytes, probe_lse_smem_bytes, probe_sums_smem_bytes,
};

/// Chunks whose statistics are loaded together.
const PARTS: usize = 8;

/// The scores of the warp's rows with the keys of a stage; `-inf` where a row does not see a key.
///
/// # Safety
/// Reached by all lanes of the warp; the keys are there.
#[inline(always)]
unsafe fn scores<E: Element, const DT: usize>(
    chunk: &Chunk,
    queries: &Rows<DT>,
    stage: u32,
    n: i32,
    thread: Thread,
    params: &ProbeParams,
) -> Products {
    // SAFETY: the caller's.
    let mut scores = unsafe { queries.times::<E>(stage, thread) };
    if params.round != 0 {
        round::<E>(&mut scores);
    }
    chunk.mask(&mut scores, n, thread);
    scores
}

/// The first pass: maximum and sum of every row over the keys of a chunk.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn lse<E: Element, const DT: usize>(
    q: u64,
    k: u64,
    partial: u64,
    sequences: *const SearchSequence,
    params: &ProbeParams,
) {
    const {
        assert_tile(DT);
        let head_dim = DT as u32 * 8;
        let bytes = TILE_M * head_dim * ELEMENT_BYTES + 2 * stage_bytes(DT);
        assert!(bytes == probe_lse_smem_bytes(head_dim));
    };
    // SAFETY: the caller's; all threads of the CTA leave early or none, and stages are read after the barriers that say
    // they are there, written after those that say they are free.
    unsafe {
        let Some(chunk) = Chunk::of_cta(sequences, params) else { return };
        if chunk.is_idle() {
            return;
        }
        let thread = Thread::current();
        let q_smem = dynamic_smem();
        let ring = q_smem + TILE_M * DT as u32 * 16;
        let keys = chunk.key_copy::<DT>(k, thread, params);
        let limit = chunk.key_limit(0);
        let mut n = chunk.first_key as i32;
        chunk.begin_queries::<DT>(q, q_smem, thread, params);
        begin_keys(&keys, ring, n, limit);
        chunk.finish_queries::<E, DT>(q_smem, thread, params);
        barrier::sync();
        let queries = Rows::<DT>::load(q_smem, thread);

        let active = chunk.has_rows(thread.warp);
        let mut statistics = [[Statistics::START; 2]; 2];
        let mut stage = 0;
        while n < limit {
            cp_async_wait_group::<0>();
            barrier::sync();
            let next = n + TILE_N as i32;
            if next < limit {
                begin_keys(&keys, ring + stage_bytes(DT) - stage, next, limit);
            }
            if active {
                let scores = scores::<E, DT>(&chunk, &queries, ring + stage, n, thread, params);
                for i in 0..2 {
                    for half in 0..2 {
                        let row: [f32; 8] = core::array::from_fn(|x| scores[i][x / 2][2 * half + x % 2]);
                        statistics[i][half].add(row, params.softmax_scale.log2);
                    }
                }
            }
            stage = stage_bytes(DT) - stage;
            n = next;
        }
        if !active {
            return;
        }
        let to = chunk.partial(partial, chunk.index, params);
        for i in 0..2 {
            for half in 0..2 {
                let max = shuffle::quad_max(statistics[i][half].max);
                let sum = shuffle::quad_sum(statistics[i][half].sum_relative_to(max));
                let row = thread.warp * 32 + (16 * i + 8 * half) as u32 + thread.lane / 4;
                if thread.lane % 4 == 0 {
                    st_global_v2_b32(to + row as u64 * 8, [max.to_bits(), sum.to_bits()]);
                }
            }
        }
    }
}

/// How the probabilities of row `thread.index` follow from its scores: what all chunks have of it, merged in their order.
///
/// # Safety
/// The first pass has written the workspace.
#[inline(always)]
unsafe fn merged(chunk: &Chunk, partial: u64, thread: Thread, params: &ProbeParams) -> Weights {
    if thread.index < chunk.absent {
        return Weights::NONE;
    }
    let count = probe_chunks(chunk.sequence.k_len);
    let mut whole = Statistics::START;
    let mut first = 0;
    while first < count {
        let parts: [Statistics; PARTS] = core::array::from_fn(|i| {
            // Past the end, the last chunk once more, without its sum.
            let index = first + i as u32;
            let from = chunk.partial(partial, index.min(count - 1), params) + thread.index as u64 * 8;
            // SAFETY: the caller's.
            let [max, sum] = unsafe { ld_global_v2_b32(from) }.map(f32::from_bits);
            Statistics { max, sum: if index < count { sum } else { 0.0 } }
        });
        whole.merge(parts);
        first += PARTS as u32;
    }
    whole.weights()
}

/// The second pass: probabilities, summed by key and by diagonal.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn sums<E: Element, const DT: usize>(
    q: u64,
    k: u64,
    partial: u64,
    vertical: u64,
    slash: u64,
    sequences: *const SearchSequence,
    params: &ProbeParams,
) {
    let diagonal_bytes = const { probe_diagonal_bytes(DT as u32 * 8) };
    const {
        assert_tile(DT);
        let head_dim = DT as u32 * 8;
        let bytes = probe_diagonal_bytes(head_dim) + 2 * stage_bytes(DT) + meeting::BYTES;
        assert!(bytes == probe_sums_smem_bytes(head_dim));
        assert!(WARPS * WARP_BYTES <= probe_diagonal_bytes(head_dim));
    };
    // SAFETY: the caller's; all threads of the CTA leave early or none. Stages are read after the barriers that say they
    // are there, written after those that say they are free; the rings of probabilities are each a warp's own, and where
    // warps meet says when.
    unsafe {
        let Some(chunk) = Chunk::of_cta(sequences, params) else { return };
        let thread = Thread::current();
        let scores_at = chunk.scores(params) * 4;
        let (vertical, slash) = (vertical + scores_at, slash + scores_at);
        let column_limit = chunk.key_limit(0) as u32;
        if chunk.is_idle() {
            let mut key = chunk.first_key + thread.index;
            while key < column_limit {
                st_global_b32(vertical + key as u64 * 4, 0);
                st_global_b32(slash + key as u64 * 4, 0);
                key += WARPS * WARP;
            }
            return;
        }
        let smem = dynamic_smem();
        let ring = smem + diagonal_bytes;
        let meeting = Meeting { smem: ring + 2 * stage_bytes(DT), thread };
        let keys = chunk.key_copy::<DT>(k, thread, params);
        // The diagonals that begin in the chunk end at most this many keys behind it.
        let limit = chunk.key_limit(TILE_M);
        let mut n = chunk.first_key as i32;
        chunk.begin_queries::<DT>(q, smem, thread, params);
        begin_keys(&keys, ring, n, limit);
        meeting.clear();
        let own = merged(&chunk, partial, thread, params);
        let mut weights = [[Weights::NONE; 2]; 2];
        for i in 0..2 {
            for half in 0..2 {
                let row = (16 * i + 8 * half) as u32 + thread.lane / 4;
                let of_row = |value| shuffle::idx_f32(value, row);
                weights[i][half] = Weights { shift: of_row(own.shift), factor: of_row(own.factor) };
            }
        }
        chunk.finish_queries::<E, DT>(smem, thread, params);
        barrier::sync();
        let queries = Rows::<DT>::load(smem, thread);
        barrier::sync();
        let diagonals = smem + thread.warp * WARP_BYTES;
        for i in 0..WARP_BYTES / 16 / WARP {
            st_shared_v4_b32(diagonals + (i * WARP + thread.lane) * 16, [0; 4]);
        }

        let active = chunk.has_rows(thread.warp);
        let mut stage = 0;
        while n < limit {
            cp_async_wait_group::<0>();
            barrier::sync();
            let next = n + TILE_N as i32;
            if next < limit {
                begin_keys(&keys, ring + stage_bytes(DT) - stage, next, limit);
            }
            let key = n as u32;
            if key > chunk.first_key {
                meeting.store_columns(key - TILE_N, column_limit, vertical);
            }
            let mut diagonal = 0.0;
            if active {
                let mut p = scores::<E, DT>(&chunk, &queries, ring + stage, n, thread, params);
                for i in 0..2 {
                    for c in 0..4 {
                        for tile in &mut p[i] {
                            tile[c] = weights[i][c / 2].probability(tile[c], params.softmax_scale.log2);
                        }
                    }
                }
                diagonal = sum_diagonal(&p, diagonals, key, thread.lane);
                meeting.put_column(key, column_sum(&p, thread.lane));
            }
            if let Some(sum) = meeting.add_diagonal(key, diagonal) {
                // Those that begin before the chunk are another's.
                let whole = chunk.first_key == 0 || key >= chunk.first_key + TILE_M;
                let end = key + thread.lane;
                if whole && end < chunk.sequence.k_len {
                    // The diagonal meets the last row, or would, at this key; the offset counts back from the last.
                    let offset = chunk.sequence.k_len - 1 - end;
                    st_global_b32(slash + offset as u64 * 4, sum.to_bits());
                }
            }
            stage = stage_bytes(DT) - stage;
            n = next;
        }
        barrier::sync();
        meeting.store_columns((n - TILE_N as i32) as u32, column_limit, vertical);
    }
}

/// Stores the probabilities of a step, and adds those of the diagonal which this lane completes with it.
///
/// # Safety
/// Reached by all lanes of the warp; `smem` is its ring, and a barrier lies between any two calls.
#[inline(always)]
unsafe fn sum_diagonal(p: &Products, smem: u32, first_key: u32, lane: u32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        for i in 0..2 {
            for n in 0..4 {
                for c in 0..4 {
                    let offset =
                        store_offset(first_key, lane, i as u32, c as u32 / 2, n as u32, c as u32 % 2);
                    st_shared_b32(smem + offset, p[i][n][c].to_bits());
                }
            }
        }
        barrier::sync_warp();
        let mut sums = [0.0; 4];
        for row in 0..32 {
            sums[row % 4] += ld_shared_f32(smem + load_offset(first_key, lane, row as u32));
        }
        (sums[0] + sums[1]) + (sums[2] + sums[3])
    }
}

macro_rules! lse {
    ($($name:ident: $element:ty, $dt:literal;)*) => {$(
        kernel! {
            fn $name(q: u64, k: u64, partial: u64, sequences: *const SearchSequence, params: ProbeParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { lse::<$element, $dt>(q, k, partial, sequences, &params) }
            }
        }
    )*};
}

macro_rules! sums {
    ($($name:ident: $element:ty, $dt:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                k: u64,
                partial: u64,
                vertical: u64,
                slash: u64,
                sequences: *const SearchSequence,
                params: ProbeParams,
            ) {
                // SAFETY: see `crate::kernel`.
                unsafe { sums::<$element, $dt>(q, k, partial, vertical, slash, sequences, &params) }
            }
        }
    )*};
}

lse! {
    probe_bf16_d64_lse: Bf16, 8;
    probe_bf16_d128_lse: Bf16, 16;
    probe_f16_d64_lse: F16, 8;
    probe_f16_d128_lse: F16, 16;
}

sums! {
    probe_bf16_d64_sums: Bf16, 8;
    probe_bf16_d128_sums: Bf16, 16;
    probe_f16_d64_sums: F16, 8;
    probe_f16_d128_sums: F16, 16;
}
