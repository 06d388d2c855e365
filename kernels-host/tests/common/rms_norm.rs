//! RMSNorm, run and compared.

use lacuna_core::{Element, Error, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::rms_norm::Plan;
use lacuna_reference::testing::{Case, Rng, Tensor, assert_bits};

use super::Device;
use super::tensor::{Half, OnDevice, random, strided};

/// One call.
pub struct Norm<T> {
    pub x: Tensor<T>,
    pub branch: Option<Tensor<T>>,
    pub weight: Vec<T>,
    pub eps: f32,
    pub first_token: u32,
    /// What `not_finite` holds before, if it is asked for.
    pub not_finite: Option<u32>,
    pub out: Layout,
}

/// What a call leaves behind.
pub struct Normed<T> {
    pub x: Vec<T>,
    pub out: Vec<T>,
    pub not_finite: Option<u32>,
}

impl<T: Half> Norm<T> {
    /// Normal rows of some magnitude, weights around 1.
    pub fn random(rng: &mut Rng, rows: usize, hidden: usize, add: bool) -> Self {
        let scale = *rng.choose(&[1e-3, 1.0, 30.0]);
        let layout = strided(rng, rows, 1, hidden);
        let x = Tensor::from_fn(layout, |_, _, _| scale * rng.normal());
        let branch = add.then(|| random(rng, rows, 1, hidden));
        let weight = (0..hidden).map(|_| T::from_f64(1.0 + 0.3 * rng.normal())).collect();
        Self {
            x,
            branch,
            weight,
            eps: *rng.choose(&[1e-5, 1e-6, 0.5]),
            first_token: rng.below(1000) as u32,
            not_finite: Some(u32::MAX),
            out: strided(rng, rows, 1, hidden),
        }
    }

    pub fn rows(&self) -> usize {
        self.out.tokens()
    }

    pub fn hidden(&self) -> usize {
        self.weight.len()
    }

    /// On the device.
    pub fn run(&self, device: &Device) -> Result<Normed<T>, Error> {
        let context = &device.context;
        let stream = context.default_stream();
        let plan = Plan::<T>::new(context, self.hidden(), self.eps)?;
        let mut x = OnDevice::copy(device, &self.x.view(), "x");
        let weight = DeviceBuffer::from_host(context, &self.weight, "weight")?;
        let mut out = OnDevice::poisoned(device, self.out, "out");
        let mut found = match self.not_finite {
            Some(before) => Some(DeviceBuffer::from_host(context, &[before], "not_finite")?),
            None => None,
        };
        match &self.branch {
            None => {
                let out = &mut out.view_mut();
                plan.run(&stream, &x.view(), &weight, out, self.first_token, found.as_mut())?;
            }
            Some(branch) => {
                let branch = OnDevice::copy(device, &branch.view(), "branch");
                let (x, branch, out) = (&mut x.view_mut(), &branch.view(), &mut out.view_mut());
                plan.run_add(&stream, x, branch, &weight, out, self.first_token, found.as_mut())?;
            }
        }
        let not_finite = match found {
            Some(found) => Some(found.to_host(&stream)?[0]),
            None => None,
        };
        Ok(Normed { x: x.read(device), out: out.read(device), not_finite })
    }

    /// `x` after the addition: the sum in f32, rounded.
    pub fn sum(&self) -> Vec<T> {
        let x = self.x.to_vec();
        let Some(branch) = &self.branch else { return x };
        let add = |(x, b): (&T, &T)| T::from_f32(x.to_f32() + b.to_f32());
        x.iter().zip(&branch.to_vec()).map(add).collect()
    }

    /// The formula of the runner on a CPU, in f32. Where the sums of squares are exact, its bits are the device's.
    pub fn formula(&self) -> Vec<T> {
        let sum = self.sum();
        let normed = sum.chunks(self.hidden()).flat_map(|x| {
            let mean = x.iter().map(|x| x.to_f32() * x.to_f32()).sum::<f32>() / self.hidden() as f32;
            let scale = 1.0 / (mean + self.eps).sqrt();
            let normed =
                |(x, w): (&T, &T)| T::from_f32(w.to_f32() * T::from_f32(x.to_f32() * scale).to_f32());
            x.iter().zip(&self.weight).map(normed).collect::<Vec<T>>()
        });
        normed.collect()
    }

    /// The token that `not_finite` names.
    fn first_not_finite(&self) -> u32 {
        let sum = self.sum();
        let row = sum.chunks(self.hidden()).position(|x| x.iter().any(|x| !x.to_f32().is_finite()));
        row.map_or(u32::MAX, |row| self.first_token + row as u32)
    }

    /// On the device, and compared with f64: `x` is the rounded sum bit for bit, and every element of the output is what
    /// one of two roundings of the quotient gives: those of the ends of an interval that holds the f32 quotient, and are
    /// nearly always one.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) -> Normed<T> {
        let got = super::unwrap(self.run(device), case);
        let sum = self.sum();
        assert_bits(&got.x, &sum, case);
        // Sums of 65536 squares over lanes and warps, mean, root and quotient.
        let slack = 2e-6;
        for (row, x) in sum.chunks(self.hidden()).enumerate() {
            let mean = x.iter().map(|x| (x.to_f32() as f64).powi(2)).sum::<f64>() / self.hidden() as f64;
            let scale = 1.0 / (mean + self.eps as f64).sqrt();
            for (i, (x, w)) in x.iter().zip(&self.weight).enumerate() {
                let got = got.out[row * self.hidden() + i].to_f32();
                let want = [scale * (1.0 - slack), scale * (1.0 + slack)].map(|scale| {
                    let normal = T::from_f64(x.to_f32() as f64 * scale).to_f32();
                    T::from_f32(w.to_f32() * normal).to_f32()
                });
                let same = |want: f32| got == want || (got.is_nan() && want.is_nan());
                assert!(
                    want.into_iter().any(same),
                    "row {row}, {i}: got {got}, want {want:?}\n  repeat: {case}"
                );
            }
        }
        if let (Some(before), Some(after)) = (self.not_finite, got.not_finite) {
            assert_eq!(after, before.min(self.first_not_finite()), "not_finite\n  repeat: {case}");
        }
        got
    }
}
