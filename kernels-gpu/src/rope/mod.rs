//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) of the queries and keys of fused projections. Queries go to
//! a tensor of their own, keys and values into the KV cache.
//!
//! ```text
//! (a, b) -> (a cos - b sin, b cos + a sin)        for pairs of features i, i + rotary_dim / 2, or 2 i, 2 i + 1
//! ```
//!
//! # Tiling
//! A CTA has heads of one token, a thread the same features of several of them
//! ([`rope_heads_per_thread`](crate::tile_size::rope_heads_per_thread)): it loads their angles once. The loads of all its
//! heads, of the position and of the place in the cache are under way together; those of the angles wait for the position.
//!
//! # Thread mapping
//! Accesses are of 16 bytes. Where pairs lie half of `rotary_dim` apart a thread has two pieces of 8 features which turn
//! with one another ([`pieces`]), where they lie side by side it has one. Pieces that do not turn, and all of the values,
//! are copied as they are.
//!
//! Partners lie in whole pieces if half of `rotary_dim` is a multiple of 8, and the angles of neighbours do if `rotary_dim`
//! is one. Otherwise a thread has two features of one head, and moves 2 bytes at a time (as for a quarter of a
//! head dim of 80).
//!
//! Every element is read once and written once. A row of the table is read for every fourth head, from the cache mostly.
//!
//! # Numerics
//! Products and sums in f32 round one by one, as on a CPU, and the result is rounded once.
//!
//! # Machine code
//! By ptxas 13.0.88 for sm_80, bf16 (f16 is the same), nothing spilled:
//!
//! | kernel | registers | instructions | LDG and STG | a thread moves | instructions per 16 bytes of it |
//! |---|---|---|---|---|---|
//! | `rope_bf16_half_split` | 80 | 631 | 14 and 8 | 8 pieces | 79 |
//! | `rope_bf16_interleaved` | 60 | 389 | 8 and 4 | 4 pieces | 97 |
//! | `rope_bf16_pairs` | 32 | 148 | 6 and 2 | 2 features | 592 |
//!
//! A pair takes 6 of them for its products and sums, 3 for conversions. None of this has been timed.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;

/// The two pieces of unit `unit` of a head of `count` pieces, of which the first `2 half` turn in pairs. The second is
/// `count` or more where there is none.
#[inline(always)]
fn pieces(unit: u32, count: u32, half: u32) -> [u32; 2] {
    if unit < half {
        return [unit, unit + half];
    }
    let first = half + unit;
    [first, first + (count - 2 * half).div_ceil(2)]
}

/// A pair, turned. Rust does not contract these operations, so that they give what the CPU's give.
#[inline(always)]
fn turn([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, b * cos + a * sin]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RopePath;

    #[test]
    fn units_have_every_piece_once_and_pairs_half_the_rotation_apart() {
        for count in 1..=33u32 {
            for half in 0..=count / 2 {
                let mut seen = vec![0; count as usize];
                for unit in 0..RopePath::HalfSplit.units(count * 8) {
                    let [first, second] = pieces(unit, count, half);
                    assert!(first < count && (unit >= half || second == first + half));
                    seen[first as usize] += 1;
                    if second < count {
                        seen[second as usize] += 1;
                    }
                    assert_eq!(unit < half, second < 2 * half, "{unit} of {count}, {half}");
                }
                assert!(seen.iter().all(|&n| n == 1), "{count} pieces, {half}: {seen:?}");
            }
        }
    }

    #[test]
    fn a_quarter_turn() {
        assert_eq!(turn([1.0, 2.0], 0.0, 1.0), [-2.0, 1.0]);
    }

    #[test]
    fn whole_pieces_where_they_hold_the_pairs() {
        let cases =
            [(false, 128, RopePath::HalfSplit), (false, 24, RopePath::Pairs), (false, 20, RopePath::Pairs)];
        for (interleaved, rotary_dim, path) in cases {
            assert_eq!(RopePath::new(interleaved, rotary_dim), path);
        }
        assert_eq!([8, 24, 12].map(|n| RopePath::new(true, n)), {
            [RopePath::Interleaved, RopePath::Interleaved, RopePath::Pairs]
        });
    }
}
