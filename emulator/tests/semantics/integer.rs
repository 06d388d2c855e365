//! Integer instructions in 128-bit arithmetic and bit by bit.

use super::{Lane, each};
use lacuna_emulator::conformance::Form;

#[derive(Clone, Copy)]
struct Type {
    bits: u32,
    signed: bool,
}

impl Type {
    fn of(name: &str) -> Option<Self> {
        let (kind, bits) = name.split_at_checked(1)?;
        let bits = bits.parse().ok()?;
        (matches!(kind, "s" | "u" | "b") && matches!(bits, 8 | 16 | 32 | 64))
            .then_some(Self { bits, signed: kind == "s" })
    }

    fn value(self, x: u64) -> i128 {
        let x = self.cut(x as i128) as i128;
        if self.signed && x >> (self.bits - 1) & 1 != 0 { x - (1 << self.bits) } else { x }
    }

    fn cut(self, x: i128) -> u64 {
        (x & ((1 << self.bits) - 1)) as u64
    }
}

fn compare(name: &str, x: i128, y: i128) -> Option<bool> {
    Some(match name {
        "eq" => x == y,
        "ne" => x != y,
        "lt" | "lo" => x < y,
        "le" | "ls" => x <= y,
        "gt" | "hi" => x > y,
        "ge" | "hs" => x >= y,
        _ => return None,
    })
}

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let id = form.id.as_str();
    if let Some(table) = id.strip_prefix("lop3.b32 table 0x") {
        let table = u64::from_str_radix(table, 16).unwrap();
        let bit =
            |a: &[u64], i: u32| table >> ((a[0] >> i & 1) << 2 | (a[1] >> i & 1) << 1 | a[2] >> i & 1) & 1;
        return each(lanes, |a| vec![(0..32).map(|i| bit(a, i) << i).sum()]);
    }
    if let Some((op, ty)) = id.split_once(" chain of ") {
        return chain(op == "sub", Type::of(ty)?, lanes);
    }
    if let Some(op) = id.strip_suffix(".pred") {
        return predicate(op, lanes);
    }
    if id == "selp.f32" {
        return each(lanes, |a| vec![if a[2] != 0 { a[0] } else { a[1] }]);
    }
    let parts: Vec<&str> = id.split('.').collect();
    let ty = Type::of(parts.last()?)?;
    let v = |x: u64| ty.value(x);
    let one = |f: &dyn Fn(&[u64]) -> i128| each(lanes, |a| vec![ty.cut(f(a))]);
    let word = |f: &dyn Fn(&[u64]) -> i128| each(lanes, |a| vec![f(a) as u32 as u64]);
    let positive_odd = |x: u64| {
        let odd = x | 1;
        v(if ty.signed { odd & ((1 << (ty.bits - 1)) - 1) } else { odd })
    };
    match parts[..parts.len() - 1] {
        ["add"] => one(&|a| v(a[0]) + v(a[1])),
        ["sub"] => one(&|a| v(a[0]) - v(a[1])),
        ["mul", "lo"] => one(&|a| v(a[0]).wrapping_mul(v(a[1]))),
        ["mul", "hi"] => each(lanes, |a| vec![high(ty, a[0], a[1])]),
        ["mad", "lo"] => one(&|a| v(a[0]).wrapping_mul(v(a[1])).wrapping_add(v(a[2]))),
        ["mad", "hi"] => each(lanes, |a| vec![ty.cut(high(ty, a[0], a[1]) as i128 + v(a[2]))]),
        ["mul", "wide"] => {
            let wide = Type { bits: 2 * ty.bits, ..ty };
            each(lanes, |a| vec![wide.cut(v(a[0]) * v(a[1]))])
        }
        ["mad", "wide"] => each(lanes, |a| vec![(v(a[0]) * v(a[1])) as u64])
            .map(|products| products.iter().zip(lanes).map(|(p, a)| vec![p[0].wrapping_add(a[2])]).collect()),
        ["div"] => one(&|a| v(a[0]) / positive_odd(a[1])),
        ["rem"] => one(&|a| v(a[0]) % positive_odd(a[1])),
        ["min"] => one(&|a| v(a[0]).min(v(a[1]))),
        ["max"] => one(&|a| v(a[0]).max(v(a[1]))),
        ["neg"] => one(&|a| -v(a[0])),
        ["abs"] => one(&|a| v(a[0]).abs()),
        ["and"] => one(&|a| v(a[0]) & v(a[1])),
        ["or"] => one(&|a| v(a[0]) | v(a[1])),
        ["xor"] => one(&|a| v(a[0]) ^ v(a[1])),
        ["not"] => one(&|a| !v(a[0])),
        ["selp"] => one(&|a| v(if a[2] != 0 { a[0] } else { a[1] })),
        ["prmt"] => each(lanes, permute),
        ["shl"] => one(&|a| if a[1] >= ty.bits as u64 { 0 } else { v(a[0]) << a[1] }),
        ["shr"] => one(&|a| v(a[0]) >> a[1].min(ty.bits as u64)),
        ["shf", side, mode] => each(lanes, |a| vec![funnel(side == "l", mode == "wrap", a)]),
        ["bfe"] => each(lanes, |a| vec![extract(ty, a)]),
        ["bfi"] => each(lanes, |a| vec![insert(ty, a)]),
        ["bfind"] => word(&|a| find(ty, a[0]).map_or(-1, i128::from)),
        ["bfind", "shiftamt"] => word(&|a| find(ty, a[0]).map_or(-1, |at| (ty.bits - 1 - at) as i128)),
        ["clz"] => word(&|a| (0..ty.bits).rev().take_while(|&i| a[0] >> i & 1 == 0).count() as i128),
        ["popc"] => word(&|a| (0..ty.bits).filter(|&i| a[0] >> i & 1 != 0).count() as i128),
        ["brev"] => each(lanes, |a| vec![(0..ty.bits).map(|i| (a[0] >> i & 1) << (ty.bits - 1 - i)).sum()]),
        ["dp4a", first] => {
            let (x, y) = (Type { bits: 8, ..Type::of(first)? }, Type { bits: 8, ..ty });
            let byte = |t: Type, a: u64, i: u32| t.value(a >> (8 * i) & 0xff);
            word(&|a| v(a[2]) + (0..4).map(|i| byte(x, a[0], i) * byte(y, a[1], i)).sum::<i128>())
        }
        ["setp", comparison] => {
            compare(comparison, 0, 0)?;
            each(lanes, |a| vec![compare(comparison, v(a[0]), v(a[1])).unwrap() as u64])
        }
        ["setp", "lt", logic] => each(lanes, |a| {
            let (less, third) = (v(a[0]) < v(a[1]), a[2] != 0);
            let combine = |x: bool| match logic {
                "and" => x & third,
                "or" => x | third,
                _ => x ^ third,
            };
            vec![combine(less) as u64, combine(!less) as u64]
        }),
        ["set", "lt", "u32"] => each(lanes, |a| vec![if v(a[0]) < v(a[1]) { 0xffff_ffff } else { 0 }]),
        _ => None,
    }
}

/// The upper half of a product, by schoolbook digits so that 64 bits fit.
fn high(ty: Type, x: u64, y: u64) -> u64 {
    let (x, y) = (ty.value(x), ty.value(y));
    let half = ty.bits / 2;
    let (x_low, x_high) = (x & ((1 << half) - 1), x >> half);
    let (y_low, y_high) = (y & ((1 << half) - 1), y >> half);
    let middle = x_high * y_low + ((x_low * y_low) >> half);
    let rest = x_low * y_high + (middle & ((1 << half) - 1));
    ty.cut(x_high * y_high + (middle >> half) + (rest >> half))
}

fn chain(subtract: bool, ty: Type, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    each(lanes, |a| {
        let mut carry = 0;
        (0..3)
            .map(|i| {
                let (x, y) = (a[i] as i128, a[i + 3] as i128);
                let sum = if subtract { x - y - carry } else { x + y + carry };
                carry = (sum < 0 || sum >> ty.bits != 0) as i128;
                ty.cut(sum)
            })
            .collect()
    })
}

fn predicate(op: &str, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let f: fn(u64, u64) -> u64 = match op {
        "and" => |x, y| x & y,
        "or" => |x, y| x | y,
        "xor" => |x, y| x ^ y,
        "not" => |x, _| 1 - x,
        "mov" => |x, _| x,
        _ => return None,
    };
    each(lanes, |a| vec![f(a[0], a[1])])
}

fn permute(a: &[u64]) -> Vec<u64> {
    let bytes = a[1] << 32 | a[0];
    let byte = |i: u32| {
        let selector = a[2] >> (4 * i) & 15;
        let byte = bytes >> (8 * (selector & 7)) & 0xff;
        if selector & 8 != 0 { (byte >> 7) * 0xff } else { byte }
    };
    vec![(0..4).map(|i| byte(i) << (8 * i)).sum()]
}

fn funnel(left: bool, wrap: bool, a: &[u64]) -> u64 {
    let amount = if wrap { a[2] & 31 } else { a[2].min(32) };
    let joined = a[1] << 32 | a[0];
    if left { (joined << amount) >> 32 & 0xffff_ffff } else { joined >> amount & 0xffff_ffff }
}

fn extract(ty: Type, a: &[u64]) -> u64 {
    let (top, position, length) = (ty.bits as u64 - 1, a[1], a[2]);
    let sign = if ty.signed && length > 0 { a[0] >> (position + length - 1).min(top) & 1 } else { 0 };
    let bit = |i: u64| if i < length && position + i <= top { a[0] >> (position + i) & 1 } else { sign };
    (0..=top).map(|i| bit(i) << i).sum()
}

fn insert(ty: Type, a: &[u64]) -> u64 {
    let (position, length) = (a[2], a[3]);
    let bit = |i: u64| {
        let inside = i >= position && i < position + length;
        if inside { a[0] >> (i - position) & 1 } else { a[1] >> i & 1 }
    };
    (0..ty.bits as u64).map(|i| bit(i) << i).sum()
}

/// Place of the highest bit that differs from the sign.
fn find(ty: Type, x: u64) -> Option<u32> {
    let sign = if ty.signed { x >> (ty.bits - 1) & 1 } else { 0 };
    (0..ty.bits).rev().find(|&i| x >> i & 1 != sign)
}
