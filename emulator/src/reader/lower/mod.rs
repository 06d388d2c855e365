//! Second level of the reader: the semantic table of the instructions.

mod control;
mod convert;
mod float;
mod integer;
mod memory;
mod warp;

use super::body::Body;
use super::types::{Mods, Ty};
use crate::ir::{Op, Reg};
use crate::numerics::Round;

type Lowered = Result<Op, String>;

/// Lowers one instruction.
pub fn lower(body: &mut Body<'_>, opcode: &str, operands: &[&str]) -> Lowered {
    let (name, mut mods) = Mods::new(opcode);
    let m = &mut mods;
    let op = match name {
        "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" | "call" | "nanosleep" => {
            control::flow(body, name, m, operands)
        }
        "mov" => control::mov(body, m, operands),
        "selp" => control::selp(body, m, operands),
        "cvta" => control::cvta(body, m, operands),
        "isspacep" => control::isspacep(body, m, operands),
        "setp" | "set" => control::compare(body, name, m, operands),

        "add" | "sub" | "mul" | "fma" | "min" | "max" | "neg" | "abs" if float::is_float(opcode) => {
            float::arithmetic(body, name, m, operands)
        }
        "div" if float::is_float(opcode) => float::divide(body, m, operands),
        "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "tanh" | "sin" | "cos" => {
            float::special(body, name, m, operands)
        }
        "copysign" => float::copysign(body, m, operands),

        "add" | "sub" | "addc" | "subc" => integer::sum(body, name, m, operands),
        "mul" => integer::mul(body, m, operands),
        "mad" => integer::mad(body, m, operands),
        "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr" => {
            integer::binary(body, name, m, operands)
        }
        "neg" | "abs" | "not" | "brev" | "clz" | "popc" | "bfind" => integer::unary(body, name, m, operands),
        "bfe" | "bfi" => integer::bit_field(body, name, m, operands),
        "prmt" | "shf" | "lop3" | "dp4a" => integer::ternary(body, name, m, operands),

        "cvt" => convert::cvt(body, m, operands),

        "ld" | "ldu" | "st" => memory::access(body, name, m, operands),
        "atom" | "red" => memory::atomic(body, name, m, operands),
        "fence" | "membar" => memory::fence(name, m, operands),
        "prefetch" | "prefetchu" | "discard" | "createpolicy" => memory::cache(body, name, m, operands),
        "cp" => memory::cp_async(body, m, operands),
        "ldmatrix" | "stmatrix" => memory::matrix(body, name, m, operands),

        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => {
            warp::exchange(body, name, m, operands)
        }
        "bar" | "barrier" => warp::barrier(body, name, m, operands),
        "movmatrix" | "mma" => warp::matrix(body, name, m, operands),
        _ => Err(mods.unsupported()),
    }?;
    mods.end()?;
    Ok(op)
}

/// Exactly `N` operands.
fn exactly<'a, const N: usize>(operands: &[&'a str]) -> Result<[&'a str; N], String> {
    operands.try_into().map_err(|_| format!("expected {N} operands, found {}", operands.len()))
}

/// The parts of `{a, b}`, or the operand itself.
fn vector(text: &str) -> Result<Vec<&str>, String> {
    match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        Some(inside) => super::scan::split_operands(inside),
        None => Ok(vec![text]),
    }
}

/// A predicate source, which a `!` may negate.
fn predicate(body: &mut Body<'_>, text: &str) -> Result<(Reg, bool), String> {
    let (text, negated) = text.strip_prefix('!').map_or((text, false), |text| (text.trim(), true));
    Ok((body.source(text, Ty::Pred)?, negated))
}

/// `d|p`, where the second part may be missing.
fn pair(text: &str) -> (&str, &str) {
    text.split_once('|').map_or((text, "_"), |(d, p)| (d.trim(), p.trim()))
}

/// `.rn .rz .rm .rp`.
fn rounding(mods: &mut Mods<'_>) -> Option<Round> {
    mods.eat_one(&[("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)])
}
