//! The registers of a warp: one array of 32 lanes per register, and which lanes have a value.

use crate::ir::{FALSE, FIRST_SPECIAL, Kernel, Reg, SPECIAL, TRUE};
use crate::numerics::{Lanes, WideLanes};

/// A register of 32 lanes, aligned for the widest vectors.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Row<T>([T; 32]);

/// Value of registers that nothing has written, to make a use of them conspicuous.
const POISON32: u32 = 0xffff_ffff;
const POISON64: u64 = 0xdead_dead_dead_dead;

/// All registers of a warp. Where the const parameter `C` is set, results know which of their lanes were computed from
/// defined values alone.
#[derive(Debug)]
pub struct Registers {
    r32: Vec<Row<u32>>,
    r64: Vec<Row<u64>>,
    preds: Vec<u32>,
    defined32: Vec<u32>,
    defined64: Vec<u32>,
    defined_preds: Vec<u32>,
    /// What is defined before the first instruction: the constants.
    constants: [Vec<u32>; 3],
    /// The carry of `add.cc` and its kind.
    pub carry: u32,
}

impl Registers {
    /// The registers of a warp of `kernel`, constants in place.
    pub fn new(kernel: &Kernel) -> Self {
        let mut registers = Registers {
            r32: vec![Row([POISON32; 32]); kernel.num_regs32],
            r64: vec![Row([POISON64; 32]); kernel.num_regs64],
            preds: vec![0; kernel.num_preds],
            defined32: vec![0; kernel.num_regs32],
            defined64: vec![0; kernel.num_regs64],
            defined_preds: vec![0; kernel.num_preds],
            constants: Default::default(),
            carry: 0,
        };
        for &(reg, value) in &kernel.constants32 {
            registers.set_constant32(reg, [value; 32]);
        }
        for &(reg, value) in &kernel.constants64 {
            registers.r64[usize::from(reg)] = Row([value; 32]);
            registers.defined64[usize::from(reg)] = u32::MAX;
        }
        for (reg, value) in [(TRUE, u32::MAX), (FALSE, 0)] {
            registers.preds[usize::from(reg)] = value;
            registers.defined_preds[usize::from(reg)] = u32::MAX;
        }
        for index in 0..SPECIAL.len() {
            registers.set_special(index, [0; 32]);
        }
        registers.constants =
            [registers.defined32.clone(), registers.defined64.clone(), registers.defined_preds.clone()];
        registers
    }

    /// Everything undefined again but the constants. The values stay: with the checks on their use is a fault, and
    /// without them it is as undefined as on hardware.
    pub fn reset(&mut self) {
        self.defined32.copy_from_slice(&self.constants[0]);
        self.defined64.copy_from_slice(&self.constants[1]);
        self.defined_preds.copy_from_slice(&self.constants[2]);
    }

    /// Sets special register `index` of [`SPECIAL`].
    pub fn set_special(&mut self, index: usize, value: Lanes) {
        self.set_constant32(FIRST_SPECIAL + index as Reg, value);
    }

    fn set_constant32(&mut self, reg: Reg, value: Lanes) {
        self.r32[usize::from(reg)] = Row(value);
        self.defined32[usize::from(reg)] = u32::MAX;
    }

    #[inline(always)]
    pub fn get32(&self, reg: Reg) -> &Lanes {
        &self.r32[usize::from(reg)].0
    }

    #[inline(always)]
    pub fn get64(&self, reg: Reg) -> &WideLanes {
        &self.r64[usize::from(reg)].0
    }

    #[inline(always)]
    pub fn pred(&self, reg: Reg) -> u32 {
        self.preds[usize::from(reg)]
    }

    /// Lanes with a value.
    #[inline(always)]
    pub fn defined32(&self, reg: Reg) -> u32 {
        self.defined32[usize::from(reg)]
    }

    #[inline(always)]
    pub fn defined64(&self, reg: Reg) -> u32 {
        self.defined64[usize::from(reg)]
    }

    #[inline(always)]
    pub fn defined_pred(&self, reg: Reg) -> u32 {
        self.defined_preds[usize::from(reg)]
    }

    /// Lanes of `reg` with a value, in the 64-bit file if `wide`.
    #[inline(always)]
    pub fn defined(&self, reg: Reg, wide: bool) -> u32 {
        if wide { self.defined64(reg) } else { self.defined32(reg) }
    }

    /// Writes the lanes of `mask`; `defined` tells which of them have a value.
    #[inline(always)]
    pub fn set32<const C: bool>(&mut self, reg: Reg, value: Lanes, mask: u32, defined: u32) {
        let to = &mut self.r32[usize::from(reg)].0;
        if mask == u32::MAX {
            *to = value;
        } else {
            for lane in 0..32 {
                to[lane] = blend32(mask, lane, value[lane], to[lane]);
            }
        }
        if C {
            let known = &mut self.defined32[usize::from(reg)];
            *known = *known & !mask | defined & mask;
        }
    }

    /// The same for 64 bits.
    #[inline(always)]
    pub fn set64<const C: bool>(&mut self, reg: Reg, value: WideLanes, mask: u32, defined: u32) {
        let to = &mut self.r64[usize::from(reg)].0;
        if mask == u32::MAX {
            *to = value;
        } else {
            for lane in 0..32 {
                to[lane] = blend64(mask, lane, value[lane], to[lane]);
            }
        }
        if C {
            let known = &mut self.defined64[usize::from(reg)];
            *known = *known & !mask | defined & mask;
        }
    }

    /// The same for a predicate.
    #[inline(always)]
    pub fn set_pred<const C: bool>(&mut self, reg: Reg, value: u32, mask: u32, defined: u32) {
        let to = &mut self.preds[usize::from(reg)];
        *to = *to & !mask | value & mask;
        if C {
            let known = &mut self.defined_preds[usize::from(reg)];
            *known = *known & !mask | defined & mask;
        }
    }

    /// `d = f(a)` on 32-bit registers.
    #[inline(always)]
    pub fn map32<const C: bool>(&mut self, mask: u32, d: Reg, a: Reg, f: impl Fn(&Lanes) -> Lanes) {
        let value = f(self.get32(a));
        let defined = if C { self.defined32(a) } else { 0 };
        self.set32::<C>(d, value, mask, defined);
    }

    /// `d = f(a, b)` on 32-bit registers.
    #[inline(always)]
    pub fn zip32<const C: bool>(
        &mut self,
        mask: u32,
        d: Reg,
        a: Reg,
        b: Reg,
        f: impl FnOnce(&Lanes, &Lanes) -> Lanes,
    ) {
        let value = f(self.get32(a), self.get32(b));
        let defined = if C { self.defined32(a) & self.defined32(b) } else { 0 };
        self.set32::<C>(d, value, mask, defined);
    }

    /// `d = f(a, b, c)` on 32-bit registers.
    #[inline(always)]
    pub fn zip3_32<const C: bool>(
        &mut self,
        mask: u32,
        d: Reg,
        [a, b, c]: [Reg; 3],
        f: impl Fn(&Lanes, &Lanes, &Lanes) -> Lanes,
    ) {
        let value = f(self.get32(a), self.get32(b), self.get32(c));
        let defined = if C { self.defined32(a) & self.defined32(b) & self.defined32(c) } else { 0 };
        self.set32::<C>(d, value, mask, defined);
    }

    /// `d = f(a)` on 64-bit registers.
    #[inline(always)]
    pub fn map64<const C: bool>(&mut self, mask: u32, d: Reg, a: Reg, f: impl Fn(u64) -> u64) {
        let value = map(self.get64(a), f);
        let defined = if C { self.defined64(a) } else { 0 };
        self.set64::<C>(d, value, mask, defined);
    }
}

/// `x` where the lane's bit of `mask` is set, else `y`. By arithmetic: of a choice the compiler makes one between
/// addresses, which takes the vectors through memory.
#[inline(always)]
pub fn blend32(mask: u32, lane: usize, x: u32, y: u32) -> u32 {
    let take = (mask >> lane & 1).wrapping_neg();
    x & take | y & !take
}

/// The same for 64 bits.
#[inline(always)]
pub fn blend64(mask: u32, lane: usize, x: u64, y: u64) -> u64 {
    let take = u64::from(mask >> lane & 1).wrapping_neg();
    x & take | y & !take
}

/// Lane by lane.
#[inline(always)]
pub fn map<A: Copy, D: Copy + Default>(a: &[A; 32], f: impl Fn(A) -> D) -> [D; 32] {
    let mut d = [D::default(); 32];
    for lane in 0..32 {
        d[lane] = f(a[lane]);
    }
    d
}

/// Lane by lane on two registers.
#[inline(always)]
pub fn zip<A: Copy, B: Copy, D: Copy + Default>(a: &[A; 32], b: &[B; 32], f: impl Fn(A, B) -> D) -> [D; 32] {
    let mut d = [D::default(); 32];
    for lane in 0..32 {
        d[lane] = f(a[lane], b[lane]);
    }
    d
}

/// One bit per lane.
#[inline(always)]
pub fn test<A: Copy>(a: &[A; 32], f: impl Fn(A) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..32 {
        bits |= u32::from(f(a[lane])) << lane;
    }
    bits
}

/// One bit per lane of two registers.
#[inline(always)]
pub fn test2<A: Copy>(a: &[A; 32], b: &[A; 32], f: impl Fn(A, A) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..32 {
        bits |= u32::from(f(a[lane], b[lane])) << lane;
    }
    bits
}
