//! PTX text to kernels in the form they run in.
//!
//! Two levels: [`scan`] splits the text by punctuation, [`lower`] knows the instructions. The list of instructions is
//! closed: an unknown opcode, modifier or directive is an error with its line and never ignored.

mod body;
mod lower;
mod module;
mod operand;
mod scan;
mod symbols;
mod types;

use std::collections::HashMap;

use crate::ReadError;
use crate::ir::Kernel;

/// A module as read.
#[derive(Debug)]
pub struct Module {
    /// Kernels in the order of the text.
    pub kernels: Vec<Kernel>,
    /// Global and constant variables; variable `i` was given the address `address_of(i)`.
    pub globals: Vec<Global>,
    /// The number in `.target sm_NN`.
    pub target: u32,
}

/// A variable in global or constant memory.
#[derive(Debug)]
pub struct Global {
    pub name: String,
    pub bytes: Vec<u8>,
    pub read_only: bool,
}

/// Reads a module whose `i`-th global variable will lie at `address_of(i)`.
pub fn read(text: &str, address_of: &dyn Fn(usize) -> u64) -> Result<Module, ReadError> {
    let text = scan::blank_comments(text);
    let mut scanned = module::scan(&text)?;
    let globals = std::mem::take(&mut scanned.globals);
    let addresses: HashMap<&str, u64> =
        globals.iter().enumerate().map(|(i, global)| (global.variable.name, address_of(i))).collect();
    let kernels = scanned
        .entries
        .iter()
        .map(|entry| body::lower_entry(entry, &scanned, &addresses))
        .collect::<Result<_, _>>()?;
    let globals = globals.iter().map(|global| global.initialise(&addresses)).collect::<Result<_, _>>()?;
    Ok(Module { kernels, globals, target: scanned.target })
}
