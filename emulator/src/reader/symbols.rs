//! Names inside a kernel: registers, variables and labels, in nested scopes.

use std::collections::HashMap;

use super::operand::split_number;
use super::scan::split_operands;
use super::types::Ty;
use crate::ir::{FIRST_SPECIAL, Reg, SINK_PRED, SPECIAL};

/// Register files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File {
    R32,
    R64,
    Pred,
}

impl File {
    /// The file that holds values of this many bits.
    pub fn of(ty: Ty) -> File {
        match ty.bits() {
            1 => File::Pred,
            64 => File::R64,
            _ => File::R32,
        }
    }
}

/// A declared register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    pub file: File,
    pub index: Reg,
    /// Declared width.
    pub bits: u32,
    /// Written by nobody: a special register.
    pub constant: bool,
}

/// A variable in a space with addresses of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Local(u32),
    Param(u32),
    /// A parameter of a call that will not return.
    CallParam,
}

/// What one pair of braces declares.
#[derive(Default)]
pub struct Scope<'a> {
    /// `%r<10>`: prefix, first register, how many.
    families: Vec<(&'a str, Register, u32)>,
    registers: HashMap<&'a str, Register>,
    pub places: HashMap<&'a str, Place>,
    pub labels: HashMap<&'a str, u32>,
    /// Branches whose label was not seen yet: index of the instruction, which of its targets, the label.
    pub pending: Vec<(usize, usize, &'a str, u32)>,
    /// `.branchtargets` lists by their label.
    pub target_lists: HashMap<&'a str, Vec<&'a str>>,
}

/// Counts the registers given out.
#[derive(Debug)]
pub struct Numbers {
    pub regs32: u32,
    pub regs64: u32,
    pub preds: u32,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            regs32: u32::from(FIRST_SPECIAL) + SPECIAL.len() as u32,
            regs64: 1,
            preds: u32::from(SINK_PRED) + 1,
        }
    }
}

impl Numbers {
    /// `count` new registers in `file`; the first of them.
    pub fn take(&mut self, file: File, count: u32) -> Result<Reg, String> {
        let next = match file {
            File::R32 => &mut self.regs32,
            File::R64 => &mut self.regs64,
            File::Pred => &mut self.preds,
        };
        let first = *next;
        // The last number is left free, so that counts fit the type as well.
        *next = first
            .checked_add(count)
            .filter(|&end| end < u32::from(Reg::MAX))
            .ok_or("more than 65,534 registers")?;
        Ok(first as Reg)
    }
}

impl<'a> Scope<'a> {
    /// `.reg .b32 %r<10>, %tmp;` without the semicolon and `.reg`.
    pub fn declare_registers(&mut self, text: &'a str, numbers: &mut Numbers) -> Result<(), String> {
        let text = text.trim();
        let (ty, names) = text
            .strip_prefix('.')
            .and_then(|text| text.split_once(char::is_whitespace))
            .and_then(|(ty, names)| Some((Ty::parse(ty)?, names)))
            .ok_or_else(|| format!("expected a type and names in `.reg {text}`"))?;
        let file = File::of(ty);
        for name in split_operands(names)? {
            let (name, count) = match name.split_once('<') {
                Some((prefix, count)) => {
                    let count = count.strip_suffix('>').and_then(|count| count.trim().parse::<u32>().ok());
                    (prefix, Some(count.ok_or_else(|| format!("expected a count in `.reg {text}`"))?))
                }
                None => (name, None),
            };
            let index = numbers.take(file, count.unwrap_or(1))?;
            let register = Register { file, index, bits: ty.bits(), constant: false };
            match count {
                Some(count) => self.families.push((name, register, count)),
                None => drop(self.registers.insert(name, register)),
            }
        }
        Ok(())
    }

    /// The special registers.
    pub fn declare_special(&mut self) {
        for (i, name) in SPECIAL.into_iter().enumerate() {
            let index = FIRST_SPECIAL + i as Reg;
            self.registers.insert(name, Register { file: File::R32, index, bits: 32, constant: true });
        }
    }

    /// The register called `name` in this scope.
    pub fn register(&self, name: &str) -> Option<Register> {
        if let Some(&register) = self.registers.get(name) {
            return Some(register);
        }
        let (prefix, number) = split_number(name)?;
        let (_, first, _) =
            self.families.iter().find(|(family, _, count)| *family == prefix && number < *count)?;
        Some(Register { index: first.index + number as Reg, ..*first })
    }
}
