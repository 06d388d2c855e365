//! Searches of the largest logit, run and compared.

use lacuna_core::{Error, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::argmax::Plan;
use lacuna_reference::testing::{Rng, Tensor};

use super::Device;
use super::tensor::OnDevice;

/// Rows one behind the other, `gap` elements apart.
pub fn matrix(rows: &[Vec<f32>], gap: usize) -> Tensor<f32> {
    let mut layout = Layout::thd(rows.len(), 1, rows.first().map_or(1, Vec::len));
    layout.token_stride += gap;
    layout.batch_stride = rows.len() * layout.token_stride;
    Tensor::from_fn(layout, |row, _, i| rows[row][i] as f64)
}

/// The indices of all rows, by a plan that has run before; counters that grow from 7 and from the largest number are
/// checked.
pub fn largest(device: &Device, logits: &Tensor<f32>) -> Result<Vec<u32>, Error> {
    let context = &device.context;
    let [rows, _, vocab_size] = logits.view().shape();
    let plan = Plan::new(context, vocab_size)?;
    let larger = Tensor::from_fn(*logits.view().layout(), |_, _, _| f32::MAX as f64);
    let [logits, larger] = [logits, &larger].map(|x| OnDevice::copy(device, &x.view(), "logits"));
    let stream = context.default_stream();
    let mut out = DeviceBuffer::from_host(context, &vec![7u32; rows + 1], "out")?;
    plan.run(&stream, &larger.view(), &mut out, None)?;
    let mut counters = DeviceBuffer::from_host(context, &[7u32, u32::MAX], "counters")?;
    plan.run(&stream, &logits.view(), &mut out, Some(&mut counters))?;
    let counted = if rows == 0 { [7, u32::MAX] } else { [8, 0] };
    assert_eq!(counters.to_host(&stream)?, counted);
    let mut out = out.to_host(&stream)?;
    assert_eq!(out.pop(), Some(7), "written behind the last row");
    Ok(out)
}

/// The index of one row.
pub fn expected(logits: &[f32]) -> u32 {
    if logits.iter().any(|x| !x.is_finite()) {
        return u32::MAX;
    }
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    best as u32
}

/// Finite logits of one kind or another: normal, few values, equal ones, of all magnitudes, rounded to 8 bits.
pub fn random_logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    let kind = rng.below(6);
    let scale = *rng.choose(&[0.01, 1.0, 4.0, 30.0]);
    let equal = rng.normal() as f32;
    let mut logits: Vec<f32> = (0..n)
        .map(|_| match kind {
            0 | 1 => (rng.normal() * scale) as f32,
            2 => rng.below(4) as f32 - 1.5,
            3 => equal,
            4 => *rng.choose(&[0.0, -0.0, 1e-40, -1e-40, f32::MAX, f32::MIN, -1.0]),
            _ => half::bf16::from_f64(rng.normal() * scale).to_f32(),
        })
        .collect();
    if kind == 0 && n > 0 {
        let at = rng.below(n);
        logits[at] += 200.0;
    }
    logits
}
