//! Operands of every form, from a seed.
//!
//! The first quarter of the cases walks through the combinations of two directed values, as far as it reaches; the
//! second quarter, and the first where there are three operands, combines them at random. The rest is random in three
//! manners: any bits, numbers of similar size, and operands that cancel.

use super::form::{Form, LANES_PER_CTA, Operand};
use crate::numerics::Format;
use crate::numerics::mma::MmaType;

/// SplitMix64 (Steele, Lea, Flood, 2014): every seed is a good one.
pub(super) struct Rng(pub u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// FNV-1a of `bytes`: names PTX and inputs in a file, and separates the seeds of the forms.
pub(super) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| (hash ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Form {
    /// The operand buffer of all cases.
    pub fn inputs(&self, seed: u64) -> Vec<u8> {
        let mut rng = Rng(seed ^ fingerprint(self.id.as_bytes()));
        let directed: Vec<Vec<u64>> = self.operands.iter().map(|&o| directed(o)).collect();
        let stride = self.operand_stride() as usize;
        let offsets = self.operand_offsets();
        let mut buffer = vec![0; stride * self.cases as usize];
        let mut values = vec![0; self.operands.len()];
        for case in 0..self.cases {
            let warp = case / LANES_PER_CTA;
            if case % LANES_PER_CTA == 0 {
                // Warp-wide operands are drawn once for the warp.
                for (value, &operand) in values.iter_mut().zip(&self.operands) {
                    if let Operand::Group(n) = operand {
                        *value = rng.below(n as u64);
                    }
                }
            }
            let mut combination = case as usize;
            for (i, &operand) in self.operands.iter().enumerate() {
                let values_of = &directed[i];
                let digit = combination % values_of.len().max(1);
                combination /= values_of.len().max(1);
                values[i] = match operand {
                    Operand::CaseNumber => case as u64,
                    Operand::Matrix(ty) => matrix_pair(&mut rng, ty, warp),
                    Operand::Accumulator(ty) => accumulator(&mut rng, ty, warp),
                    Operand::Group(_) if warp.is_multiple_of(2) => values[i],
                    Operand::Group(n) => rng.below(n as u64),
                    _ if case < self.cases / 4 && self.operands.len() < 3 => values_of[digit],
                    _ if case < self.cases / 2 => rng.pick(values_of),
                    _ => random(&mut rng, operand, case % 3 != 0),
                };
            }
            if case >= self.cases / 2 && case % 3 == 2 {
                cancel(&mut rng, &self.operands, &mut values);
            }
            for (&(at, operand), value) in offsets.iter().zip(&values) {
                let at = case as usize * stride + at as usize;
                let bytes = operand.bytes() as usize;
                buffer[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
        buffer
    }
}

/// Values at which instructions change their behaviour.
fn directed(operand: Operand) -> Vec<u64> {
    match operand {
        Operand::Bits16 => vec![0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xffff, 0xa5c3],
        Operand::Bits32 => {
            let edges = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fffe, 0xffff_ffff];
            edges.into_iter().chain([0x80, 0xffff, 0x1_0000, 0x1234_5678, 0xa5a5_c3c3]).collect()
        }
        Operand::Bits64 => {
            let edges = [0, 1, 2, u64::MAX, u64::MAX - 1, i64::MAX as u64, 1 << 63, (1 << 63) + 1];
            edges.into_iter().chain([0xffff_ffff, 1 << 32, 0x8000_0000, 0x0123_4567_89ab_cdef]).collect()
        }
        Operand::Below(n) => (0..n as u64).collect(),
        Operand::F32 => {
            // The walk over combinations reaches about a dozen partners: the sharpest edges come first.
            let edges =
                [0.0, f32::INFINITY, 1.0, f32::MIN_POSITIVE, 1e-45, f32::MAX, 1.175_494_2e-38, 1.000_000_1];
            let plain = [1e-23, 1e20, 1.5, 0.5, 3.0, 0.333_333_34, 16_777_216.0, 2.0, 127.0, 2_147_483_648.0];
            let nans = [0x7fc0_0000, 0xffc0_1234, 0x7f80_0001];
            let both = edges.into_iter().chain(plain).flat_map(|x: f32| [x.to_bits(), (-x).to_bits()]);
            both.chain(nans).map(u64::from).collect()
        }
        Operand::F32Within(limit) => {
            let inside =
                [0.0, limit, limit / 2.0, limit / 3.0, limit * 0.1, 1e-3, 1e-40, f32::NAN, f32::INFINITY];
            inside.into_iter().flat_map(|x| [x.to_bits(), (-x).to_bits()]).map(u64::from).collect()
        }
        Operand::Half(format) => directed_half(format),
        Operand::HalfX2(format) => {
            let one = directed_half(format);
            let turned = one.iter().cycle().skip(5);
            one.iter().zip(turned).map(|(low, high)| high << 16 | low).collect()
        }
        Operand::CaseNumber | Operand::Group(_) | Operand::Matrix(_) | Operand::Accumulator(_) => Vec::new(),
    }
}

fn directed_half(format: Format) -> Vec<u64> {
    let one = ((1 << (format.exponent_bits - 1)) - 1) << format.fraction_bits;
    let smallest_normal = 1 << format.fraction_bits;
    let magnitudes = [
        0,
        1,
        smallest_normal - 1,
        smallest_normal,
        one,
        one + 1,
        one + smallest_normal / 2,
        one - smallest_normal,
        one + smallest_normal + smallest_normal / 2,
        format.max_finite,
        format.overflow,
        format.overflow + 1,
    ];
    magnitudes.into_iter().flat_map(|x| [x, x | 0x8000]).map(u64::from).collect()
}

/// Any bits, or for `similar` floats near one and integers of random length.
fn random(rng: &mut Rng, operand: Operand, similar: bool) -> u64 {
    let bits = rng.next();
    let float = |format: Format, bits: u64| {
        let field = (1 << (format.exponent_bits - 1)) - 3 + (bits >> 40) % 5;
        let sign = bits >> 60 << (format.bits() - 1) & 1 << (format.bits() - 1);
        if similar {
            sign | field << format.fraction_bits | bits & ((1 << format.fraction_bits) - 1)
        } else {
            bits
        }
    };
    match operand {
        Operand::F32 => float(Format::F32, bits) & 0xffff_ffff,
        Operand::F32Within(limit) => {
            let share = (bits >> 40) as f32 / (1 << 23) as f32 - 1.0;
            (share * limit).to_bits() as u64
        }
        Operand::Half(format) => float(format, bits) & 0xffff,
        Operand::HalfX2(format) => {
            (float(format, bits) & 0xffff) | (float(format, bits.rotate_left(21)) & 0xffff) << 16
        }
        Operand::Below(n) => rng.below(n as u64),
        Operand::Bits32 | Operand::Bits64 if similar => bits >> (rng.next() & 63),
        _ => bits,
    }
}

/// Makes the last float nearly the negative of what comes before it: `a + b` and `a * b + c` lose their leading digits.
fn cancel(rng: &mut Rng, operands: &[Operand], values: &mut [u64]) {
    let f32_of = |v: u64| f32::from_bits(v as u32);
    let noise = rng.next() & 3;
    match (operands, values) {
        ([Operand::F32, Operand::F32], [a, b]) => *b = (*a ^ 0x8000_0000) ^ noise,
        ([Operand::F32, Operand::F32, Operand::F32], [a, b, c]) => {
            *c = (-(f32_of(*a) * f32_of(*b))).to_bits() as u64 ^ noise;
        }
        ([Operand::HalfX2(_), Operand::HalfX2(_)], [a, b]) => *b = (*a ^ 0x8000_8000) ^ noise,
        ([Operand::Bits32, Operand::Bits32], [a, b]) => *b = (!*a).wrapping_add(noise) & 0xffff_ffff,
        _ => {}
    }
}

/// Exponent spread of a warp's matrices, and one special value in how many.
const SPREADS: [(u64, u64); 8] = [(1, 0), (2, 0), (8, 16), (30, 0), (120, 16), (256, 64), (8, 4), (40, 9)];

fn matrix_element(rng: &mut Rng, format: Format, warp: u32) -> u64 {
    let (spread, rare) = SPREADS[warp as usize % SPREADS.len()];
    let sign = (rng.next() & 1) << (format.bits() - 1);
    let top = (1u64 << format.exponent_bits) - 1;
    if rare != 0 && rng.below(rare) == 0 {
        let smallest = 1 << format.fraction_bits;
        // Infinities and NaN in two of the eight spreads only: they decide whole rows.
        let count = if rare < 16 { 8 } else { 5 };
        let special =
            [0, 0, 1, smallest - 1, format.max_finite, smallest, format.overflow, format.nan].map(u64::from);
        return sign | special[rng.below(count) as usize];
    }
    // Two of the spreads lie at the lower end of the exponents, where results are subnormal.
    let centre = if warp as usize % SPREADS.len() == 7 { top / 4 } else { top / 2 };
    let field = (centre.saturating_sub(spread / 2) + rng.below(spread)).min(top - 1);
    sign | field << format.fraction_bits | rng.next() & ((1 << format.fraction_bits) - 1)
}

fn matrix_pair(rng: &mut Rng, ty: MmaType, warp: u32) -> u64 {
    matrix_element(rng, ty.format(), warp) | matrix_element(rng, ty.format(), warp) << 16
}

fn accumulator(rng: &mut Rng, ty: MmaType, warp: u32) -> u64 {
    // Wide spreads of f16 products reach exponents of ±30 only; f32 accumulators follow the operands' format.
    let bits = match ty {
        MmaType::Bf16 => matrix_element(rng, Format::F32, warp),
        MmaType::F16 => {
            (Format::F16.value(matrix_element(rng, Format::F16, warp) as u32) as f32).to_bits() as u64
        }
    };
    let low_centre = warp as usize % SPREADS.len() == 7 && ty == MmaType::Bf16;
    // Products have twice the exponent: from a quarter of the range they come out at its very bottom.
    if low_centre && bits & 0x7f80_0000 != 0x7f80_0000 { bits & 0x80ff_ffff } else { bits }
}

#[cfg(test)]
mod tests {
    use crate::conformance::{SEED, forms};

    #[test]
    fn inputs_depend_on_seed_and_form_only() {
        let forms = forms();
        let (a, b) = (&forms[0], &forms[1]);
        assert_eq!(a.inputs(SEED), a.inputs(SEED));
        assert_ne!(a.inputs(SEED), a.inputs(SEED + 1));
        assert_ne!(a.inputs(SEED), b.inputs(SEED));
    }

    #[test]
    fn floats_meet_every_special_pair_and_cancel() {
        let form = forms().into_iter().find(|f| f.id == "add.rn.f32").unwrap();
        let inputs = form.inputs(SEED);
        let word = |at: usize| u32::from_le_bytes(inputs[at..at + 4].try_into().unwrap());
        let pairs: Vec<(u32, u32)> = (0..form.cases as usize)
            .map(|i| i * form.operand_stride() as usize)
            .map(|at| (word(at), word(at + 4)))
            .collect();
        let infinity = f32::INFINITY.to_bits();
        assert!(pairs.contains(&(infinity, infinity | 1 << 31)), "inf - inf");
        assert!(pairs.contains(&(0, 0x8000_0000)), "+0 + -0");
        assert!(pairs.iter().any(|&(a, _)| a & 0x7f80_0000 == 0 && a & 0x7f_ffff != 0), "a subnormal");
        let cancelling = pairs.iter().filter(|&&(a, b)| a ^ b ^ 0x8000_0000 < 4).count();
        assert!(cancelling > 200, "{cancelling}");
    }
}
