//! Kernels for compute capability 8.0 and later.

use crate::arch::barrier;
use crate::arch::global::{ld_global_v4_b32, st_global_v4_b32};
use crate::arch::math::{div_rem, rcp};
use crate::arch::shared::{dynamic_smem, ld_shared_v4_b32, st_shared_v4_b32};
use crate::arch::shuffle::bfly;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::{THREADS, Thread, WARPS};
use crate::params::{BlockPoolParams, PoolSequence};
use crate::tile_size::{BLOCK_POOL_THREADS, ELEMENT_BYTES, block_pool_smem_bytes};

/// Loads of a thread that are under way together.
const LOADS: u32 = 4;

/// Takes the mean of a block of rows of `8 DT` features.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn pool<E: Element, const DT: usize>(
    x: u64,
    pooled: u64,
    sequences: *const PoolSequence,
    params: &BlockPoolParams,
) {
    let rows_per_pass = THREADS / DT as u32;
    let row_bytes = DT as u32 * 32;
    const {
        assert!(BLOCK_POOL_THREADS == THREADS);
        assert!(block_pool_smem_bytes(DT as u32 * 8) == WARPS * DT as u32 * 32);
    };
    let [n, head, b] = cta();
    // SAFETY: the caller's; all threads of the CTA leave early or none.
    unsafe {
        let PoolSequence { start, len, first_block } = sequences.add(b as usize).read();
        let first = n as u64 * params.block as u64;
        if first >= len as u64 {
            return;
        }
        let rows = params.block.min(len - first as u32);
        let thread = Thread::current();
        let (first_row, chunk) = (thread.index / DT as u32, thread.index % DT as u32);
        let base = x + params.x.offset(start + first as u32, head, ELEMENT_BYTES) + chunk as u64 * 16;
        let load = |row: u32| ld_global_v4_b32(base + row as u64 * params.x.token_bytes());

        let mut sums = [0.0; 8];
        let mut row = first_row;
        while row + (LOADS - 1) * rows_per_pass < rows {
            let loaded: [[u32; 4]; LOADS as usize] =
                core::array::from_fn(|i| load(row + i as u32 * rows_per_pass));
            for words in loaded {
                add::<E>(&mut sums, words);
            }
            row += LOADS * rows_per_pass;
        }
        while row < rows {
            add::<E>(&mut sums, load(row));
            row += rows_per_pass;
        }
        for sum in &mut sums {
            *sum += bfly::<16>(*sum);
            if DT == 8 {
                *sum += bfly::<8>(*sum);
            }
        }

        let smem = dynamic_smem();
        if thread.lane < DT as u32 {
            let own = smem + thread.warp * row_bytes + chunk * 32;
            let [a, b, c, d, e, f, g, h] = sums.map(f32::to_bits);
            st_shared_v4_b32(own, [a, b, c, d]);
            st_shared_v4_b32(own + 16, [e, f, g, h]);
        }
        barrier::sync();
        if thread.index >= row_bytes / 16 {
            return;
        }
        let mut total = [0.0; 4];
        for warp in 0..WARPS {
            let part = ld_shared_v4_b32(smem + warp * row_bytes + thread.index * 16);
            for i in 0..4 {
                total[i] += f32::from_bits(part[i]);
            }
        }
        let (whole, rest) = div_rem(len, params.block);
        let blocks = whole + (rest > 0) as u32;
        let to = params.heads as u64 * first_block as u64 + head as u64 * blocks as u64 + n as u64;
        let scale = rcp(rows as f32);
        let to = pooled + to * row_bytes as u64 + thread.index as u64 * 16;
        st_global_v4_b32(to, total.map(|x| (x * scale).to_bits()));
    }
}

/// Adds 8 features.
#[inline(always)]
fn add<E: Element>(sums: &mut [f32; 8], words: [u32; 4]) {
    for i in 0..4 {
        let [lo, hi] = E::unpack(words[i]);
        sums[2 * i] += lo;
        sums[2 * i + 1] += hi;
    }
}

macro_rules! block_pool {
    ($($name:ident: $element:ty, $dt:literal;)*) => {$(
        kernel! {
            fn $name(x: u64, pooled: u64, sequences: *const PoolSequence, params: BlockPoolParams) {
                // SAFETY: see `crate::kernel`.
                unsafe { pool::<$element, $dt>(x, pooled, sequences, &params) }
            }
        }
    )*};
}

block_pool! {
    block_pool_bf16_d64: Bf16, 8;
    block_pool_bf16_d128: Bf16, 16;
    block_pool_f16_d64: F16, 8;
    block_pool_f16_d128: F16, 16;
}
