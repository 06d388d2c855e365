//! The order in which CTAs walk the tiles of an output.

use core::num::NonZeroU32;

use crate::tile_size::GEMM_GROUP_M;

/// The row and the column of tile `index` among `tiles_m` rows and `tiles_n` columns of tiles.
///
/// Groups of [`GEMM_GROUP_M`] rows are walked column by column: the tiles that run at the same time are a compact part of the
/// output, whose operands the second-level cache is asked for many times and memory once.
#[inline(always)]
pub(crate) fn tile(index: u32, tiles_m: u32, tiles_n: NonZeroU32) -> (u32, u32) {
    let per_group = tiles_n.saturating_mul(const { NonZeroU32::new(GEMM_GROUP_M).unwrap() });
    let (group, within) = (index / per_group, index % per_group);
    let first = group * GEMM_GROUP_M;
    let rows = NonZeroU32::new((tiles_m - first).min(GEMM_GROUP_M)).unwrap_or(NonZeroU32::MIN);
    (first + within % rows, within / rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(tiles_m: u32, tiles_n: u32) -> Vec<(u32, u32)> {
        (0..tiles_m * tiles_n).map(|i| tile(i, tiles_m, tiles_n.try_into().unwrap())).collect()
    }

    #[test]
    fn every_tile_comes_once() {
        for tiles_m in [1, 2, 15, 16, 17, 31, 32, 33, 50] {
            for tiles_n in [1, 2, 7, 16, 40] {
                let mut tiles = walk(tiles_m, tiles_n);
                tiles.sort();
                assert!(tiles.into_iter().eq((0..tiles_m).flat_map(|m| (0..tiles_n).map(move |n| (m, n)))));
            }
        }
    }

    #[test]
    fn tiles_at_work_together_are_a_compact_part() {
        // 4096 x 4096 in tiles of 128 x 256, about one for each of 132 multiprocessors: 2048 rows and 2048 columns.
        let (first, second) = (&walk(32, 16)[..128], &walk(32, 16)[128..256]);
        assert!(first.iter().all(|&(m, n)| m < 16 && n < 8));
        assert!(second.iter().all(|&(m, n)| m < 16 && n >= 8));
    }
}
