//! Rows by index.

use half::bf16;
use lacuna_core::Layout;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, Tensor};

use super::{Check, check};
use crate::common::Half;
use crate::common::gather::{From, assert_gathered, gather};
use crate::common::{random, strided};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    (kernel == "gather_rows").then(|| {
        vec![
            rows::<bf16>(1, [20, 3, 64], From::Host, 30, 33),
            rows::<f32>(2, [20, 2, 72], From::Device, 17, 40),
            rows::<bf16>(3, [9, 1, 2048], From::Capacity, 5, 5).storing(5 * 2048 * 2),
            rows::<bf16>(4, [9, 1, 8], From::Device, 1500, 1400),
            rows::<bf16>(5, [9, 1, 8], From::Device, 600, 900),
            rows::<bf16>(6, [9, 1, 8], From::Host, 800, 900),
        ]
    })
}

fn rows<T: Half>(
    seed: u64,
    [tokens, heads, head_dim]: [usize; 3],
    from: From,
    rows: usize,
    room: usize,
) -> Check {
    let mut rng = Rng::new(seed);
    let src: Tensor<T> = random(&mut rng, tokens, heads, head_dim);
    // Every eighth index leads beyond the source, one of them just.
    let index: Vec<u32> = (0..rows.min(room))
        .map(|i| if i % 8 == 7 { tokens as u32 + (i / 8) as u32 } else { rng.below(tokens) as u32 })
        .collect();
    let out: Layout = strided(&mut rng, room, heads, head_dim);
    check(move |device| {
        let got = gather(device, &src, &index, (from, rows), out).expect("a gathering");
        assert_gathered(got, &src, &index, &case!(0));
    })
}
