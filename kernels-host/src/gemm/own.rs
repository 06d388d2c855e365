//! The library's own kernels: which tile, and in how many parts.

use lacuna_core::{DType, Element, Error, Result};
use lacuna_kernels_gpu::kernel::{self, Dtype};
use lacuna_kernels_gpu::params::GemmParams;
use lacuna_kernels_gpu::tile_size::{
    ELEMENT_BYTES, GEMM_8X16, GEMM_16X64, GEMM_64X128, GEMM_128X128, GEMM_128X256, GEMM_MIN_SPLIT_STEPS,
    GEMM_TILE_K, GemmTile,
};

use super::OP;
use crate::buffer::DeviceBuffer;
use crate::check;
use crate::context::Context;
use crate::driver::{DeviceInfo, DevicePtr, RawStream};
use crate::launch::Launch;
use crate::view::RawTensor;

/// What the driver keeps of an SM's shared memory for each CTA.
const RESERVED_SMEM_BYTES: u32 = 1024;

/// The kernels and the workspace of a plan.
#[derive(Debug)]
pub(super) struct Own {
    device: Device,
    out_features: u32,
    in_features: u32,
    /// By tile, as far as the plan's rows need them.
    launches: Vec<(GemmTile, Launch)>,
    partials: DeviceBuffer<f32>,
    tickets: DeviceBuffer<u32>,
}

/// What of the device decides the grid.
#[derive(Debug, Clone, Copy)]
struct Device {
    multiprocessors: u32,
    max_smem_bytes: u32,
}

/// The tiles of a product, and how the features of each are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    tile: GemmTile,
    tiles_m: u32,
    tiles_n: u32,
    splits: u32,
    split_steps: u32,
}

impl Device {
    /// CTAs that run at the same time.
    fn slots(&self, tile: &GemmTile) -> u32 {
        // An SM has as much shared memory as its largest CTA, and what the driver keeps for that one.
        let per_sm = (self.max_smem_bytes + RESERVED_SMEM_BYTES) / (tile.smem_bytes() + RESERVED_SMEM_BYTES);
        self.multiprocessors * per_sm.clamp(1, tile.min_ctas_per_sm)
    }

    /// How `rows` rows are multiplied. Up to 64 rows it depends on which of the small tiles holds them all, not on their
    /// number: a row's sums are added in the same order whatever rows are beside it.
    fn grid(&self, rows: u32, out_features: u32, in_features: u32) -> Grid {
        let tile = match rows {
            ..=8 => GEMM_8X16,
            9..=16 => GEMM_16X64,
            17..=64 => GEMM_64X128,
            _ => self.large_tile(rows, out_features),
        };
        let [tiles_m, tiles_n] = tiles(tile, rows, out_features);
        let steps = in_features.div_ceil(GEMM_TILE_K);
        // Two CTAs for every SM: the one loads while the other waits or multiplies.
        let wanted = self.slots(&tile).min(2 * self.multiprocessors);
        let splits = (wanted / tiles_m.saturating_mul(tiles_n).max(1))
            .min(steps / GEMM_MIN_SPLIT_STEPS)
            .clamp(1, tile.max_splits);
        let split_steps = steps.div_ceil(splits);
        // Rounding up may leave nothing to the last ones.
        Grid { tile, tiles_m, tiles_n, splits: steps.div_ceil(split_steps.max(1)).max(1), split_steps }
    }

    /// The tile that takes the busiest SM the least time.
    fn large_tile(&self, rows: u32, out_features: u32) -> GemmTile {
        // How fast an SM multiplies with each, in percent: an estimate from what they ask of shared memory and of the
        // second-level cache, not timed.
        let candidates = [(GEMM_128X256, 100), (GEMM_128X128, 85), (GEMM_64X128, 60)];
        let time = |&(tile, speed): &(GemmTile, u64)| {
            let [m, n] = tiles(tile, rows, out_features);
            let of_one = (m as u64 * n as u64).div_ceil(self.multiprocessors as u64);
            of_one * tile.floats() as u64 * 100 / speed
        };
        // The first of equals: the largest.
        candidates.into_iter().min_by_key(time).map_or(GEMM_128X256, |(tile, _)| tile)
    }
}

/// Tiles from the first row to the last, and from the first column to the last.
fn tiles(tile: GemmTile, rows: u32, out_features: u32) -> [u32; 2] {
    [rows.div_ceil(tile.tile_m), out_features.div_ceil(tile.tile_n)]
}

impl Grid {
    fn tiles(&self) -> u64 {
        self.tiles_m as u64 * self.tiles_n as u64
    }
}

impl Own {
    /// Loads the kernels that up to `max_rows` rows need, and allocates what they keep between their CTAs.
    pub(super) fn new(
        context: &Context,
        dtype: Dtype,
        max_rows: usize,
        out_features: usize,
        in_features: usize,
    ) -> Result<Self> {
        let max_rows = size("max_rows", max_rows)?;
        let (out_features, in_features) =
            (size("out_features", out_features)?, size("in_features", in_features)?);
        let &DeviceInfo { multiprocessors, max_smem_bytes, .. } = context.info();
        let device = Device { multiprocessors: multiprocessors.max(1), max_smem_bytes };
        let launches = Device::tiles(max_rows).map(|tile| {
            let kernel = kernel::gemm(dtype, tile).ok_or_else(|| {
                Error::invalid(OP, "the dtype of the operands", "bf16 or f16", format_args!("{dtype:?}"))
            })?;
            let what = ["the number of tiles", "the number of splits", ""];
            Ok((tile, Launch::new(context, OP, &kernel.kernel, [0, 1, 1], what)?))
        });
        let launches: Vec<(GemmTile, Launch)> = launches.collect::<Result<_>>()?;
        let [partials, tickets] = device.workspace(max_rows, out_features, in_features);
        Ok(Self {
            device,
            out_features,
            in_features,
            launches,
            partials: DeviceBuffer::uninit(context, partials as usize, "gemm partial sums")?,
            tickets: DeviceBuffer::from_host(context, &vec![0; tickets as usize], "gemm tickets")?,
        })
    }

    /// # Safety
    /// As [`super::Plan::run_raw`], with checked tensors and at least one row.
    pub(super) unsafe fn run<O: Element>(
        &self,
        stream: RawStream,
        x: RawTensor,
        weight: RawTensor,
        bias: DevicePtr,
        out: RawTensor,
        rows: usize,
    ) -> Result<()> {
        let rows = size("the number of rows", rows)?;
        let grid = self.device.grid(rows, self.out_features, self.in_features);
        let Some((_, launch)) = self.launches.iter().find(|(tile, _)| *tile == grid.tile) else {
            unreachable!("the plan has the kernels of all numbers of rows up to its most");
        };
        let out_row_bytes = (out.token_stride * size_of::<O>()) as u64;
        let params = GemmParams {
            x_row_bytes: x.token_stride as u64 * ELEMENT_BYTES as u64,
            weight_row_bytes: weight.token_stride as u64 * ELEMENT_BYTES as u64,
            out_row_bytes,
            rows,
            out_features: self.out_features,
            in_features: self.in_features,
            tiles_m: grid.tiles_m,
            tiles_n: grid.tiles_n,
            splits: grid.splits,
            split_steps: grid.split_steps,
            out_f32: match O::DTYPE {
                DType::F32 if out_row_bytes.is_multiple_of(8) => 2,
                DType::F32 => 1,
                DType::Bf16 | DType::F16 => 0,
            },
        };
        let pointers = [x.ptr, weight.ptr, bias, out.ptr, self.partials.ptr(), self.tickets.ptr()];
        // A grid of sizes that were checked holds no more than a launch does.
        let launch = launch.with_grid([grid.tiles() as usize, grid.splits as usize, 1])?;
        // SAFETY: the caller's promise; the workspace holds what any grid of the plan needs.
        unsafe { launch.run(stream, pointers, &params) }
    }
}

impl Device {
    /// The tiles that some number of rows up to `max_rows` may take.
    fn tiles(max_rows: u32) -> impl Iterator<Item = GemmTile> {
        let from =
            [(1, GEMM_8X16), (9, GEMM_16X64), (17, GEMM_64X128), (65, GEMM_128X128), (65, GEMM_128X256)];
        from.into_iter().filter(move |&(rows, _)| rows <= max_rows).map(|(_, tile)| tile)
    }

    /// Partial sums and tickets that runs with up to `max_rows` rows need at most.
    fn workspace(&self, max_rows: u32, out_features: u32, in_features: u32) -> [u64; 2] {
        // Tiles are as many for all rows from a multiple of 64 to the next; more than two on each SM are not split.
        let rows = [16].into_iter().chain((1..=2 * self.multiprocessors).map(|tiles_m| tiles_m * 64));
        let grids = rows.map(|rows| self.grid(rows.min(max_rows), out_features, in_features));
        grids.filter(|grid| grid.splits > 1).fold([0; 2], |[partials, tickets], grid| {
            let floats = grid.tiles() * grid.splits as u64 * grid.tile.floats() as u64;
            [partials.max(floats), tickets.max(grid.tiles())]
        })
    }
}

/// Narrows a size. Kernels count rows and features with a sign, and beyond what there is up to the end of a tile.
fn size(what: &'static str, n: usize) -> Result<u32> {
    const MOST: usize = 1 << 30;
    if n > MOST {
        return Err(Error::TooLarge { op: OP, what, limit: MOST as u64, got: n.to_string() });
    }
    check::to_u32(OP, what, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A100: Device = Device { multiprocessors: 108, max_smem_bytes: 163 * 1024 };
    const H100: Device = Device { multiprocessors: 132, max_smem_bytes: 227 * 1024 };
    const RTX_4090: Device = Device { multiprocessors: 128, max_smem_bytes: 99 * 1024 };

    /// `[out_features, in_features]` of the products of Llama 3.2 1B and 3.1 8B: q, k and v in one, their output, gate and
    /// up in one, down, and the vocabulary.
    const LLAMA: [[u32; 2]; 10] = [
        [3072, 2048],
        [2048, 2048],
        [16384, 2048],
        [2048, 8192],
        [128256, 2048],
        [6144, 4096],
        [4096, 4096],
        [28672, 4096],
        [4096, 14336],
        [128256, 4096],
    ];

    #[test]
    fn every_feature_has_a_cta() {
        for device in [A100, H100, RTX_4090] {
            for [n, k] in LLAMA.into_iter().chain([[1, 8], [8, 0], [100, 64 * 67], [64, 64 * 17]]) {
                for rows in [1, 8, 9, 16, 17, 64, 65, 200, 512, 1000, 4096, 1 << 20] {
                    let Grid { tile, tiles_m, tiles_n, splits, split_steps } = device.grid(rows, n, k);
                    assert!(tiles_m * tile.tile_m >= rows && (tiles_m - 1) * tile.tile_m < rows);
                    assert!(tiles_n * tile.tile_n >= n && (tiles_n - 1) * tile.tile_n < n);
                    assert!(splits * split_steps * GEMM_TILE_K >= k);
                    assert!((splits - 1) * split_steps * GEMM_TILE_K < k.max(1), "a CTA without a step");
                    assert!(splits <= tile.max_splits);
                    assert!(splits == 1 || split_steps >= GEMM_MIN_SPLIT_STEPS);
                    // Those that share a tile run at the same time.
                    assert!(splits == 1 || tiles_m * tiles_n * splits <= device.slots(&tile));
                }
            }
        }
    }

    /// Memory needs some 20 KB of each SM under way (3.35 TB/s, 132 SMs, 800 ns).
    #[test]
    fn short_rows_keep_memory_busy() {
        for (device, least) in [(A100, 12 * 1024), (H100, 20 * 1024), (RTX_4090, 8 * 1024)] {
            for [n, k] in LLAMA {
                for rows in [1, 8, 9, 16, 17, 64] {
                    let Grid { tile, tiles_m, tiles_n, splits, split_steps } = device.grid(rows, n, k);
                    let steps = (tile.stages - 1).min(split_steps);
                    let bytes = steps * tile.warps_k * tile.tile_n * GEMM_TILE_K * 2;
                    let ctas = (tiles_m * tiles_n * splits).min(device.slots(&tile));
                    assert!(
                        ctas * bytes >= device.multiprocessors * least,
                        "{rows} x {n} x {k}: {ctas} CTAs"
                    );
                }
            }
        }
    }

    #[test]
    fn large_tiles_are_for_many_of_them() {
        assert_eq!(H100.grid(4096, 4096, 4096).tile, GEMM_128X256);
        assert_eq!(A100.grid(4096, 4096, 4096).tile, GEMM_128X256);
        assert_eq!(H100.grid(2048, 2048, 2048).tile, GEMM_128X256);
        assert_eq!(H100.grid(512, 4096, 4096).tile, GEMM_128X128);
        assert_eq!(H100.grid(512, 2048, 8192).tile, GEMM_64X128);
        assert_eq!(H100.grid(65, 2048, 8192).tile, GEMM_64X128);
        assert_eq!(H100.grid(64, 128256, 4096).tile, GEMM_64X128);
    }

    /// A plan allocates for the worst number of rows, whatever it is.
    #[test]
    fn plans_have_what_their_runs_need() {
        for device in [A100, H100] {
            for [n, k] in LLAMA.into_iter().chain([[64, 4096]]) {
                for max_rows in [1, 8, 12, 70, 700] {
                    let [partials, tickets] = device.workspace(max_rows, n, k);
                    for rows in 1..=max_rows {
                        let grid = device.grid(rows, n, k);
                        assert!(
                            Device::tiles(max_rows).any(|tile| tile == grid.tile),
                            "{rows} of {max_rows}"
                        );
                        let floats = grid.tiles() * grid.splits as u64 * grid.tile.floats() as u64;
                        assert!(grid.splits == 1 || (floats <= partials && grid.tiles() <= tickets));
                    }
                }
            }
            // Some megabytes at most.
            assert!(device.workspace(1 << 20, 4096, 14336)[0] * 4 <= 2 * 132 * 64 * 128 * 4);
        }
        assert_eq!(Device::tiles(0).count(), 0);
    }
}
