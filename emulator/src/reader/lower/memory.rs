//! Loads, stores, atomics, asynchronous copies, fences and cache control.

use super::control::sink;
use super::{Lowered, exactly, predicate, vector};
use crate::ir::{Access, Atomic, AtomicOp, CpAsync, MatrixAccess, Op, Order, SINK32, Space};
use crate::reader::body::Body;
use crate::reader::types::{Mods, Ty};

const SPACES: [(&str, Space); 7] = [
    ("global", Space::Global),
    ("shared", Space::Shared),
    ("shared::cta", Space::Shared),
    ("local", Space::Local),
    ("const", Space::Const),
    ("param", Space::Param),
    ("param::entry", Space::Param),
];

const SCOPES: [(&str, ()); 4] = [("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())];

/// Cache operators, eviction priorities and prefetch sizes; they change no result. Says whether a cache policy follows
/// as an operand.
fn cache_hints(m: &mut Mods<'_>) -> bool {
    m.eat_one(&[("nc", ())]);
    m.eat_one(&[("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ()), ("wb", ()), ("wt", ())]);
    for level in [
        "L1::evict_normal",
        "L1::evict_unchanged",
        "L1::evict_first",
        "L1::evict_last",
        "L1::no_allocate",
        "L2::evict_normal",
        "L2::evict_first",
        "L2::evict_last",
    ] {
        m.eat(level);
    }
    let policy = m.eat("L2::cache_hint");
    m.eat_one(&[("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())]);
    policy
}

/// Removes the cache policy, which is the last operand and must be a 64-bit register.
fn without_policy<'a, 'b>(
    body: &mut Body<'_>,
    policy: bool,
    operands: &'b [&'a str],
) -> Result<&'b [&'a str], String> {
    match (policy, operands) {
        (true, [rest @ .., last]) => {
            body.source(last, Ty::U(64))?;
            Ok(rest)
        }
        _ => Ok(operands),
    }
}

/// `ld` and `st`.
pub fn access(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let load = name != "st";
    let semantics = [
        ("weak", Order::Weak),
        ("volatile", Order::Relaxed),
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
    ];
    let order = m.eat_one(&semantics).unwrap_or(Order::Weak);
    if (load && order == Order::Release) || (!load && order == Order::Acquire) {
        return Err(m.unsupported());
    }
    if order != Order::Weak {
        m.eat_one(&SCOPES);
    }
    let space = m.eat_one(&SPACES).unwrap_or(Space::Generic);
    let policy = cache_hints(m);
    let count: u8 = m.eat_one(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    let ty = m.ty()?;
    if ty == Ty::Pred || (ty.bytes() * u32::from(count) > 16) || matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        return Err(m.unsupported());
    }
    let [first, second] = exactly(without_policy(body, policy, operands)?)?;
    let (place, data) = if load { (second, first) } else { (first, second) };
    let inside = place.trim_start_matches('[').trim_end_matches(']').split('+').next().unwrap_or_default();
    if space == Space::Param && body.is_call_param(inside.trim()) {
        // Arguments of a panic: nobody reads them.
        return if load { Err(format!("`{inside}` is the result of a call")) } else { Ok(Op::Nop) };
    }
    if !load && matches!(space, Space::Const | Space::Param) {
        return Err(m.unsupported());
    }
    let parts = vector(data)?;
    if parts.len() != usize::from(count) {
        return Err(format!("expected {count} registers, found {}", parts.len()));
    }
    let mut regs = [SINK32; 4];
    let mut bits = None;
    for (reg, text) in regs.iter_mut().zip(parts) {
        let one = if load {
            body.wide_destination(text, ty)
        } else {
            body.wide_source(text, ty).map(|(reg, wide)| (reg, if wide { 64 } else { 32 }))
        };
        let (index, width) = one?;
        if *bits.get_or_insert(width) != width && text != "_" {
            return Err("the registers of a vector differ in width".into());
        }
        *reg = index;
    }
    let access = Access {
        space,
        order,
        address: body.address(place)?,
        width: ty.bytes() as u8,
        count,
        signed: ty.is_signed(),
        reg_bits: bits.unwrap_or(32) as u8,
        regs,
    };
    Ok(if load { Op::Load(access) } else { Op::Store(access) })
}

/// `atom` and `red`.
pub fn atomic(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    let semantics = [
        ("relaxed", Order::Relaxed),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
        ("acq_rel", Order::AcqRel),
    ];
    let order = m.eat_one(&semantics).unwrap_or(Order::Relaxed);
    let red = name == "red";
    if red && order.acquires() {
        return Err(m.unsupported());
    }
    m.eat_one(&SCOPES);
    let space = m.eat_one(&SPACES[..3]).unwrap_or(Space::Generic);
    let operation = m.one(&[
        ("add", "add"),
        ("min", "min"),
        ("max", "max"),
        ("inc", "inc"),
        ("dec", "dec"),
        ("and", "and"),
        ("or", "or"),
        ("xor", "xor"),
        ("exch", "exch"),
        ("cas", "cas"),
    ])?;
    let noftz = m.eat("noftz");
    let policy = m.eat("L2::cache_hint");
    let ty = m.ty()?;
    let signed = ty.is_signed();
    let op = match (operation, ty) {
        ("add", Ty::U(32 | 64) | Ty::S(32)) => AtomicOp::Add,
        ("add", Ty::F32) => AtomicOp::AddF32,
        ("add", Ty::F16x2) if noftz => AtomicOp::AddF16x2,
        ("add", Ty::Bf16x2) if noftz => AtomicOp::AddBf16x2,
        ("min", Ty::U(_) | Ty::S(_)) => {
            if signed {
                AtomicOp::MinS
            } else {
                AtomicOp::MinU
            }
        }
        ("max", Ty::U(_) | Ty::S(_)) => {
            if signed {
                AtomicOp::MaxS
            } else {
                AtomicOp::MaxU
            }
        }
        ("inc", Ty::U(32)) => AtomicOp::Inc,
        ("dec", Ty::U(32)) => AtomicOp::Dec,
        ("and", Ty::B(_)) => AtomicOp::And,
        ("or", Ty::B(_)) => AtomicOp::Or,
        ("xor", Ty::B(_)) => AtomicOp::Xor,
        ("exch", Ty::B(_)) if !red => AtomicOp::Exch,
        ("cas", Ty::B(_)) if !red => AtomicOp::Cas,
        _ => return Err(m.unsupported()),
    };
    let halves = matches!(op, AtomicOp::AddF16x2 | AtomicOp::AddBf16x2);
    if ty.bits() < 32 || noftz != halves {
        return Err(m.unsupported());
    }
    let operands = without_policy(body, policy, operands)?;
    let wide = ty.bits() == 64;
    let (d, rest) = match operands {
        [d, rest @ ..] if !red => (body.destination(d, ty)?, rest),
        _ => (sink(wide), operands),
    };
    let (place, b, c) = match (op, rest) {
        (AtomicOp::Cas, [place, b, c]) => (place, b, Some(c)),
        (AtomicOp::Cas, _) => return Err("cas compares and exchanges: expected two values".into()),
        (_, [place, b]) => (place, b, None),
        _ => return Err(format!("expected an address and a value, found {} operands", rest.len())),
    };
    let b = body.source(b, ty)?;
    let c = c.map_or(Ok(b), |c| body.source(c, ty))?;
    let address = body.address(place)?;
    Ok(Op::Atomic(Box::new(Atomic { op, space, order, address, wide, d, b, c })))
}

/// `fence` and `membar`.
pub fn fence(name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    exactly::<0>(operands)?;
    if name == "membar" {
        m.one(&[("cta", ()), ("gl", ()), ("sys", ())])?;
    } else {
        m.eat_one(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
        m.one(&SCOPES)?;
    }
    Ok(Op::Fence)
}

/// `prefetch prefetchu discard createpolicy`.
pub fn cache(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    match name {
        "prefetchu" => {
            m.expect("L1")?;
            let [place] = exactly(operands)?;
            body.address(place).map(|_| Op::Nop)
        }
        "prefetch" => {
            m.eat_one(&[("global", ()), ("local", ())]);
            m.one(&[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())])?;
            let [place] = exactly(operands)?;
            body.address(place).map(|_| Op::Nop)
        }
        "discard" => {
            m.expect("global")?;
            m.expect("L2")?;
            let [place, size] = exactly(operands)?;
            if size != "128" {
                return Err(format!("discard takes 128 bytes, found `{size}`"));
            }
            body.address(place).map(Op::Discard)
        }
        _ => {
            // A policy is opaque; any value stands for it.
            m.expect("fractional")?;
            m.one(&[
                ("L2::evict_last", ()),
                ("L2::evict_normal", ()),
                ("L2::evict_first", ()),
                ("L2::evict_unchanged", ()),
            ])?;
            m.eat_one(&[("L2::evict_first", ()), ("L2::evict_unchanged", ())]);
            m.expect("b64")?;
            let (policy, fraction) = operands.split_first().ok_or("expected a destination")?;
            if let [fraction] = fraction {
                body.source(fraction, Ty::F32)?;
            } else if !fraction.is_empty() {
                return Err("expected a destination and a fraction".into());
            }
            let zero = body.constant64(0)?;
            Ok(Op::Mov64(body.destination(policy, Ty::U(64))?, zero))
        }
    }
}

/// `cp.async` with its groups and waits.
pub fn cp_async(body: &mut Body<'_>, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    m.expect("async")?;
    if m.eat("commit_group") {
        return exactly::<0>(operands).map(|_| Op::CpCommit);
    }
    if m.eat("wait_all") {
        return exactly::<0>(operands).map(|_| Op::CpWaitAll);
    }
    if m.eat("wait_group") {
        let [pending] = exactly(operands)?;
        let pending =
            pending.parse().map_err(|_| format!("expected a number of groups, found `{pending}`"))?;
        return Ok(Op::CpWaitGroup(pending));
    }
    let bypasses = m.one(&[("ca", false), ("cg", true)])?;
    m.one(&[("shared", ()), ("shared::cta", ())])?;
    m.expect("global")?;
    let policy = m.eat("L2::cache_hint");
    m.eat_one(&[("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())]);
    let operands = without_policy(body, policy, operands)?;
    let (head, tail) = operands.split_at_checked(3).ok_or("expected destination, source and size")?;
    let [dst, src, size]: [&str; 3] = exactly(head)?;
    let bytes = match (size, bypasses) {
        ("4", false) => 4,
        ("8", false) => 8,
        ("16", _) => 16,
        _ => return Err(format!("`{size}` is no size this form can copy")),
    };
    let (mut src_size, mut ignore_src) = (None, None);
    match tail {
        [] => {}
        [text] => match body.register(text.trim_start_matches('!').trim()) {
            Some(register) if register.bits == 1 => ignore_src = Some(predicate(body, text)?),
            _ => src_size = Some(body.source(text, Ty::U(32))?),
        },
        _ => return Err(format!("expected at most 4 operands, found {}", operands.len())),
    }
    let (dst, src) = (body.address(dst)?, body.address(src)?);
    Ok(Op::CpAsync(Box::new(CpAsync { dst, src, bytes, src_size, ignore_src })))
}

/// `ldmatrix` and `stmatrix`.
pub fn matrix(body: &mut Body<'_>, name: &str, m: &mut Mods<'_>, operands: &[&str]) -> Lowered {
    m.expect("sync")?;
    m.expect("aligned")?;
    m.expect("m8n8")?;
    let count: u8 = m.one(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = m.eat("trans");
    m.one(&[("shared", ()), ("shared::cta", ())])?;
    m.expect("b16")?;
    let [first, second] = exactly(operands)?;
    let load = name == "ldmatrix";
    let (place, data) = if load { (second, first) } else { (first, second) };
    let parts = vector(data)?;
    if parts.len() != usize::from(count) {
        return Err(format!("expected {count} registers, found {}", parts.len()));
    }
    let mut regs = [SINK32; 4];
    for (reg, text) in regs.iter_mut().zip(parts) {
        *reg = if load { body.destination(text, Ty::B(32))? } else { body.source(text, Ty::B(32))? };
    }
    let access = MatrixAccess { address: body.address(place)?, transposed, count, regs };
    Ok(if load { Op::LdMatrix(access) } else { Op::StMatrix(access) })
}
