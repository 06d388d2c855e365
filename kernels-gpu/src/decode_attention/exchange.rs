//! The end of a CTA's work: warps that shared rows merge what they have, and partial results go to the workspace.

use super::sm80::Decode;
use crate::arch::math::ex2;
use crate::arch::shared::{ld_shared_f32, ld_shared_v4_b32, st_shared_v2_f32};
use crate::arch::{barrier, shuffle};
use crate::forward::{Accumulators, THREADS, Thread};
use crate::smem::f32_row;
use crate::softmax::Softmax;

impl<const KEY_WARPS: usize, const NT: usize, const DT: usize> Decode<KEY_WARPS, NT, DT> {
    /// Floats between two rows of the exchange.
    const ROW: u32 = f32_row(Self::HEAD_DIM);
    /// Rows of the exchange, by key warp and row.
    const ROWS: u32 = Self::TILE_M * KEY_WARPS as u32;
    /// Outputs, then maxima and sums.
    pub(super) const EXCHANGE_BYTES: u32 = Self::ROWS * (Self::ROW + 2) * 4;

    /// Merges what the key warps have for each row and hands it on: `write(row, outputs of 4 features, LSE, first
    /// feature)`.
    ///
    /// # Safety
    /// Reached by all threads of the CTA; nothing else uses the ring any more.
    #[inline(always)]
    pub(super) unsafe fn finish(
        acc: Accumulators<1, DT>,
        thread: Thread,
        exchange: u32,
        scale_log2: f32,
        write: impl Fn(u32, [f32; 4], f32, u32),
    ) {
        let (row_warp, key_warp) = (thread.warp / KEY_WARPS as u32, thread.warp % KEY_WARPS as u32);
        let statistics = exchange + Self::ROWS * Self::ROW * 4;
        // SAFETY: the caller's; there is room for the exchange.
        unsafe {
            for half in 0..2 {
                let row = key_warp * Self::TILE_M + row_warp * 16 + half as u32 * 8 + thread.lane / 4;
                let softmax = acc.softmax[0][half];
                let row_sum = shuffle::quad_sum(softmax.row_sum);
                if thread.column() == 0 {
                    st_shared_v2_f32(statistics + row * 8, [softmax.row_max, row_sum]);
                }
                for n in 0..DT {
                    let address = exchange + (row * Self::ROW + 8 * n as u32 + thread.column()) * 4;
                    st_shared_v2_f32(address, [acc.out[0][n][2 * half], acc.out[0][n][2 * half + 1]]);
                }
            }
            barrier::sync();

            let lanes_per_row = Self::HEAD_DIM / 4;
            let rows_per_pass = THREADS / lanes_per_row;
            for pass in 0..Self::TILE_M / rows_per_pass {
                let row = pass * rows_per_pass + thread.index / lanes_per_row;
                let column = thread.index % lanes_per_row * 4;
                let mut row_max = [0.0; KEY_WARPS];
                let mut whole = Softmax::START;
                for w in 0..KEY_WARPS {
                    row_max[w] = ld_shared_f32(statistics + (w as u32 * Self::TILE_M + row) * 8);
                    whole.row_max = whole.row_max.max(row_max[w]);
                }
                let mut out = [0.0; 4];
                for w in 0..KEY_WARPS {
                    let row = w as u32 * Self::TILE_M + row;
                    let factor = ex2((row_max[w] - whole.row_max) * scale_log2);
                    whole.row_sum += ld_shared_f32(statistics + row * 8 + 4) * factor;
                    let part = ld_shared_v4_b32(exchange + (row * Self::ROW + column) * 4);
                    for c in 0..4 {
                        out[c] += f32::from_bits(part[c]) * factor;
                    }
                }
                let normalizer = whole.normalizer();
                write(row, out.map(|x| x * normalizer), whole.log_sum_exp(scale_log2), column);
            }
        }
    }
}
