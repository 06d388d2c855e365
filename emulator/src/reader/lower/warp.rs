//! Instructions of a whole warp or CTA: shuffles, votes, barriers, matrix products.

use super::{Lowered, exactly, pair, predicate, vector};
use crate::ir::{Barrier, BarrierKind, Mma, MmaKind, Op, Redux, Reg, Shfl, Shuffle, Vote};
use crate::reader::body::Body;
use crate::reader::types::{Mods, Ty};

const B32: Ty = Ty::B(32);

/// `shfl vote match redux activemask elect`.
pub fn exchange(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    if name == "activemask" {
        m.expect("b32")?;
        let [d] = exactly(operands)?;
        return Ok(Op::ActiveMask(body.destination(d, B32)?));
    }
    if matches!(name, "shfl" | "vote" | "redux" | "elect") {
        m.expect("sync")?;
    }
    match name {
        "shfl" => {
            let mode = m.one(&[
                ("up", Shuffle::Up),
                ("down", Shuffle::Down),
                ("bfly", Shuffle::Butterfly),
                ("idx", Shuffle::Index),
            ])?;
            m.expect("b32")?;
            let [d, a, b, c, mask] = exactly(operands)?;
            let (d, p) = pair(d);
            Ok(Op::Shfl(Shfl {
                mode,
                d: body.destination(d, B32)?,
                p: body.destination(p, Ty::Pred)?,
                a: body.source(a, B32)?,
                b: body.source(b, B32)?,
                c: body.source(c, B32)?,
                mask: body.source(mask, B32)?,
            }))
        }
        "vote" => {
            let kind = m.one(&[
                ("all", Vote::All),
                ("any", Vote::Any),
                ("uni", Vote::Uni),
                ("ballot", Vote::Ballot),
            ])?;
            let ty = if kind == Vote::Ballot { B32 } else { Ty::Pred };
            m.one(&[(if kind == Vote::Ballot { "b32" } else { "pred" }, ())])?;
            let [d, p, mask] = exactly(operands)?;
            let (p, negated) = predicate(body, p)?;
            Ok(Op::Vote { kind, d: body.destination(d, ty)?, p, negated, mask: body.source(mask, B32)? })
        }
        "match" => {
            let all = m.one(&[("all", true), ("any", false)])?;
            m.expect("sync")?;
            let ty = m.one(&[("b32", B32), ("b64", Ty::B(64))])?;
            let [d, a, mask] = exactly(operands)?;
            let (d, p) = if all { pair(d) } else { (d, "_") };
            Ok(Op::Match {
                all,
                wide: ty.bits() == 64,
                d: body.destination(d, B32)?,
                p: body.destination(p, Ty::Pred)?,
                a: body.source(a, ty)?,
                mask: body.source(mask, B32)?,
            })
        }
        "redux" => {
            let signs = [("u32", false), ("s32", true)];
            let op = match m.peek() {
                Some("and" | "or" | "xor") => {
                    let op = m.one(&[("and", Redux::And), ("or", Redux::Or), ("xor", Redux::Xor)])?;
                    m.expect("b32")?;
                    op
                }
                _ => {
                    let [add, min, max] = [0, 1, 2];
                    let which = m.one(&[("add", add), ("min", min), ("max", max)])?;
                    match (which, m.one(&signs)?) {
                        (0, _) => Redux::Add,
                        (1, false) => Redux::MinU,
                        (1, true) => Redux::MinS,
                        (_, false) => Redux::MaxU,
                        (_, true) => Redux::MaxS,
                    }
                }
            };
            let [d, a, mask] = exactly(operands)?;
            Ok(Op::Redux {
                op,
                d: body.destination(d, B32)?,
                a: body.source(a, B32)?,
                mask: body.source(mask, B32)?,
            })
        }
        _ => {
            let [d, mask] = exactly(operands)?;
            let (d, p) = pair(d);
            let (d, p) = (body.destination(d, B32)?, body.destination(p, Ty::Pred)?);
            Ok(Op::Elect { d, p, mask: body.source(mask, B32)? })
        }
    }
}

/// `bar` and `barrier`, for a CTA or a warp.
pub fn barrier(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let u32_ = Ty::U(32);
    if name == "bar" && m.eat("warp") {
        m.expect("sync")?;
        let [mask] = exactly(operands)?;
        return Ok(Op::WarpSync(body.source(mask, B32)?));
    }
    m.eat("cta");
    let what = m.one(&[("sync", 0), ("arrive", 1), ("red", 2)])?;
    let reduction = if what == 2 { m.one(&[("popc", 0), ("and", 1), ("or", 2)])? } else { 0 };
    // `bar` is the older name of `barrier.aligned`.
    let aligned = m.eat("aligned") || name == "bar";
    if what < 2 {
        let (id, count) = match (what, operands) {
            (0, [id]) => (id, None),
            (_, [id, count]) => (id, Some(body.source(count, u32_)?)),
            _ => return Err("expected a barrier and a number of threads".into()),
        };
        let kind = if what == 0 { BarrierKind::Sync } else { BarrierKind::Arrive };
        return Ok(Op::Barrier(Box::new(Barrier { kind, aligned, id: body.source(id, u32_)?, count })));
    }
    m.one(&[(if reduction == 0 { "u32" } else { "pred" }, ())])?;
    let (d, id, count, p) = match operands {
        [d, id, p] => (d, id, None, p),
        [d, id, count, p] => (d, id, Some(body.source(count, u32_)?), p),
        _ => {
            return Err(
                "expected a destination, a barrier, perhaps a number of threads, and a predicate".into()
            );
        }
    };
    let (p, negated) = predicate(body, p)?;
    let kind = if reduction == 0 {
        BarrierKind::Popc { d: body.destination(d, u32_)?, p, negated }
    } else {
        BarrierKind::Vote { all: reduction == 1, d: body.destination(d, Ty::Pred)?, p, negated }
    };
    Ok(Op::Barrier(Box::new(Barrier { kind, aligned, id: body.source(id, u32_)?, count })))
}

/// `movmatrix` and `mma`.
pub fn matrix(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    m.expect("sync")?;
    m.expect("aligned")?;
    if name == "movmatrix" {
        m.expect("m8n8")?;
        m.expect("trans")?;
        m.expect("b16")?;
        let [d, a] = exactly(operands)?;
        return Ok(Op::MovMatrix(body.destination(d, B32)?, body.source(a, B32)?));
    }
    let k16 = m.one(&[("m16n8k16", true), ("m16n8k8", false)])?;
    m.expect("row")?;
    m.expect("col")?;
    m.expect("f32")?;
    let bf16 = m.one(&[("bf16", true), ("f16", false)])?;
    m.expect(if bf16 { "bf16" } else { "f16" })?;
    m.expect("f32")?;
    let kind = match (bf16, k16) {
        (true, true) => MmaKind::Bf16K16,
        (true, false) => MmaKind::Bf16K8,
        (false, true) => MmaKind::F16K16,
        (false, false) => MmaKind::F16K8,
    };
    let [d, a, b, c] = exactly(operands)?;
    let (num_a, num_b) = kind.fragments();
    let product = Mma {
        kind,
        d: fragment(body, d, 4, Body::destination)?,
        a: fragment(body, a, num_a, Body::source)?,
        b: fragment(body, b, num_b, Body::source)?,
        c: fragment(body, c, 4, Body::source)?,
    };
    Ok(Op::Mma(Box::new(product)))
}

/// The registers of `{a, b}`; unused places repeat the first.
fn fragment<'a, const N: usize>(
    body: &mut Body<'a>,
    text: &str,
    count: usize,
    register: impl Fn(&mut Body<'a>, &str, Ty) -> Result<Reg, String>,
) -> Result<[Reg; N], String> {
    let parts = vector(text)?;
    if parts.len() != count {
        return Err(format!("expected a fragment of {count} registers, found {}", parts.len()));
    }
    let mut regs = [register(body, parts[0], B32)?; N];
    for (reg, part) in regs.iter_mut().zip(parts).skip(1) {
        *reg = register(body, part, B32)?;
    }
    Ok(regs)
}
