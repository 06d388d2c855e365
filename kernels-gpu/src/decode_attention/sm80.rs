//! Kernels for compute capability 8.0 and later.

use super::packed_rows::PackedRows;
use crate::arch::barrier;
use crate::arch::copy_sm80::{cp_async_commit_group, cp_async_wait_group};
use crate::arch::global::{st_global_b32, st_global_v4_b32};
use crate::arch::ldmatrix::ldmatrix_x4;
use crate::arch::math::div_rem;
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::{Accumulators, THREADS, Thread, TileCopy, WARPS, fragment, non_finite};
use crate::mask::{Mask, hide};
use crate::params::DecodeParams;
use crate::smem::{ROWS_16, columns_then_rows, rows_then_columns, step_columns};
use crate::tile_size::{ELEMENT_BYTES, decode_attention, decode_split_keys, decode_splits};

/// The kernel's pointers.
struct Buffers {
    q: u64,
    k: u64,
    v: u64,
    partial_out: u64,
    partial_lse: u64,
    cu_seqlens_q: *const u32,
    k_starts: *const u32,
    k_lens: *const u32,
}

/// What a CTA works on: a tile of packed rows over one split of the keys.
struct Split {
    rows: PackedRows,
    head_k: u32,
    /// The first key of the sequence, on the token axis.
    k_start: u32,
    /// The split's keys, among those of the sequence.
    first_key: i32,
    key_limit: i32,
    /// The tile's first row in the workspace.
    workspace_row: u64,
}

impl Split {
    /// The CTA's, unless it has nothing to do.
    ///
    /// # Safety
    /// Launched as [`crate::kernel`] says.
    #[inline(always)]
    unsafe fn of_cta(buffers: &Buffers, params: &DecodeParams, tile_m: u32) -> Option<Self> {
        let [split, head_k, batch_tile] = cta();
        // SAFETY: the caller's.
        let (b, row_tile, q_start, q_end, k_start, k_len) = unsafe {
            let (b, row_tile) = div_rem(batch_tile, params.row_tiles);
            let sequence = b as usize;
            let cu_seqlens_q = buffers.cu_seqlens_q.add(sequence);
            let (q_start, q_end) = (cu_seqlens_q.read(), cu_seqlens_q.add(1).read());
            let (k_start, k_len) =
                (buffers.k_starts.add(sequence).read(), buffers.k_lens.add(sequence).read());
            (b, row_tile, q_start, q_end, k_start, k_len)
        };
        let rows = PackedRows {
            q_start,
            first: row_tile * tile_m,
            count: (q_end - q_start) * params.group,
            group: params.group,
            mask: Mask::new(q_end - q_start, k_len, params.causal != 0),
        };
        if split >= decode_splits(k_len) || rows.first >= rows.count {
            return None;
        }
        let split_keys = decode_split_keys(k_len);
        let first_key = split * split_keys;
        let slot = (b * params.max_splits + split) * params.num_heads_k + head_k;
        let slot_rows = params.max_seqlen_q * params.group;
        Some(Self {
            rows,
            head_k,
            k_start,
            first_key: first_key as i32,
            key_limit: k_len.min(first_key + split_keys) as i32,
            workspace_row: slot as u64 * slot_rows as u64 + rows.first as u64,
        })
    }
}

/// The kernel in which `KEY_WARPS` warps share 16 rows and take `8 NT` keys each of a step.
pub(super) struct Decode<const KEY_WARPS: usize, const NT: usize, const DT: usize>;

impl<const KEY_WARPS: usize, const NT: usize, const DT: usize> Decode<KEY_WARPS, NT, DT> {
    pub(super) const TILE_M: u32 = 16 * WARPS / KEY_WARPS as u32;
    const TILE_N: u32 = (8 * NT * KEY_WARPS) as u32;
    pub(super) const HEAD_DIM: u32 = 8 * DT as u32;
    const Q_BYTES: u32 = Self::TILE_M * Self::HEAD_DIM * ELEMENT_BYTES;
    const KV_BYTES: u32 = Self::TILE_N * Self::HEAD_DIM * ELEMENT_BYTES;
    /// Keys, then values.
    const STAGE_BYTES: u32 = 2 * Self::KV_BYTES;

    const CHECK: () = {
        let tile = decode_attention(Self::HEAD_DIM, KEY_WARPS == 1).expect("a head dim with a tile");
        assert!(tile.threads == THREADS && tile.stages == 2 && tile.key_warps() == KEY_WARPS as u32);
        assert!(tile.tile_m == Self::TILE_M && tile.tile_n == Self::TILE_N);
        // The exchange takes the ring's place.
        assert!(Self::EXCHANGE_BYTES <= 2 * Self::STAGE_BYTES);
    };

    /// The whole kernel.
    ///
    /// # Safety
    /// Launched as [`crate::kernel`] says.
    #[inline(always)]
    unsafe fn run<E: Element>(buffers: &Buffers, params: &DecodeParams) {
        const { Self::CHECK };
        // SAFETY: the caller's; all threads of the CTA leave here or none.
        unsafe {
            let Some(split) = Split::of_cta(buffers, params, Self::TILE_M) else { return };
            let thread = Thread::current();
            let q_smem = dynamic_smem();
            let ring = q_smem + Self::Q_BYTES;
            let acc = Self::mainloop::<E>(&split, buffers, params, thread, q_smem, ring);
            barrier::sync();
            Self::finish(acc, thread, ring, params.softmax_scale.log2, |row, out, lse, column| {
                if split.rows.first + row >= split.rows.count {
                    return;
                }
                let row = split.workspace_row + row as u64;
                let element = row * Self::HEAD_DIM as u64 + column as u64;
                st_global_v4_b32(buffers.partial_out + element * 4, out.map(f32::to_bits));
                if column == 0 {
                    st_global_b32(buffers.partial_lse + row * 4, lse.to_bits());
                }
            });
        }
    }

    /// Takes the rows over the split's keys.
    ///
    /// # Safety
    /// Reached by all threads of the CTA, launched as [`crate::kernel`] says.
    #[inline(always)]
    unsafe fn mainloop<E: Element>(
        split: &Split,
        buffers: &Buffers,
        params: &DecodeParams,
        thread: Thread,
        q_smem: u32,
        ring: u32,
    ) -> Accumulators<1, DT> {
        let key_limit = split.key_limit;
        let key_base = buffers.k + params.k.offset(split.k_start, split.head_k, ELEMENT_BYTES);
        let value_base = buffers.v + params.v.offset(split.k_start, split.head_k, ELEMENT_BYTES);
        let value_row_bytes = params.v.token_bytes();
        let keys = TileCopy::<DT>::new(thread.index, Self::TILE_N, key_base, params.k.token_bytes());
        let values = TileCopy::<DT>::new(thread.index, Self::TILE_N, value_base, value_row_bytes);
        let begin = |stage: u32, n: i32| {
            // SAFETY: the stage is free when this is called; keys before the limit exist.
            unsafe {
                if n + Self::TILE_N as i32 <= key_limit {
                    keys.whole(stage, n as u32);
                    values.whole(stage + Self::KV_BYTES, n as u32);
                } else {
                    keys.cut(stage, n as u32, key_limit);
                    values.cut(stage + Self::KV_BYTES, n as u32, key_limit);
                }
            }
            cp_async_commit_group();
        };
        let (row_warp, key_warp) = (thread.warp / KEY_WARPS as u32, thread.warp % KEY_WARPS as u32);
        let warp_keys = key_warp * (8 * NT) as u32;
        let k_lane = fragment(0, Self::TILE_N, warp_keys, columns_then_rows(thread.lane));
        let v_lane = fragment(Self::KV_BYTES, Self::TILE_N, warp_keys, rows_then_columns(thread.lane));
        let limits = [0, 8].map(|below| split.rows.limit(row_warp * 16 + below + thread.lane / 4));
        // Rows ascend with their tokens: the tile's first sees the fewest keys.
        let whole = split.rows.limit(0).min(key_limit);

        let mut acc = Accumulators::<1, DT>::ZERO;
        // SAFETY: the caller's; stages are read after the barriers that say they are there, and written after those that
        // say they are free.
        unsafe {
            split.rows.begin_queries::<DT>(
                buffers.q,
                split.head_k,
                q_smem,
                Self::TILE_M,
                thread.index,
                params,
            );
            begin(ring, split.first_key);
            cp_async_wait_group::<1>();
            barrier::sync();
            let q_lane = fragment(q_smem, Self::TILE_M, row_warp * 16, rows_then_columns(thread.lane));
            let mut queries = [[0; 4]; DT];
            for k in 0..DT / 2 {
                queries[k] = ldmatrix_x4(step_columns(q_lane, Self::TILE_M, k as u32));
            }

            let (mut n, mut stage) = (split.first_key, 0);
            while n < key_limit {
                cp_async_wait_group::<0>();
                let masked = n + Self::TILE_N as i32 > whole;
                let mut non_finite_values = false;
                if masked {
                    let found = non_finite::clear::<E>(values.chunks(ring + stage + Self::KV_BYTES));
                    non_finite_values = barrier::sync_any(found);
                } else {
                    barrier::sync();
                }
                let next = n + Self::TILE_N as i32;
                if next < key_limit {
                    begin(ring + Self::STAGE_BYTES - stage, next);
                }

                let mut scores = [[[0.0; 4]; NT]];
                for k in 0..DT / 2 {
                    for j in 0..NT / 2 {
                        let address = step_columns(ring + stage + k_lane, Self::TILE_N, k as u32);
                        let [b0, b1, b2, b3] = ldmatrix_x4(address + j as u32 * ROWS_16);
                        E::mma(&mut scores[0][2 * j], queries[k], [b0, b1]);
                        E::mma(&mut scores[0][2 * j + 1], queries[k], [b2, b3]);
                    }
                }
                let first = n + warp_keys as i32;
                if masked {
                    for half in 0..2 {
                        let limit = limits[half].min(key_limit);
                        hide(&mut scores[0], half, limit - first - thread.column() as i32);
                    }
                }
                acc.weigh(&mut scores, params.softmax_scale.log2);
                acc.add_values::<E, NT>(&scores, ring + stage + v_lane, Self::TILE_N);
                if non_finite_values {
                    let keys = first..key_limit.min(first + (8 * NT) as i32);
                    let column = value_base + (thread.column() * ELEMENT_BYTES) as u64;
                    let limits = |_, half: usize| limits[half];
                    non_finite::carry::<E, 1, DT>(&mut acc.out, column, value_row_bytes, keys, limits);
                }
                stage = Self::STAGE_BYTES - stage;
                n = next;
            }
        }
        acc
    }
}

macro_rules! decode_attention {
    ($($name:ident: $element:ty, $key_warps:literal, $nt:literal, $dt:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                k: u64,
                v: u64,
                partial_out: u64,
                partial_lse: u64,
                cu_seqlens_q: *const u32,
                k_starts: *const u32,
                k_lens: *const u32,
                params: DecodeParams,
            ) {
                let buffers = Buffers { q, k, v, partial_out, partial_lse, cu_seqlens_q, k_starts, k_lens };
                // SAFETY: see `crate::kernel`.
                unsafe { Decode::<$key_warps, $nt, $dt>::run::<$element>(&buffers, &params) }
            }
        }
    )*};
}

decode_attention! {
    decode_attention_bf16_d64_16_rows: Bf16, 4, 2, 8;
    decode_attention_bf16_d128_16_rows: Bf16, 4, 2, 16;
    decode_attention_f16_d64_16_rows: F16, 4, 2, 8;
    decode_attention_f16_d128_16_rows: F16, 4, 2, 16;
    decode_attention_bf16_d64_64_rows: Bf16, 1, 8, 8;
    decode_attention_bf16_d128_64_rows: Bf16, 1, 8, 16;
    decode_attention_f16_d64_64_rows: F16, 1, 8, 8;
    decode_attention_f16_d128_64_rows: F16, 1, 8, 16;
}
