//! RMSNorm of rows, and the residual addition before it.

use half::{bf16, f16};
use lacuna_core::{DType, Layout};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor, assert_bits};

use super::{Check, check};
use crate::common::Half;
use crate::common::rms_norm::Norm;

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let name = kernel.strip_prefix("rms_norm_")?;
    let (dtype, variant) = name.split_once('_').unwrap_or((name, ""));
    let wide = variant.starts_with("wide");
    let add = variant.ends_with("add");
    match dtype {
        "bf16" => Some(norms::<bf16>(wide, add)),
        "f16" => Some(norms::<f16>(wide, add)),
        _ => None,
    }
}

/// A plan has a kernel with the addition and one without.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let plain = kernel.strip_suffix("_add").unwrap_or(kernel);
    plain.starts_with("rms_norm_").then(|| vec![plain.to_owned(), format!("{plain}_add")])
}

fn norms<T: Half>(wide: bool, add: bool) -> Vec<Check> {
    // Rows that end in each of the pieces that a thread has room for, and the longest.
    let (threads, pieces) = if wide { (1024, 1..8) } else { (256, 0..4) };
    let longest = threads * 8 * pieces.end;
    let sizes = pieces.map(|i| threads * 8 * i + 8).chain([longest]);
    let norm = |seed, rows, hidden| Norm::<T>::random(&mut Rng::new(seed), rows, hidden, add);
    let checked = |norm: Norm<T>| {
        let stored = norm.rows() * norm.hidden() * if add { 4 } else { 2 };
        check(move |device| {
            norm.check(device, &case!(0));
        })
        .storing(stored)
    };
    // Without much of an `eps`, which could hide what the sum lacks.
    let sums = |seed, hidden| Norm { eps: 1e-12, ..norm(seed, 2, hidden) };
    let mut checks: Vec<Check> = (0..).zip(sizes).map(|(seed, hidden)| checked(sums(seed, hidden))).collect();
    let short = if wide { 8456 } else { 264 };
    let silent = Norm { not_finite: None, ..norm(8, 2, short) };
    checks.push(checked(silent).under(Scheduler::Adversarial(1)));
    // What is not finite, in every other element of the second row or in its last alone, and in the third row.
    let cases = [
        (f64::NAN, true, Some(u32::MAX)),
        (f64::INFINITY, true, Some(u32::MAX)),
        (f64::NEG_INFINITY, false, Some(u32::MAX)),
        (f64::INFINITY, false, Some(0)),
        (f64::NAN, false, None),
    ];
    for (seed, (value, many, not_finite)) in (9..).zip(cases) {
        let mut bad = Norm { not_finite, ..norm(seed, 3, longest) };
        let x = bad.x.clone();
        bad.x = Tensor::from_fn(Layout::thd(3, 1, longest), |row, _, i| match row {
            1 if i == longest - 1 || (many && i % 2 == 0) => value,
            2 if i == 0 => value,
            _ => x.view().row(row, 0)[i].to_f64(),
        });
        checks.push(check(move |device| {
            bad.check(device, &case!(0));
        }));
    }
    if T::DTYPE == DType::Bf16 {
        // Finite, and too large for the sum of their squares.
        let mut large = norm(14, 1, short);
        large.x = Tensor::from_fn(Layout::thd(1, 1, short), |_, _, i| if i % 2 == 0 { 1e30 } else { -1e30 });
        checks.push(check(move |device| {
            let got = large.run(device).expect("a norm");
            assert_eq!(got.not_finite, Some(u32::MAX), "got a token, want none");
            assert_bits(&got.out, &large.formula(), &case!(0));
        }));
    }
    checks
}
