//! One kernel: its scopes, its constants, its branches.

use std::collections::HashMap;

use super::lower::lower;
use super::module::{Entry, Scanned, variable};
use super::operand::immediate;
use super::scan::{Instruction, Item, split_operands};
use super::symbols::{File, Numbers, Place, Register, Scope};
use super::types::Ty;
use crate::ReadError;
use crate::ir::{Address, FALSE, Inst, Kernel, Op, Reg, SINK_PRED, SINK32, SINK64, TRUE};

/// What the lowering of a kernel has gathered.
pub struct Body<'a> {
    scanned: &'a Scanned<'a>,
    globals: &'a HashMap<&'a str, u64>,
    scopes: Vec<Scope<'a>>,
    numbers: Numbers,
    constants32: HashMap<u32, Reg>,
    constants64: HashMap<u64, Reg>,
    /// Registers that hold the address of dynamic shared memory plus so much; it is known at the end.
    dynamic: Vec<(Reg, bool, u32)>,
    shared: HashMap<&'a str, u32>,
    static_shared: u32,
    dynamic_align: u32,
    local_bytes: u32,
    code: Vec<Inst>,
    texts: Vec<String>,
}

/// Lowers the body of a kernel.
pub fn lower_entry(
    entry: &Entry<'_>,
    scanned: &Scanned<'_>,
    globals: &HashMap<&str, u64>,
) -> Result<Kernel, ReadError> {
    let mut root = Scope::default();
    root.declare_special();
    root.places.extend(entry.params.iter().map(|param| (param.name.as_str(), Place::Param(param.offset))));
    let mut body = Body {
        scanned,
        globals,
        scopes: vec![root],
        numbers: Numbers::default(),
        constants32: HashMap::new(),
        constants64: HashMap::new(),
        dynamic: Vec::new(),
        shared: HashMap::new(),
        static_shared: 0,
        dynamic_align: 1,
        local_bytes: 0,
        code: Vec::new(),
        texts: Vec::new(),
    };
    let mut cursor = entry.body.clone();
    loop {
        let Some((item, line)) = cursor.item()? else {
            return Err(ReadError::new(entry.line, format!("kernel `{}` has no end", entry.name)));
        };
        let fail = |message: String| ReadError::new(line, message);
        match item {
            Item::Open => body.scopes.push(Scope::default()),
            Item::Close => body.close()?,
            Item::Label(name) => {
                let here = body.code.len() as u32;
                if body.scope().labels.insert(name, here).is_some() {
                    return Err(fail(format!("label `{name}` is defined twice")));
                }
                body.targets_after(&mut cursor, name)?;
            }
            Item::Directive(text) => body.directive(text).map_err(fail)?,
            Item::Instruction(instruction) => body.instruction(&instruction, line).map_err(fail)?,
        }
        // The braces of the kernel itself opened the second scope.
        if body.scopes.len() == 1 {
            break;
        }
    }
    body.finish(entry)
}

impl<'a> Body<'a> {
    fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("the root scope stays open")
    }

    /// Leaves a scope: its labels go, branches to labels further out remain to be resolved.
    fn close(&mut self) -> Result<(), ReadError> {
        let Some(scope) = self.scopes.pop() else { return Ok(()) };
        for (at, slot, label, line) in scope.pending {
            let Some(&target) = scope.labels.get(label) else {
                if self.scopes.len() <= 1 {
                    return Err(ReadError::new(line, format!("label `{label}` is not defined")));
                }
                self.scope().pending.push((at, slot, label, line));
                continue;
            };
            match &mut self.code[at].op {
                Op::Branch(to) => *to = target,
                Op::BranchIndex(table) => table.1[slot] = target,
                other => unreachable!("{other:?} is no branch"),
            }
        }
        Ok(())
    }

    /// A label in front of `.branchtargets` names the list.
    fn targets_after(
        &mut self,
        cursor: &mut super::scan::Cursor<'a>,
        label: &'a str,
    ) -> Result<(), ReadError> {
        let mut ahead = cursor.clone();
        let Ok(Some((Item::Directive(text), line))) = ahead.item() else { return Ok(()) };
        if let Some(list) = text.strip_prefix(".branchtargets") {
            let targets = split_operands(list).map_err(|message| ReadError::new(line, message))?;
            self.scope().target_lists.insert(label, targets);
            *cursor = ahead;
        }
        Ok(())
    }

    fn directive(&mut self, text: &'a str) -> Result<(), String> {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word {
            ".reg" => {
                let mut numbers = std::mem::take(&mut self.numbers);
                let declared = self.scope().declare_registers(rest, &mut numbers);
                self.numbers = numbers;
                declared
            }
            ".local" => {
                let variable = variable(rest)?;
                let offset = self.local_bytes.next_multiple_of(variable.align);
                self.local_bytes = offset
                    .checked_add(variable.bytes())
                    .filter(|&bytes| bytes <= 512 << 10)
                    .ok_or("a thread has at most 512 KiB of local memory")?;
                self.scope().places.insert(variable.name, Place::Local(offset));
                Ok(())
            }
            ".shared" => {
                let variable = variable(rest)?;
                self.allocate_shared(variable.name, variable.bytes(), variable.align).map(drop)
            }
            ".param" => {
                let variable = variable(rest)?;
                self.scope().places.insert(variable.name, Place::CallParam);
                Ok(())
            }
            ".pragma" => Ok(()),
            _ => Err(format!("directive `{word}` is not supported in a kernel")),
        }
    }

    fn allocate_shared(&mut self, name: &'a str, bytes: u32, align: u32) -> Result<u32, String> {
        let offset = self.static_shared.next_multiple_of(align);
        let end = offset.checked_add(bytes).filter(|&end| end <= 1 << 20);
        self.static_shared = end.ok_or_else(|| format!("`{name}` does not fit into shared memory"))?;
        self.shared.insert(name, offset);
        Ok(offset)
    }

    fn instruction(&mut self, instruction: &Instruction<'a>, line: u32) -> Result<(), String> {
        let (guard, negated) = match instruction.guard {
            Some((name, negated)) => (self.source(name, Ty::Pred)?, negated),
            None => (TRUE, false),
        };
        let at = self.code.len();
        let op = lower(self, instruction.opcode, &instruction.operands)?;
        match &op {
            Op::Branch(_) => self.scope().pending.push((at, 0, instruction.operands[0], line)),
            Op::BranchIndex(_) => {
                let targets = self.branch_targets(instruction.operands[1])?.clone();
                let pending = targets.into_iter().enumerate().map(|(slot, label)| (at, slot, label, line));
                self.scope().pending.extend(pending);
            }
            _ => {}
        }
        self.texts.push(instruction.text.split_whitespace().collect::<Vec<_>>().join(" "));
        self.code.push(Inst { op, guard, negated, line });
        Ok(())
    }

    fn finish(mut self, entry: &Entry<'_>) -> Result<Kernel, ReadError> {
        let line = self.code.last().map_or(entry.line, |inst| inst.line);
        self.code.push(Inst { op: Op::Exit, guard: TRUE, negated: false, line });
        self.texts.push("(end of the kernel)".into());
        let texts =
            self.texts.into_iter().zip(&self.code).map(|(text, inst)| (text, inst.op.class())).collect();
        let base = self.static_shared.next_multiple_of(self.dynamic_align);
        let mut constants32: Vec<(Reg, u32)> =
            self.constants32.into_iter().map(|(value, reg)| (reg, value)).collect();
        let mut constants64: Vec<(Reg, u64)> =
            self.constants64.into_iter().map(|(value, reg)| (reg, value)).collect();
        for (reg, wide, offset) in self.dynamic {
            let address = base.wrapping_add(offset);
            if wide {
                constants64.push((reg, u64::from(address)));
            } else {
                constants32.push((reg, address));
            }
        }
        constants32.sort_unstable();
        constants64.sort_unstable();
        Ok(Kernel {
            name: entry.name.to_owned(),
            code: self.code,
            texts,
            num_regs32: self.numbers.regs32 as usize,
            num_regs64: self.numbers.regs64 as usize,
            num_preds: self.numbers.preds as usize,
            constants32,
            constants64,
            param_bytes: entry.params.last().map_or(0, |param| param.offset + param.bytes),
            params: entry.params.clone(),
            local_bytes: self.local_bytes.next_multiple_of(16),
            static_shared_bytes: base,
            max_threads: entry.max_threads,
            required_threads: entry.required_threads,
        })
    }

    /// The labels of a `.branchtargets` list.
    pub fn branch_targets(&self, name: &str) -> Result<&Vec<&'a str>, String> {
        let found = self.scopes.iter().rev().find_map(|scope| scope.target_lists.get(name));
        found.ok_or_else(|| format!("`{name}` is no list of branch targets that was declared before"))
    }

    /// Whether `name` is a known function, and one that never returns.
    pub fn never_returns(&self, name: &str) -> Option<bool> {
        self.scanned.functions.get(name).copied()
    }

    /// The register called `name`.
    pub fn register(&self, name: &str) -> Option<Register> {
        self.scopes.iter().rev().find_map(|scope| scope.register(name))
    }

    fn place(&self, name: &str) -> Option<Place> {
        self.scopes.iter().rev().find_map(|scope| scope.places.get(name).copied())
    }

    /// Whether `name` is a parameter of a call.
    pub fn is_call_param(&self, name: &str) -> bool {
        self.place(name) == Some(Place::CallParam)
    }

    /// The constant register that holds `value`.
    pub fn constant32(&mut self, value: u32) -> Result<Reg, String> {
        if let Some(&reg) = self.constants32.get(&value) {
            return Ok(reg);
        }
        let reg = self.numbers.take(File::R32, 1)?;
        self.constants32.insert(value, reg);
        Ok(reg)
    }

    /// The constant register that holds `value`.
    pub fn constant64(&mut self, value: u64) -> Result<Reg, String> {
        if let Some(&reg) = self.constants64.get(&value) {
            return Ok(reg);
        }
        let reg = self.numbers.take(File::R64, 1)?;
        self.constants64.insert(value, reg);
        Ok(reg)
    }

    fn constant(&mut self, value: u64, file: File) -> Result<Reg, String> {
        match file {
            File::R32 => self.constant32(value as u32),
            File::R64 => self.constant64(value),
            File::Pred => Ok(if value != 0 { TRUE } else { FALSE }),
        }
    }

    /// A register, a literal or the address of a variable, as a source of exactly the width of `ty`.
    pub fn source(&mut self, text: &str, ty: Ty) -> Result<Reg, String> {
        if let Some(register) = self.register(text) {
            if register.bits != ty.bits() {
                return Err(format!("`{text}` has {} bits, expected {}", register.bits, ty.bits()));
            }
            return Ok(register.index);
        }
        self.literal_or_symbol(text, ty)
    }

    /// A source that may be wider than `ty`; says whether it is in the 64-bit file.
    pub fn wide_source(&mut self, text: &str, ty: Ty) -> Result<(Reg, bool), String> {
        match self.register(text) {
            Some(register) if register.bits >= ty.bits() && register.file != File::Pred => {
                Ok((register.index, register.file == File::R64))
            }
            Some(register) => {
                Err(format!("`{text}` has {} bits, expected at least {}", register.bits, ty.bits()))
            }
            None => Ok((self.literal_or_symbol(text, ty)?, ty.bits() == 64)),
        }
    }

    fn literal_or_symbol(&mut self, text: &str, ty: Ty) -> Result<Reg, String> {
        let file = File::of(ty);
        if let Some(value) = immediate(text, ty) {
            return self.constant(value, file);
        }
        let (name, offset) = split_offset(text)?;
        self.symbol(name, offset, file)?
            .ok_or_else(|| format!("`{text}` is neither a register, a number nor a variable"))
    }

    /// The register that holds the address of a variable plus `offset`.
    fn symbol(&mut self, name: &str, offset: i32, file: File) -> Result<Option<Reg>, String> {
        if file == File::Pred {
            return Ok(None);
        }
        let address = match self.place(name) {
            Some(Place::Local(at) | Place::Param(at)) => u64::from(at),
            Some(Place::CallParam) => return Err(format!("the call parameter `{name}` has no address")),
            None => match self.globals.get(name) {
                Some(&address) if file == File::R64 => address,
                Some(_) => return Err(format!("the address of `{name}` has 64 bits")),
                None => match self.shared_symbol(name)? {
                    Some(Some(at)) => u64::from(at),
                    Some(None) => {
                        let reg = self.numbers.take(file, 1)?;
                        self.dynamic.push((reg, file == File::R64, offset as u32));
                        return Ok(Some(reg));
                    }
                    None => return Ok(None),
                },
            },
        };
        self.constant(address.wrapping_add_signed(i64::from(offset)), file).map(Some)
    }

    /// The offset of a shared variable, which is laid out at its first use; none inside for dynamic shared memory.
    fn shared_symbol(&mut self, name: &str) -> Result<Option<Option<u32>>, String> {
        if let Some(&at) = self.shared.get(name) {
            return Ok(Some(Some(at)));
        }
        let Some((&name, variable)) = self.scanned.shared.get_key_value(name) else { return Ok(None) };
        if variable.count == 0 {
            self.dynamic_align = self.dynamic_align.max(variable.align);
            return Ok(Some(None));
        }
        self.allocate_shared(name, variable.bytes(), variable.align).map(|at| Some(Some(at)))
    }

    /// A destination of exactly the width of `ty`; `_` is the sink.
    pub fn destination(&mut self, text: &str, ty: Ty) -> Result<Reg, String> {
        let (reg, bits) = self.any_destination(text, ty)?;
        if bits != ty.bits() {
            return Err(format!("destination `{text}` has {bits} bits, expected {}", ty.bits()));
        }
        Ok(reg)
    }

    /// A destination that may be wider than `ty`, and its width.
    pub fn wide_destination(&mut self, text: &str, ty: Ty) -> Result<(Reg, u32), String> {
        let (reg, bits) = self.any_destination(text, ty)?;
        if bits < ty.bits() || bits == 1 {
            return Err(format!("destination `{text}` has {bits} bits, expected at least {}", ty.bits()));
        }
        Ok((reg, bits))
    }

    fn any_destination(&mut self, text: &str, ty: Ty) -> Result<(Reg, u32), String> {
        if text == "_" {
            let sink = match File::of(ty) {
                File::R32 => SINK32,
                File::R64 => SINK64,
                File::Pred => SINK_PRED,
            };
            return Ok((sink, ty.bits()));
        }
        match self.register(text) {
            Some(register) if !register.constant => Ok((register.index, register.bits)),
            Some(_) => Err(format!("`{text}` cannot be written")),
            None => Err(format!("`{text}` is no register")),
        }
    }

    /// `[%rd1+-16]`, `[name]`, `[name+4]`, `[16]`.
    pub fn address(&mut self, text: &str) -> Result<Address, String> {
        let inside = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .ok_or_else(|| format!("expected an address in brackets, found `{text}`"))?;
        let (base, offset) = split_offset(inside.trim())?;
        if let Some(register) = self.register(base) {
            if register.file == File::Pred || register.bits < 32 {
                return Err(format!("`{base}` cannot hold an address"));
            }
            return Ok(Address { base: register.index, wide: register.file == File::R64, offset });
        }
        let base = match immediate(base, Ty::U(64)) {
            Some(address) => self.constant64(address)?,
            None => self
                .symbol(base, 0, File::R64)?
                .ok_or_else(|| format!("`{base}` is neither a register nor a variable"))?,
        };
        Ok(Address { base, wide: true, offset })
    }
}

/// `name+offset`, `name+-offset` and `name-offset`.
fn split_offset(text: &str) -> Result<(&str, i32), String> {
    let Some(at) = text.bytes().skip(1).position(|byte| byte == b'+' || byte == b'-').map(|at| at + 1) else {
        return Ok((text, 0));
    };
    let (name, sign) = (&text[..at], &text[at..at + 1]);
    let digits = text[at + 1..].trim();
    let offset = immediate(digits, Ty::S(64))
        .map(|bits| if sign == "-" { (bits as i64).wrapping_neg() } else { bits as i64 });
    match offset.and_then(|offset| i32::try_from(offset).ok()) {
        Some(offset) => Ok((name.trim(), offset)),
        None => Err(format!("`{digits}` is no offset that fits 32 bits")),
    }
}
