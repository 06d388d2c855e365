//! Matrix products: inputs, the oracle in f64, and calls.

use half::{bf16, f16};
use lacuna_core::{Layout, TensorView};
use lacuna_kernels_host::gemm::{Backend, Plan};
use lacuna_kernels_host::{DevicePtr, Error};
use lacuna_reference::testing::{Case, Rng, Tensor};

use super::{Device, Half, OnDevice};

/// A product `[m, k] x [n, k]^T`, its tensors with gaps between rows.
pub struct Product<T> {
    pub x: Tensor<T>,
    pub weight: Tensor<T>,
    pub bias: Option<Tensor<T>>,
    pub out: Layout,
}

/// Rows of `features`, `gap` elements apart.
pub fn rows(rows: usize, features: usize, gap: usize) -> Layout {
    let token_stride = features + gap;
    Layout { token_stride, batch_stride: rows * token_stride, ..Layout::thd(rows, 1, features) }
}

impl<T: Half> Product<T> {
    /// With elements from `element`.
    pub fn new(
        [m, n, k]: [usize; 3],
        gaps: [usize; 3],
        bias: bool,
        mut element: impl FnMut() -> f64,
    ) -> Self {
        Self {
            x: Tensor::from_fn(rows(m, k, gaps[0]), |_, _, _| element()),
            weight: Tensor::from_fn(rows(n, k, gaps[1]), |_, _, _| element()),
            bias: bias.then(|| Tensor::from_fn(Layout::thd(1, 1, n), |_, _, _| element())),
            out: rows(m, n, gaps[2]),
        }
    }

    /// Standard normal numbers.
    pub fn normal(rng: &mut Rng, sizes: [usize; 3], gaps: [usize; 3], bias: bool) -> Self {
        Self::new(sizes, gaps, bias, || rng.normal())
    }

    /// Integers from -3 to 3: all sums are exact.
    pub fn integers(rng: &mut Rng, sizes: [usize; 3], gaps: [usize; 3], bias: bool) -> Self {
        Self::new(sizes, gaps, bias, || rng.below(7) as f64 - 3.0)
    }

    pub fn sizes(&self) -> [usize; 3] {
        let ([m, _, k], [n, ..]) = (self.x.view().shape(), self.weight.view().shape());
        [m, n, k]
    }

    /// Runs it with a plan of its own for `max_rows` rows.
    pub fn run<O: Half>(&self, device: &Device, max_rows: usize) -> Result<Vec<O>, Error> {
        let [_, n, k] = self.sizes();
        self.run_with(device, &Plan::<T, O>::new(&device.context, max_rows, n, k, Backend::Own)?)
    }

    /// Runs it with a plan, on raw addresses: an output of f32 need not have aligned rows.
    pub fn run_with<O: Half>(&self, device: &Device, plan: &Plan<T, O>) -> Result<Vec<O>, Error> {
        let [m, ..] = self.sizes();
        let copy = |view: &TensorView<T>, name| OnDevice::copy(device, view, name);
        let (x, weight) = (copy(&self.x.view(), "x"), copy(&self.weight.view(), "weight"));
        let bias = self.bias.as_ref().map(|bias| copy(&bias.view(), "bias"));
        let out = OnDevice::<O>::poisoned(device, self.out, "out");
        let bias = bias.as_ref().map_or(DevicePtr::NULL, |bias| bias.raw().ptr);
        let stream = device.context.default_stream();
        // SAFETY: tensors of the sizes of the plan.
        unsafe { plan.run_raw(stream.raw(), x.raw(), weight.raw(), bias, out.raw(), m)? };
        Ok(out.read(device))
    }

    /// In f64, and how large the sum of the products' magnitudes is.
    pub fn oracle(&self) -> Vec<[f64; 2]> {
        let [m, n, _] = self.sizes();
        let widen = |tensor: &Tensor<T>, rows: usize| -> Vec<Vec<f64>> {
            let view = tensor.view();
            (0..rows).map(|row| view.row(row, 0).iter().map(|x| x.to_f32() as f64).collect()).collect()
        };
        let (x, weight) = (widen(&self.x, m), widen(&self.weight, n));
        let bias = self.bias.as_ref().map_or(vec![0.0; n], |bias| widen(bias, 1).remove(0));
        let of = |row: &[f64], column: usize| {
            let products = row.iter().zip(&weight[column]).map(|(a, b)| a * b);
            products.fold([bias[column], bias[column].abs()], |[sum, size], p| [sum + p, size + p.abs()])
        };
        x.iter()
            .flat_map(|row| (0..n).map(move |column| (row, column)))
            .map(|(row, column)| of(row, column))
            .collect()
    }

    /// Fails unless `got` is the product: rounded once, after sums in f32 in any order.
    pub fn assert_product<O: Half>(&self, got: &[O], case: &Case) {
        let [_, n, k] = self.sizes();
        let want = self.oracle();
        assert_eq!(got.len(), want.len(), "{case}");
        // Tensor cores cut what they add to 24 bits or a few less, k / 16 times, and partial sums are added.
        let of_sums = (k as f64 / 16.0 + 20.0) * 2f64.powi(-23);
        for (at, (got, [want, size])) in got.iter().zip(want).enumerate() {
            let got = got.to_f32() as f64;
            let allowed = size * of_sums + want.abs() * unit_roundoff::<O>() + 1e-30;
            let (row, column) = (at / n.max(1), at % n.max(1));
            assert!(
                (got - want).abs() <= allowed,
                "{case}: row {row}, column {column}: {got}, not {want} (+- {allowed:e})"
            );
        }
    }

    /// The product rounded once; of sums that are exact.
    pub fn exact<O: Half>(&self) -> Vec<O> {
        self.oracle().into_iter().map(|[sum, _]| O::from_f32(sum as f32)).collect()
    }

    /// Fails unless `got` is that.
    pub fn assert_exact<O: Half>(&self, got: &[O], case: &Case) {
        assert_same_product(got, &self.exact(), self.sizes()[1], case);
    }
}

/// Fails unless both are the same numbers; names the first of rows of `n` that is not.
pub fn assert_same_product<O: Half>(got: &[O], want: &[O], n: usize, case: &Case) {
    assert_eq!(got.len(), want.len(), "{case}");
    for (at, (got, want)) in got.iter().zip(want).enumerate() {
        let (got, want) = (got.to_f32(), want.to_f32());
        let (row, column) = (at / n.max(1), at % n.max(1));
        assert!(got == want, "{case}: row {row}, column {column}: {got}, not {want}");
    }
}

/// Half a unit in the last place, of 1.
fn unit_roundoff<O: Half>() -> f64 {
    let digits = match size_of::<O>() {
        4 => f32::MANTISSA_DIGITS,
        _ if O::DTYPE == <bf16 as lacuna_core::Element>::DTYPE => bf16::MANTISSA_DIGITS,
        _ => f16::MANTISSA_DIGITS,
    };
    // A little more: the sum that is rounded may lie on the other side of a tie.
    2f64.powi(-(digits as i32)) * 1.001
}
