//! Loads, stores, atomics and asynchronous copies, each lane in memory of its own.

use crate::conformance::form::{Form, Operand, Output};
use crate::numerics::Format;

pub(super) fn forms() -> Vec<Form> {
    [loads(), stores(), spaces(), atomics(), copies()].concat()
}

fn loads() -> Vec<Form> {
    let words = [Operand::Bits32; 4];
    let (one, two) = ([Output::Bits32], [Output::Bits64]);
    let mut forms = Vec::new();
    for (ty, at, output) in [
        ("u8", 3, one),
        ("s8", 5, one),
        ("u16", 6, one),
        ("s16", 2, one),
        ("b32", 4, one),
        ("f32", 4, one),
        ("b64", 8, two),
    ] {
        for space in ["global", "global.nc", "shared"] {
            let name = format!("ld.{space}.{ty}");
            let body = match space {
                "shared" => {
                    format!("st.shared.v4.b32 [%tile], {{%a0, %a1, %a2, %a3}};\n{name} %d0, [%tile+{at}];")
                }
                _ => format!("{name} %d0, [%in+{at}];"),
            };
            forms.push(Form::new(name, &words, &output).body(body).cases(256));
        }
    }
    for (ty, registers, output) in [
        ("v2.b32", "{%d0, %d1}", vec![Output::Bits32; 2]),
        ("v4.b32", "{%d0, %d1, %d2, %d3}", vec![Output::Bits32; 4]),
        ("v2.f32", "{%d0, %d1}", vec![Output::Bits32; 2]),
        ("v4.f32", "{%d0, %d1, %d2, %d3}", vec![Output::Bits32; 4]),
        ("v2.b64", "{%d0, %d1}", vec![Output::Bits64; 2]),
        ("v4.b16", "{%d0, %d1, %d2, %d3}", vec![Output::Bits16; 4]),
    ] {
        for space in ["global", "global.nc", "shared"] {
            let name = format!("ld.{space}.{ty}");
            let body = match space {
                "shared" => {
                    format!("st.shared.v4.b32 [%tile], {{%a0, %a1, %a2, %a3}};\n{name} {registers}, [%tile];")
                }
                _ => format!("{name} {registers}, [%in];"),
            };
            forms.push(Form::new(name, &words, &output).body(body).cases(256));
        }
    }
    forms
}

/// Stores into a record that held zeros.
fn stores() -> Vec<Form> {
    let mut forms = Vec::new();
    for (ty, what, at) in [
        ("b8", "%a0", 3),
        ("b16", "%h0", 6),
        ("b32", "%a0", 4),
        ("b64", "%w0", 8),
        ("v2.b32", "{%a0, %a1}", 8),
        ("f32", "%a0", 4),
        ("v2.f32", "{%a0, %a1}", 8),
        ("v4.f32", "{%a3, %a2, %a1, %a0}", 0),
        ("v4.b32", "{%a3, %a2, %a1, %a0}", 0),
        ("v2.b64", "{%w0, %w1}", 0),
    ] {
        for (space, record) in [("global", "%out"), ("shared", "%tile")] {
            let name = format!("st.{space}.{ty}");
            let fetch = match space {
                "shared" => {
                    "ld.shared.v4.b32 {%t0, %t1, %t2, %t3}, [%tile];\nst.global.v4.b32 [%out], {%t0, %t1, %t2, %t3};"
                }
                _ => "",
            };
            let body = format!(
                "mov.b32 {{%h0, %h1}}, %a1;\nmov.b64 %w0, {{%a0, %a1}};\nmov.b64 %w1, {{%a2, %a3}};\nmov.b32 %t0, 0;\n\
                 st.{space}.v4.b32 [{record}], {{%t0, %t0, %t0, %t0}};\n{name} [{record}+{at}], {what};\n{fetch}"
            );
            let form = Form::new(name, &[Operand::Bits32; 4], &[Output::Bits32; 4]);
            forms.push(form.body(body).stores_itself().cases(256));
        }
    }
    forms
}

/// Generic addresses and local memory.
fn spaces() -> Vec<Form> {
    let two = [Operand::Bits32; 2];
    let generic = "st.shared.b32 [%tile], %a0;\ncvt.u64.u32 %w0, %tile;\ncvta.shared.u64 %w0, %w0;\n\
                   ld.b32 %d0, [%w0];\nst.b32 [%w0+4], %a1;\nld.shared.b32 %d1, [%tile+4];";
    let from_generic = "cvta.global.u64 %w0, %in;\nld.b32 %d0, [%w0+4];\ncvta.to.global.u64 %w1, %w0;\n\
                        ld.global.b32 %d1, [%w1];";
    let local = "mov.b64 %w0, depot;\nst.local.b32 [%w0+4], %a0;\ncvta.local.u64 %w1, %w0;\nst.b32 [%w1+8], %a1;\n\
                 ld.b32 %d0, [%w1+4];\nld.local.b32 %d1, [%w0+8];";
    let which = "cvt.u64.u32 %w0, %tile;\ncvta.shared.u64 %w0, %w0;\ncvta.global.u64 %w1, %in;\n\
                 isspacep.shared %p0, %w0;\nisspacep.shared %p1, %w1;\nisspacep.global %p2, %w1;\n\
                 selp.b32 %d0, 1, 0, %p0;\nselp.b32 %d1, 1, 0, %p1;\nselp.b32 %d2, 1, 0, %p2;";
    vec![
        Form::new("cvta.shared.u64", &two, &[Output::Bits32; 2]).body(generic).cases(256),
        Form::new("cvta.to.global.u64", &two, &[Output::Bits32; 2]).body(from_generic).cases(256),
        Form::new("cvta.local.u64", &two, &[Output::Bits32; 2]).body(local).cases(256),
        Form::new("isspacep", &two, &[Output::Bits32; 3]).body(which).cases(64),
    ]
}

fn atomics() -> Vec<Form> {
    let mut forms = Vec::new();
    let integers = [
        "add.u32",
        "add.s32",
        "min.u32",
        "min.s32",
        "max.u32",
        "max.s32",
        "inc.u32",
        "dec.u32",
        "and.b32",
        "or.b32",
        "xor.b32",
        "exch.b32",
        "add.u64",
        "min.u64",
        "max.s64",
        "and.b64",
        "exch.b64",
        "add.f32",
        "add.noftz.f16x2",
    ];
    for op in integers {
        let wide = op.ends_with("64");
        let operand = match op {
            "add.f32" => Operand::F32,
            "add.noftz.f16x2" => Operand::HalfX2(Format::F16),
            _ if wide => Operand::Bits64,
            _ => Operand::Bits32,
        };
        let (bits, output, result) =
            if wide { ("b64", Output::Bits64, 8) } else { ("b32", Output::Bits32, 4) };
        // The old value, then what memory holds.
        for space in ["global", "shared"] {
            let name = format!("atom.{space}.{op}");
            forms.push(Form::new(name.clone(), &[operand; 2], &[output; 2]).stores_itself().body(match space {
                "shared" => format!(
                    "st.shared.{bits} [%tile], %a0;\n{name} %w3, [%tile], %a1;\nst.global.{bits} [%out], %w3;\n\
                     ld.shared.{bits} %w3, [%tile];\nst.global.{bits} [%out+{result}], %w3;"
                ),
                _ => format!(
                    "st.global.{bits} [%out+{result}], %a0;\n{name} %w3, [%out+{result}], %a1;\nst.global.{bits} [%out], %w3;"
                ),
            }.replace("%w3", if wide { "%w3" } else { "%t3" })));
        }
        if !matches!(op, "exch.b32" | "exch.b64") {
            let name = format!("red.global.{op}");
            let body = format!("st.global.{bits} [%out], %a0;\n{name} [%out], %a1;");
            forms.push(Form::new(name, &[operand; 2], &[output]).stores_itself().body(body));
        }
    }
    for (ty, operand) in [("b32", Operand::Bits32), ("b64", Operand::Bits64)] {
        let name = format!("atom.global.cas.{ty}");
        let (output, at, old) =
            if ty == "b64" { (Output::Bits64, 8, "%w3") } else { (Output::Bits32, 4, "%t3") };
        // Every second lane compares with what is there.
        let body = format!(
            "st.global.{ty} [%out+{at}], %a0;\nsetp.ne.s32 %p0, %a3, 0;\nselp.{ty} {scratch}, %a0, %a1, %p0;\n\
             {name} {old}, [%out+{at}], {scratch}, %a2;\nst.global.{ty} [%out], {old};",
            scratch = if ty == "b64" { "%w2" } else { "%t2" }
        );
        let operands = [operand, operand, operand, Operand::Below(2)];
        forms.push(Form::new(name, &operands, &[output; 2]).stores_itself().body(body));
    }
    forms
}

fn copies() -> Vec<Form> {
    let mut forms = Vec::new();
    let words = [Operand::Bits32; 4];
    let fetch = "ld.shared.v4.b32 {%d0, %d1, %d2, %d3}, [%tile];";
    let clear = "mov.b32 %t0, -1;\nst.shared.v4.b32 [%tile], {%t0, %t0, %t0, %t0};";
    let wait = "cp.async.commit_group;\ncp.async.wait_group 0;";
    for (cache, bytes) in [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16)] {
        let opcode = format!("cp.async.{cache}.shared.global");
        let body = format!("{clear}\n{opcode} [%tile], [%in], {bytes};\n{wait}\n{fetch}");
        forms.push(
            Form::new(format!("{opcode} of {bytes}"), &words, &[Output::Bits32; 4]).body(body).cases(256),
        );
        // Zero-fill: fewer bytes are read than written.
        let operands = [words[0], words[1], words[2], words[3], Operand::Below(bytes + 1)];
        let body = format!("{clear}\n{opcode} [%tile], [%in], {bytes}, %a4;\ncp.async.wait_all;\n{fetch}");
        let name = format!("{opcode} of {bytes}, short source");
        forms.push(Form::new(name, &operands, &[Output::Bits32; 4]).body(body).cases(256));
    }
    forms
}
