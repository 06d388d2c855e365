//! Outputs and LSE, from accumulators to global memory.

use super::{Accumulators, RowTile, Thread};
use crate::arch::global::{st_global_b32, st_global_v4_b32};
use crate::arch::shared::{ld_shared_v4_b32, st_shared_b32};
use crate::arch::{barrier, shuffle};
use crate::element::Element;
use crate::smem::chunk_offset;
use crate::tile_size::WARP;

/// Divides by the sums and writes `rows` rows. A warp turns its rows into whole lines by way of the queries' place in
/// shared memory, of which it alone reads and writes its part.
///
/// # Safety
/// Reached by all lanes of the warp after its last use of the queries; the tile's addresses hold `rows` rows.
#[inline(always)]
pub(crate) unsafe fn finish<E: Element, const MT: usize, const DT: usize>(
    acc: Accumulators<MT, DT>,
    tile: &RowTile,
    q_smem: u32,
    rows: u32,
) {
    let (tile_m, chunks) = ((64 * MT) as u32, DT as u32);
    // SAFETY: the caller's.
    unsafe {
        let thread = Thread::current();
        for i in 0..MT {
            for half in 0..2 {
                let row = thread.row(MT, i, half);
                let mut softmax = acc.softmax[i][half];
                softmax.row_sum = shuffle::quad_sum(softmax.row_sum);
                let normalizer = softmax.normalizer();
                for n in 0..DT {
                    let [a, b] = [acc.out[i][n][2 * half], acc.out[i][n][2 * half + 1]];
                    let address = q_smem + chunk_offset(tile_m, row, n as u32) + thread.column() * 2;
                    st_shared_b32(address, E::pack(a * normalizer, b * normalizer));
                }
                if tile.softmax_lse != 0 && thread.column() == 0 && row < rows {
                    let lse = softmax.log_sum_exp(tile.softmax_scale.log2);
                    st_global_b32(tile.softmax_lse + row as u64 * 4, lse.to_bits());
                }
            }
        }
        barrier::sync_warp();
        let rows_per_pass = WARP / chunks;
        for pass in 0..(16 * MT) as u32 / rows_per_pass {
            let row = thread.warp * (16 * MT) as u32 + pass * rows_per_pass + thread.lane / chunks;
            let chunk = thread.lane % chunks;
            let line = ld_shared_v4_b32(q_smem + chunk_offset(tile_m, row, chunk));
            if row < rows {
                st_global_v4_b32(tile.out + row as u64 * tile.out_row_bytes + chunk as u64 * 16, line);
            }
        }
    }
}
