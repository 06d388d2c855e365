//! The tensor-core model a second time, in integers without floating point and without a thought for speed, and the
//! comparison of every vector form with it.

use super::mma::{MmaType, MmaUnit, mma_m16n8k8, mma_m16n8k8_f16, mma_m16n8k16, mma_m16n8k16_f16};
use super::mma_step::{Level, step_at};
use super::{Format, Lanes};

/// A finite number as `significand * 2^exponent`, with the exponent that the unit aligns by.
#[derive(Clone, Copy)]
struct Number {
    significand: i128,
    exponent: i32,
    alignment: i32,
}

enum Operand {
    Finite(Number),
    Infinite { negative: bool },
    NotANumber,
}

fn read(format: Format, bits: u32) -> Operand {
    let total = format.exponent_bits + format.fraction_bits;
    let negative = bits & 1 << total != 0;
    let field = (bits % (1 << total)) >> format.fraction_bits;
    let fraction = bits % (1 << format.fraction_bits);
    if field == (1 << format.exponent_bits) - 1 {
        return if fraction == 0 { Operand::Infinite { negative } } else { Operand::NotANumber };
    }
    let bias = (1 << (format.exponent_bits - 1)) - 1;
    let (magnitude, alignment) = match (field, fraction) {
        (0, 0) => (0, -126),
        (0, _) => (fraction as i128, 1 - bias),
        _ => (fraction as i128 + (1 << format.fraction_bits), field as i32 - bias),
    };
    let significand = if negative { -magnitude } else { magnitude };
    Operand::Finite(Number { significand, exponent: alignment - format.fraction_bits as i32, alignment })
}

/// Compares `a * 2^p` with `b * 2^q`.
fn compare(a: u128, p: i32, b: u128, q: i32) -> std::cmp::Ordering {
    if a == 0 || b == 0 {
        return a.cmp(&b);
    }
    let (shift_a, shift_b) = (a.leading_zeros() as i32, b.leading_zeros() as i32);
    (p - shift_a).cmp(&(q - shift_b)).then((a << shift_a).cmp(&(b << shift_b)))
}

/// Result of one step for one element.
fn oracle(fraction_bits: i32, input: Format, output: Format, a: &[u32], b: &[u32], c: u32) -> u32 {
    let mut numbers = Vec::new();
    let mut infinities = [false; 2];
    let mut not_a_number = false;
    for (&x, &y) in a.iter().zip(b) {
        match (read(input, x), read(input, y)) {
            (Operand::NotANumber, _) | (_, Operand::NotANumber) => not_a_number = true,
            (Operand::Finite(n), Operand::Infinite { negative })
            | (Operand::Infinite { negative }, Operand::Finite(n)) => {
                not_a_number |= n.significand == 0;
                infinities[(negative != (n.significand < 0)) as usize] = true;
            }
            (Operand::Infinite { negative: n }, Operand::Infinite { negative: m }) => {
                infinities[(n != m) as usize] = true
            }
            (Operand::Finite(n), Operand::Finite(m)) => numbers.push(Number {
                significand: n.significand * m.significand,
                exponent: n.exponent + m.exponent,
                alignment: n.alignment + m.alignment,
            }),
        }
    }
    match read(output, c) {
        Operand::NotANumber => not_a_number = true,
        Operand::Infinite { negative } => infinities[negative as usize] = true,
        Operand::Finite(n) => numbers.push(n),
    }
    let sign_bit = 1 << (output.bits() - 1);
    if not_a_number || infinities == [true, true] {
        return sign_bit - 1;
    }
    if infinities != [false, false] {
        return output.overflow | if infinities[1] { sign_bit } else { 0 };
    }

    let largest = numbers.iter().map(|n| n.alignment).max().unwrap();
    let unit = largest - fraction_bits;
    let mut sum = 0i128;
    for n in &numbers {
        // How many units the term holds, by division: that cuts toward zero.
        let up = (n.exponent - unit).max(0);
        let down = (unit - n.exponent).clamp(0, 100);
        sum += (n.significand << up) / (1i128 << down);
    }
    let magnitude = sum.unsigned_abs();
    let value_of = |bits: u32| match read(output, bits) {
        Operand::Finite(n) => (n.significand.unsigned_abs(), n.exponent),
        // The next power of two above the largest number.
        _ => (1, 1 << (output.exponent_bits - 1)),
    };
    let (mut below, mut above) = (0, output.overflow + 1);
    while above - below > 1 {
        let middle = (below + above) / 2;
        let (m, e) = value_of(middle);
        if compare(m, e, magnitude, unit).is_le() {
            below = middle;
        } else {
            above = middle;
        }
    }
    if output == Format::F16 && below < output.overflow {
        let ((low, e), (high, f)) = (value_of(below), value_of(below + 1));
        let half_way = (low << 1 << (e - e.min(f))) + (high << 1 << (f - e.min(f)));
        match compare(magnitude, unit, half_way, e.min(f) - 2) {
            std::cmp::Ordering::Greater => below += 1,
            std::cmp::Ordering::Equal => below += below & 1,
            std::cmp::Ordering::Less => {}
        }
    }
    if below == 0 { 0 } else { below | if sum < 0 { sign_bit } else { 0 } }
}

/// Whole instruction on matrices in row order.
fn oracle_instruction(unit: MmaUnit, input: Format, output: Format, a: &[u32], b: &[u32], c: u32) -> u32 {
    let (bits, chunk) = match unit {
        MmaUnit::Ampere => (24, 8),
        MmaUnit::Hopper => (25, 16),
    };
    a.chunks(chunk).zip(b.chunks(chunk)).fold(c, |c, (a, b)| oracle(bits, input, output, a, b, c))
}

struct Tile {
    a: [[u32; 16]; 16],
    b: [[u32; 8]; 16],
    c: [[u32; 8]; 16],
}

impl Tile {
    fn column(&self, n: usize, width: usize) -> Vec<u32> {
        (0..width).map(|k| self.b[k][n]).collect()
    }

    /// Fragments by the coordinates that the PTX ISA lists, lane by lane.
    fn fragments(&self) -> ([Lanes; 4], [Lanes; 2], [Lanes; 4], [Lanes; 2]) {
        let (mut a, mut b, mut c, mut c16) = ([[0; 32]; 4], [[0; 32]; 2], [[0; 32]; 4], [[0; 32]; 2]);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            for q in 0..4 {
                let (row, k) = (g + 8 * (q % 2), 2 * t + 8 * (q / 2));
                a[q][lane] = self.a[row][k] | self.a[row][k + 1] << 16;
                c[q][lane] = self.c[g + 8 * (q / 2)][2 * t + q % 2];
            }
            for q in 0..2 {
                b[q][lane] = self.b[2 * t + 8 * q][g] | self.b[2 * t + 8 * q + 1][g] << 16;
                c16[q][lane] = (self.c[g + 8 * q][2 * t] & 0xffff) | self.c[g + 8 * q][2 * t + 1] << 16;
            }
        }
        (a, b, c, c16)
    }
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// A number of `format` with an exponent field within `spread` of `centre`; one in `rare` is a special value.
    fn number(&mut self, format: Format, centre: u32, spread: u32, rare: u32) -> u32 {
        let top = (1 << format.exponent_bits) - 1;
        let sign = (self.next() & 1) << (format.bits() - 1);
        if rare != 0 && self.next().is_multiple_of(rare) {
            let special = [
                0,
                1,
                (1 << format.fraction_bits) - 1,
                1 << format.fraction_bits,
                format.max_finite,
                format.overflow,
                format.nan,
                format.overflow + 1,
            ];
            return sign | special[self.next() as usize % special.len()];
        }
        let low = centre.saturating_sub(spread / 2);
        let field = (low + self.next() % spread.max(1)).min(top - 1);
        sign | field << format.fraction_bits | self.next() & ((1 << format.fraction_bits) - 1)
    }
}

/// Exponent centre (as a share of the range), spread, one special value in so many: from plain data to the corners.
const SPREADS: [(f32, u32, u32); 14] = [
    (0.5, 1, 0),
    (0.5, 2, 0),
    (0.5, 8, 16),
    (0.5, 30, 0),
    (0.5, 120, 16),
    (0.5, 256, 64),
    (0.0, 4, 0),
    (0.26, 8, 0),
    (0.27, 60, 9),
    // Products about 2^-128 and tiny accumulators: sums with digits below the last of a subnormal f32.
    (0.25, 4, 0),
    (0.245, 6, 0),
    (0.75, 6, 0),
    (0.99, 20, 300),
    (0.5, 256, 3),
];

fn tile(rng: &mut Rng, input: Format, output: Format, case: usize) -> Tile {
    let (share, spread, rare) = SPREADS[case % SPREADS.len()];
    let centre = |format: Format| (share * ((1 << format.exponent_bits) - 1) as f32) as u32;
    // Where products are about 2^(2x), so is the accumulator: its share of the range is twice as far from the middle.
    let c_share = (2.0 * share - 0.5).clamp(0.0, 1.0);
    let c_centre = (c_share * ((1 << output.exponent_bits) - 1) as f32) as u32;
    let mut t = Tile { a: [[0; 16]; 16], b: [[0; 8]; 16], c: [[0; 8]; 16] };
    let all = t.a.as_flattened_mut().iter_mut().chain(t.b.as_flattened_mut());
    all.for_each(|x| *x = rng.number(input, centre(input), spread, rare));
    t.c.as_flattened_mut().iter_mut().for_each(|x| *x = rng.number(output, c_centre, spread, rare * 2));
    if case % 3 == 2 {
        // Masked rows: nothing but zeros of either sign in A, and an accumulator that may be tiny itself.
        for row in (0..16).step_by(2) {
            t.a[row].iter_mut().for_each(|x| *x &= 1 << (input.bits() - 1));
            t.c[row].iter_mut().for_each(|x| *x &= 0x8000_7fff);
        }
    }
    if case % 5 == 4 {
        // Cancellation: the second half of k repeats the first with the sign of A flipped, but for one term.
        for row in &mut t.a {
            for k in 8..15 {
                row[k] = row[k - 8] ^ 0x8000;
            }
        }
        for k in 8..15 {
            t.b[k] = t.b[k - 8];
        }
    }
    t
}

fn levels() -> Vec<Level> {
    let mut levels = vec![Level::Portable];
    #[cfg(target_arch = "x86_64")]
    {
        use super::mma_simd::{has_avx2, has_avx512};
        levels.extend(has_avx2().then_some(Level::Avx2));
        levels.extend(has_avx512().then_some(Level::Avx512));
    }
    levels
}

fn check(input: MmaType, tiles: usize, seed: u64) -> [usize; 4] {
    let mut rng = Rng(seed);
    let mut kinds = [0; 4];
    for case in 0..tiles {
        let t = tile(&mut rng, input.format(), Format::F32, case);
        let (a, b, c, _) = t.fragments();
        for unit in [MmaUnit::Ampere, MmaUnit::Hopper] {
            let bits = unit.fraction_bits();
            let (wide, narrow) =
                (mma_m16n8k16(unit, input, &a, &b, &c), mma_m16n8k8(unit, input, &[a[0], a[1]], &b[0], &c));
            for row in 0..16 {
                for column in 0..8 {
                    let (register, lane) = (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2);
                    for (width, got) in [(16, wide[register][lane]), (8, narrow[register][lane])] {
                        let (left, right) = (&t.a[row][..width], t.column(column, width));
                        let expected = oracle_instruction(
                            unit,
                            input.format(),
                            Format::F32,
                            left,
                            &right,
                            t.c[row][column],
                        );
                        assert_eq!(
                            got, expected,
                            "{unit:?} {input:?} k{width} case {case} row {row} column {column}: {got:08x} for {expected:08x}"
                        );
                        let field = expected >> 23 & 0xff;
                        kinds[match field {
                            0 if expected & 0x7f_ffff == 0 => 0,
                            0 => 1,
                            255 => 2,
                            _ => 3,
                        }] += 1;
                    }
                }
            }
            // The instruction ran at the best level; every other one must give the same bits for both widths.
            for level in levels() {
                assert_eq!(
                    step_at(level, bits, input, &a[..2], &b[..1], &c),
                    narrow,
                    "{level:?} k8 case {case}"
                );
                let best = step_at(Level::best(), bits, input, &a, &b, &c);
                assert_eq!(step_at(level, bits, input, &a, &b, &c), best, "{level:?} k16 case {case}");
            }
        }
    }
    kinds
}

#[test]
fn bf16_products_are_the_integer_model() {
    // 240 tiles of 128 elements, two units, two widths: 123 thousand dot products.
    let kinds = check(MmaType::Bf16, 240, 1);
    assert!(kinds.iter().all(|&n| n > 500), "zero, subnormal, special, normal results: {kinds:?}");
}

#[test]
fn f16_products_are_the_integer_model() {
    let kinds = check(MmaType::F16, 240, 2);
    // Products of f16 are no smaller than 2^-48: subnormal results come from accumulators alone.
    assert!(kinds.iter().all(|&n| n > 100), "zero, subnormal, special, normal results: {kinds:?}");
}

#[test]
fn f16_accumulators_are_the_integer_model() {
    let mut rng = Rng(3);
    for case in 0..120 {
        let t = tile(&mut rng, Format::F16, Format::F16, case);
        let (a, b, _, c) = t.fragments();
        for unit in [MmaUnit::Ampere, MmaUnit::Hopper] {
            let (wide, narrow) =
                (mma_m16n8k16_f16(unit, &a, &b, &c), mma_m16n8k8_f16(unit, &[a[0], a[1]], &b[0], &c));
            for row in 0..16 {
                for column in 0..8 {
                    let (register, lane, shift) = (row / 8, row % 8 * 4 + column / 2, column % 2 * 16);
                    for (width, d) in [(16, wide), (8, narrow)] {
                        let (left, right) = (&t.a[row][..width], t.column(column, width));
                        let c = t.c[row][column];
                        let expected = oracle_instruction(unit, Format::F16, Format::F16, left, &right, c);
                        assert_eq!(
                            d[register][lane] >> shift & 0xffff,
                            expected,
                            "{unit:?} k{width} case {case}"
                        );
                    }
                }
            }
        }
    }
}
