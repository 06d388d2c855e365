//! Conversions by Rust's casts, which saturate and turn NaN into zero, and by the `half` crate.

use super::{Lane, each};
use half::{bf16, f16};
use lacuna_emulator::conformance::Form;

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let id = form.id.as_str();
    if id.starts_with("mov.b") {
        return moves(id, lanes);
    }
    let mut parts: Vec<&str> = id.strip_prefix("cvt.")?.split('.').collect();
    let mut take = |name: &str| {
        let before = parts.len();
        parts.retain(|&part| part != name);
        parts.len() < before
    };
    let (ftz, sat, relu) = (take("ftz"), take("sat"), take("relu"));
    let input = |x: u64| {
        let x = f32::from_bits(x as u32);
        if ftz && x.is_subnormal() { 0f32.copysign(x) } else { x }
    };
    match parts[..] {
        ["f32", "f32"] => each(lanes, |a| {
            let x = input(a[0]);
            let clamped = if x > 1.0 {
                1.0
            } else if x > 0.0 {
                x
            } else {
                0.0
            };
            vec![f32_bits(if sat { clamped } else { x })]
        }),
        [round, "f32", "f32"] => each(lanes, |a| vec![f32_bits(integral(round, input(a[0])))]),
        ["f32", "f16"] => each(lanes, |a| vec![f32_bits(f16::from_bits(a[0] as u16).to_f32())]),
        ["rn", "f32", from] => each(lanes, |a| vec![f32_bits(integer(from, a[0]) as f32)]),
        ["rn", "f16", "f32"] => each(lanes, |a| vec![cut(narrow(false, input(a[0])), relu)]),
        ["rn", "bf16", "f32"] => each(lanes, |a| vec![cut(narrow(true, input(a[0])), relu)]),
        ["rn", "f16", from] => each(lanes, |a| {
            // Exact in f64 up to 2^53, and from there on far above the largest f16.
            vec![f16::from_f64(integer(from, a[0]) as f64).to_bits() as u64]
        }),
        ["rn", pair @ ("f16x2" | "bf16x2"), "f32"] => {
            let half = |x: u64| cut(narrow(pair == "bf16x2", input(x)), relu);
            each(lanes, |a| vec![half(a[0]) << 16 | half(a[1])])
        }
        ["rzi", to, "f16"] => each(lanes, |a| vec![to_integer(to, f16::from_bits(a[0] as u16).to_f64())]),
        [round, to, "f32"] if round.ends_with('i') => {
            each(lanes, |a| vec![to_integer(to, integral(round, input(a[0])) as f64)])
        }
        [to, from] => {
            let (low, high) = range(to);
            each(lanes, |a| {
                let x = integer(from, a[0]);
                let kept = if sat { x.clamp(low, high) } else { x };
                vec![register(to, from, kept)]
            })
        }
        _ => None,
    }
}

fn f32_bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

fn narrow(brain: bool, x: f32) -> u64 {
    match (x.is_nan(), brain) {
        (true, _) => 0x7fff,
        (false, true) => bf16::from_f32(x).to_bits() as u64,
        (false, false) => f16::from_f32(x).to_bits() as u64,
    }
}

/// `.relu`.
fn cut(x: u64, relu: bool) -> u64 {
    if relu && x & 0x8000 != 0 { 0 } else { x }
}

fn integral(round: &str, x: f32) -> f32 {
    match round {
        "rni" => x.round_ties_even(),
        "rzi" => x.trunc(),
        "rmi" => x.floor(),
        _ => x.ceil(),
    }
}

fn bits(ty: &str) -> u32 {
    ty[1..].parse().unwrap()
}

fn range(ty: &str) -> (i128, i128) {
    let bits = bits(ty);
    if ty.starts_with('s') { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn integer(ty: &str, x: u64) -> i128 {
    let bits = bits(ty);
    let x = x as i128 & ((1 << bits) - 1);
    if ty.starts_with('s') && x >> (bits - 1) != 0 { x - (1 << bits) } else { x }
}

/// An integer as its register holds it: 8-bit results are extended to 16 bits where the source has 16, else to 32.
fn register(to: &str, from: &str, x: i128) -> u64 {
    let width = match (bits(to), bits(from)) {
        (8, 16) => 16,
        (8, _) => 32,
        (bits, _) => bits,
    };
    (integer(to, x as u64) & ((1 << width) - 1)) as u64
}

fn to_integer(ty: &str, x: f64) -> u64 {
    if x.is_nan() {
        return if bits(ty) == 64 { 1 << 63 } else { 0 };
    }
    let (low, high) = range(ty);
    let x = x.trunc();
    let clamped = if x <= low as f64 {
        low
    } else if x >= high as f64 {
        high
    } else {
        x as i128
    };
    (clamped & ((1 << bits(ty)) - 1)) as u64
}

fn moves(id: &str, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let split =
        |x: u64, width: u32, parts: u32| (0..parts).map(|i| x >> (width * i) & ((1 << width) - 1)).collect();
    let join =
        |a: &[u64], width: u32| a.iter().rev().fold(0, |x, &part| x << width | part & ((1 << width) - 1));
    match id {
        "mov.b32 from two b16" | "mov.b64 from four b16" => each(lanes, |a| vec![join(a, 16)]),
        "mov.b64 from two b32" => each(lanes, |a| vec![join(a, 32)]),
        "mov.b32 to two b16" => each(lanes, |a| split(a[0], 16, 2)),
        "mov.b64 to two b32" => each(lanes, |a| split(a[0], 32, 2)),
        "mov.b64 to four b16" => each(lanes, |a| split(a[0], 16, 4)),
        "mov.b16" => each(lanes, |a| vec![a[0] & 0xffff]),
        "mov.b32" | "mov.b64" => each(lanes, |a| vec![a[0]]),
        _ => None,
    }
}
