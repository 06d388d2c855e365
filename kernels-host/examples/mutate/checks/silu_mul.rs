//! The gate of the MLP.

use half::{bf16, f16};
use lacuna_core::Layout;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor};

use super::{Check, check};
use crate::common::silu_mul;
use crate::common::{Half, strided};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match kernel {
        "silu_mul_bf16" => Some(gates::<bf16>()),
        "silu_mul_f16" => Some(gates::<f16>()),
        _ => None,
    }
}

fn gates<T: Half>() -> Vec<Check> {
    let sizes = [(3, 1048, 4.0), (2, 64, 60.0), (1, 1024, 1.0)];
    let rows = |seed: u64, (rows, intermediate, scale): (usize, usize, f64)| {
        let mut rng = Rng::new(seed);
        let layout = strided(&mut rng, rows, 1, 2 * intermediate);
        let gate_up = Tensor::<T>::from_fn(layout, |_, _, _| scale * rng.normal());
        checked(gate_up, strided(&mut rng, rows, 1, intermediate))
    };
    let mut checks: Vec<Check> = (0..).zip(sizes).map(|(seed, size)| rows(seed, size)).collect();
    // Zeros, infinities, NaN and the far ends.
    let gates = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 200.0, -200.0, -88.0];
    let ups = [1.0, -3.0, f64::NAN, 0.25];
    let gate_up: Tensor<T> = Tensor::from_fn(Layout::thd(1, 1, 128), |_, _, i| match i.checked_sub(64) {
        None => gates[i % 8],
        Some(i) => ups[i / 8 % 4],
    });
    checks.push(checked(gate_up, Layout::thd(1, 1, 64)));
    checks
}

fn checked<T: Half>(gate_up: Tensor<T>, out: Layout) -> Check {
    check(move |device| {
        silu_mul::check(device, &gate_up, out, &case!(0));
    })
    .storing(out.tokens() * out.head_dim * 2)
}
