//! Memory instructions on byte arrays.

use super::{Lane, each};
use half::f16;
use lacuna_emulator::conformance::Form;

/// The record of four words that loads and copies read.
fn record(a: &[u64]) -> Vec<u8> {
    a[..4].iter().flat_map(|&word| (word as u32).to_le_bytes()).collect()
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |x, &byte| x << 8 | byte as u64)
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(4).map(number).collect()
}

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let id = form.id.as_str();
    let ty = id.rsplit('.').next()?;
    if id.starts_with("ld.") {
        return loads(id, ty, lanes);
    }
    if id.starts_with("st.") {
        return stores(id, ty, lanes);
    }
    if let Some(copy) = id.strip_prefix("cp.async.") {
        let bytes: usize = copy.split(" of ").nth(1)?.split(',').next()?.parse().ok()?;
        return each(lanes, |a| {
            let read = a.get(4).map_or(bytes, |&size| size as usize);
            let mut tile = [0xff; 16];
            tile[..bytes].fill(0);
            tile[..read].copy_from_slice(&record(a)[..read]);
            words(&tile)
        });
    }
    if let Some(rest) = id.strip_prefix("atom.").or(id.strip_prefix("red.")) {
        let op = rest.split('.').nth(1)?;
        let global = rest.starts_with("global");
        let old_too = id.starts_with("atom");
        return each(lanes, |a| {
            let new = atomic(op, ty, global, a);
            if old_too { vec![a[0], new] } else { vec![new] }
        });
    }
    match id {
        "cvta.shared.u64" | "cvta.local.u64" => each(lanes, |a| vec![a[0], a[1]]),
        // The generic address of the operands: the second of them, then the first.
        "cvta.to.global.u64" => each(lanes, |a| vec![a[1], a[0]]),
        "isspacep" => each(lanes, |_| vec![1, 0, 1]),
        _ => None,
    }
}

fn loads(id: &str, ty: &str, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let count = match id {
        _ if id.contains(".v2.") => 2,
        _ if id.contains(".v4.") => 4,
        _ => 1,
    };
    let width: usize = ty[1..].parse::<usize>().ok()? / 8;
    let at = match (count, ty) {
        (1, "u8") => 3,
        (1, "s8") => 5,
        (1, "u16") => 6,
        (1, "s16") => 2,
        (1, "b32" | "f32") => 4,
        (1, "b64") => 8,
        _ => 0,
    };
    let extend = |x: u64| match ty {
        "s8" => x as u8 as i8 as i32 as u32 as u64,
        "s16" => x as u16 as i16 as i32 as u32 as u64,
        _ => x,
    };
    each(lanes, |a| {
        record(a)[at..at + count * width].chunks_exact(width).map(|x| extend(number(x))).collect()
    })
}

fn stores(id: &str, ty: &str, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    each(lanes, |a| {
        let bytes = record(a);
        let mut tile = [0; 16];
        match ty {
            "b8" => tile[3] = bytes[0],
            "b16" => tile[6..8].copy_from_slice(&bytes[4..6]),
            "b64" if id.contains(".v2.") => tile.copy_from_slice(&bytes),
            "b64" => tile[8..].copy_from_slice(&bytes[..8]),
            _ if id.contains(".v2.") => tile[8..].copy_from_slice(&bytes[..8]),
            _ if id.contains(".v4.") => {
                for (part, word) in tile.chunks_exact_mut(4).zip(bytes.chunks_exact(4).rev()) {
                    part.copy_from_slice(word);
                }
            }
            _ => tile[4..8].copy_from_slice(&bytes[..4]),
        }
        words(&tile)
    })
}

/// What memory holds after the operation.
fn atomic(op: &str, ty: &str, global: bool, a: &[u64]) -> u64 {
    let (old, b) = (a[0], a[1]);
    let mask = if ty.ends_with("64") { u64::MAX } else { u32::MAX as u64 };
    let signed = |x: u64| if ty == "s32" { x as u32 as i32 as i64 } else { x as i64 };
    let is_signed = ty.starts_with('s');
    let first = |smallest: bool| {
        let less = if is_signed { signed(old) < signed(b) } else { old < b };
        if less == smallest { old } else { b }
    };
    match (op, ty) {
        ("add", "f32") => {
            // In global memory subnormals are flushed, in shared memory they are kept.
            let flush = |x: f32| if global && x.is_subnormal() { 0f32.copysign(x) } else { x };
            let float = |x: u64| flush(f32::from_bits(x as u32));
            let sum = flush(float(old) + float(b));
            if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() as u64 }
        }
        ("add", "f16x2") => {
            // The sum of two f16 in f32, rounded again, is the rounded sum.
            let half = |x: u64, shift: u32| f16::from_bits((x >> shift) as u16).to_f32();
            let sum = |shift: u32| {
                let sum = f16::from_f32(half(old, shift) + half(b, shift));
                (if sum.is_nan() { 0x7fff } else { sum.to_bits() as u64 }) << shift
            };
            sum(16) | sum(0)
        }
        ("add", _) => old.wrapping_add(b) & mask,
        ("min", _) => first(true),
        ("max", _) => first(false),
        ("inc", _) => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        ("dec", _) => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        ("and", _) => old & b,
        ("or", _) => old | b,
        ("xor", _) => old ^ b,
        ("exch", _) => b,
        // Compares with the old value itself or with the second operand.
        _ => {
            if a[3] != 0 || old == b {
                a[2]
            } else {
                old
            }
        }
    }
}
