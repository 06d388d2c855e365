//! One tensor-core step with f32 accumulators, at the host's best SIMD level.
//!
//! The vector forms compute all 128 elements as if every operand were finite and every subnormal result exact, and report
//! where that was wrong; those elements are then done again one by one. Exponents are biased throughout by that of the
//! operands, so that a product's exponent is the sum of two fields.

use super::mma::{MmaType, Term, a_row, b_column, element, round_f32};
use super::{Format, Lanes};

/// What a vector form needs to know about a step.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// Fraction bits of the operands.
    pub operand_fraction: u32,
    /// Largest exponent field of an operand, that of infinities and NaN.
    pub operand_special: u32,
    /// Exponent field that a zero operand counts with.
    pub zero_field: i32,
    /// Added to a true exponent of a product to get the sum of the operands' fields.
    pub product_bias: i32,
    /// Fraction bits that aligned terms keep, `F` of the model.
    pub fraction_bits: i32,
}

impl Kind {
    pub(crate) const fn new(fraction_bits: u32, ty: MmaType) -> Self {
        let format = ty.format();
        let bias = 1 - format.min_exponent();
        Self {
            operand_fraction: format.fraction_bits,
            operand_special: (1 << format.exponent_bits) - 1,
            zero_field: super::mma::ZERO_EXPONENT + bias,
            product_bias: 2 * bias,
            fraction_bits: fraction_bits as i32,
        }
    }

    /// Left shift that brings a product of two integer significands to `F` fraction bits: at most 11.
    pub(crate) const fn product_shift(self) -> u32 {
        self.fraction_bits as u32 - 2 * self.operand_fraction
    }

    /// Smallest biased `E` at which every sum is a multiple of the smallest f32, so that subnormal results are exact.
    pub(crate) const fn exact_from(self) -> i32 {
        self.fraction_bits - 149 + self.product_bias
    }
}

/// Elements that a vector form could not compute.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Exceptions {
    /// Some A or B operand is infinite or NaN.
    pub operands: bool,
    /// Some accumulator is infinite or NaN.
    pub accumulators: bool,
    /// Lanes of each result register whose value is subnormal with digits that f32 lacks.
    pub small: [u32; 4],
}

/// A SIMD level that [`step_at`] can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best level that the host runs.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if super::mma_simd::has_avx512() {
                return Self::Avx512;
            }
            if super::mma_simd::has_avx2() {
                return Self::Avx2;
            }
        }
        Self::Portable
    }
}

/// One step of the model: `a` has two registers and `b` one for every eight columns of k, of which there are 8 or 16.
pub(crate) fn step(fraction_bits: u32, ty: MmaType, a: &[Lanes], b: &[Lanes], c: &[Lanes; 4]) -> [Lanes; 4] {
    step_at(Level::best(), fraction_bits, ty, a, b, c)
}

/// [`step`] at a given level, which the host must have.
pub(crate) fn step_at(
    level: Level,
    fraction_bits: u32,
    ty: MmaType,
    a: &[Lanes],
    b: &[Lanes],
    c: &[Lanes; 4],
) -> [Lanes; 4] {
    let mut d = [[0; 32]; 4];
    let kind = Kind::new(fraction_bits, ty);
    let exceptions = match level {
        Level::Portable => portable(kind, a, b, c, &mut d),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => super::mma_simd::step_avx2(kind, a, b, c, &mut d),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => super::mma_simd::step_avx512(kind, a, b, c, &mut d),
    };
    if exceptions.operands || exceptions.accumulators || exceptions.small != [0; 4] {
        redo(fraction_bits, ty, a, b, c, exceptions, &mut d);
    }
    d
}

/// Computes the excepted elements by the model itself.
#[cold]
fn redo(
    fraction_bits: u32,
    ty: MmaType,
    a: &[Lanes],
    b: &[Lanes],
    c: &[Lanes; 4],
    exceptions: Exceptions,
    d: &mut [Lanes; 4],
) {
    let width = a.len() * 4;
    let special = |values: &[u32; 16]| values[..width].iter().any(|&x| !ty.format().value(x).is_finite());
    let columns: [_; 8] = std::array::from_fn(|column| {
        let values = b_column(b, column);
        (values, exceptions.operands && special(&values))
    });
    for row in 0..16 {
        let (left, _) = a_row(a, row);
        let row_special = exceptions.operands && special(&left);
        for (column, (right, column_special)) in columns.iter().enumerate() {
            let (register, lane) = (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2);
            let accumulator = c[register][lane];
            let accumulator_special = accumulator >> 23 & 0xff == 0xff;
            let small = exceptions.small[register] >> lane & 1 != 0;
            if row_special || *column_special || accumulator_special || small {
                let accumulator = Term::of(Format::F32, accumulator);
                d[register][lane] =
                    round_f32(element(fraction_bits, ty, &left[..width], &right[..width], accumulator));
            }
        }
    }
}

/// An operand as field, with that of zero replaced, and signed significand.
#[inline(always)]
fn decode(kind: Kind, x: u32) -> (i32, i32) {
    let field = x >> kind.operand_fraction & kind.operand_special;
    let fraction = x & ((1 << kind.operand_fraction) - 1);
    let magnitude = (fraction | ((field != 0) as u32) << kind.operand_fraction) as i32;
    let negative = -((x >> 15 & 1) as i32);
    let exponent = if magnitude == 0 { kind.zero_field } else { field.max(1) as i32 };
    (exponent, (magnitude ^ negative) - negative)
}

/// Aligns a product or accumulator of magnitude below 2^28: truncation acts on the magnitude.
#[inline(always)]
fn align(value: i32, distance: i32) -> i32 {
    let negative = value >> 31;
    (((value ^ negative) - negative) >> distance.min(31) ^ negative) - negative
}

/// The step in plain loops over the eight columns.
fn portable(kind: Kind, a: &[Lanes], b: &[Lanes], c: &[Lanes; 4], d: &mut [Lanes; 4]) -> Exceptions {
    let mut exceptions = Exceptions::default();
    let width = a.len() * 4;
    let (mut b_exponent, mut b_significand) = ([[0i32; 8]; 16], [[0i32; 8]; 16]);
    for column in 0..8 {
        let values = b_column(b, column);
        for k in 0..width {
            exceptions.operands |=
                values[k] >> kind.operand_fraction & kind.operand_special == kind.operand_special;
            (b_exponent[k][column], b_significand[k][column]) = decode(kind, values[k]);
        }
    }
    for row in 0..16 {
        let (values, _) = a_row(a, row);
        let (mut a_exponent, mut a_significand) = ([0; 16], [0; 16]);
        for k in 0..width {
            exceptions.operands |=
                values[k] >> kind.operand_fraction & kind.operand_special == kind.operand_special;
            (a_exponent[k], a_significand[k]) = decode(kind, values[k]);
        }
        let place = |column: usize| (row / 8 * 2 + column % 2, row % 8 * 4 + column / 2);
        let (mut c_exponent, mut c_significand) = ([0; 8], [0; 8]);
        for column in 0..8 {
            let (register, lane) = place(column);
            let bits = c[register][lane];
            let field = (bits >> 23 & 0xff) as i32;
            exceptions.accumulators |= field == 0xff;
            let magnitude = (bits & 0x7f_ffff | ((field != 0) as u32) << 23) as i32;
            let negative = bits as i32 >> 31;
            c_exponent[column] = field.max(1) - 127 + kind.product_bias;
            c_significand[column] = ((magnitude ^ negative) - negative) << (kind.fraction_bits - 23);
        }
        let mut largest = c_exponent;
        for k in 0..width {
            for column in 0..8 {
                largest[column] = largest[column].max(a_exponent[k] + b_exponent[k][column]);
            }
        }
        // Sixteen products stay below 2^31 together; the accumulator is added in f64, where the sum is exact.
        let mut sum = [0i32; 8];
        for k in 0..width {
            for column in 0..8 {
                let product = (a_significand[k] * b_significand[k][column]) << kind.product_shift();
                sum[column] += align(product, largest[column] - a_exponent[k] - b_exponent[k][column]);
            }
        }
        for column in 0..8 {
            let accumulator = align(c_significand[column], largest[column] - c_exponent[column]);
            let total = sum[column] as f64 + accumulator as f64;
            let scale = largest[column] - kind.product_bias - kind.fraction_bits;
            let value = total * super::format::power_of_two(scale);
            // Clearing the digits that f32 lacks is the truncation toward zero.
            let (register, lane) = place(column);
            d[register][lane] = (f64::from_bits(value.to_bits() & !0x1fff_ffff) as f32).to_bits();
            let small =
                largest[column] < kind.exact_from() && value != 0.0 && value.abs() < f32::MIN_POSITIVE as f64;
            exceptions.small[register] |= (small as u32) << lane;
        }
    }
    exceptions
}
