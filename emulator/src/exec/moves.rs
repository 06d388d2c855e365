//! Moves, selections, predicate logic and address conversions.

use super::registers::{Registers, blend32, blend64, map};
use crate::ir::{Logic, Reg, Space};
use crate::memory::{space_of, window};
use crate::numerics::{Lanes, WideLanes};

/// Selects by predicate, 32 bits.
#[inline(always)]
pub fn select32<const C: bool>(r: &mut Registers, m: u32, d: Reg, [a, b, p]: [Reg; 3]) {
    let (x, y, which) = (r.get32(a), r.get32(b), r.pred(p));
    let mut value: Lanes = [0; 32];
    for lane in 0..32 {
        value[lane] = blend32(which, lane, x[lane], y[lane]);
    }
    let defined = (r.defined32(a) & which | r.defined32(b) & !which) & r.defined_pred(p);
    r.set32::<C>(d, value, m, defined);
}

/// Selects by predicate, 64 bits.
#[inline(always)]
pub fn select64<const C: bool>(r: &mut Registers, m: u32, d: Reg, [a, b, p]: [Reg; 3]) {
    let (x, y, which) = (r.get64(a), r.get64(b), r.pred(p));
    let mut value: WideLanes = [0; 32];
    for lane in 0..32 {
        value[lane] = blend64(which, lane, x[lane], y[lane]);
    }
    let defined = (r.defined64(a) & which | r.defined64(b) & !which) & r.defined_pred(p);
    r.set64::<C>(d, value, m, defined);
}

/// Parts, low first, into one register.
pub fn pack<const C: bool>(r: &mut Registers, m: u32, d: Reg, wide: bool, bits: u8, parts: &[Reg; 4]) {
    let count = if wide { 64 } else { 32 } / usize::from(bits);
    let mut value: WideLanes = [0; 32];
    let mut defined = u32::MAX;
    for (i, &part) in parts[..count].iter().enumerate() {
        defined &= r.defined32(part);
        for (to, &from) in value.iter_mut().zip(r.get32(part)) {
            *to |= u64::from(from) << (i * usize::from(bits));
        }
    }
    if wide {
        r.set64::<C>(d, value, m, defined);
    } else {
        r.set32::<C>(d, map(&value, |x| x as u32), m, defined);
    }
}

/// The inverse of [`pack`].
pub fn unpack<const C: bool>(r: &mut Registers, m: u32, a: Reg, wide: bool, bits: u8, parts: &[Reg; 4]) {
    let count = if wide { 64 } else { 32 } / usize::from(bits);
    let value: WideLanes = if wide { *r.get64(a) } else { map(r.get32(a), u64::from) };
    let defined = r.defined(a, wide);
    let keep = u64::from(u32::MAX >> (32 - u32::from(bits)));
    for (i, &part) in parts[..count].iter().enumerate() {
        r.set32::<C>(part, map(&value, |x| (x >> (i * usize::from(bits)) & keep) as u32), m, defined);
    }
}

/// Logic of two predicates.
#[inline(always)]
pub fn logic<const C: bool>(r: &mut Registers, m: u32, op: Logic, d: Reg, a: Reg, b: Reg) {
    let (x, y) = (r.pred(a), r.pred(b));
    let (known_x, known_y) = (r.defined_pred(a), r.defined_pred(b));
    let both = known_x & known_y;
    // One operand alone may decide: compilers rely on it for short circuits.
    let (value, defined) = match op {
        Logic::And => (x & y, both | known_x & !x | known_y & !y),
        Logic::Or => (x | y, both | known_x & x | known_y & y),
        Logic::Xor => (x ^ y, both),
    };
    r.set_pred::<C>(d, value, m, defined);
}

/// Between the window of a space and generic addresses.
pub fn convert_address<const C: bool>(
    r: &mut Registers,
    m: u32,
    space: Space,
    to_generic: bool,
    d: Reg,
    a: Reg,
) {
    let base = window(space);
    let offset = if to_generic { base } else { base.wrapping_neg() };
    r.map64::<C>(m, d, a, |x| x.wrapping_add(offset));
}

/// `isspacep`.
pub fn is_space<const C: bool>(r: &mut Registers, m: u32, space: Space, d: Reg, a: Reg) {
    let asked = if space == Space::Const { Space::Global } else { space };
    let value = super::registers::test(r.get64(a), |x| space_of(x) == asked);
    let defined = r.defined64(a);
    r.set_pred::<C>(d, value, m, defined);
}
