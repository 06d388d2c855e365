//! Rotary position embedding, on the way from the projections to the queries and the KV cache.

use half::{bf16, f16};
use lacuna_core::Layout;
use lacuna_kernels_host::rope::{Pairing, Shape};
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check};
use crate::common::Half;
use crate::common::rope::{From, POSITIONS, Rotation};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let (dtype, path) = kernel.strip_prefix("rope_")?.split_once('_')?;
    // Queries, keys and values begin and end at each of the heads of a thread; odd numbers of pieces.
    let shapes: &[Shape] = match path {
        "half_split" => &[
            shape(57, 8, 128, 128, Pairing::HalfSplit),
            shape(20, 4, 128, 128, Pairing::HalfSplit),
            shape(40, 8, 128, 128, Pairing::HalfSplit),
            shape(10, 30, 72, 32, Pairing::HalfSplit),
            shape(55, 25, 72, 64, Pairing::HalfSplit),
            shape(3, 1, 24, 16, Pairing::HalfSplit),
        ],
        "interleaved" => &[
            shape(57, 8, 128, 64, Pairing::Interleaved),
            shape(20, 2, 72, 72, Pairing::Interleaved),
            shape(26, 10, 72, 72, Pairing::Interleaved),
            shape(6, 17, 72, 72, Pairing::Interleaved),
            shape(32, 14, 72, 40, Pairing::Interleaved),
            shape(3, 1, 24, 8, Pairing::Interleaved),
        ],
        "pairs" => &[
            shape(3, 2, 80, 20, Pairing::HalfSplit),
            shape(5, 2, 72, 46, Pairing::Interleaved),
            shape(3, 1, 8, 2, Pairing::HalfSplit),
            shape(1, 1, 40, 24, Pairing::HalfSplit),
        ],
        _ => return None,
    };
    match dtype {
        "bf16" => Some(rotations::<bf16>(shapes)),
        "f16" => Some(rotations::<f16>(shapes)),
        _ => None,
    }
}

fn shape(
    num_heads: usize,
    num_heads_k: usize,
    head_dim: usize,
    rotary_dim: usize,
    pairing: Pairing,
) -> Shape {
    Shape { num_heads, num_heads_k, head_dim, rotary_dim, pairing }
}

fn rotations<T: Half>(shapes: &[Shape]) -> Vec<Check> {
    let rotation = |seed, rows, shape| Rotation::<T>::random(&mut Rng::new(seed), rows, shape);
    let checked = |rotation: Rotation<T>| {
        check(move |device| {
            rotation.check(device, &case!(0));
        })
    };
    let row_bytes = |shape: Shape| (shape.num_heads + 2 * shape.num_heads_k) * shape.head_dim * 2;
    let mut checks = Vec::new();
    for (seed, &shape) in (0..).zip(shapes) {
        for from in [From::Host, From::Device] {
            let rotation = Rotation { from, ..rotation(seed, 3, shape) };
            checks.push(checked(rotation).storing(3 * row_bytes(shape)));
        }
        checks.push(checked(rotation(seed + 9, 1, shape)).storing(row_bytes(shape)));
        let mut beyond = rotation(seed + 3, 4, shape);
        // The last position of the table, the first behind it, and one far from it.
        beyond.position_ids = vec![POSITIONS as u32 - 1, POSITIONS as u32, u32::MAX, 0];
        // The cache ends behind the second row.
        let cache = Layout::thd(8, shape.num_heads_k, shape.head_dim);
        beyond = Rotation { k_cache: cache, v_cache: cache, slot: 6, from: From::Device, ..beyond };
        checks.push(checked(beyond));
        let far = rotation(seed + 6, 2, shape);
        checks.push(checked(Rotation {
            k_cache: cache,
            v_cache: cache,
            slot: u32::MAX as usize,
            from: From::Device,
            ..far
        }));
    }
    checks
}
