//! Matrix products.

use half::{bf16, f16};
use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check};
use crate::common::Half;
use crate::common::gemm::{Product, assert_same_product};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let (dtype, tile) = kernel.strip_prefix("gemm_")?.split_once('_')?;
    match dtype {
        "bf16" => checks::<bf16>(tile),
        "f16" => checks::<f16>(tile),
        _ => None,
    }
}

/// All tiles of the type: a plan readies those of fewer rows too.
pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    let (dtype, _) = kernel.strip_prefix("gemm_")?.split_once('_')?;
    Some(["8x16", "16x64", "64x128", "128x128", "128x256"].map(|tile| format!("gemm_{dtype}_{tile}")).into())
}

/// Tails of rows, columns and features; outputs of either type, of f32 with rows at any multiple of 4 bytes; tiles that
/// CTAs share and such that they do not.
fn checks<T: Half>(tile: &str) -> Option<Vec<Check>> {
    Some(match tile {
        "8x16" => vec![
            integers::<T, T>(1, [5, 40, 200], [8, 0, 8], true).storing(5 * 40 * 2),
            integers::<T, T>(2, [8, 24, 64 * 30], [0, 8, 0], false).under(Scheduler::Adversarial(2)),
            integers::<T, f32>(3, [7, 37, 64 * 4], [0; 3], true).storing(7 * 37 * 4),
        ],
        "16x64" => vec![
            integers::<T, T>(1, [13, 72, 104], [8, 0, 8], true).storing(13 * 72 * 2),
            integers::<T, T>(2, [16, 136, 64 * 10 + 8], [0, 8, 0], false).under(Scheduler::Adversarial(2)),
            integers::<T, f32>(3, [10, 67, 64 * 4], [0; 3], true).storing(10 * 67 * 4),
            integers::<T, f32>(4, [16, 67, 64 * 9], [0, 0, 1], true).under(Scheduler::Random(1)),
            tails::<T>(11),
        ],
        "64x128" => vec![
            integers::<T, T>(1, [59, 136, 200], [8, 0, 8], true).storing(59 * 136 * 2),
            integers::<T, T>(2, [64, 128, 64 * 10 + 8], [0, 8, 0], false).under(Scheduler::Adversarial(2)),
            integers::<T, f32>(3, [40, 131, 64], [0; 3], true).storing(40 * 131 * 4),
            integers::<T, f32>(4, [60, 255, 64 * 9], [0, 0, 1], true).under(Scheduler::Random(1)),
            tails::<T>(60),
            // More rows of tiles than are walked side by side.
            integers::<T, T>(5, [64 * 17 + 9, 136, 72], [0; 3], false),
        ],
        // As many tiles as make these the fastest on the emulated device.
        "128x128" => vec![
            integers::<T, T>(1, [128 * 18 + 77, 128 * 3 - 24, 200], [8, 0, 8], true),
            integers::<T, f32>(2, [128 * 18 + 77, 128 * 3 - 29, 8], [0; 3], true),
            integers::<T, f32>(3, [128 * 18 + 77, 128 * 3 - 2, 72], [0, 8, 2], false),
        ],
        "128x256" => vec![
            integers::<T, T>(1, [128 * 18 + 77, 128 * 6 - 24, 200], [8, 0, 8], true),
            integers::<T, f32>(2, [128 * 18 + 77, 128 * 6 - 29, 8], [0; 3], true),
            integers::<T, f32>(3, [128 * 18 + 77, 128 * 6 - 2, 72], [0, 8, 2], false),
        ],
        _ => return None,
    })
}

/// Columns that end in each fragment of a warp.
fn tails<T: Half>(rows: usize) -> Check {
    let ends = (0..8).flat_map(|j| [8 * j + 1, 8 * j + 4]);
    let checks: Vec<Check> =
        ends.map(|n| integers::<T, f32>(n as u64, [rows, n, 16], [0, 0, 1 + n % 2], true)).collect();
    check(move |device| checks.iter().for_each(|check| (check.run)(device)))
}

/// Small integers: sums are exact.
fn integers<T: Half, O: Half>(seed: u64, sizes: [usize; 3], gaps: [usize; 3], bias: bool) -> Check {
    let product = Product::<T>::integers(&mut Rng::new(seed), sizes, gaps, bias);
    let want: Vec<O> = product.exact();
    check(move |device| {
        let got = product.run::<O>(device, sizes[0]).expect("a product");
        assert_same_product(&got, &want, sizes[1], &case!(0));
    })
}
