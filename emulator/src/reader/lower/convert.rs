//! `cvt`.

use super::{Lowered, exactly, rounding};
use crate::ir::{Convert, ConvertPair, Op};
use crate::numerics::convert::{Integer, Integral, Narrow};
use crate::numerics::{Format, Round};
use crate::reader::body::Body;
use crate::reader::types::{Mods, Ty};

const FP8: [(&str, Format); 2] = [("e4m3x2", Format::E4M3), ("e5m2x2", Format::E5M2)];

/// `cvt` in all forms.
pub fn cvt(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let integral =
        m.eat_one(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
    let round = rounding(m);
    let ftz = m.eat("ftz");
    let saturate = m.eat("sat");
    // The order of these two differs between the forms.
    let (mut relu, satfinite) = (m.eat("relu"), m.eat("satfinite"));
    relu |= m.eat("relu");
    if let Some(format) = m.eat_one(&FP8) {
        m.expect("f32")?;
        let plain = integral.is_none() && round == Some(Round::Nearest) && !ftz && !saturate;
        if !(plain && satfinite) {
            return Err(m.unsupported());
        }
        return pair(body, ConvertPair::Fp8x2 { format, relu }, Ty::B(16), operands);
    }
    let to = m.ty()?;
    if let Some(format) = m.eat_one(&FP8) {
        let plain = integral.is_none() && round == Some(Round::Nearest) && !ftz && !saturate && !satfinite;
        if !plain || to != Ty::F16x2 {
            return Err(m.unsupported());
        }
        let [d, a] = exactly(operands)?;
        let (d, a) = (body.destination(d, Ty::B(32))?, body.source(a, Ty::B(16))?);
        return Ok(Op::Convert(Box::new(Convert::F16x2FromFp8x2 { format, relu }), d, a, [false; 2]));
    }
    let from = m.ty()?;
    let narrows = matches!((to, from), (Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2, Ty::F32));
    if narrows {
        // bf16 rounds to nearest or toward zero only, and f16 has the directed modes as well.
        let directed = matches!(round, Some(Round::Down | Round::Up)) && to != Ty::F16;
        let (Some(round), None, false, false) = (round, integral, saturate, directed) else {
            return Err(m.unsupported());
        };
        let mode = Narrow { round, relu, satfinite, ftz };
        return match to {
            Ty::F16x2 => pair(body, ConvertPair::F16x2(mode), Ty::B(32), operands),
            Ty::Bf16x2 => pair(body, ConvertPair::Bf16x2(mode), Ty::B(32), operands),
            Ty::F16 => single(body, Convert::F16FromF32(mode), to, from, operands),
            _ => single(body, Convert::Bf16FromF32(mode), to, from, operands),
        };
    }
    if relu || satfinite {
        return Err(m.unsupported());
    }
    if to.is_integer() && from.is_integer() {
        let (Some(to_integer), Some(from_integer), None, None, false) =
            (integer(to), integer(from), integral, round, ftz)
        else {
            return Err(m.unsupported());
        };
        let [d, a] = exactly(operands)?;
        let (d, keep) = body.wide_destination(d, to)?;
        let (a, wide) = body.wide_source(a, from)?;
        let convert = Convert::Int { from: from_integer, to: to_integer, saturate, keep };
        return Ok(Op::Convert(Box::new(convert), d, a, [keep == 64, wide]));
    }
    if let (Some(format), Some(to_integer), Some(round)) = (float(from), integer(to), integral) {
        if saturate || (ftz && from != Ty::F32) {
            return Err(m.unsupported());
        }
        let [d, a] = exactly(operands)?;
        let (d, keep) = body.wide_destination(d, to)?;
        let a = body.source(a, from)?;
        let mode = Integral { round, ftz };
        return Ok(Op::Convert(
            Box::new(Convert::ToInt { from: format, to: to_integer, mode, keep }),
            d,
            a,
            [keep == 64, false],
        ));
    }
    if let (Some(format), Some(from_integer), Some(round), false, false) =
        (float(to), integer(from), round, ftz, saturate)
    {
        let [d, a] = exactly(operands)?;
        let d = body.destination(d, to)?;
        let (a, wide) = body.wide_source(a, from)?;
        return Ok(Op::Convert(
            Box::new(Convert::FromInt { from: from_integer, to: format, round }),
            d,
            a,
            [false, wide],
        ));
    }
    let convert = match (to, from, integral, round) {
        (Ty::F32, Ty::F32, Some(round), None) if !saturate => Convert::Integral(Integral { round, ftz }),
        (Ty::F32, Ty::F32, None, None) if ftz || saturate => Convert::F32 { ftz, saturate },
        (Ty::F32, Ty::F16, None, None) if !saturate => Convert::F32FromF16 { ftz },
        (Ty::F32, Ty::Bf16, None, None) if !saturate && !ftz => Convert::F32FromBf16,
        _ => return Err(m.unsupported()),
    };
    single(body, convert, to, from, operands)
}

fn single(body: &mut Body<'_>, convert: Convert, to: Ty, from: Ty, operands: &[&str]) -> Lowered {
    let [d, a] = exactly(operands)?;
    Ok(Op::Convert(Box::new(convert), body.destination(d, to)?, body.source(a, from)?, [false; 2]))
}

fn pair(body: &mut Body<'_>, convert: ConvertPair, to: Ty, operands: &[&str]) -> Lowered {
    let [d, high, low] = exactly(operands)?;
    let (high, low) = (body.source(high, Ty::F32)?, body.source(low, Ty::F32)?);
    Ok(Op::ConvertPair(Box::new(convert), body.destination(d, to)?, high, low))
}

fn integer(ty: Ty) -> Option<Integer> {
    match ty {
        Ty::U(bits) => Some(Integer { bits: bits.into(), signed: false }),
        Ty::S(bits) => Some(Integer { bits: bits.into(), signed: true }),
        _ => None,
    }
}

fn float(ty: Ty) -> Option<Format> {
    match ty {
        Ty::F32 => Some(Format::F32),
        Ty::F16 => Some(Format::F16),
        Ty::Bf16 => Some(Format::BF16),
        _ => None,
    }
}
