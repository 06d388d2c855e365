//! Control flow, moves, selections, address conversions and comparisons.

use super::{Lowered, exactly, pair, predicate, vector};
use crate::ir::{Cmp, CmpType, Compare, Logic, Op, Reg, SINK32, SINK64, Space, TRUE};
use crate::reader::body::Body;
use crate::reader::symbols::File;
use crate::reader::types::{Mods, Ty};

/// `bra brx ret exit trap brkpt call nanosleep`.
pub fn flow(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    match name {
        "bra" => {
            m.eat("uni");
            exactly::<1>(operands)?;
            Ok(Op::Branch(0))
        }
        "brx" => {
            m.expect("idx")?;
            m.eat("uni");
            let [index, list] = exactly(operands)?;
            let targets = vec![0; body.branch_targets(list)?.len()];
            Ok(Op::BranchIndex(Box::new((body.source(index, Ty::U(32))?, targets))))
        }
        "ret" => {
            m.eat("uni");
            exactly::<0>(operands)?;
            Ok(Op::Exit)
        }
        "exit" => exactly::<0>(operands).map(|_| Op::Exit),
        "trap" | "brkpt" => exactly::<0>(operands).map(|_| Op::Trap),
        "nanosleep" => {
            m.expect("u32")?;
            let [time] = exactly(operands)?;
            body.source(time, Ty::U(32))?;
            Ok(Op::Nop)
        }
        _ => {
            m.eat("uni");
            let callee = operands
                .iter()
                .find(|operand| !operand.starts_with('('))
                .ok_or("a call names no function")?;
            match body.never_returns(callee) {
                Some(true) => Ok(Op::Panic(readable(callee).into())),
                Some(false) => Err(format!(
                    "call of `{callee}`, which returns: only calls of functions that never return are supported"
                )),
                None => Err(format!("call of `{callee}`, which is not declared")),
            }
        }
    }
}

/// The path in a mangled Rust name, without hashes and disambiguators; the name itself where there is none.
fn readable(name: &str) -> String {
    let path = match (name.strip_prefix("_ZN"), name.strip_prefix("_R")) {
        (Some(legacy), _) => identifiers(legacy),
        (_, Some(mut rest)) => {
            // Nested paths, outermost first, down to the crate.
            while rest.starts_with('N') && rest.is_char_boundary(2) && rest.len() > 2 {
                rest = &rest[2..];
            }
            rest.strip_prefix('C').map_or_else(Vec::new, identifiers)
        }
        _ => Vec::new(),
    };
    if path.is_empty() { name.to_owned() } else { path.join("::") }
}

/// Names preceded by their lengths, as far as there are any.
fn identifiers(mut rest: &str) -> Vec<&str> {
    let mut path = Vec::new();
    loop {
        if let Some((_, tail)) = rest.strip_prefix('s').and_then(|rest| rest.split_once('_')) {
            rest = tail;
        }
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
        let Some(length) = number.parse::<usize>().ok() else { return path };
        // An underscore separates the length from a name that begins with a digit or an underscore.
        let tail = tail.strip_prefix('_').unwrap_or(tail);
        let Some((part, tail)) = tail.split_at_checked(length) else { return path };
        let is_hash =
            part.len() == 17 && part.starts_with('h') && part[1..].bytes().all(|c| c.is_ascii_hexdigit());
        if !is_hash {
            path.push(part);
        }
        rest = tail;
    }
}

/// `mov` of registers, literals, addresses and vectors.
pub fn mov(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let ty = m.ty()?;
    let [d, a] = exactly(operands)?;
    if d.starts_with('{') || a.starts_with('{') {
        return mov_vector(body, ty, d, a);
    }
    if let Some(wide) = match a {
        "%clock" | "%globaltimer_lo" => Some(false),
        "%clock64" | "%globaltimer" => Some(true),
        _ => None,
    } {
        let d = body.destination(d, if wide { Ty::U(64) } else { Ty::U(32) })?;
        return Ok(Op::Clock { d, wide });
    }
    let (to, from) = (body.destination(d, ty)?, body.source(a, ty)?);
    Ok(match File::of(ty) {
        File::R32 => Op::Mov32(to, from),
        File::R64 => Op::Mov64(to, from),
        File::Pred => Op::MovPred(to, from),
    })
}

fn mov_vector(body: &mut Body<'_>, ty: Ty, d: &str, a: &str) -> Lowered {
    let unpacks = d.starts_with('{');
    let list = vector(if unpacks { d } else { a })?;
    let bits = ty.bits() / list.len() as u32;
    if !(matches!(list.len(), 2 | 4) && matches!(bits, 16 | 32) && matches!(ty.bits(), 32 | 64)) {
        return Err(format!("a move between {} parts and {} bits is not supported", list.len(), ty.bits()));
    }
    let part = Ty::B(bits as u8);
    let mut parts = [SINK32; 4];
    for (to, text) in parts.iter_mut().zip(&list) {
        *to = if unpacks { body.destination(text, part)? } else { body.source(text, part)? };
    }
    let (wide, bits) = (ty.bits() == 64, bits as u8);
    Ok(if unpacks {
        Op::Unpack { a: body.source(a, ty)?, wide, bits, parts }
    } else {
        Op::Pack { d: body.destination(d, ty)?, wide, bits, parts }
    })
}

/// `selp`.
pub fn selp(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let ty = m.ty()?;
    let [d, a, b, p] = exactly(operands)?;
    let (d, a, b, p) =
        (body.destination(d, ty)?, body.source(a, ty)?, body.source(b, ty)?, body.source(p, Ty::Pred)?);
    Ok(if ty.bits() == 64 { Op::Select64(d, a, b, p) } else { Op::Select32(d, a, b, p) })
}

const SPACES: [(&str, Space); 8] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
    ("generic", Space::Generic),
];

/// `cvta` and `cvta.to`.
pub fn cvta(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let to = m.eat("to");
    let space = m.one(&SPACES[..7])?;
    m.expect("u64")?;
    let [d, a] = exactly(operands)?;
    let (d, a) = (body.destination(d, Ty::U(64))?, body.source(a, Ty::U(64))?);
    Ok(match space {
        Space::Global | Space::Const => Op::Mov64(d, a),
        _ if to => Op::FromGeneric(space, d, a),
        _ => Op::ToGeneric(space, d, a),
    })
}

/// `isspacep`.
pub fn isspacep(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let space = m.one(&SPACES[..7])?;
    let [p, a] = exactly(operands)?;
    Ok(Op::IsSpace(space, body.destination(p, Ty::Pred)?, body.source(a, Ty::U(64))?))
}

/// `setp` and `set`.
pub fn compare(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let unsigned = [("lo", Cmp::Lt), ("ls", Cmp::Le), ("hi", Cmp::Gt), ("hs", Cmp::Ge)];
    let ordered = [
        ("eq", Cmp::Eq),
        ("ne", Cmp::Ne),
        ("lt", Cmp::Lt),
        ("le", Cmp::Le),
        ("gt", Cmp::Gt),
        ("ge", Cmp::Ge),
    ];
    let float = [
        ("equ", Cmp::Equ),
        ("neu", Cmp::Neu),
        ("ltu", Cmp::Ltu),
        ("leu", Cmp::Leu),
        ("gtu", Cmp::Gtu),
        ("geu", Cmp::Geu),
        ("num", Cmp::Num),
        ("nan", Cmp::Nan),
    ];
    let (cmp, only) = match (m.eat_one(&unsigned), m.eat_one(&float)) {
        (Some(cmp), _) => (cmp, "an unsigned type"),
        (_, Some(cmp)) => (cmp, "a floating-point type"),
        _ => (m.one(&ordered)?, ""),
    };
    let logic = m.eat_one(&[("and", Logic::And), ("or", Logic::Or), ("xor", Logic::Xor)]);
    let mut ftz = m.eat("ftz");
    let result = if name == "set" { Some(m.ty()?) } else { None };
    let source = m.ty()?;
    // Of `set.ltu.ftz.f32.f32` and `setp.ltu.ftz.f32` alike the flush belongs to the comparison.
    let ty = match source {
        Ty::U(16) | Ty::B(16) => CmpType::U16,
        Ty::S(16) => CmpType::S16,
        Ty::U(32) | Ty::B(32) => CmpType::U32,
        Ty::S(32) => CmpType::S32,
        Ty::U(64) | Ty::B(64) => CmpType::U64,
        Ty::S(64) => CmpType::S64,
        Ty::F32 => CmpType::F32 { ftz: std::mem::take(&mut ftz) },
        Ty::F16 => CmpType::F16,
        Ty::Bf16 => CmpType::Bf16,
        _ => return Err(m.unsupported()),
    };
    let is_float = matches!(ty, CmpType::F32 { .. } | CmpType::F16 | CmpType::Bf16);
    let is_unsigned = matches!(ty, CmpType::U16 | CmpType::U32 | CmpType::U64);
    let untyped = matches!(source, Ty::B(_)) && !matches!(cmp, Cmp::Eq | Cmp::Ne);
    if ftz
        || untyped
        || (only == "a floating-point type" && !is_float)
        || (only == "an unsigned type" && !is_unsigned)
    {
        return Err(m.unsupported());
    }
    let (head, c) = match (logic, operands) {
        (None, [d, a, b]) => ([*d, *a, *b], None),
        (Some(_), [d, a, b, c]) => ([*d, *a, *b], Some(*c)),
        _ => {
            return Err(format!(
                "expected three operands, or four with a logical operation, found {}",
                operands.len()
            ));
        }
    };
    let [d, a, b] = head;
    let (c, c_negated) = c.map_or(Ok((TRUE, false)), |c| predicate(body, c))?;
    let (a, b) = (body.source(a, source)?, body.source(b, source)?);
    let compare = Compare { cmp, ty, a, b, logic: logic.unwrap_or(Logic::And), c, c_negated };
    match result {
        None => {
            let (d, q) = pair(d);
            Ok(Op::SetPred { d: body.destination(d, Ty::Pred)?, q: body.destination(q, Ty::Pred)?, compare })
        }
        Some(ty @ (Ty::U(32) | Ty::S(32) | Ty::F32)) => {
            Ok(Op::Set { d: body.destination(d, ty)?, float: ty == Ty::F32, compare })
        }
        Some(_) => Err(m.unsupported()),
    }
}

/// Where an unwanted result of this file goes.
pub fn sink(wide: bool) -> Reg {
    if wide { SINK64 } else { SINK32 }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn mangled_names_become_paths() {
        assert_eq!(
            readable("_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE"),
            "core::panicking::panic_bounds_check"
        );
        assert_eq!(
            readable("_RNvNtCsj4CZ6flxxfE_4core9panicking18panic_bounds_check"),
            "core::panicking::panic_bounds_check"
        );
        assert_eq!(readable("my_panic"), "my_panic");
    }
}
