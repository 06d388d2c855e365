//! Instructions that pass values between the lanes of a warp, and the registers that name a lane.

use crate::conformance::form::{Form, Operand, Output};

pub(super) fn forms() -> Vec<Form> {
    [shuffles(), votes(), barriers(), matches(), reductions(), registers()].concat()
}

fn shuffles() -> Vec<Form> {
    let mut forms = Vec::new();
    for mode in ["bfly", "down", "idx", "up"] {
        for width in [32, 16, 8, 2] {
            // Segment mask in the upper byte, clamp in the lower; `up` clamps at the start of a segment.
            let clamp = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
            let opcode = format!("shfl.sync.{mode}.b32");
            let body = format!("{opcode} %d0|%p0, %a0, %a1, {clamp}, 0xffffffff;\nselp.b32 %d1, 1, 0, %p0;");
            let operands = [Operand::Bits32, Operand::Below(32)];
            forms.push(
                Form::new(format!("{opcode} width {width}"), &operands, &[Output::Bits32; 2]).body(body),
            );
        }
    }
    forms
}

fn votes() -> Vec<Form> {
    let mut forms = Vec::new();
    for mode in ["all", "any", "uni"] {
        for not in ["", "!"] {
            let opcode = format!("vote.sync.{mode}.pred");
            let body = format!(
                "setp.ne.s32 %p0, %a0, 0;\n{opcode} %p1, {not}%p0, 0xffffffff;\nselp.b32 %d0, 1, 0, %p1;"
            );
            let name = if not.is_empty() { opcode } else { format!("{opcode} of negated") };
            forms.push(Form::new(name, &[Operand::Group(2)], &[Output::Bits32]).body(body));
        }
    }
    let ballot = "setp.ne.s32 %p0, %a0, 0;\nvote.sync.ballot.b32 %d0, %p0, 0xffffffff;";
    forms.push(Form::new("vote.sync.ballot.b32", &[Operand::Below(2)], &[Output::Bits32]).body(ballot));
    forms
}

/// Barriers that combine a predicate of the CTA, which is one warp here.
fn barriers() -> Vec<Form> {
    let mut forms = Vec::new();
    for mode in ["and", "or"] {
        let name = format!("bar.red.{mode}.pred");
        let body = format!("setp.ne.s32 %p0, %a0, 0;\n{name} %p1, 0, %p0;\nselp.b32 %d0, 1, 0, %p1;");
        forms.push(Form::new(name, &[Operand::Group(2)], &[Output::Bits32]).body(body));
    }
    let count = "setp.ne.s32 %p0, %a0, 0;\nbar.red.popc.u32 %d0, 0, %p0;";
    forms.push(Form::new("bar.red.popc.u32", &[Operand::Group(2)], &[Output::Bits32]).body(count));
    forms
}

fn matches() -> Vec<Form> {
    let any = "match.any.sync.b32 %d0, %a0, 0xffffffff;";
    let wide = "mul.wide.u32 %w0, %a0, 0x80000001;\nmatch.any.sync.b64 %d0, %w0, 0xffffffff;";
    let all = "match.all.sync.b32 %d0|%p0, %a0, 0xffffffff;\nselp.b32 %d1, 1, 0, %p0;";
    vec![
        Form::new("match.any.sync.b32", &[Operand::Group(5)], &[Output::Bits32]).body(any),
        Form::new("match.any.sync.b64", &[Operand::Group(5)], &[Output::Bits32]).body(wide),
        Form::new("match.all.sync.b32", &[Operand::Group(2)], &[Output::Bits32; 2]).body(all),
    ]
}

fn reductions() -> Vec<Form> {
    let ops =
        ["add.s32", "add.u32", "min.s32", "min.u32", "max.s32", "max.u32", "and.b32", "or.b32", "xor.b32"];
    let form = |op: &str| {
        let name = format!("redux.sync.{op}");
        let body = format!("{name} %d0, %a0, 0xffffffff;");
        Form::new(name, &[Operand::Bits32], &[Output::Bits32]).body(body)
    };
    ops.into_iter().map(form).collect()
}

fn registers() -> Vec<Form> {
    let names =
        ["laneid", "lanemask_eq", "lanemask_lt", "lanemask_le", "lanemask_gt", "lanemask_ge", "ntid.x"];
    let read = |name: &str| {
        let body = format!("mov.u32 %d0, %{name};");
        Form::new(format!("mov.u32 from {name}"), &[Operand::Bits32], &[Output::Bits32]).body(body).cases(64)
    };
    let mut forms: Vec<Form> = names.into_iter().map(read).collect();
    let active = "activemask.b32 %d0;";
    forms.push(Form::new("activemask.b32", &[Operand::Bits32], &[Output::Bits32]).body(active).cases(64));
    forms
}
