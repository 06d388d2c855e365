//! Kernels for compute capability 8.0 and later.

use super::{pieces, turn};
use crate::arch::global::{ld_global_b16, ld_global_b32, ld_global_v4_b32, st_global_b16, st_global_v4_b32};
use crate::arch::math::div_rem;
use crate::arch::special_register::{cta, thread};
use crate::element::{Bf16, Element, F16};
use crate::params::{RopeParams, Strides};
use crate::tile_size::{ELEMENT_BYTES, ROPE_HEADS, ROPE_THREADS};

const HEADS: usize = ROPE_HEADS as usize;

/// 8 features as they lie in memory.
type Piece = [u32; 4];

/// Addresses of what a kernel is passed.
struct Tensors {
    qkv: u64,
    position_ids: u64,
    slot: u64,
    cos_sin: u64,
    q: u64,
    k_cache: u64,
    v_cache: u64,
}

impl Tensors {
    /// The position of token `row`.
    ///
    /// # Safety
    /// There is such a token.
    #[inline(always)]
    unsafe fn position(&self, row: u32) -> u32 {
        // SAFETY: the caller's.
        unsafe { ld_global_b32(self.position_ids + row as u64 * 4) }
    }

    /// The cosines of a position, if the table has any.
    #[inline(always)]
    fn cosines(&self, position: u32, params: &RopeParams) -> Option<u64> {
        (position < params.positions).then_some(self.cos_sin + position as u64 * params.cos_sin_row_bytes)
    }

    /// Where token `row` goes in the cache, or would.
    ///
    /// # Safety
    /// The tensors are what [`crate::kernel`] says.
    #[inline(always)]
    unsafe fn slot(&self, row: u32, params: &RopeParams) -> u64 {
        // SAFETY: the caller's.
        let first = if self.slot == 0 { params.slot } else { unsafe { ld_global_b32(self.slot) } };
        first as u64 + row as u64
    }
}

impl RopeParams {
    /// Heads that turn: queries and keys.
    #[inline(always)]
    fn turning_heads(&self) -> u32 {
        self.num_heads + self.num_heads_k
    }

    /// All heads of the projections.
    #[inline(always)]
    fn heads(&self) -> u32 {
        self.turning_heads() + self.num_heads_k
    }

    /// Bytes of a head.
    #[inline(always)]
    fn head_bytes(&self) -> u32 {
        self.head_dim * ELEMENT_BYTES
    }

    /// Bytes from a cosine to its sine.
    #[inline(always)]
    fn to_sine(&self) -> u64 {
        self.rotary_dim as u64 * 2
    }
}

/// Where heads of one token go: head `h` of the projections to `base + h * head_bytes`, modulo 2^64.
#[derive(Clone, Copy)]
struct Place {
    base: u64,
    head_bytes: u64,
}

impl Place {
    /// Token `token` of a tensor whose head 0 is head `first` of the projections.
    #[inline(always)]
    fn new(tensor: u64, strides: Strides, token: u32, first: u32) -> Self {
        let head_bytes = strides.head * ELEMENT_BYTES as u64;
        let base = tensor + token as u64 * strides.token_bytes();
        Self { base: base.wrapping_sub(first as u64 * head_bytes), head_bytes }
    }
}

/// Where all heads of one token go. Chosen by selection and without branches: a warp has heads of several kinds.
struct Places {
    q: Place,
    k: Place,
    v: Place,
    /// Whether the cache has room for the token.
    fits: bool,
}

impl Places {
    #[inline(always)]
    fn new(tensors: &Tensors, row: u32, slot: u64, params: &RopeParams) -> Self {
        Self {
            q: Place::new(tensors.q, params.q, row, 0),
            k: Place::new(tensors.k_cache, params.k, slot as u32, params.num_heads),
            v: Place::new(tensors.v_cache, params.v, slot as u32, params.turning_heads()),
            fits: slot < params.capacity as u64,
        }
    }

    /// Where head `head` of the projections goes, if anywhere.
    #[inline(always)]
    fn of(&self, head: u32, params: &RopeParams) -> Option<u64> {
        let is_query = head < params.num_heads;
        let cached = if head < params.turning_heads() { self.k } else { self.v };
        let Place { base, head_bytes } = if is_query { self.q } else { cached };
        (is_query || self.fits).then_some(base.wrapping_add(head as u64 * head_bytes))
    }
}

/// `N` angles: cosines, then sines, NaN where there are none.
///
/// # Safety
/// `cosines` is the address of `N` cosines, a multiple of 16 as `to_sine` is.
#[inline(always)]
unsafe fn angles<const N: usize>(cosines: Option<u64>, to_sine: u64) -> [[f32; N]; 2] {
    let mut angles = [[f32::NAN; N]; 2];
    if let Some(cosines) = cosines {
        for i in 0..2 {
            for j in 0..N / 4 {
                // SAFETY: the caller's.
                let words = unsafe { ld_global_v4_b32(cosines + i as u64 * to_sine + j as u64 * 16) };
                for k in 0..4 {
                    angles[i][4 * j + k] = f32::from_bits(words[k]);
                }
            }
        }
    }
    angles
}

/// How the pairs of a rotation lie in whole pieces.
trait Pairing {
    /// Angles of a unit, cosines and sines.
    type Angles;
    /// Pieces of a unit, one or two.
    const PIECES: usize;

    /// The pieces of unit `unit`, in a head of which the first `turning` pieces turn; from `count` on there are none.
    fn pieces(unit: u32, count: u32, turning: u32) -> [u32; 2];

    /// # Safety
    /// `cosines` is the address of a row of the table, of which unit `unit` turns by some.
    unsafe fn angles(cosines: Option<u64>, unit: u32, to_sine: u64) -> Self::Angles;

    fn turn<E: Element>(values: [Piece; 2], angles: &Self::Angles) -> [Piece; 2];
}

/// Feature `i` turns with `i + rotary_dim / 2`.
struct HalfSplit;

impl Pairing for HalfSplit {
    type Angles = [[f32; 8]; 2];
    const PIECES: usize = 2;

    #[inline(always)]
    fn pieces(unit: u32, count: u32, turning: u32) -> [u32; 2] {
        pieces(unit, count, turning / 2)
    }

    #[inline(always)]
    unsafe fn angles(cosines: Option<u64>, unit: u32, to_sine: u64) -> Self::Angles {
        // SAFETY: the caller's.
        unsafe { angles(cosines.map(|row| row + unit as u64 * 32), to_sine) }
    }

    #[inline(always)]
    fn turn<E: Element>([a, b]: [Piece; 2], [cos, sin]: &Self::Angles) -> [Piece; 2] {
        let mut turned = [[0; 4]; 2];
        for i in 0..4 {
            let ([a0, a1], [b0, b1]) = (E::unpack(a[i]), E::unpack(b[i]));
            let low = turn([a0, b0], cos[2 * i], sin[2 * i]);
            let high = turn([a1, b1], cos[2 * i + 1], sin[2 * i + 1]);
            turned[0][i] = E::pack(low[0], high[0]);
            turned[1][i] = E::pack(low[1], high[1]);
        }
        turned
    }
}

/// Feature `2 i` turns with `2 i + 1`.
struct Interleaved;

impl Pairing for Interleaved {
    type Angles = [[f32; 4]; 2];
    const PIECES: usize = 1;

    #[inline(always)]
    fn pieces(unit: u32, count: u32, _: u32) -> [u32; 2] {
        [unit, count]
    }

    #[inline(always)]
    unsafe fn angles(cosines: Option<u64>, unit: u32, to_sine: u64) -> Self::Angles {
        // SAFETY: the caller's.
        unsafe { angles(cosines.map(|row| row + unit as u64 * 16), to_sine) }
    }

    #[inline(always)]
    fn turn<E: Element>([piece, none]: [Piece; 2], [cos, sin]: &Self::Angles) -> [Piece; 2] {
        let turned = core::array::from_fn(|i| {
            let [a, b] = turn(E::unpack(piece[i]), cos[i], sin[i]);
            E::pack(a, b)
        });
        [turned, none]
    }
}

/// A CTA turns heads of one token.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn rope<E: Element, P: Pairing>(tensors: Tensors, params: &RopeParams) {
    let [row, tile, _] = cta();
    let (count, turning) = (params.head_dim / 8, params.rotary_dim / 8);
    // SAFETY: the caller's; pieces lie in their heads, and these in their tensors. Nothing is used before all loads are
    // under way, but the position for the address of the angles.
    unsafe {
        let (own, unit) = div_rem(thread(), count.div_ceil(P::PIECES as u32));
        if own >= params.side_by_side {
            return;
        }
        let heads = params.side_by_side * params.heads_per_thread;
        let first = tile * heads + own;
        let end = params.heads().min(tile * heads + heads);
        let (of_turning, of_values) = (P::pieces(unit, count, turning), P::pieces(unit, count, 0));
        let qkv = tensors.qkv + row as u64 * params.qkv_row_bytes;
        let mut values = [[[0; 4]; 2]; HEADS];
        for i in 0..HEADS {
            let head = first + i as u32 * params.side_by_side;
            if head < end {
                for j in 0..P::PIECES {
                    let piece = if head < params.turning_heads() { of_turning[j] } else { of_values[j] };
                    // The first is always there.
                    if j == 0 || piece < count {
                        let from = (head * params.head_bytes()) as u64 + piece as u64 * 16;
                        values[i][j] = ld_global_v4_b32(qkv + from);
                    }
                }
            }
        }
        let position = tensors.position(row);
        let slot = tensors.slot(row, params);
        let mut angles = None;
        let turns = unit < turning / P::PIECES as u32;
        if turns && first < params.turning_heads() {
            angles = Some(P::angles(tensors.cosines(position, params), unit, params.to_sine()));
        }

        let places = Places::new(&tensors, row, slot, params);
        for i in 0..HEADS {
            let head = first + i as u32 * params.side_by_side;
            if head < end
                && let Some(out) = places.of(head, params)
            {
                if head < params.turning_heads()
                    && let Some(angles) = &angles
                {
                    values[i] = P::turn::<E>(values[i], angles);
                }
                for j in 0..P::PIECES {
                    let piece = if head < params.turning_heads() { of_turning[j] } else { of_values[j] };
                    if j == 0 || piece < count {
                        st_global_v4_b32(out + piece as u64 * 16, values[i][j]);
                    }
                }
            }
        }
    }
}

/// A thread turns two features of one head.
///
/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn rope_pairs<E: Element>(tensors: Tensors, params: &RopeParams) {
    let [row, tile, _] = cta();
    let half = params.rotary_dim / 2;
    // SAFETY: the caller's; features lie in their heads, and these in their tensors.
    unsafe {
        let (head, unit) = div_rem(tile * ROPE_THREADS + thread(), params.head_dim / 2);
        if head >= params.heads() {
            return;
        }
        let turns = unit < half && head < params.turning_heads();
        let apart = turns && params.interleaved == 0;
        let features = if apart { [unit, unit + half] } else { [2 * unit, 2 * unit + 1] };
        let [a, b] = features.map(|feature| feature as u64 * ELEMENT_BYTES as u64);
        let qkv = tensors.qkv + row as u64 * params.qkv_row_bytes + (head * params.head_bytes()) as u64;
        let mut pair = ld_global_b16(qkv + a) as u32 | (ld_global_b16(qkv + b) as u32) << 16;
        if turns {
            let mut angle = [f32::NAN; 2];
            if let Some(cosines) = tensors.cosines(tensors.position(row), params) {
                let cosine = cosines + unit as u64 * 4;
                angle = [cosine, cosine + params.to_sine()].map(|at| f32::from_bits(ld_global_b32(at)));
            }
            let [a, b] = turn(E::unpack(pair), angle[0], angle[1]);
            pair = E::pack(a, b);
        }
        let places = Places::new(&tensors, row, tensors.slot(row, params), params);
        if let Some(out) = places.of(head, params) {
            st_global_b16(out + a, pair as u16);
            st_global_b16(out + b, (pair >> 16) as u16);
        }
    }
}

macro_rules! rope {
    ($($name:ident: $rope:expr;)*) => {$(
        kernel! {
            fn $name(
                qkv: u64,
                position_ids: u64,
                slot: u64,
                cos_sin: u64,
                q: u64,
                k_cache: u64,
                v_cache: u64,
                params: RopeParams,
            ) {
                let tensors = Tensors { qkv, position_ids, slot, cos_sin, q, k_cache, v_cache };
                // SAFETY: see `crate::kernel`.
                unsafe { $rope(tensors, &params) }
            }
        }
    )*};
}

rope! {
    rope_bf16_half_split: rope::<Bf16, HalfSplit>;
    rope_bf16_interleaved: rope::<Bf16, Interleaved>;
    rope_bf16_pairs: rope_pairs::<Bf16>;
    rope_f16_half_split: rope::<F16, HalfSplit>;
    rope_f16_interleaved: rope::<F16, Interleaved>;
    rope_f16_pairs: rope_pairs::<F16>;
}
