//! Bitmasks of blocks, listed on the device.

use lacuna_core::BlockMask;
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::block_mask::Plan;
use lacuna_reference::testing::Case;

use super::Device;

/// A mask as sets of bits, and as the lists that are to be made of them.
pub struct Bits {
    indptr: Vec<u32>,
    indices: Vec<u32>,
    n_blocks: usize,
}

impl Bits {
    pub fn of(mask: &BlockMask) -> Self {
        let n_blocks = (0..mask.seqlens().batch()).map(|b| mask.n_blocks(b)).max().unwrap_or(0);
        Self { indptr: mask.indptr().to_vec(), indices: mask.indices().to_vec(), n_blocks }
    }

    /// Lists the bits on the device and compares.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) {
        let context = &device.context;
        let rows = self.indptr.len() - 1;
        let plan = Plan::new(context, rows, self.n_blocks).unwrap();
        let words = plan.words();
        let mut bitmask = vec![0u32; rows * words];
        let counts: Vec<u32> = self.indptr.windows(2).map(|w| w[1] - w[0]).collect();
        for row in 0..rows {
            for &n in &self.indices[self.indptr[row] as usize..self.indptr[row + 1] as usize] {
                bitmask[row * words + n as usize / 32] |= 1 << (n % 32);
            }
        }
        let bitmask = DeviceBuffer::from_host(context, &bitmask, "bitmask").unwrap();
        let counts = DeviceBuffer::from_host(context, &counts, "counts").unwrap();
        let indptr = DeviceBuffer::<u32>::uninit(context, rows + 1, "indptr").unwrap();
        let indices = DeviceBuffer::<u32>::uninit(context, self.indices.len(), "indices").unwrap();
        let stream = context.default_stream();
        // SAFETY: buffers of the sizes that the plan names, the counts those of the bits.
        unsafe {
            plan.run_raw(stream.raw(), bitmask.ptr(), counts.ptr(), indptr.ptr(), indices.ptr())
                .unwrap_or_else(|why| panic!("{why}\n  repeat: {case}"));
        }
        assert_eq!(indptr.to_host(&stream).unwrap(), self.indptr, "{case}");
        assert_eq!(indices.to_host(&stream).unwrap(), self.indices, "{case}");
    }
}
