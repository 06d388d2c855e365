//! Integer and logical arithmetic.

use super::{Lowered, exactly};
use crate::ir::{Int1, Int2, Int3, Logic, Op, Reg};
use crate::reader::body::Body;
use crate::reader::types::{Mods, Ty};

fn binary_op(op: Int2, ty: Ty, [d, a, b]: [Reg; 3]) -> Op {
    match ty.bits() {
        16 => Op::Int16(op, d, a, b),
        32 => Op::Int32(op, d, a, b),
        _ => Op::Int64(op, d, a, b),
    }
}

fn three(body: &mut Body<'_>, ty: Ty, operands: &[&str]) -> Result<[Reg; 3], String> {
    let [d, a, b] = exactly(operands)?;
    Ok([body.destination(d, ty)?, body.source(a, ty)?, body.source(b, ty)?])
}

/// An integer type of 16, 32 or 64 bits; untyped bits where `untyped`.
fn integer(m: &mut Mods<'_>, untyped: bool) -> Result<Ty, String> {
    let ty = m.ty()?;
    let typed = matches!(ty, Ty::U(16 | 32 | 64) | Ty::S(16 | 32 | 64));
    if typed || (untyped && matches!(ty, Ty::B(16 | 32 | 64))) { Ok(ty) } else { Err(m.unsupported()) }
}

/// `add sub addc subc`, with and without carry.
pub fn sum(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let subtract = name.starts_with("sub");
    let reads = name.ends_with('c');
    let writes = m.eat("cc");
    let saturates = m.eat("sat");
    let ty = integer(m, false)?;
    let regs @ [d, a, b] = three(body, ty, operands)?;
    if reads || writes {
        if saturates || ty.bits() == 16 {
            return Err(m.unsupported());
        }
        return Ok(Op::Carry { subtract, reads, writes, wide: ty.bits() == 64, d, a, b });
    }
    let op = match (subtract, saturates) {
        (false, false) => Int2::Add,
        (true, false) => Int2::Sub,
        (_, true) if ty != Ty::S(32) => return Err(m.unsupported()),
        (false, true) => Int2::AddSat,
        (true, true) => Int2::SubSat,
    };
    Ok(binary_op(op, ty, regs))
}

#[derive(Clone, Copy)]
enum Half {
    Lo,
    Hi,
    Wide,
}

const HALVES: [(&str, Half); 3] = [("lo", Half::Lo), ("hi", Half::Hi), ("wide", Half::Wide)];

/// `mul.lo .hi .wide`.
pub fn mul(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let half = m.one(&HALVES)?;
    let ty = integer(m, false)?;
    let signed = ty.is_signed();
    match half {
        Half::Lo => Ok(binary_op(Int2::Mul, ty, three(body, ty, operands)?)),
        Half::Hi => {
            let op = if signed { Int2::MulHiS } else { Int2::MulHiU };
            Ok(binary_op(op, ty, three(body, ty, operands)?))
        }
        Half::Wide => {
            let [d, a, b] = exactly(operands)?;
            let (a, b) = (body.source(a, ty)?, body.source(b, ty)?);
            match ty.bits() {
                16 => Ok(Op::MulWide16 { signed, d: body.destination(d, Ty::U(32))?, a, b }),
                32 => Ok(Op::MulWide { signed, d: body.destination(d, Ty::U(64))?, a, b }),
                _ => Err(m.unsupported()),
            }
        }
    }
}

/// `mad.lo .hi .wide`.
pub fn mad(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let half = m.one(&HALVES)?;
    let ty = integer(m, false)?;
    let signed = ty.is_signed();
    let [d, a, b, c] = exactly(operands)?;
    let (a, b) = (body.source(a, ty)?, body.source(b, ty)?);
    let wide = matches!(half, Half::Wide);
    let result = if wide { Ty::U(64) } else { ty };
    match (half, ty.bits()) {
        (Half::Lo, _) | (Half::Hi | Half::Wide, 32) => {}
        _ => return Err(m.unsupported()),
    }
    let (d, c) = (body.destination(d, result)?, body.source(c, result)?);
    Ok(match (half, ty.bits()) {
        (Half::Wide, _) => Op::MadWide { signed, d, a, b, c },
        (Half::Hi, _) => Op::Ternary32(if signed { Int3::MadHiS } else { Int3::MadHiU }, d, a, b, c),
        (Half::Lo, 16) => Op::Mad16(d, a, b, c),
        (Half::Lo, 32) => Op::Ternary32(Int3::MadLo, d, a, b, c),
        (Half::Lo, _) => Op::Mad64(d, a, b, c),
    })
}

/// `div rem min max and or xor shl shr`.
pub fn binary(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let logic = match name {
        "and" => Some((Int2::And, Logic::And)),
        "or" => Some((Int2::Or, Logic::Or)),
        "xor" => Some((Int2::Xor, Logic::Xor)),
        _ => None,
    };
    if let Some((op, logic)) = logic {
        if m.eat("pred") {
            let [d, a, b] = three(body, Ty::Pred, operands)?;
            return Ok(Op::LogicPred(logic, d, a, b));
        }
        let ty = m.ty()?;
        if !matches!(ty, Ty::B(16 | 32 | 64)) {
            return Err(m.unsupported());
        }
        return Ok(binary_op(op, ty, three(body, ty, operands)?));
    }
    let shifts = matches!(name, "shl" | "shr");
    let ty = integer(m, shifts)?;
    let signed = ty.is_signed();
    let op = match (name, signed) {
        ("div", false) => Int2::DivU,
        ("div", true) => Int2::DivS,
        ("rem", false) => Int2::RemU,
        ("rem", true) => Int2::RemS,
        ("min", false) => Int2::MinU,
        ("min", true) => Int2::MinS,
        ("max", false) => Int2::MaxU,
        ("max", true) => Int2::MaxS,
        ("shl", _) if matches!(ty, Ty::B(_)) => Int2::Shl,
        ("shr", false) => Int2::ShrU,
        ("shr", true) => Int2::ShrS,
        _ => return Err(m.unsupported()),
    };
    if !shifts {
        return Ok(binary_op(op, ty, three(body, ty, operands)?));
    }
    let [d, a, amount] = exactly(operands)?;
    let regs = [body.destination(d, ty)?, body.source(a, ty)?, body.source(amount, Ty::U(32))?];
    let [d, a, b] = regs;
    Ok(if ty.bits() == 64 { Op::Shift64(op, d, a, b) } else { binary_op(op, ty, regs) })
}

/// `neg abs not brev clz popc bfind`.
pub fn unary(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let [d, a] = exactly(operands)?;
    if name == "not" && m.eat("pred") {
        return Ok(Op::NotPred(body.destination(d, Ty::Pred)?, body.source(a, Ty::Pred)?));
    }
    let shift = name == "bfind" && m.eat("shiftamt");
    let ty = m.ty()?;
    let op = match (name, ty) {
        ("neg", Ty::S(16 | 32 | 64)) => Int1::Neg,
        ("abs", Ty::S(16 | 32 | 64)) => Int1::Abs,
        ("not", Ty::B(16 | 32 | 64)) => Int1::Not,
        ("brev", Ty::B(32 | 64)) => Int1::Brev,
        ("clz", Ty::B(32 | 64)) => Int1::Clz,
        ("popc", Ty::B(32 | 64)) => Int1::Popc,
        ("bfind", Ty::U(32 | 64)) if shift => Int1::BfindShiftU,
        ("bfind", Ty::S(32 | 64)) if shift => Int1::BfindShiftS,
        ("bfind", Ty::U(32 | 64)) => Int1::BfindU,
        ("bfind", Ty::S(32 | 64)) => Int1::BfindS,
        _ => return Err(m.unsupported()),
    };
    let counts = matches!(name, "clz" | "popc" | "bfind");
    let d = body.destination(d, if counts { Ty::U(32) } else { ty })?;
    let a = body.source(a, ty)?;
    Ok(match ty.bits() {
        16 => Op::Unary16(op, d, a),
        32 => Op::Unary32(op, d, a),
        _ if counts => Op::Count64(op, d, a),
        _ => Op::Unary64(op, d, a),
    })
}

/// `bfe` and `bfi`.
pub fn bit_field(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let ty = m.ty()?;
    let (u32_, wide) = (Ty::U(32), ty.bits() == 64);
    match (name, ty) {
        ("bfe", Ty::U(32 | 64) | Ty::S(32 | 64)) => {
            let [d, a, pos, len] = exactly(operands)?;
            let (d, a) = (body.destination(d, ty)?, body.source(a, ty)?);
            let (pos, len) = (body.source(pos, u32_)?, body.source(len, u32_)?);
            let signed = ty.is_signed();
            Ok(if wide {
                Op::Bfe64 { signed, d, a, pos, len }
            } else {
                Op::Ternary32(if signed { Int3::BfeS } else { Int3::BfeU }, d, a, pos, len)
            })
        }
        ("bfi", Ty::B(32 | 64)) => {
            let [d, a, b, pos, len] = exactly(operands)?;
            let (d, a, b) = (body.destination(d, ty)?, body.source(a, ty)?, body.source(b, ty)?);
            let (pos, len) = (body.source(pos, u32_)?, body.source(len, u32_)?);
            Ok(if wide { Op::Bfi64 { d, a, b, pos, len } } else { Op::Bfi32 { d, a, b, pos, len } })
        }
        _ => Err(m.unsupported()),
    }
}

/// `prmt shf lop3 dp4a`.
pub fn ternary(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let b32 = Ty::B(32);
    let (op, head): (Int3, [&str; 4]) = match name {
        "prmt" => {
            m.expect("b32")?;
            (Int3::Prmt, exactly(operands)?)
        }
        "shf" => {
            let left = m.one(&[("l", true), ("r", false)])?;
            let clamp = m.one(&[("clamp", true), ("wrap", false)])?;
            m.expect("b32")?;
            (if left { Int3::ShfL { clamp } } else { Int3::ShfR { clamp } }, exactly(operands)?)
        }
        "lop3" => {
            m.expect("b32")?;
            let [d, a, b, c, table] = exactly(operands)?;
            let table =
                crate::reader::operand::immediate(table, b32).and_then(|table| u8::try_from(table).ok());
            (Int3::Lop3(table.ok_or("the table of lop3 is a number below 256")?), [d, a, b, c])
        }
        _ => {
            let signed = [("s32", true), ("u32", false)];
            (Int3::Dp4a(m.one(&signed)?, m.one(&signed)?), exactly(operands)?)
        }
    };
    let [d, a, b, c] = head;
    Ok(Op::Ternary32(
        op,
        body.destination(d, b32)?,
        body.source(a, b32)?,
        body.source(b, b32)?,
        body.source(c, b32)?,
    ))
}
