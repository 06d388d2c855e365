//! f16 and bf16 arithmetic, alone and in pairs.

use crate::conformance::form::{Form, Operand, Output};
use crate::numerics::{Class, Format};

pub(super) fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    let pair = |format| (Operand::HalfX2(format), Output::HalfX2(format));
    let one = |format| (Operand::Half(format), Output::Half(format));
    for (ty, (a, d)) in [("f16", one(Format::F16)), ("f16x2", pair(Format::F16))] {
        for modifiers in ["", ".ftz", ".sat", ".ftz.sat"] {
            for op in ["add", "sub", "mul"] {
                forms.push(Form::new(format!("{op}.rn{modifiers}.{ty}"), &[a, a], &[d]));
            }
            forms.push(Form::new(format!("fma.rn{modifiers}.{ty}"), &[a, a, a], &[d]));
        }
        forms.push(Form::new(format!("fma.rn.relu.{ty}"), &[a, a, a], &[d]));
        for op in ["min", "max"] {
            for modifiers in ["", ".ftz", ".NaN", ".ftz.NaN"] {
                forms.push(Form::new(format!("{op}{modifiers}.{ty}"), &[a, a], &[d]));
            }
        }
        for op in ["neg", "abs"] {
            forms.push(Form::new(format!("{op}.{ty}"), &[a], &[d]));
        }
        // The device documents 2^-9.9 relative for ex2 and 2^-10.987 absolute for tanh; the rest is our rounding.
        let ex2 = Class::Within { absolute: 6e-8, relative: 1.6e-3 };
        forms.push(Form::new(format!("ex2.approx.{ty}"), &[a], &[d]).class(ex2));
        let tanh = Class::Within { absolute: 7.4e-4, relative: 5e-4 };
        forms.push(Form::new(format!("tanh.approx.{ty}"), &[a], &[d]).class(tanh));
    }
    for (ty, (a, d)) in [("bf16", one(Format::BF16)), ("bf16x2", pair(Format::BF16))] {
        forms.push(Form::new(format!("fma.rn.{ty}"), &[a, a, a], &[d]));
        forms.push(Form::new(format!("fma.rn.relu.{ty}"), &[a, a, a], &[d]));
        for op in ["min", "max"] {
            for modifiers in ["", ".NaN"] {
                forms.push(Form::new(format!("{op}{modifiers}.{ty}"), &[a, a], &[d]));
            }
        }
        for op in ["neg", "abs"] {
            forms.push(Form::new(format!("{op}.{ty}"), &[a], &[d]));
        }
    }
    for comparison in ["eq", "lt", "ge", "gtu", "nan"] {
        let name = format!("setp.{comparison}.f16");
        let body = format!("{name} %p0, %a0, %a1;\nselp.b32 %d0, 1, 0, %p0;");
        forms.push(Form::new(name, &[Operand::Half(Format::F16); 2], &[Output::Bits32]).body(body));
    }
    forms
}
