//! f32 arithmetic, comparisons and the approximate functions.

use crate::conformance::form::{Form, Operand, Output};
use crate::numerics::Class;
use crate::numerics::mufu::Function;

pub(super) fn forms() -> Vec<Form> {
    [arithmetic(), comparisons(), approximate()].concat()
}

const ROUNDINGS: [&str; 4] = ["rn", "rz", "rm", "rp"];

fn arithmetic() -> Vec<Form> {
    let mut forms = Vec::new();
    let x = Operand::F32;
    let mut push = |name: String, operands: usize| {
        forms.push(Form::new(name, &vec![x; operands], &[Output::F32]));
    };
    for round in ROUNDINGS {
        for ftz in ["", ".ftz"] {
            for op in ["add", "sub", "mul"] {
                push(format!("{op}.{round}{ftz}.f32"), 2);
            }
            push(format!("fma.{round}{ftz}.f32"), 3);
            push(format!("div.{round}{ftz}.f32"), 2);
            push(format!("rcp.{round}{ftz}.f32"), 1);
            push(format!("sqrt.{round}{ftz}.f32"), 1);
        }
    }
    for (op, operands) in [("add", 2), ("mul", 2), ("fma", 3)] {
        push(format!("{op}.rn.sat.f32"), operands);
        push(format!("{op}.rn.ftz.sat.f32"), operands);
    }
    for op in ["min", "max"] {
        for modifiers in ["", ".ftz", ".NaN", ".ftz.NaN"] {
            push(format!("{op}{modifiers}.f32"), 2);
        }
    }
    for ftz in ["", ".ftz"] {
        push(format!("neg{ftz}.f32"), 1);
        push(format!("abs{ftz}.f32"), 1);
    }
    push("copysign.f32".into(), 2);
    forms
}

fn comparisons() -> Vec<Form> {
    let mut forms = Vec::new();
    let all = ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];
    for ftz in ["", ".ftz"] {
        for comparison in all {
            let name = format!("setp.{comparison}{ftz}.f32");
            let body = format!("{name} %p0, %a0, %a1;\nselp.b32 %d0, 1, 0, %p0;");
            forms.push(Form::new(name, &[Operand::F32; 2], &[Output::Bits32]).body(body));
        }
    }
    for name in ["set.gt.u32.f32", "set.leu.f32.f32"] {
        forms.push(Form::new(name, &[Operand::F32; 2], &[Output::Bits32]));
    }
    forms
}

fn approximate() -> Vec<Form> {
    let mut forms = Vec::new();
    let x = Operand::F32;
    for (name, function) in [
        ("ex2", Function::Ex2),
        ("lg2", Function::Lg2),
        ("rcp", Function::Rcp),
        ("rsqrt", Function::Rsqrt),
        ("sqrt", Function::Sqrt),
    ] {
        for ftz in ["", ".ftz"] {
            let name = format!("{name}.approx{ftz}.f32");
            forms.push(Form::new(name, &[x], &[Output::F32]).class(function.class()));
        }
    }
    for (name, function) in [("sin", Function::Sin), ("cos", Function::Cos)] {
        for ftz in ["", ".ftz"] {
            let opcode = format!("{name}.approx{ftz}.f32");
            // The promise of the documentation holds from -2 pi to 2 pi.
            let near = Operand::F32Within(6.25);
            forms.push(Form::new(opcode.clone(), &[near], &[Output::F32]).class(function.class()));
            let everywhere = Form::new(format!("{opcode} everywhere"), &[x], &[Output::F32]);
            forms.push(everywhere.body(format!("{opcode} %d0, %a0;")).class(Class::Opaque));
        }
    }
    forms.push(Form::new("tanh.approx.f32", &[x], &[Output::F32]).class(Function::Tanh.class()));
    for ftz in ["", ".ftz"] {
        // Documented as at most 2 ulp, to which half a unit of ours comes.
        for op in ["div.full", "div.approx"] {
            forms.push(Form::new(format!("{op}{ftz}.f32"), &[x, x], &[Output::F32]).class(Class::Ulp(2)));
        }
    }
    forms
}
