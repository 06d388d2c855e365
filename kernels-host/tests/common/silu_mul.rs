//! The gate of the MLP, run and compared.

use lacuna_core::{DType, Error, Layout};
use lacuna_kernels_host::silu_mul::Plan;
use lacuna_reference::silu_mul;
use lacuna_reference::testing::{Case, Tensor};

use super::Device;
use super::tensor::{Half, OnDevice};

/// On the device.
pub fn gate<T: Half>(device: &Device, gate_up: &Tensor<T>, out: Layout) -> Result<Vec<T>, Error> {
    let context = &device.context;
    let plan = Plan::<T>::new(context, out.head_dim)?;
    let gate_up = OnDevice::copy(device, &gate_up.view(), "gate_up");
    let mut out = OnDevice::poisoned(device, out, "out");
    plan.run(&context.default_stream(), &gate_up.view(), &mut out.view_mut())?;
    Ok(out.read(device))
}

/// On the device, and compared with f64: every element is what one of two roundings gives, those of the ends of an interval
/// that holds the f32 result and is a millionth wide, or little more where the exponential is not small.
#[track_caller]
pub fn check<T: Half>(device: &Device, gate_up: &Tensor<T>, out: Layout, case: &Case) -> Vec<T> {
    let got = super::unwrap(gate(device, gate_up, out), case);
    let intermediate = out.head_dim;
    for (row, got) in got.chunks(intermediate).enumerate() {
        let row = gate_up.view().row(row, 0).to_vec();
        let (gate, up) = row.split_at(intermediate);
        let want = silu_mul(gate, up).unwrap();
        for (i, (&got, want)) in got.iter().zip(want).enumerate() {
            let (g, up) = (gate[i].to_f32() as f64, up[i].to_f32() as f64);
            // The rounding of the exponent grows with it; beyond 87 the exponential is subnormal, which is zero.
            let slack = want.abs() * (8.0 + g.abs().min(90.0)) * 2f64.powi(-23)
                + if T::DTYPE == DType::Bf16 && g < -87.0 { 1.1e-36 * up.abs() } else { 0.0 };
            let ends = [want - slack, want + slack].map(|want| T::from_f64(want).to_f32());
            let got = got.to_f32();
            let same = got as f64 == want || (got.is_nan() && want.is_nan());
            let within = same || (ends[0] <= got && got <= ends[1]);
            assert!(within, "{i}: silu({g}) * {up} is {got}, want {want:e}\n  repeat: {case}");
        }
    }
    got
}
