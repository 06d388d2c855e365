//! f16 and bf16 instructions in f64, rounded by the `half` crate.

use super::float::compare;
use super::{Lane, each};
use half::{bf16, f16};
use lacuna_emulator::conformance::Form;

fn widen(brain: bool, x: u64) -> f64 {
    if brain { bf16::from_bits(x as u16).to_f64() } else { f16::from_bits(x as u16).to_f64() }
}

fn narrow(brain: bool, x: f64) -> u64 {
    match (x.is_nan(), brain) {
        (true, _) => 0x7fff,
        (false, true) => bf16::from_f32(to_odd(x)).to_bits() as u64,
        (false, false) => f16::from_f32(to_odd(x)).to_bits() as u64,
    }
}

/// The f32 next to `x` whose last digit is odd where `x` has more digits: rounding it again is rounding `x`.
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let toward_zero = if (near as f64).abs() > x.abs() { f32::from_bits(near.to_bits() - 1) } else { near };
    if near as f64 == x { near } else { f32::from_bits(toward_zero.to_bits() | 1) }
}

/// `x + y` with the lost digits, if any, as an odd last one.
fn sum(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let (large, small) = if x.abs() < y.abs() { (y, x) } else { (x, y) };
    let lost = large - sum + small;
    if lost == 0.0 || !sum.is_finite() || sum.to_bits() & 1 != 0 {
        return sum;
    }
    if lost > 0.0 { sum.next_up() } else { sum.next_down() }
}

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let mut parts: Vec<&str> = form.id.split('.').collect();
    let (brain, pair) = match parts.pop()? {
        "f16" => (false, false),
        "f16x2" => (false, true),
        "bf16" => (true, false),
        "bf16x2" => (true, true),
        _ => return None,
    };
    let mut take = |name: &str| {
        let before = parts.len();
        parts.retain(|&part| part != name);
        parts.len() < before
    };
    let (ftz, sat, nan, relu) = (take("ftz"), take("sat"), take("NaN"), take("relu"));
    let subnormal = |x: u64| x & if brain { 0x7f80 } else { 0x7c00 } == 0;
    let flush = |x: u64| if ftz && subnormal(x) { x & 0x8000 } else { x };
    let input = |x: u64| widen(brain, flush(x));
    let output = |x: f64| {
        let x = if sat && (x.is_nan() || x <= 0.0) { 0.0 } else { x };
        let x = if sat && x > 1.0 { 1.0 } else { x };
        let rounded = flush(narrow(brain, x));
        if relu && rounded & 0x8000 != 0 { 0 } else { rounded }
    };
    let halves = |f: &dyn Fn(&[u64]) -> u64| {
        each(lanes, |a| {
            let part = |shift: u32| f(&a.iter().map(|x| x >> shift & 0xffff).collect::<Vec<_>>());
            vec![part(0) | if pair { part(16) << 16 } else { 0 }]
        })
    };
    let float =
        |f: &dyn Fn(&[f64]) -> f64| halves(&|a| output(f(&a.iter().map(|&x| input(x)).collect::<Vec<_>>())));
    let extreme = |smallest: bool| {
        halves(&|a| match (input(a[0]), input(a[1])) {
            (x, y) if x.is_nan() && y.is_nan() => 0x7fff,
            (x, y) if nan && (x.is_nan() || y.is_nan()) => 0x7fff,
            (x, _) if x.is_nan() => flush(a[1]),
            (_, y) if y.is_nan() => flush(a[0]),
            (x, y) => flush(if x.total_cmp(&y).is_le() == smallest { a[0] } else { a[1] }),
        })
    };
    match parts[..] {
        ["add", "rn"] => float(&|a| sum(a[0], a[1])),
        ["sub", "rn"] => float(&|a| sum(a[0], -a[1])),
        ["mul", "rn"] => float(&|a| a[0] * a[1]),
        ["fma", "rn"] => float(&|a| sum(a[0] * a[1], a[2])),
        ["min"] => extreme(true),
        ["max"] => extreme(false),
        ["neg"] => float(&|a| -a[0]),
        ["abs"] => float(&|a| a[0].abs()),
        ["ex2", "approx"] => float(&|a| a[0].exp2()),
        ["tanh", "approx"] => float(&|a| a[0].tanh()),
        ["setp", comparison] => {
            each(lanes, |a| vec![compare(comparison, input(a[0]) as f32, input(a[1]) as f32).unwrap() as u64])
        }
        _ => None,
    }
}
