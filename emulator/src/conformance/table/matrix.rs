//! Tensor-core products and the moves of matrix fragments.

use crate::conformance::form::{Form, Operand, Output};
use crate::numerics::mma::MmaType;

pub(super) fn forms() -> Vec<Form> {
    [products(), loads(), vec![transpose()]].concat()
}

fn products() -> Vec<Form> {
    let mut forms = Vec::new();
    for (name, ty) in [("bf16", MmaType::Bf16), ("f16", MmaType::F16)] {
        for (shape, a, body) in [
            ("m16n8k16", 6, "{%d0, %d1, %d2, %d3}, {%a0, %a1, %a2, %a3}, {%a4, %a5}, {%a6, %a7, %a8, %a9};"),
            ("m16n8k8", 3, "{%d0, %d1, %d2, %d3}, {%a0, %a1}, {%a2}, {%a3, %a4, %a5, %a6};"),
        ] {
            let opcode = format!("mma.sync.aligned.{shape}.row.col.f32.{name}.{name}.f32");
            let operands = [vec![Operand::Matrix(ty); a], vec![Operand::Accumulator(ty); 4]].concat();
            // 512 warps of 128 dot products, in eight spreads of exponents.
            let body = format!("{opcode} {body}");
            forms.push(Form::new(opcode, &operands, &[Output::F32; 4]).body(body).cases(512 * 32));
        }
    }
    forms
}

/// Every lane writes one row of 16 bytes; the rows are then addressed in another order.
fn loads() -> Vec<Form> {
    let mut forms = Vec::new();
    for (count, registers) in [(1, "{%d0}"), (2, "{%d0, %d1}"), (4, "{%d0, %d1, %d2, %d3}")] {
        for transposed in ["", ".trans"] {
            let opcode = format!("ldmatrix.sync.aligned.m8n8.x{count}{transposed}.shared.b16");
            let body = format!(
                "st.shared.v4.b32 [%tile], {{%a0, %a1, %a2, %a3}};\nbar.warp.sync 0xffffffff;\n\
                 mad.lo.u32 %t0, %lane, 5, 3;\nand.b32 %t0, %t0, 31;\nmov.u32 %t1, tile;\n\
                 mad.lo.u32 %t0, %t0, 16, %t1;\n{opcode} {registers}, [%t0];"
            );
            forms.push(Form::new(opcode, &[Operand::Bits32; 4], &vec![Output::Bits32; count]).body(body));
        }
    }
    forms
}

fn transpose() -> Form {
    Form::new("movmatrix.sync.aligned.m8n8.trans.b16", &[Operand::Bits32], &[Output::Bits32])
}
