//! The kernels for compute capability 8.0 and later.

use core::num::NonZeroU32;

use super::copy::{Copies, Source};
use super::epilogue::Output;
use super::mainloop::sums;
use super::raster;
use super::split::Partials;
use super::{Tensors, short};
use crate::arch::shared::dynamic_smem;
use crate::arch::special_register::cta;
use crate::element::{Bf16, Element, F16};
use crate::forward::Thread;
use crate::grid;
use crate::params::GemmParams;
use crate::tile_size::{
    ELEMENT_BYTES, GEMM_8X16, GEMM_16X64, GEMM_64X128, GEMM_128X128, GEMM_128X256, GEMM_TILE_K, GemmTile,
};

/// A tile, or the part of one that some features contribute.
///
/// # Safety
/// Launched as [`crate::kernel::gemm`] says.
#[inline(always)]
unsafe fn gemm<E: Element, const MT: usize, const NT: usize, const STAGES: u32, const PENDING: u32>(
    tile: GemmTile,
    tensors: Tensors,
    params: &GemmParams,
) {
    let [index, split, _] = cta();
    // SAFETY: the caller's; there are tiles.
    unsafe {
        let (tile_m, tile_n) = raster::tile(index, params.tiles_m, NonZeroU32::new_unchecked(params.tiles_n));
        let (first_row, first_column) = (tile_m * tile.tile_m, tile_n * tile.tile_n);
        let (rows, columns) = (params.rows - first_row, params.out_features - first_column);
        let first_step = split * params.split_steps;
        let first_feature = first_step * GEMM_TILE_K;
        let features = (params.in_features - first_feature).min(params.split_steps * GEMM_TILE_K);

        let thread = Thread::current();
        let source = |address: u64, row_bytes: u64, first: u32, rows: u32| Source {
            address: address + first as u64 * row_bytes + (first_feature * ELEMENT_BYTES) as u64,
            row_bytes,
            rows,
        };
        let x = source(tensors.x, params.x_row_bytes, first_row, rows);
        let weight = source(tensors.weight, params.weight_row_bytes, first_column, columns);
        let mut copies = Copies::new(tile, thread.index, x, weight, features);
        let origin =
            [thread.warp % tile.warps_m * (16 * MT) as u32, thread.warp / tile.warps_m * (8 * NT) as u32];
        let steps = features.div_ceil(GEMM_TILE_K);
        let smem = dynamic_smem();
        let mut sums = sums::<E, MT, NT, STAGES, PENDING>(tile, thread, origin, smem, &mut copies, steps);

        if tile.max_splits > 1 && params.splits > 1 {
            let tiles = params.tiles_m * params.tiles_n;
            let rows = rows as i32 - (origin[0] + thread.lane / 4) as i32;
            let partials = Partials::new(tile, thread, tensors.partials, index, tiles, rows);
            partials.store(split, &sums);
            if !grid::last(thread, tensors.tickets + index as u64 * 4, params.splits) {
                return;
            }
            sums = partials.sum(params.splits);
        }
        let bias = (first_column * ELEMENT_BYTES) as u64;
        let element_bytes = if params.out_f32 == 0 { ELEMENT_BYTES } else { 4 };
        Output {
            tile,
            address: tensors.out
                + first_row as u64 * params.out_row_bytes
                + first_column as u64 * element_bytes as u64,
            row_bytes: params.out_row_bytes,
            rows,
            columns,
            bias: if tensors.bias == 0 { 0 } else { tensors.bias + bias },
            f32: params.out_f32,
        }
        .write::<E, MT, NT>(thread, origin, smem, sums);
    }
}

macro_rules! gemm {
    ($($name:ident: $element:ty, $tile:ident, $mt:literal, $nt:literal;)*) => {$(
        kernel! {
            fn $name(
                x: u64,
                weight: u64,
                bias: u64,
                out: u64,
                partials: u64,
                tickets: u64,
                params: GemmParams,
            ) {
                const { assert!(matches!($tile.fragments(), [$mt, $nt])) };
                let tensors = Tensors { x, weight, bias, out, partials, tickets };
                // SAFETY: see `crate::kernel`.
                unsafe {
                    gemm::<$element, $mt, $nt, { $tile.stages }, { $tile.stages - 2 }>($tile, tensors, &params)
                }
            }
        }
    )*};
}

macro_rules! short {
    ($($name:ident: $element:ty;)*) => {$(
        kernel! {
            fn $name(
                x: u64,
                weight: u64,
                bias: u64,
                out: u64,
                partials: u64,
                tickets: u64,
                params: GemmParams,
            ) {
                let tensors = Tensors { x, weight, bias, out, partials, tickets };
                // SAFETY: see `crate::kernel`.
                unsafe {
                    short::gemm::<$element, { GEMM_8X16.stages }, { GEMM_8X16.stages - 2 }>(tensors, &params)
                }
            }
        }
    )*};
}

short! {
    gemm_bf16_8x16: Bf16;
    gemm_f16_8x16: F16;
}

gemm! {
    gemm_bf16_16x64: Bf16, GEMM_16X64, 1, 2;
    gemm_bf16_64x128: Bf16, GEMM_64X128, 2, 8;
    gemm_bf16_128x128: Bf16, GEMM_128X128, 4, 8;
    gemm_bf16_128x256: Bf16, GEMM_128X256, 4, 8;
    gemm_f16_16x64: F16, GEMM_16X64, 1, 2;
    gemm_f16_64x128: F16, GEMM_64X128, 2, 8;
    gemm_f16_128x128: F16, GEMM_128X128, 4, 8;
    gemm_f16_128x256: F16, GEMM_128X256, 4, 8;
}
