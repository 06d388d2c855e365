//! The merge of the splits.

use crate::arch::math::div_rem;
use crate::arch::special_register::cta;
use crate::element::{Bf16, F16};
use crate::forward::Thread;
use crate::merge_state::{F32, Parts, RowElement};
use crate::params::DecodeParams;
use crate::tile_size::{ELEMENT_BYTES, MERGE_ROWS, WARP, decode_splits};

/// Merges the splits of one row: a warp per packed row.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn merge<E: RowElement, const N: usize>(
    partial_out: u64,
    partial_lse: u64,
    out: u64,
    softmax_lse: u64,
    cu_seqlens_q: *const u32,
    k_lens: *const u32,
    params: &DecodeParams,
) {
    let [rows, head_k, b] = cta();
    // SAFETY: the caller's.
    unsafe {
        let thread = Thread::current();
        let row = rows * MERGE_ROWS + thread.warp;
        let cu_seqlens_q = cu_seqlens_q.add(b as usize);
        let (q_start, q_end) = (cu_seqlens_q.read(), cu_seqlens_q.add(1).read());
        if row >= (q_end - q_start) * params.group {
            return;
        }
        let (token, group_head) = div_rem(row, params.group);
        let (token, head) = (q_start + token, head_k * params.head_step_k + group_head * params.head_step);
        let slot_rows = (params.max_seqlen_q * params.group) as u64;
        let first = (b * params.max_splits * params.num_heads_k + head_k) as u64 * slot_rows + row as u64;
        let split_rows = params.num_heads_k as u64 * slot_rows;
        let row_bytes = N as u64 * WARP as u64 * 4;
        let parts = Parts {
            out: partial_out + first * row_bytes,
            out_step_bytes: split_rows * row_bytes,
            lse: partial_lse + first * 4,
            lse_step_bytes: split_rows * 4,
            count: decode_splits(k_lens.add(b as usize).read()),
        };
        let to = out + params.out.offset(token, head, ELEMENT_BYTES);
        let lse = head as u64 * params.total_q as u64 + token as u64;
        let lse = if softmax_lse == 0 { 0 } else { softmax_lse + lse * 4 };
        parts.merge::<F32, E, N>(thread.lane, to, lse);
    }
}

macro_rules! merge {
    ($($name:ident: $element:ty, $n:literal;)*) => {$(
        kernel! {
            fn $name(
                partial_out: u64,
                partial_lse: u64,
                out: u64,
                softmax_lse: u64,
                cu_seqlens_q: *const u32,
                k_lens: *const u32,
                params: DecodeParams,
            ) {
                // SAFETY: see `crate::kernel`.
                unsafe {
                    merge::<$element, $n>(partial_out, partial_lse, out, softmax_lse, cu_seqlens_q, k_lens, &params)
                }
            }
        }
    )*};
}

merge! {
    decode_attention_bf16_d64_merge: Bf16, 2;
    decode_attention_bf16_d128_merge: Bf16, 4;
    decode_attention_f16_d64_merge: F16, 2;
    decode_attention_f16_d128_merge: F16, 4;
}
