//! Types and modifiers of opcodes.

/// A type as an opcode or a declaration names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    Pred,
    /// Untyped bits.
    B(u8),
    U(u8),
    S(u8),
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
}

impl Ty {
    /// The type called `name`, which has no leading dot.
    pub fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "b8" => Ty::B(8),
            "b16" => Ty::B(16),
            "b32" => Ty::B(32),
            "b64" => Ty::B(64),
            "u8" => Ty::U(8),
            "u16" => Ty::U(16),
            "u32" => Ty::U(32),
            "u64" => Ty::U(64),
            "s8" => Ty::S(8),
            "s16" => Ty::S(16),
            "s32" => Ty::S(32),
            "s64" => Ty::S(64),
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            _ => return None,
        })
    }

    /// Width; a predicate counts as one bit.
    pub fn bits(self) -> u32 {
        match self {
            Ty::Pred => 1,
            Ty::B(bits) | Ty::U(bits) | Ty::S(bits) => u32::from(bits),
            Ty::F16 | Ty::Bf16 => 16,
            Ty::F16x2 | Ty::Bf16x2 | Ty::F32 => 32,
            Ty::F64 => 64,
        }
    }

    /// Bytes in memory.
    pub fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub fn is_signed(self) -> bool {
        matches!(self, Ty::S(_))
    }

    /// An integer or untyped bits.
    pub fn is_integer(self) -> bool {
        matches!(self, Ty::B(_) | Ty::U(_) | Ty::S(_))
    }
}

/// The dotted parts of an opcode after its name, taken from the left.
#[derive(Debug)]
pub struct Mods<'a> {
    opcode: &'a str,
    parts: std::iter::Peekable<std::str::Split<'a, char>>,
}

impl<'a> Mods<'a> {
    /// The name of the opcode and its modifiers.
    pub fn new(opcode: &'a str) -> (&'a str, Self) {
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        (name, Mods { opcode, parts: parts.peekable() })
    }

    pub fn peek(&mut self) -> Option<&'a str> {
        self.parts.peek().copied()
    }

    /// Takes the next modifier if it is `name`.
    pub fn eat(&mut self, name: &str) -> bool {
        let found = self.peek() == Some(name);
        if found {
            self.parts.next();
        }
        found
    }

    /// Takes the next modifier if `table` has it.
    pub fn eat_one<T: Copy>(&mut self, table: &[(&str, T)]) -> Option<T> {
        let next = self.peek()?;
        let value = table.iter().find(|(name, _)| *name == next)?.1;
        self.parts.next();
        Some(value)
    }

    /// Takes the next modifier, which must be in `table`.
    pub fn one<T: Copy>(&mut self, table: &[(&str, T)]) -> Result<T, String> {
        self.eat_one(table).ok_or_else(|| {
            let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
            match self.peek() {
                Some(next) => {
                    format!("`{}`: expected one of .{}, found `.{next}`", self.opcode, known.join(" ."))
                }
                None => format!("`{}`: expected one of .{} at its end", self.opcode, known.join(" .")),
            }
        })
    }

    /// Takes the next modifier, which must be `name`.
    pub fn expect(&mut self, name: &str) -> Result<(), String> {
        self.one(&[(name, ())])
    }

    /// Takes the next modifier, which must be a type.
    pub fn ty(&mut self) -> Result<Ty, String> {
        let ty = self.peek().and_then(Ty::parse);
        let found = self.parts.next().unwrap_or("nothing");
        ty.ok_or_else(|| format!("`{}`: expected a type, found `{found}`", self.opcode))
    }

    /// Fails unless every modifier was taken.
    pub fn end(&mut self) -> Result<(), String> {
        match self.peek() {
            None => Ok(()),
            Some(next) => Err(format!("`{}`: modifier `.{next}` is not supported", self.opcode)),
        }
    }

    /// The error for a combination that is not in the closed list.
    pub fn unsupported(&self) -> String {
        format!("`{}` is not supported", self.opcode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modifiers_are_taken_from_the_left_and_none_is_lost() {
        let (name, mut mods) = Mods::new("add.rn.ftz.f32");
        assert_eq!(name, "add");
        assert!(mods.eat("rn"));
        assert!(mods.end().unwrap_err().contains(".ftz"));
        assert!(mods.eat("ftz"));
        assert_eq!(mods.ty(), Ok(Ty::F32));
        assert_eq!(mods.end(), Ok(()));
        assert!(mods.ty().is_err());
    }
}
