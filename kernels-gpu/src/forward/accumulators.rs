//! What a warp keeps in registers for its rows.

use crate::arch::ldmatrix::ldmatrix_x4_trans;
use crate::arch::shuffle;
use crate::element::Element;
use crate::smem::{ROWS_16, step_columns};
use crate::softmax::Softmax;

/// Outputs, and running maxima and sums, of `16 MT` rows of `8 DT` features.
pub(crate) struct Accumulators<const MT: usize, const DT: usize> {
    pub(crate) out: [[[f32; 4]; DT]; MT],
    pub(crate) softmax: [[Softmax; 2]; MT],
}

impl<const MT: usize, const DT: usize> Accumulators<MT, DT> {
    pub(crate) const ZERO: Self = Self { out: [[[0.0; 4]; DT]; MT], softmax: [[Softmax::START; 2]; MT] };

    /// Turns the scores of `8 NT` keys into weights, relative to the maximum so far, and scales the outputs to it.
    ///
    /// # Safety
    /// Reached by all lanes of the warp.
    #[inline(always)]
    pub(crate) unsafe fn weigh<const NT: usize>(
        &mut self,
        scores: &mut [[[f32; 4]; NT]; MT],
        scale_log2: f32,
    ) {
        for i in 0..MT {
            for half in 0..2 {
                // SAFETY: the caller's.
                let quad_max = |x| unsafe { shuffle::quad_max(x) };
                let factor = self.softmax[i][half].step(&mut scores[i], half, scale_log2, quad_max);
                for out in &mut self.out[i] {
                    out[2 * half] *= factor;
                    out[2 * half + 1] *= factor;
                }
            }
        }
    }

    /// `O += P V`. `v_lane` is what this lane gives to `ldmatrix` for the first fragment of a tile of `rows` values.
    ///
    /// # Safety
    /// Reached by all lanes of the warp; the values of the `8 NT` keys are there.
    #[inline(always)]
    pub(crate) unsafe fn add_values<E: Element, const NT: usize>(
        &mut self,
        weights: &[[[f32; 4]; NT]; MT],
        v_lane: u32,
        rows: u32,
    ) {
        for k in 0..NT / 2 {
            // The accumulators of two tiles of 8 keys are, packed, the operand of 16 keys.
            let mut packed = [[0; 4]; MT];
            for i in 0..MT {
                let [c, d] = [weights[i][2 * k], weights[i][2 * k + 1]];
                packed[i] =
                    [E::pack(c[0], c[1]), E::pack(c[2], c[3]), E::pack(d[0], d[1]), E::pack(d[2], d[3])];
            }
            for n in 0..DT / 2 {
                // SAFETY: the caller's.
                unsafe {
                    let address = step_columns(v_lane, rows, n as u32) + k as u32 * ROWS_16;
                    let [b0, b1, b2, b3] = ldmatrix_x4_trans(address);
                    for i in 0..MT {
                        E::mma(&mut self.out[i][2 * n], packed[i], [b0, b1]);
                        E::mma(&mut self.out[i][2 * n + 1], packed[i], [b2, b3]);
                    }
                }
            }
        }
    }
}
