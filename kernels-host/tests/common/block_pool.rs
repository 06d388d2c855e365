//! Pooling, run and compared.

use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::block_pool::Plan;
use lacuna_reference::block_pool;
use lacuna_reference::testing::{self, Case, Tensor, Tolerance, nans};

use super::Device;
use super::tensor::{Half, OnDevice};

/// Pooled on the device, head by head.
pub fn run<T: Half>(
    device: &Device,
    x: &Tensor<T>,
    cu_seqlens: &[u32],
    block_size: usize,
) -> (Plan<T>, Vec<f32>) {
    let [_, heads, head_dim] = x.view().shape();
    let plan = Plan::<T>::new(&device.context, cu_seqlens, heads, head_dim, block_size).unwrap();
    let on_device = OnDevice::copy(device, &x.view(), "x");
    let poison = nans::<f32>(plan.pooled_len());
    let mut pooled = DeviceBuffer::from_host(&device.context, &poison, "pooled").unwrap();
    let stream = device.context.default_stream();
    plan.run(&stream, &on_device.view(), &mut pooled).unwrap();
    let pooled = pooled.to_host(&stream).unwrap();
    (plan, pooled)
}

/// Pooled and compared with the reference.
#[track_caller]
pub fn check<T: Half>(
    device: &Device,
    x: &Tensor<T>,
    cu_seqlens: &[u32],
    block_size: usize,
    case: &Case,
) -> Vec<f32> {
    let [_, heads, head_dim] = x.view().shape();
    let (plan, pooled) = run(device, x, cu_seqlens, block_size);
    // The reference has all heads of a block side by side.
    let want = block_pool(&x.view(), cu_seqlens, block_size).unwrap();
    assert_eq!(pooled.len(), want.len(), "{case}");
    let (mut got, mut first) = (vec![f32::NAN; want.len()], 0);
    for (b, window) in cu_seqlens.windows(2).enumerate() {
        let blocks = ((window[1] - window[0]) as usize).div_ceil(block_size);
        for head in 0..heads {
            let (row, own) = plan.row(b, head);
            assert_eq!(own, blocks, "{case}");
            for n in 0..blocks {
                let to = ((first + n) * heads + head) * head_dim;
                got[to..to + head_dim].copy_from_slice(&pooled[(row + n) * head_dim..][..head_dim]);
            }
        }
        first += blocks;
    }
    testing::assert_close(&got, &want, Tolerance { max: 2e-6, mean: 2e-7 }, case);
    pooled
}
