//! Kernels for compute capability 8.0 and later.

use super::compensated::Sum;
use super::rows::{FACTS_BYTES, PackedRows, facts_of_pair};
use crate::arch::copy_sm80::{cp_async_commit_group, cp_async_wait_group};
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::arch::math::{ex2, fma};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::arch::{barrier, shuffle};
use crate::element::{Bf16, Element, F16};
use crate::forward::{Thread, TileCopy, sign_queries};
use crate::params::ColumnMassParams;
use crate::product::{Products, Rows, TILE_M, TILE_N, assert_tile, stage_bytes};
use crate::tile_size::{ELEMENT_BYTES, column_mass_smem_bytes};

/// Adds the mass of 128 keys.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn mass<E: Element, const DT: usize>(
    q: u64,
    k: u64,
    softmax_lse: u64,
    mass: u64,
    params: &ColumnMassParams,
) {
    const {
        assert_tile(DT);
        let bytes = TILE_M * DT as u32 * 16 + 2 * stage_bytes(DT) + 2 * FACTS_BYTES;
        assert!(bytes == column_mass_smem_bytes(DT as u32 * 8));
    };
    let first_key = cta()[0] * TILE_M;
    let rows = PackedRows { q, softmax_lse, first_key: first_key as i32, params };
    let (first, count) = (rows.first(), rows.count());
    if first >= count {
        return;
    }
    // SAFETY: the caller's; all threads of the CTA leave early or none. Places in shared memory are read after the barriers
    // that say that they are filled, written after those that say that they are free.
    unsafe {
        // Where the thread stands is asked anew wherever it counts: the loop over the rows has no register to spare for it.
        let k_smem = dynamic_smem();
        let ring = k_smem + TILE_M * DT as u32 * 16;
        let facts = ring + 2 * stage_bytes(DT);
        let key_copy = |head_k: u32| {
            let base = k + params.k.offset(params.k_start, head_k, ELEMENT_BYTES);
            TileCopy::<DT>::new(Thread::current().index, TILE_M, base, params.k.token_bytes())
        };
        let begin_keys = |head_k: u32| {
            key_copy(head_k).cut(k_smem, first_key, params.k_len as i32);
            cp_async_commit_group();
        };

        begin_keys(0);
        let thread = Thread::current();
        rows.begin::<DT>(ring, 0, first, thread);
        if thread.warp == 0 {
            let of_row = rows.facts(0, first, thread.lane);
            PackedRows::put_facts(facts, thread.lane, of_row);
        }
        let mut sums = [[Sum::ZERO; 2]; 2];
        let mut parity = 0;
        let mut head_k = 0;
        while head_k < params.num_heads_k {
            cp_async_wait_group::<0>();
            // The sign of the scale is moved to the keys, which come once.
            sign_queries(key_copy(head_k).chunks(k_smem), params.softmax_scale);
            barrier::sync();
            let keys = Rows::<DT>::load(k_smem, Thread::current());
            barrier::sync();
            if head_k + 1 < params.num_heads_k {
                begin_keys(head_k + 1);
            }

            let mut row = first;
            while row < count {
                if row > first {
                    cp_async_wait_group::<0>();
                    barrier::sync();
                }
                let thread = Thread::current();
                let last = row + TILE_N >= count;
                let (next_head, next_row) = if last { (head_k + 1, first) } else { (head_k, row + TILE_N) };
                let another = next_head < params.num_heads_k;
                let (here, there) = (parity, 1 - parity);
                let mut next_facts = [0.0; 2];
                if another {
                    rows.begin::<DT>(ring + there * stage_bytes(DT), next_head, next_row, thread);
                    if thread.warp == 0 {
                        next_facts = rows.facts(next_head, next_row, thread.lane);
                    }
                }
                let scores = keys.times::<E>(ring + here * stage_bytes(DT), thread);
                let masked = rows.limit_of_row(row) < TILE_M as i32;
                add(
                    &mut sums,
                    &scores,
                    facts + here * FACTS_BYTES,
                    thread,
                    masked,
                    params.softmax_scale.log2,
                );
                if another && thread.warp == 0 {
                    PackedRows::put_facts(facts + there * FACTS_BYTES, thread.lane, next_facts);
                }
                parity = there;
                row += TILE_N;
            }
            head_k += 1;
        }

        let thread = Thread::current();
        for i in 0..2 {
            for half in 0..2 {
                let sum = shuffle::quad_sum(sums[i][half].value());
                let key = first_key + thread.warp * 32 + (16 * i + 8 * half) as u32 + thread.lane / 4;
                if thread.lane % 4 == 0 && key < params.k_len {
                    let to = mass + key as u64 * 4;
                    st_global_b32(to, (f32::from_bits(ld_global_b32(to)) + sum).to_bits());
                }
            }
        }
    }
}

/// Adds the probabilities of a step of rows to the sums of the lane's keys; those of keys that a row does not see only if
/// not `masked`, when there are none.
///
/// # Safety
/// The facts of the rows are there.
#[inline(always)]
unsafe fn add(
    sums: &mut [[Sum; 2]; 2],
    scores: &Products,
    facts: u32,
    thread: Thread,
    masked: bool,
    scale_log2: f32,
) {
    let mut p = *scores;
    for n in 0..4 {
        // SAFETY: the caller's.
        let (shifts, limits) = unsafe { facts_of_pair(facts, n as u32, thread.lane) };
        for i in 0..2 {
            for half in 0..2 {
                let key = (thread.warp * 32 + thread.lane / 4) as i32 + (16 * i + 8 * half) as i32;
                for c in 0..2 {
                    let score = &mut p[i][n][2 * half + c];
                    *score = ex2(fma(*score, scale_log2, shifts[c]));
                    if masked && key >= limits[c] {
                        *score = 0.0;
                    }
                }
            }
        }
    }
    for i in 0..2 {
        for half in 0..2 {
            let pair = |n: usize| p[i][n][2 * half] + p[i][n][2 * half + 1];
            sums[i][half].add((pair(0) + pair(1)) + (pair(2) + pair(3)));
        }
    }
}

macro_rules! column_mass {
    ($($name:ident: $element:ty, $dt:literal;)*) => {$(
        kernel! {
            fn $name(q: u64, k: u64, softmax_lse: u64, mass: u64, params: ColumnMassParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { self::mass::<$element, $dt>(q, k, softmax_lse, mass, &params) }
            }
        }
    )*};
}

column_mass! {
    column_mass_bf16_d64: Bf16, 8;
    column_mass_bf16_d128: Bf16, 16;
    column_mass_f16_d64: F16, 8;
    column_mass_f16_d128: F16, 16;
}
