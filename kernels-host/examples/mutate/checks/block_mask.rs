//! From a bitmask of blocks to lists.

use lacuna_emulator::Scheduler;
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, shape};
use crate::common::block_mask::Bits;
use crate::common::random_mask;

const KERNELS: [&str; 2] = ["block_mask_scan", "block_mask_fill"];

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    if !KERNELS.contains(&kernel) {
        return None;
    }
    let bits = |rows: u32, blocks: u32, density| {
        Bits::of(&random_mask(&mut Rng::new(9), &shape(1, 1, 64, &[(rows, blocks)]), 1, 1, density))
    };
    let checked = |bits: Bits| check(move |device| bits.check(device, &case!(9)));
    Some(vec![
        checked(bits(0, 5, 0.5)),
        checked(bits(3, 40, 0.5)),
        checked(bits(70, 7, 0.9)),
        checked(bits(5, 1100, 0.3)),
        checked(bits(2100, 3, 0.5)),
        checked(bits(1025, 33, 0.1)).under(Scheduler::Adversarial(1)),
        checked(bits(1025, 33, 0.1)).under(Scheduler::Random(2)),
    ])
}

pub(super) fn companions(kernel: &str) -> Option<Vec<String>> {
    KERNELS.contains(&kernel).then(|| KERNELS.map(str::to_owned).to_vec())
}
