//! The gate of the MLP: `silu(gate) * up`.

use lacuna::Element;
use lacuna::cpu::simd::{Dot, Isa, Kernel, Operand};
use rayon::prelude::*;

/// Features that make a task worth a thread.
const MIN_TASK: usize = 1 << 13;

/// `out = silu(gate) * up` for rows that hold `intermediate` features of the gate, then as many of `up`; `f32`, rounded once.
pub(crate) fn silu_mul<T: Element>(gate_up: &[f32], intermediate: usize, out: &mut [T]) {
    let isa = Isa::current();
    let rows = out.par_chunks_exact_mut(intermediate).with_min_len(MIN_TASK.div_ceil(intermediate));
    rows.zip(gate_up.par_chunks_exact(2 * intermediate)).for_each(|(out, row)| {
        let (gate, up) = row.split_at(intermediate);
        isa.run::<T, _>(Row { gate, up, out });
    });
}

struct Row<'a, T> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [T],
}

impl<T: Element> Kernel for Row<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Dot<P>, P: Operand>(self, s: S) {
        let whole = self.out.len() / S::LANES * S::LANES;
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: LANES elements from `i` on lie before `whole`, which all three slices reach.
            let (g, u) = unsafe { (s.load(self.gate.as_ptr().add(i)), s.load(self.up.as_ptr().add(i))) };
            let zero = s.splat(0.0);
            let abs = s.max(s.sub(zero, g), g);
            let e = s.exp2(s.mul(abs, s.splat(-std::f32::consts::LOG2_E)));
            // silu(g) = max(g, 0) - |g| e / (1 + e) with e = exp(-|g|), which cannot overflow; the limit of `max` stands
            // first, so that a NaN stays one.
            let down = s.div(s.mul(abs, e), s.add(e, s.splat(1.0)));
            let y = s.mul(s.sub(s.max(zero, g), down), u);
            // SAFETY: as above.
            unsafe { s.store_rounded(self.out.as_mut_ptr().add(i), y) };
        }
        for i in whole..self.out.len() {
            let g = self.gate[i];
            self.out[i] = T::from_f32(g / (1.0 + (-g).exp()) * self.up[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formula_in_vectors_and_tails_at_both_ends_too() {
        for intermediate in [1, 16, 37] {
            let gate = |i: usize| match i {
                0 => 0.0f32,
                1 => 200.0,
                2 => -200.0,
                _ => (i as f32 - 18.0) * 1.3,
            };
            let up = |i: usize| 0.5 - i as f32;
            let row = (0..intermediate).map(gate).chain((0..intermediate).map(up));
            let gate_up: Vec<f32> = row.collect();
            let mut out = vec![f32::NAN; intermediate];
            silu_mul(&gate_up, intermediate, &mut out);
            for (i, got) in out.into_iter().enumerate() {
                let g = gate(i) as f64;
                let want = g / (1.0 + (-g).exp()) * up(i) as f64;
                assert!((got as f64 - want).abs() <= 2e-6 * want.abs() + 1e-30, "{got} for {want} at {i}");
            }
        }
    }

    #[test]
    fn a_nan_stays_one() {
        let mut out = [0.0f32; 32];
        let mut gate_up = [1.0f32; 64];
        gate_up[5] = f32::NAN;
        gate_up[32 + 7] = f32::NAN;
        silu_mul(&gate_up, 32, &mut out);
        let nan: Vec<usize> = (0..32).filter(|&i| out[i].is_nan()).collect();
        assert_eq!(nan, [5, 7]);
    }
}
