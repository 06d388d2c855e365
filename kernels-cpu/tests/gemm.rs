//! Matrix products against the reference, on every instruction set.

mod common;

use common::on_every_isa;
use half::{bf16, f16};
use lacuna_core::Element;
use lacuna_kernels_cpu::gemm::{PackedWeights, matmul};
use lacuna_reference::case;
use lacuna_reference::testing::{self, Number, Rng, Tolerance};

fn random<T: Element>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::from_f64(rng.normal())).collect()
}

fn seeded<T: Element + Number>() {
    for seed in testing::seeds(10) {
        let mut rng = Rng::new(seed);
        let m = *rng.choose(&[1, 2, 3, 4, 5, 17, 129, 200]);
        let [n, k] = [0, 1].map(|_| *rng.choose(&[1, 15, 16, 33, 64, 255, 300, 513]));
        let (a, w) = (random::<T>(&mut rng, m * k), random::<T>(&mut rng, n * k));
        let want = lacuna_reference::gemm(&a, &w, None, k, n).unwrap();
        // Sums of k products of unit variance in f32; 16-bit results are rounded besides.
        let sums = 4e-7 * k as f64;
        let rounding = match T::DTYPE {
            lacuna_core::DType::F32 => 0.0,
            lacuna_core::DType::F16 => 2f64.powi(-11),
            lacuna_core::DType::Bf16 => 2f64.powi(-8),
        };
        let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        on_every_isa(|isa| {
            let case = case!(seed, "{isa:?} {:?} {m} x {n} x {k}", T::DTYPE);
            let packed = PackedWeights::new(&w, n, k).unwrap();
            let mut c = testing::nans::<T>(m * n);
            matmul(&a, &packed, &mut c).unwrap();
            testing::assert_close(&c, &want, Tolerance::absolute(sums + largest * rounding), &case);
            let mut wide = testing::nans::<f32>(m * n);
            matmul(&a, &packed, &mut wide).unwrap();
            testing::assert_close(&wide, &want, Tolerance::absolute(sums), &case);
            // A row alone has the bits it has in the batch.
            for r in [0, m / 2, m - 1] {
                let mut row = testing::nans::<f32>(n);
                matmul(&a[r * k..][..k], &packed, &mut row).unwrap();
                testing::assert_bits(&row, &wide[r * n..][..n], &case);
            }
        });
    }
}

#[test]
fn seeded_f32() {
    seeded::<f32>();
}

#[test]
fn seeded_bf16() {
    seeded::<bf16>();
}

#[test]
fn seeded_f16() {
    seeded::<f16>();
}

#[test]
fn refuses_other_lengths() {
    assert!(PackedWeights::<f32>::new(&[], 0, 1).is_err());
    assert!(PackedWeights::<f32>::new(&[], 1, 0).is_err());
    assert!(PackedWeights::<f32>::new(&[0.0; 5], 2, 3).is_err());
    let packed = PackedWeights::<f32>::new(&[0.0; 6], 2, 3).unwrap();
    assert!(matmul(&[0.0; 4], &packed, &mut [0.0f32; 2]).is_err());
    assert!(matmul(&[0.0; 6], &packed, &mut [0.0f32; 3]).is_err());
    assert!(matmul(&[], &packed, &mut [0.0f32; 0]).is_ok());
}
