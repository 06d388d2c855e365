//! Conversions, and moves that pack and unpack.

use super::integer::sized;
use crate::conformance::form::{Form, Operand, Output};
use crate::numerics::Format;

pub(super) fn forms() -> Vec<Form> {
    [integers(), with_integers(), floats(), packs(), moves()].concat()
}

fn integers() -> Vec<Form> {
    let mut forms = Vec::new();
    let pairs = [
        ("u32", "u16"),
        ("s32", "s16"),
        ("u64", "u32"),
        ("s64", "s32"),
        ("u32", "u64"),
        ("u16", "u32"),
        ("s64", "u32"),
        ("u64", "u16"),
        ("s64", "s16"),
        ("u16", "u64"),
        ("u32", "u8"),
        ("s32", "s8"),
        ("s64", "s8"),
        ("u16", "u8"),
        ("s16", "s8"),
        ("sat.s16", "s32"),
        ("sat.u16", "u32"),
        ("sat.s32", "s64"),
        ("sat.u32", "s64"),
        ("sat.u8", "s32"),
        ("sat.s8", "s32"),
        ("sat.u32", "s32"),
    ];
    for (to, from) in pairs {
        // 8-bit types live in wider registers: 16 bits where the other type has them.
        let narrow = |ty: &str, other: &str| match (ty, other) {
            ("u8" | "s8", "u16" | "s16") => sized("u16"),
            ("u8" | "s8", _) => sized("u32"),
            _ => sized(ty),
        };
        let bare = to.trim_start_matches("sat.");
        let (a, d) = (narrow(from, bare).0, narrow(bare, from).1);
        forms.push(Form::new(format!("cvt.{to}.{from}"), &[a], &[d]));
    }
    forms
}

fn with_integers() -> Vec<Form> {
    let mut forms = Vec::new();
    for ty in ["s32", "u32", "s64", "u64"] {
        let (integer, wide) = sized(ty);
        for round in ["rni", "rzi", "rmi", "rpi"] {
            forms.push(Form::new(format!("cvt.{round}.{ty}.f32"), &[Operand::F32], &[wide]));
        }
        for round in ["rn", "rz", "rm", "rp"] {
            forms.push(Form::new(format!("cvt.{round}.f32.{ty}"), &[integer], &[Output::F32]));
        }
        forms.push(Form::new(format!("cvt.rn.f16.{ty}"), &[integer], &[Output::Half(Format::F16)]));
        forms.push(Form::new(format!("cvt.rzi.{ty}.f16"), &[Operand::Half(Format::F16)], &[wide]));
    }
    for ty in ["s16", "u16"] {
        let (integer, narrow) = sized(ty);
        forms.push(Form::new(format!("cvt.rzi.{ty}.f32"), &[Operand::F32], &[narrow]));
        forms.push(Form::new(format!("cvt.rn.f32.{ty}"), &[integer], &[Output::F32]));
    }
    for name in ["cvt.rzi.ftz.s32.f32", "cvt.rpi.ftz.s32.f32", "cvt.rpi.ftz.u32.f32"] {
        forms.push(Form::new(name, &[Operand::F32], &[Output::Bits32]));
    }
    forms
}

fn floats() -> Vec<Form> {
    let mut forms = Vec::new();
    for round in ["rni", "rzi", "rmi", "rpi"] {
        for ftz in ["", ".ftz"] {
            forms.push(Form::new(format!("cvt.{round}{ftz}.f32.f32"), &[Operand::F32], &[Output::F32]));
        }
    }
    forms.push(Form::new("cvt.sat.f32.f32", &[Operand::F32], &[Output::F32]));
    forms.push(Form::new("cvt.ftz.f32.f32", &[Operand::F32], &[Output::F32]));
    for ftz in ["", ".ftz"] {
        let name = format!("cvt{ftz}.f32.f16");
        forms.push(Form::new(name, &[Operand::CaseNumber], &[Output::F32]).cases(1 << 16));
        for round in ["rn", "rz", "rm", "rp"] {
            let name = format!("cvt.{round}{ftz}.f16.f32");
            forms.push(Form::new(name, &[Operand::F32], &[Output::Half(Format::F16)]));
        }
    }
    for modifiers in ["rn", "rz", "rn.relu", "rz.relu"] {
        let bf16 = [Output::Half(Format::BF16)];
        forms.push(Form::new(format!("cvt.{modifiers}.bf16.f32"), &[Operand::F32], &bf16));
    }
    for modifiers in ["rn.relu", "rz.relu"] {
        let f16 = [Output::Half(Format::F16)];
        forms.push(Form::new(format!("cvt.{modifiers}.f16.f32"), &[Operand::F32], &f16));
    }
    forms
}

fn packs() -> Vec<Form> {
    let mut forms = Vec::new();
    for (ty, format) in [("f16x2", Format::F16), ("bf16x2", Format::BF16)] {
        for modifiers in ["rn", "rz", "rn.relu", "rz.relu"] {
            let name = format!("cvt.{modifiers}.{ty}.f32");
            forms.push(Form::new(name, &[Operand::F32; 2], &[Output::HalfX2(format)]));
        }
    }
    forms
}

fn moves() -> Vec<Form> {
    let (b16, b32, b64) = (Operand::Bits16, Operand::Bits32, Operand::Bits64);
    let (d16, d32, d64) = (Output::Bits16, Output::Bits32, Output::Bits64);
    vec![
        Form::new("mov.b32 from two b16", &[b16, b16], &[d32]).body("mov.b32 %d0, {%a0, %a1};"),
        Form::new("mov.b32 to two b16", &[b32], &[d16, d16]).body("mov.b32 {%d0, %d1}, %a0;"),
        Form::new("mov.b64 from two b32", &[b32, b32], &[d64]).body("mov.b64 %d0, {%a0, %a1};"),
        Form::new("mov.b64 to two b32", &[b64], &[d32, d32]).body("mov.b64 {%d0, %d1}, %a0;"),
        Form::new("mov.b64 from four b16", &[b16; 4], &[d64]).body("mov.b64 %d0, {%a0, %a1, %a2, %a3};"),
        Form::new("mov.b64 to four b16", &[b64], &[d16; 4]).body("mov.b64 {%d0, %d1, %d2, %d3}, %a0;"),
        Form::new("mov.b16", &[b16], &[d16]),
        Form::new("mov.b32", &[b32], &[d32]),
        Form::new("mov.b64", &[b64], &[d64]),
    ]
}
