//! Mean pooling of blocks of tokens.

use half::{bf16, f16};
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, parts_of};
use crate::common::{Half, block_pool, random};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match parts_of(kernel)? {
        ("block_pool", "bf16", head_dim, "") => Some(pool::<bf16>(head_dim)),
        ("block_pool", "f16", head_dim, "") => Some(pool::<f16>(head_dim)),
        _ => None,
    }
}

fn pool<T: Half>(head_dim: usize) -> Vec<Check> {
    let call = |seed, cu_seqlens: &'static [u32], heads, block| {
        let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
        let x = random::<T>(&mut Rng::new(seed), tokens, heads, head_dim);
        check(move |device| {
            block_pool::check(device, &x, cu_seqlens, block, &case!(0));
        })
    };
    vec![
        call(1, &[0, 5], 1, 128),
        call(2, &[0, 77, 77, 300], 3, 32),
        call(3, &[0, 200], 2, 128),
        call(4, &[0, 130], 1, 1),
        // The last of the loads that go together is the last of all, in the first round and in the second.
        call(7, &[0, 61, 186], 1, 128),
        call(5, &[0, 33, 100], 2, 100),
        call(6, &[0, 97, 161], 2, 64).storing(2 * (2 + 1) * head_dim * 4),
    ]
}
