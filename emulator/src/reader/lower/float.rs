//! Floating point: f32, f16, bf16 and pairs of the latter two.

use super::{Lowered, exactly, rounding};
use crate::ir::{Float1, Float2, Half, HalfOp, Op};
use crate::numerics::mufu::Function;
use crate::numerics::scalar::Mode;
use crate::numerics::{Format, Round, half};
use crate::reader::body::Body;
use crate::reader::types::{Mods, Ty};

/// Whether the opcode ends in a floating-point type.
pub fn is_float(opcode: &str) -> bool {
    matches!(opcode.rsplit('.').next().and_then(Ty::parse), Some(ty) if !ty.is_integer() && ty != Ty::Pred)
}

/// `add sub mul fma min max neg abs`.
pub fn arithmetic(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let round = rounding(m);
    let ftz = m.eat("ftz");
    let saturate = m.eat("sat");
    let relu = m.eat("relu");
    let nan = m.eat("NaN");
    let ty = m.ty()?;
    let rounds = matches!(name, "add" | "sub" | "mul" | "fma");
    let chooses = matches!(name, "min" | "max");
    // `fma` has no default rounding mode.
    let bad_rounding = (round.is_some() && !rounds) || (round.is_none() && name == "fma");
    if bad_rounding || (saturate && !rounds) || (nan && !chooses) || (relu && name != "fma") {
        return Err(m.unsupported());
    }
    if ty != Ty::F32 {
        if round.is_some_and(|round| round != Round::Nearest) || (relu && saturate) {
            return Err(m.unsupported());
        }
        return halves(body, name, m, ty, half::Mode { ftz, saturate, relu }, nan, operands);
    }
    if relu {
        return Err(m.unsupported());
    }
    let mode = Mode { round: round.unwrap_or_default(), ftz, saturate };
    let mut regs = [0; 4];
    let count = if name == "fma" { 4 } else { 2 + usize::from(rounds || chooses) };
    if operands.len() != count {
        return Err(format!("expected {count} operands, found {}", operands.len()));
    }
    regs[0] = body.destination(operands[0], ty)?;
    for (reg, text) in regs.iter_mut().zip(operands).skip(1) {
        *reg = body.source(text, ty)?;
    }
    let [d, a, b, c] = regs;
    Ok(match name {
        "add" => Op::Float2(Float2::Add(mode), d, a, b),
        "sub" => Op::Float2(Float2::Sub(mode), d, a, b),
        "mul" => Op::Float2(Float2::Mul(mode), d, a, b),
        "fma" => Op::Fma(mode, d, a, b, c),
        "min" => Op::Float2(Float2::Min { ftz, nan }, d, a, b),
        "max" => Op::Float2(Float2::Max { ftz, nan }, d, a, b),
        "neg" => Op::Float1(Float1::Neg { ftz }, d, a),
        _ => Op::Float1(Float1::Abs { ftz }, d, a),
    })
}

/// The same on 16-bit types.
fn halves(
    body: &mut Body<'_>,
    name: &str,
    m: &mut Mods<'_>,
    ty: Ty,
    mode: half::Mode,
    nan: bool,
    operands: &[&str],
) -> Lowered {
    let op = match name {
        "add" => HalfOp::Add,
        "sub" => HalfOp::Sub,
        "mul" => HalfOp::Mul,
        "fma" => HalfOp::Fma,
        "min" => HalfOp::Min { nan },
        "max" => HalfOp::Max { nan },
        "neg" => HalfOp::Neg,
        _ => HalfOp::Abs,
    };
    let sources = match op {
        HalfOp::Fma => 3,
        HalfOp::Neg | HalfOp::Abs => 1,
        _ => 2,
    };
    half_op(body, m, op, ty, mode, sources, operands)
}

fn half_op(
    body: &mut Body<'_>,
    m: &mut Mods<'_>,
    op: HalfOp,
    ty: Ty,
    mode: half::Mode,
    sources: usize,
    operands: &[&str],
) -> Lowered {
    let (format, packed) = match ty {
        Ty::F16 => (Format::F16, false),
        Ty::F16x2 => (Format::F16, true),
        Ty::Bf16 => (Format::BF16, false),
        Ty::Bf16x2 => (Format::BF16, true),
        _ => return Err(m.unsupported()),
    };
    // bf16 has neither flushing nor saturation, except for the flushing approximations.
    if format == Format::BF16 && (mode.saturate || (mode.ftz && !matches!(op, HalfOp::Mufu(_)))) {
        return Err(m.unsupported());
    }
    if operands.len() != sources + 1 {
        return Err(format!("expected {} operands, found {}", sources + 1, operands.len()));
    }
    let d = body.destination(operands[0], ty)?;
    let mut regs = [d; 3];
    for (reg, text) in regs.iter_mut().zip(&operands[1..]) {
        *reg = body.source(text, ty)?;
    }
    Ok(Op::Half(Box::new(Half { op, format, packed, mode }), d, regs))
}

/// `div.{approx,full,rn,rz,rm,rp}.f32`.
pub fn divide(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let round = rounding(m);
    let approx = round.is_none() && m.one(&[("approx", true), ("full", false)])?;
    let ftz = m.eat("ftz");
    m.expect("f32")?;
    let op = match round {
        Some(round) => Float2::Div(Mode { round, ftz, saturate: false }),
        None if approx => Float2::DivApprox { ftz },
        None => Float2::DivFull { ftz },
    };
    let [d, a, b] = exactly(operands)?;
    Ok(Op::Float2(op, body.destination(d, Ty::F32)?, body.source(a, Ty::F32)?, body.source(b, Ty::F32)?))
}

/// `rcp sqrt rsqrt ex2 lg2 tanh sin cos`.
pub fn special(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let round = rounding(m);
    if round.is_none() {
        m.expect("approx")?;
    }
    let ftz = m.eat("ftz");
    let ty = m.ty()?;
    let function = match name {
        "rcp" => Function::Rcp,
        "sqrt" => Function::Sqrt,
        "rsqrt" => Function::Rsqrt,
        "ex2" => Function::Ex2,
        "lg2" => Function::Lg2,
        "tanh" => Function::Tanh,
        "sin" => Function::Sin,
        _ => Function::Cos,
    };
    if ty != Ty::F32 {
        if !matches!(name, "ex2" | "tanh") || round.is_some() {
            return Err(m.unsupported());
        }
        // The f16 forms flush nothing; the bf16 form of ex2 always carries `.ftz`, that of tanh never.
        let bf16_ex2 = name == "ex2" && matches!(ty, Ty::Bf16 | Ty::Bf16x2);
        if ftz != bf16_ex2 {
            return Err(m.unsupported());
        }
        let mode = half::Mode { ftz, ..half::Mode::default() };
        return half_op(body, m, HalfOp::Mufu(function), ty, mode, 1, operands);
    }
    let op = match (round, function) {
        (None, function) => Float1::Mufu { function, ftz },
        (Some(round), Function::Rcp) => Float1::Rcp(Mode { round, ftz, saturate: false }),
        (Some(round), Function::Sqrt) => Float1::Sqrt(Mode { round, ftz, saturate: false }),
        _ => return Err(m.unsupported()),
    };
    let [d, a] = exactly(operands)?;
    Ok(Op::Float1(op, body.destination(d, ty)?, body.source(a, ty)?))
}

/// `copysign.f32 d, a, b`: the magnitude of `b` with the sign of `a`.
pub fn copysign(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    m.expect("f32")?;
    let [d, a, b] = exactly(operands)?;
    let (a, b) = (body.source(a, Ty::F32)?, body.source(b, Ty::F32)?);
    Ok(Op::Float2(Float2::CopySign, body.destination(d, Ty::F32)?, a, b))
}
