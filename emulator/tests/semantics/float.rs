//! f32 instructions on the host's floating point, and the approximate functions in f64.

use super::{Lane, each};
use lacuna_emulator::conformance::Form;

fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

pub fn expected(form: &Form, lanes: &[Lane]) -> Option<Vec<Vec<u64>>> {
    let opcode = form.id.strip_suffix(" everywhere").unwrap_or(&form.id);
    let opcode = opcode.strip_suffix(".f32")?;
    let mut parts: Vec<&str> = opcode.split('.').collect();
    let mut take = |name: &str| {
        let before = parts.len();
        parts.retain(|&part| part != name);
        parts.len() < before
    };
    let (ftz, sat, nan) = (take("ftz"), take("sat"), take("NaN"));
    let input = |x: u64| {
        let x = f32::from_bits(x as u32);
        if ftz { flush(x) } else { x }
    };
    let output = |x: f32| {
        let x = if ftz { flush(x) } else { x };
        // The comparisons are false for NaN and −0, which saturation turns into +0.
        let clamped = if x > 1.0 {
            1.0
        } else if x > 0.0 {
            x
        } else {
            0.0
        };
        bits(if sat { clamped } else { x })
    };
    let float = |f: &dyn Fn(&[f32]) -> f32| {
        each(lanes, |a| {
            let operands: Vec<f32> = a.iter().map(|&x| input(x)).collect();
            vec![output(f(&operands))]
        })
    };
    let wide = |f: &dyn Fn(f64) -> f64| float(&|a| f(a[0] as f64) as f32);
    match parts[..] {
        ["add", "rn"] => float(&|a| a[0] + a[1]),
        ["sub", "rn"] => float(&|a| a[0] - a[1]),
        ["mul", "rn"] => float(&|a| a[0] * a[1]),
        ["fma", "rn"] => float(&|a| a[0].mul_add(a[1], a[2])),
        ["div", "rn"] | ["div", "full"] => float(&|a| a[0] / a[1]),
        ["div", "approx"] => float(&|a| match a[1].abs() {
            y if y > 2f32.powi(126) && y.is_finite() => a[0] * 0f32.copysign(a[1]),
            _ => a[0] / a[1],
        }),
        ["rcp", "rn" | "approx"] => float(&|a| 1.0 / a[0]),
        ["sqrt", "rn" | "approx"] => float(&|a| a[0].sqrt()),
        ["rsqrt", "approx"] => wide(&|x| 1.0 / x.sqrt()),
        ["ex2", "approx"] => wide(&f64::exp2),
        ["lg2", "approx"] => wide(&f64::log2),
        ["sin", "approx"] => wide(&f64::sin),
        ["cos", "approx"] => wide(&f64::cos),
        ["tanh", "approx"] => wide(&f64::tanh),
        ["min"] => float(&|a| extreme(a[0], a[1], true, nan)),
        ["max"] => float(&|a| extreme(a[0], a[1], false, nan)),
        ["neg"] => float(&|a| -a[0]),
        ["abs"] => float(&|a| a[0].abs()),
        // The sign of the first operand, the magnitude of the second, whatever they are.
        ["copysign"] => each(lanes, |a| vec![a[0] & 0x8000_0000 | a[1] & 0x7fff_ffff]),
        ["setp", comparison] => {
            compare(comparison, 0.0, 0.0)?;
            each(lanes, |a| vec![compare(comparison, input(a[0]), input(a[1])).unwrap() as u64])
        }
        ["set", comparison, ty] => {
            let yes = if ty == "f32" { 0x3f80_0000 } else { 0xffff_ffff };
            each(lanes, |a| {
                vec![if compare(comparison, input(a[0]), input(a[1])).unwrap() { yes } else { 0 }]
            })
        }
        _ => None,
    }
}

/// Comparisons ending in `u` are true for NaN.
pub fn compare(name: &str, x: f32, y: f32) -> Option<bool> {
    let unordered = x.is_nan() || y.is_nan();
    Some(match name {
        "eq" => x == y,
        "ne" => x != y && !unordered,
        "lt" => x < y,
        "le" => x <= y,
        "gt" => x > y,
        "ge" => x >= y,
        "equ" => x == y || unordered,
        "neu" => x != y,
        "ltu" => x < y || unordered,
        "leu" => x <= y || unordered,
        "gtu" => x > y || unordered,
        "geu" => x >= y || unordered,
        "num" => !unordered,
        "nan" => unordered,
        _ => return None,
    })
}

fn extreme(x: f32, y: f32, smallest: bool, nan: bool) -> f32 {
    match (x.is_nan(), y.is_nan()) {
        (false, false) => {
            // The total order of IEEE 754 puts −0 below +0.
            let first = x.total_cmp(&y).is_le() == smallest;
            if first { x } else { y }
        }
        (true, true) => f32::NAN,
        _ if nan => f32::NAN,
        (true, false) => y,
        (false, true) => x,
    }
}
