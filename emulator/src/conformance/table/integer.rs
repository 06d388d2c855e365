//! Integer arithmetic, logic, shifts, bit fields and comparisons.

use crate::conformance::form::{Form, Operand, Output};

/// The register-sized operand and result of a type such as `u32` or `b64`.
pub(super) fn sized(ty: &str) -> (Operand, Output) {
    match &ty[1..] {
        "16" => (Operand::Bits16, Output::Bits16),
        "64" => (Operand::Bits64, Output::Bits64),
        _ => (Operand::Bits32, Output::Bits32),
    }
}

pub(super) fn forms() -> Vec<Form> {
    [arithmetic(), wide(), logic(), shifts(), bit_fields(), carries(), comparisons()].concat()
}

fn arithmetic() -> Vec<Form> {
    let mut forms = Vec::new();
    for ty in ["s16", "u16", "s32", "u32", "s64", "u64"] {
        let (a, d) = sized(ty);
        for op in ["add", "sub", "mul.lo", "min", "max"] {
            forms.push(Form::new(format!("{op}.{ty}"), &[a, a], &[d]));
        }
        forms.push(Form::new(format!("mad.lo.{ty}"), &[a, a, a], &[d]));
        let signed = ty.starts_with('s');
        if signed {
            forms.push(Form::new(format!("neg.{ty}"), &[a], &[d]));
            forms.push(Form::new(format!("abs.{ty}"), &[a], &[d]));
        }
        if a == Operand::Bits16 {
            continue;
        }
        forms.push(Form::new(format!("mul.hi.{ty}"), &[a, a], &[d]));
        for op in ["div", "rem"] {
            // A zero divisor and the quotient -2^(n-1) / -1 are unspecified: the divisor is made odd, and positive for
            // signed types.
            let (bits, scratch) = if a == Operand::Bits64 { ("b64", "%w0") } else { ("b32", "%t0") };
            let positive = match (signed, bits) {
                (true, "b64") => "and.b64 %w0, %w0, 0x7fffffffffffffff;",
                (true, _) => "and.b32 %t0, %t0, 0x7fffffff;",
                _ => "",
            };
            let name = format!("{op}.{ty}");
            let body = format!("or.{bits} {scratch}, %a1, 1;\n{positive}\n{name} %d0, %a0, {scratch};");
            forms.push(Form::new(name, &[a, a], &[d]).body(body));
        }
    }
    forms
}

fn wide() -> Vec<Form> {
    let mut forms = Vec::new();
    for ty in ["s32", "u32"] {
        let a = Operand::Bits32;
        forms.push(Form::new(format!("mul.wide.{ty}"), &[a, a], &[Output::Bits64]));
        forms.push(Form::new(format!("mad.wide.{ty}"), &[a, a, Operand::Bits64], &[Output::Bits64]));
        forms.push(Form::new(format!("mad.hi.{ty}"), &[a, a, a], &[Output::Bits32]));
    }
    for ty in ["s16", "u16"] {
        forms.push(Form::new(format!("mul.wide.{ty}"), &[Operand::Bits16; 2], &[Output::Bits32]));
    }
    for (x, y) in [("u32", "u32"), ("s32", "s32"), ("u32", "s32"), ("s32", "u32")] {
        forms.push(Form::new(format!("dp4a.{x}.{y}"), &[Operand::Bits32; 3], &[Output::Bits32]));
    }
    forms
}

fn logic() -> Vec<Form> {
    let mut forms = Vec::new();
    for ty in ["b16", "b32", "b64"] {
        let (a, d) = sized(ty);
        for op in ["and", "or", "xor"] {
            forms.push(Form::new(format!("{op}.{ty}"), &[a, a], &[d]));
        }
        forms.push(Form::new(format!("not.{ty}"), &[a], &[d]));
    }
    for ty in ["b16", "b32", "b64", "f32"] {
        let (a, d) = sized(ty);
        let select = format!("setp.ne.s32 %p0, %a2, 0;\nselp.{ty} %d0, %a0, %a1, %p0;");
        forms.push(Form::new(format!("selp.{ty}"), &[a, a, Operand::Below(2)], &[d]).body(select));
    }
    for (op, operands) in
        [("and", "%p0, %p1"), ("or", "%p0, %p1"), ("xor", "%p0, %p1"), ("not", "%p0"), ("mov", "%p0")]
    {
        let name = format!("{op}.pred");
        let body = format!(
            "setp.ne.s32 %p0, %a0, 0;\nsetp.ne.s32 %p1, %a1, 0;\n{name} %p2, {operands};\nselp.b32 %d0, 1, 0, %p2;"
        );
        forms.push(Form::new(name, &[Operand::Below(2); 2], &[Output::Bits32]).body(body).cases(64));
    }
    for table in [0xe8, 0x96, 0xca, 0x1d, 0x80, 0x3c] {
        let body = format!("lop3.b32 %d0, %a0, %a1, %a2, {table};");
        forms.push(
            Form::new(format!("lop3.b32 table {table:#04x}"), &[Operand::Bits32; 3], &[Output::Bits32])
                .body(body),
        );
    }
    forms.push(Form::new("prmt.b32", &[Operand::Bits32; 3], &[Output::Bits32]));
    forms
}

fn shifts() -> Vec<Form> {
    let mut forms = Vec::new();
    for op in
        ["shl.b16", "shr.u16", "shr.s16", "shl.b32", "shr.u32", "shr.s32", "shl.b64", "shr.u64", "shr.s64"]
    {
        let (a, d) = sized(&op[4..]);
        forms.push(Form::new(op, &[a, Operand::Below(70)], &[d]));
    }
    for op in ["shf.l.wrap.b32", "shf.l.clamp.b32", "shf.r.wrap.b32", "shf.r.clamp.b32"] {
        let amount = Operand::Below(70);
        forms.push(Form::new(op, &[Operand::Bits32, Operand::Bits32, amount], &[Output::Bits32]));
    }
    forms
}

fn bit_fields() -> Vec<Form> {
    let field = [Operand::Below(70), Operand::Below(70)];
    let mut forms = Vec::new();
    for ty in ["s32", "u32", "s64", "u64"] {
        let (a, d) = sized(ty);
        forms.push(Form::new(format!("bfe.{ty}"), &[a, field[0], field[1]], &[d]));
        forms.push(Form::new(format!("bfind.{ty}"), &[a], &[Output::Bits32]));
        forms.push(Form::new(format!("bfind.shiftamt.{ty}"), &[a], &[Output::Bits32]));
    }
    for ty in ["b32", "b64"] {
        let (a, d) = sized(ty);
        forms.push(Form::new(format!("bfi.{ty}"), &[a, a, field[0], field[1]], &[d]));
        forms.push(Form::new(format!("brev.{ty}"), &[a], &[d]));
        forms.push(Form::new(format!("clz.{ty}"), &[a], &[Output::Bits32]));
        forms.push(Form::new(format!("popc.{ty}"), &[a], &[Output::Bits32]));
    }
    forms
}

/// Carry chains over two and three words.
fn carries() -> Vec<Form> {
    let mut forms = Vec::new();
    for (op, first, middle, last) in
        [("add", "add.cc", "addc.cc", "addc"), ("sub", "sub.cc", "subc.cc", "subc")]
    {
        for ty in ["u32", "u64"] {
            let (a, d) = sized(ty);
            let body = format!(
                "{first}.{ty} %d0, %a0, %a3;\n{middle}.{ty} %d1, %a1, %a4;\n{last}.{ty} %d2, %a2, %a5;"
            );
            forms.push(Form::new(format!("{op} chain of {ty}"), &[a; 6], &[d; 3]).body(body));
        }
    }
    forms
}

fn comparisons() -> Vec<Form> {
    let mut forms = Vec::new();
    let mut push = |name: String, operand| {
        let body = format!("{name} %p0, %a0, %a1;\nselp.b32 %d0, 1, 0, %p0;");
        forms.push(Form::new(name, &[operand, operand], &[Output::Bits32]).body(body));
    };
    for ty in ["s16", "u16", "s32", "u32", "s64", "u64"] {
        for comparison in ["eq", "ne", "lt", "le", "gt", "ge"] {
            push(format!("setp.{comparison}.{ty}"), sized(ty).0);
        }
    }
    for ty in ["b16", "b32", "b64"] {
        for comparison in ["eq", "ne"] {
            push(format!("setp.{comparison}.{ty}"), sized(ty).0);
        }
    }
    for comparison in ["lo", "ls", "hi", "hs"] {
        push(format!("setp.{comparison}.u32"), Operand::Bits32);
    }
    for logic in ["and", "or", "xor"] {
        let body = format!(
            "setp.ne.s32 %p2, %a2, 0;\nsetp.lt.{logic}.s32 %p0|%p1, %a0, %a1, %p2;\n\
             selp.b32 %d0, 1, 0, %p0;\nselp.b32 %d1, 1, 0, %p1;"
        );
        let operands = [Operand::Bits32, Operand::Bits32, Operand::Below(2)];
        forms.push(Form::new(format!("setp.lt.{logic}.s32"), &operands, &[Output::Bits32; 2]).body(body));
    }
    forms.push(Form::new("set.lt.u32.s32", &[Operand::Bits32; 2], &[Output::Bits32]));
    forms
}
