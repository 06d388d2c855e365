//! Integer and logical instructions.

use super::registers::{Registers, map, zip};
use crate::ir::{Int1, Int2, Int3, Reg};
use crate::numerics::{Lanes, WideLanes};

/// The binary operations of one width: each arm ends in its own store, so that no result takes a detour through memory.
/// `$h` holds values of `$u`, zero-extended.
macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $zip:ident, $h:ty, $u:ty, $s:ty, $wide_u:ty, $wide_s:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name<const C: bool>(r: &mut Registers, m: u32, op: Int2, d: Reg, a: Reg, b: Reg) {
            const BITS: u32 = <$u>::BITS;
            type H = $h;
            match op {
                Int2::Add => $zip::<C>(r, m, d, a, b, |x, y| (x as $u).wrapping_add(y as $u) as H),
                Int2::Sub => $zip::<C>(r, m, d, a, b, |x, y| (x as $u).wrapping_sub(y as $u) as H),
                Int2::Mul => $zip::<C>(r, m, d, a, b, |x, y| (x as $u).wrapping_mul(y as $u) as H),
                Int2::And => $zip::<C>(r, m, d, a, b, |x, y| x & y),
                Int2::Or => $zip::<C>(r, m, d, a, b, |x, y| x | y),
                Int2::Xor => $zip::<C>(r, m, d, a, b, |x, y| x ^ y),
                // Amounts clamp at the width.
                Int2::Shl => $zip::<C>(r, m, d, a, b, |x, y| (x as $u).checked_shl(y as u32).unwrap_or(0) as H),
                Int2::ShrU => $zip::<C>(r, m, d, a, b, |x, y| (x as $u).checked_shr(y as u32).unwrap_or(0) as H),
                Int2::ShrS => $zip::<C>(r, m, d, a, b, |x, y| ((x as $s) >> (y as u32).min(BITS - 1)) as $u as H),
                Int2::MinU => $zip::<C>(r, m, d, a, b, |x, y| x.min(y)),
                Int2::MaxU => $zip::<C>(r, m, d, a, b, |x, y| x.max(y)),
                Int2::MinS => $zip::<C>(r, m, d, a, b, |x, y| (x as $s).min(y as $s) as $u as H),
                Int2::MaxS => $zip::<C>(r, m, d, a, b, |x, y| (x as $s).max(y as $s) as $u as H),
                _ => $zip::<C>(r, m, d, a, b, |x, y| {
                    let (x, y) = (x as $u, y as $u);
                    (match op {
                        Int2::AddSat => (x as $s).saturating_add(y as $s) as $u,
                        Int2::SubSat => (x as $s).saturating_sub(y as $s) as $u,
                        Int2::MulHiU => ((x as $wide_u * y as $wide_u) >> BITS) as $u,
                        Int2::MulHiS => ((x as $s as $wide_s * y as $s as $wide_s) >> BITS) as $u,
                        // Division by zero has no defined result; the hardware's own routine gives all ones.
                        Int2::DivU => x.checked_div(y).unwrap_or(<$u>::MAX),
                        Int2::DivS if y == 0 => <$u>::MAX,
                        Int2::DivS => (x as $s).wrapping_div(y as $s) as $u,
                        Int2::RemU => x.checked_rem(y).unwrap_or(x),
                        Int2::RemS if y == 0 => x,
                        _ => (x as $s).wrapping_rem(y as $s) as $u,
                    }) as H
                }),
            }
        }
    };
}

#[inline(always)]
fn zip32<const C: bool>(r: &mut Registers, m: u32, d: Reg, a: Reg, b: Reg, f: impl Fn(u32, u32) -> u32) {
    r.zip32::<C>(m, d, a, b, |a, b| zip(a, b, f));
}

#[inline(always)]
fn zip64<const C: bool>(r: &mut Registers, m: u32, d: Reg, a: Reg, b: Reg, f: impl Fn(u64, u64) -> u64) {
    let value = zip(r.get64(a), r.get64(b), f);
    let defined = if C { r.defined64(a) & r.defined64(b) } else { 0 };
    r.set64::<C>(d, value, m, defined);
}

binary!(
    /// `d = a op b` on 16 bits.
    int16, zip32, u32, u16, i16, u32, i32
);
binary!(
    /// `d = a op b` on 32 bits.
    int32, zip32, u32, u32, i32, u64, i64
);
binary!(
    /// `d = a op b` on 64 bits.
    int64, zip64, u64, u64, i64, u128, i128
);

/// A 64-bit shift by a 32-bit amount.
#[inline(always)]
pub fn shift64<const C: bool>(r: &mut Registers, m: u32, op: Int2, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (r.get64(a), r.get32(b));
    let value = match op {
        Int2::Shl => zip(x, y, |x, y| x.checked_shl(y).unwrap_or(0)),
        Int2::ShrU => zip(x, y, |x, y| x.checked_shr(y).unwrap_or(0)),
        _ => zip(x, y, |x, y| ((x as i64) >> y.min(63)) as u64),
    };
    let defined = r.defined64(a) & r.defined32(b);
    r.set64::<C>(d, value, m, defined);
}

fn unary_one(op: Int1, x: u64, bits: u32) -> u64 {
    let signed = ((x << (64 - bits)) as i64) >> (64 - bits);
    let mask = u64::MAX >> (64 - bits);
    let top =
        |value: u64| if value == 0 { u64::from(u32::MAX) } else { u64::from(63 - value.leading_zeros()) };
    // The sign bits of a negative number are not looked for, but its highest zero.
    let significant = if signed < 0 { !x & mask } else { x };
    let shift = |found: u64| if found == u64::from(u32::MAX) { found } else { u64::from(bits - 1) - found };
    match op {
        Int1::Neg => x.wrapping_neg() & mask,
        Int1::Abs => signed.wrapping_abs() as u64 & mask,
        Int1::Not => !x & mask,
        Int1::Brev => x.reverse_bits() >> (64 - bits),
        Int1::Clz => u64::from(x.leading_zeros() - (64 - bits)),
        Int1::Popc => u64::from(x.count_ones()),
        Int1::BfindU => top(x),
        Int1::BfindS => top(significant),
        Int1::BfindShiftU => shift(top(x)),
        Int1::BfindShiftS => shift(top(significant)),
    }
}

/// One operand, 16 or 32 bits.
#[inline(always)]
pub fn unary32<const C: bool>(r: &mut Registers, m: u32, op: Int1, d: Reg, a: Reg, bits: u32) {
    r.map32::<C>(m, d, a, |a| map(a, |x| unary_one(op, u64::from(x), bits) as u32));
}

/// One 64-bit operand and result.
#[inline(always)]
pub fn unary64<const C: bool>(r: &mut Registers, m: u32, op: Int1, d: Reg, a: Reg) {
    r.map64::<C>(m, d, a, |x| unary_one(op, x, 64));
}

/// A 64-bit operand and a 32-bit count.
#[inline(always)]
pub fn count64<const C: bool>(r: &mut Registers, m: u32, op: Int1, d: Reg, a: Reg) {
    let value = map(r.get64(a), |x| unary_one(op, x, 64) as u32);
    let defined = r.defined64(a);
    r.set32::<C>(d, value, m, defined);
}

/// Three 32-bit operands.
#[inline(always)]
pub fn ternary32<const C: bool>(r: &mut Registers, m: u32, op: Int3, d: Reg, operands: [Reg; 3]) {
    match op {
        Int3::MadLo => {
            r.zip3_32::<C>(m, d, operands, |a, b, c| {
                each3(a, b, c, |x, y, z| x.wrapping_mul(y).wrapping_add(z))
            });
        }
        Int3::BfeU => r.zip3_32::<C>(m, d, operands, |a, b, c| each3(a, b, c, bfe_u32)),
        Int3::Prmt => r.zip3_32::<C>(m, d, operands, |a, b, c| each3(a, b, c, prmt)),
        Int3::Lop3(table) => {
            r.zip3_32::<C>(m, d, operands, |a, b, c| each3(a, b, c, |x, y, z| lop3(x, y, z, table)));
        }
        _ => r.zip3_32::<C>(m, d, operands, |a, b, c| each3(a, b, c, |x, y, z| rare_ternary(op, x, y, z))),
    }
}

#[inline(always)]
fn each3(a: &Lanes, b: &Lanes, c: &Lanes, f: impl Fn(u32, u32, u32) -> u32) -> Lanes {
    let mut d = [0; 32];
    for lane in 0..32 {
        d[lane] = f(a[lane], b[lane], c[lane]);
    }
    d
}

fn rare_ternary(op: Int3, x: u32, y: u32, z: u32) -> u32 {
    let pair = u64::from(y) << 32 | u64::from(x);
    let amount = |clamp: bool| if clamp { z.min(32) } else { z & 31 };
    match op {
        Int3::MadHiU => ((u64::from(x) * u64::from(y)) >> 32) as u32,
        Int3::MadHiS => ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32,
        Int3::BfeS => return bfe_signed(u64::from(x), y, z, 32) as u32,
        Int3::ShfL { clamp } => return ((pair << amount(clamp)) >> 32) as u32,
        Int3::ShfR { clamp } => return (pair >> amount(clamp)) as u32,
        Int3::Dp4a(a_signed, b_signed) => {
            let part = |value: u32, i: u32, signed: bool| {
                let byte = (value >> (8 * i)) as u8;
                if signed { i32::from(byte as i8) } else { i32::from(byte) }
            };
            return (0..4)
                .fold(z, |sum, i| sum.wrapping_add((part(x, i, a_signed) * part(y, i, b_signed)) as u32));
        }
        Int3::MadLo | Int3::BfeU | Int3::Prmt | Int3::Lop3(_) => 0,
    }
    .wrapping_add(z)
}

#[inline(always)]
fn bfe_u32(x: u32, pos: u32, len: u32) -> u32 {
    let shifted = x.checked_shr(pos & 255).unwrap_or(0);
    let mask = 1u32.checked_shl(len & 255).unwrap_or(0).wrapping_sub(1);
    shifted & mask
}

/// A signed field: beyond the top it is filled with the field's own sign, or the number's where the field leaves it.
fn bfe_signed(x: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let sign_at = (pos + len - 1).min(bits - 1);
    let sign = x >> sign_at & 1 != 0;
    let shifted = x.checked_shr(pos).filter(|_| pos < bits).unwrap_or(0);
    let kept = len.min(bits.saturating_sub(pos));
    let mask = 1u64.checked_shl(kept).unwrap_or(0).wrapping_sub(1);
    if sign { shifted & mask | !mask } else { shifted & mask }
}

#[inline(always)]
fn prmt(x: u32, y: u32, selector: u32) -> u32 {
    let bytes = u64::from(y) << 32 | u64::from(x);
    let mut d = 0;
    for i in 0..4 {
        let select = selector >> (4 * i);
        let byte = (bytes >> (8 * (select & 7))) as u32 & 0xff;
        // The high bit of a selector replicates the sign of the byte.
        let value = if select & 8 != 0 { 0u32.wrapping_sub(byte >> 7) & 0xff } else { byte };
        d |= value << (8 * i);
    }
    d
}

#[inline(always)]
fn lop3(x: u32, y: u32, z: u32, table: u8) -> u32 {
    let mut d = 0;
    for row in 0..8u32 {
        let pick = |value: u32, bit: u32| if row >> bit & 1 != 0 { value } else { !value };
        let here = 0u32.wrapping_sub(u32::from(table) >> row & 1);
        d |= pick(x, 2) & pick(y, 1) & pick(z, 0) & here;
    }
    d
}

/// `mul.wide` and `mad.wide` of 32-bit operands.
#[inline(always)]
pub fn mul_wide<const C: bool>(
    r: &mut Registers,
    m: u32,
    signed: bool,
    d: Reg,
    a: Reg,
    b: Reg,
    c: Option<Reg>,
) {
    let (x, y) = (r.get32(a), r.get32(b));
    let product = if signed {
        zip(x, y, |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64)
    } else {
        zip(x, y, |x, y| u64::from(x) * u64::from(y))
    };
    let mut defined = r.defined32(a) & r.defined32(b);
    let value = match c {
        Some(c) => {
            defined &= r.defined64(c);
            zip(&product, r.get64(c), |x, y| x.wrapping_add(y))
        }
        None => product,
    };
    r.set64::<C>(d, value, m, defined);
}

/// `mul.wide` of 16-bit operands.
#[inline(always)]
pub fn mul_wide16<const C: bool>(r: &mut Registers, m: u32, signed: bool, d: Reg, a: Reg, b: Reg) {
    let product = |x: u32, y: u32| {
        if signed {
            (i32::from(x as i16) * i32::from(y as i16)) as u32
        } else {
            u32::from(x as u16) * u32::from(y as u16)
        }
    };
    r.zip32::<C>(m, d, a, b, |a, b| zip(a, b, product));
}

/// `mad.lo` of 16 bits.
#[inline(always)]
pub fn mad16<const C: bool>(r: &mut Registers, m: u32, d: Reg, operands: [Reg; 3]) {
    r.zip3_32::<C>(m, d, operands, |a, b, c| {
        each3(a, b, c, |x, y, z| x.wrapping_mul(y).wrapping_add(z) & 0xffff)
    });
}

/// `mad.lo` of 64 bits.
#[inline(always)]
pub fn mad64<const C: bool>(r: &mut Registers, m: u32, d: Reg, [a, b, c]: [Reg; 3]) {
    let product = zip(r.get64(a), r.get64(b), u64::wrapping_mul);
    let value = zip(&product, r.get64(c), u64::wrapping_add);
    let defined = r.defined64(a) & r.defined64(b) & r.defined64(c);
    r.set64::<C>(d, value, m, defined);
}

/// A field of a 64-bit register.
pub fn bfe64<const C: bool>(r: &mut Registers, m: u32, signed: bool, d: Reg, [a, pos, len]: [Reg; 3]) {
    let mut value = [0; 32];
    for lane in 0..32 {
        let (x, pos, len) = (r.get64(a)[lane], r.get32(pos)[lane], r.get32(len)[lane]);
        value[lane] = if signed {
            bfe_signed(x, pos, len, 64)
        } else {
            x.checked_shr(pos & 255).unwrap_or(0) & 1u64.checked_shl(len & 255).unwrap_or(0).wrapping_sub(1)
        };
    }
    let defined = r.defined64(a) & r.defined32(pos) & r.defined32(len);
    r.set64::<C>(d, value, m, defined);
}

fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= bits {
        return b;
    }
    let mask = 1u64.checked_shl(len).unwrap_or(0).wrapping_sub(1) << pos;
    (a << pos & mask | b & !mask) & (u64::MAX >> (64 - bits))
}

/// `bfi` of 32 bits.
pub fn bfi32<const C: bool>(r: &mut Registers, m: u32, d: Reg, [a, b, pos, len]: [Reg; 4]) {
    let mut value = [0; 32];
    for lane in 0..32 {
        let (x, y) = (u64::from(r.get32(a)[lane]), u64::from(r.get32(b)[lane]));
        value[lane] = bfi(x, y, r.get32(pos)[lane], r.get32(len)[lane], 32) as u32;
    }
    let defined = r.defined32(a) & r.defined32(b) & r.defined32(pos) & r.defined32(len);
    r.set32::<C>(d, value, m, defined);
}

/// `bfi` of 64 bits.
pub fn bfi64<const C: bool>(r: &mut Registers, m: u32, d: Reg, [a, b, pos, len]: [Reg; 4]) {
    let mut value = [0; 32];
    for lane in 0..32 {
        value[lane] = bfi(r.get64(a)[lane], r.get64(b)[lane], r.get32(pos)[lane], r.get32(len)[lane], 64);
    }
    let defined = r.defined64(a) & r.defined64(b) & r.defined32(pos) & r.defined32(len);
    r.set64::<C>(d, value, m, defined);
}

/// Modifiers of [`carry`].
#[derive(Clone, Copy)]
pub struct CarryOp {
    pub subtract: bool,
    pub reads: bool,
    pub writes: bool,
    pub wide: bool,
}

/// Sums with carry. A difference is the sum with the complement, whose carry is the absence of a borrow.
pub fn carry<const C: bool>(r: &mut Registers, m: u32, op: CarryOp, d: Reg, a: Reg, b: Reg) {
    let carry_in = if op.reads { r.carry } else { 0 };
    let inverted = if op.subtract { u64::MAX } else { 0 };
    // Without a carry to read, a difference adds one to the complement; a borrow read takes it away again.
    let plus = |lane: usize| u64::from((carry_in >> lane & 1 != 0) != op.subtract);
    let mut out = 0u32;
    if op.wide {
        let mut value: WideLanes = [0; 32];
        for lane in 0..32 {
            let (x, y) = (r.get64(a)[lane], r.get64(b)[lane] ^ inverted);
            let sum = u128::from(x) + u128::from(y) + u128::from(plus(lane));
            value[lane] = sum as u64;
            out |= u32::from((sum >> 64 != 0) != op.subtract) << lane;
        }
        let defined = r.defined64(a) & r.defined64(b);
        r.set64::<C>(d, value, m, defined);
    } else {
        let mut value: Lanes = [0; 32];
        for lane in 0..32 {
            let (x, y) = (r.get32(a)[lane], r.get32(b)[lane] ^ inverted as u32);
            let sum = u64::from(x) + u64::from(y) + plus(lane);
            value[lane] = sum as u32;
            out |= u32::from((sum >> 32 != 0) != op.subtract) << lane;
        }
        let defined = r.defined32(a) & r.defined32(b);
        r.set32::<C>(d, value, m, defined);
    }
    if op.writes {
        r.carry = r.carry & !m | out & m;
    }
}
