//! The map of a query-aware head: the softmax of mean queries against mean keys.
//!
//! # Tiling
//! A CTA owns 32 query blocks. It sums their queries itself, a warp per block: what they are read for is this alone, and
//! only heads that are query-aware read them. Mean queries stay in shared memory, mean keys pass by 64 at a time; a thread
//! owns 4 x 4 products of such a step, rows `ty + 8 i` and columns `tx + 16 j`. In f32 throughout: the map decides between
//! blocks that are 1e-5 apart.
//!
//! Logits go to the map's place in global memory; when a CTA has all of its rows, a warp per row makes probabilities of them
//! there.

use super::decide::round;
use super::head::Head;
use crate::arch::global::{ld_global_b32, ld_global_v4_b32, st_global_b32};
use crate::arch::math::{ex2, fma, rcp};
use crate::arch::shared::{dynamic_smem, ld_shared_v4_b32, st_shared_b32, st_shared_v4_b32};
use crate::arch::special_register::cta;
use crate::arch::{barrier, opaque, shuffle};
use crate::element::{Bf16, Element, F16};
use crate::forward::Thread;
use crate::params::{FlexHead, FlexPrefillParams, SearchSequence};
use crate::tile_size::{
    ELEMENT_BYTES, FLEX_MAP_COLUMNS, FLEX_MAP_ROWS, FLEX_MAP_THREADS, WARP, flex_map_stride,
};

const WARPS: u32 = FLEX_MAP_THREADS / WARP;
const ROWS_OF_WARP: u32 = FLEX_MAP_ROWS / WARPS;
/// Threads side by side in a step's columns, and above one another in its rows.
const ACROSS: u32 = FLEX_MAP_COLUMNS / 4;
const DOWN: u32 = FLEX_MAP_ROWS / 4;

struct Map<'a, const DIM: u32> {
    thread: Thread,
    head: Head,
    params: &'a FlexPrefillParams,
    /// The first of the query blocks.
    first: u32,
    queries: u32,
    keys: u32,
}

impl<const DIM: u32> Map<'_, DIM> {
    const STRIDE: u32 = flex_map_stride(DIM) * 4;
    /// Lanes that read a row of queries, 16 bytes each, and rows that a warp reads at a time.
    const LANES: u32 = DIM / 8;
    const ROWS: u32 = WARP / Self::LANES;

    fn rounded(&self) -> bool {
        self.params.has(FlexPrefillParams::PROBE_ROUND)
    }

    /// Leaves the scaled mean queries in shared memory, zeros for blocks that do not exist.
    ///
    /// # Safety
    /// Reached by all threads.
    #[inline(always)]
    unsafe fn pool_queries<E: Element>(&self, q: u64) {
        let (lane, search) = (self.thread.lane, &self.head.sequence);
        let chunk = lane % Self::LANES;
        for i in 0..opaque(ROWS_OF_WARP) {
            let row = self.thread.warp * ROWS_OF_WARP + i;
            let start = (self.first + row) * self.params.block;
            let end = (start + self.params.block).min(search.q_len);
            let mut sums = [0.0; 8];
            let mut token = start + lane / Self::LANES;
            // SAFETY: the caller's; tokens of the sequence; the shuffles are reached by all lanes.
            unsafe {
                while token < end {
                    let at = self.params.q.offset(search.q_start + token, self.head.head, ELEMENT_BYTES);
                    let pairs = ld_global_v4_b32(q + at + chunk as u64 * 16);
                    for p in 0..4 {
                        let [low, high] = E::unpack(pairs[p]);
                        sums[2 * p] += low;
                        sums[2 * p + 1] += high;
                    }
                    token += Self::ROWS;
                }
                let tokens = end.saturating_sub(start);
                for f in 0..8 {
                    let mut sum = sums[f];
                    if Self::LANES <= 8 {
                        sum += shuffle::bfly::<8>(sum);
                    }
                    sum += shuffle::bfly::<16>(sum);
                    let mean = if tokens == 0 { 0.0 } else { self.scaled_mean::<E>(sum, tokens as f32) };
                    if lane < Self::LANES {
                        st_shared_b32(
                            self.queries + row * Self::STRIDE + (chunk * 8 + f as u32) * 4,
                            mean.to_bits(),
                        );
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn scaled_mean<E: Element>(&self, sum: f32, tokens: f32) -> f32 {
        let scale = self.params.softmax_scale;
        if self.rounded() {
            // The published code averages a zero-padded block and corrects the count afterwards.
            let padded = self.params.block as f32;
            return round::<E>(round::<E>(round::<E>(sum / padded) * (padded / tokens)) * scale);
        }
        sum / tokens * scale
    }

    /// Copies the mean keys from block `column` on to shared memory, zeros for blocks that do not exist.
    ///
    /// # Safety
    /// Reached by all threads; nothing reads the keys.
    #[inline(always)]
    unsafe fn load_keys<E: Element>(&self, mean_keys: u64, column: u32) {
        let chunks = DIM / 4;
        for i in 0..FLEX_MAP_COLUMNS * chunks / FLEX_MAP_THREADS {
            let at = i * FLEX_MAP_THREADS + self.thread.index;
            let (row, chunk) = (at / chunks, at % chunks);
            let mut key = [0; 4];
            // SAFETY: the caller's; rows of blocks that exist.
            unsafe {
                if column + row < self.head.grid.n_blocks() {
                    key = ld_global_v4_b32(
                        mean_keys + ((column + row) as u64 * DIM as u64 + chunk as u64 * 4) * 4,
                    );
                    if self.rounded() {
                        key = key.map(|x| round::<E>(f32::from_bits(x)).to_bits());
                    }
                }
                st_shared_v4_b32(self.keys + row * Self::STRIDE + chunk * 16, key);
            }
        }
    }

    /// Products of the thread's 4 queries and 4 keys.
    ///
    /// # Safety
    /// Queries and keys are in shared memory.
    #[inline(always)]
    unsafe fn products(&self) -> [[f32; 4]; 4] {
        let (across, down) = (self.thread.index % ACROSS, self.thread.index / ACROSS);
        let (queries, keys) = (self.queries + down * Self::STRIDE, self.keys + across * Self::STRIDE);
        let mut products = [[0.0; 4]; 4];
        // A loop: all of it side by side would not fit the registers.
        let end = opaque(DIM * 4);
        let mut chunk = 0;
        while chunk < end {
            let (mut q, mut k) = ([[0; 4]; 4], [[0; 4]; 4]);
            // SAFETY: the caller's.
            unsafe {
                for i in 0..4 {
                    q[i as usize] = ld_shared_v4_b32(queries + i * DOWN * Self::STRIDE + chunk);
                    k[i as usize] = ld_shared_v4_b32(keys + i * ACROSS * Self::STRIDE + chunk);
                }
            }
            for d in 0..4 {
                for i in 0..4 {
                    for j in 0..4 {
                        products[i][j] =
                            fma(f32::from_bits(q[i][d]), f32::from_bits(k[j][d]), products[i][j]);
                    }
                }
            }
            chunk += 16;
        }
        products
    }

    /// Makes probabilities of the logits of query block `m`.
    ///
    /// # Safety
    /// Reached by all lanes of a warp, behind a barrier after the last logit.
    #[inline(always)]
    unsafe fn softmax(&self, map: u64, m: u32) {
        let visible = self.head.grid.visible(m);
        let lane = self.thread.lane;
        // SAFETY: the caller's; entries of the row. Lanes read what they alone write.
        unsafe {
            let row = map + self.head.map_row(m) * 4;
            let load = |n: u32| f32::from_bits(ld_global_b32(row + n as u64 * 4));
            let mut max = f32::NEG_INFINITY;
            for n in (lane..visible).step_by(WARP as usize) {
                max = max.max(load(n));
            }
            let max = shuffle::warp_max(max);
            let weight = |n: u32| ex2((load(n) - max) * core::f32::consts::LOG2_E);
            let mut sum = 0.0;
            for n in (lane..visible).step_by(WARP as usize) {
                sum += weight(n);
            }
            let norm = rcp(shuffle::warp_sum(sum));
            for n in (lane..visible).step_by(WARP as usize) {
                st_global_b32(row + n as u64 * 4, (weight(n) * norm).to_bits());
            }
        }
    }

    /// # Safety
    /// Launched as [`crate::kernel`] says, for a query-aware head with a query block `first`.
    #[inline(always)]
    unsafe fn run<E: Element>(&self, q: u64, mean_keys: u64, map: u64) {
        let grid = &self.head.grid;
        let (across, down) = (self.thread.index % ACROSS, self.thread.index / ACROSS);
        let end = (self.first + FLEX_MAP_ROWS).min(grid.m_blocks());
        let columns = grid.visible(end - 1);
        // SAFETY: the caller's; keys are written between barriers.
        unsafe {
            self.pool_queries::<E>(q);
            let mean_keys = mean_keys + self.head.mean_keys(self.params) * DIM as u64 * 4;
            let map = map + self.head.map() * 4;
            let mut rows = [0; 4];
            let mut visible = [0; 4];
            for i in 0..4 {
                let m = self.first + down + i * DOWN;
                if m < end {
                    rows[i as usize] = map + self.head.map_row(m) * 4;
                    visible[i as usize] = grid.visible(m);
                }
            }
            let mut column = 0;
            while column < columns {
                self.load_keys::<E>(mean_keys, column);
                barrier::sync();
                let products = self.products();
                for i in 0..4 {
                    for j in 0..4 {
                        let n = column + across + j as u32 * ACROSS;
                        if n < visible[i] {
                            let logit =
                                if self.rounded() { round::<E>(products[i][j]) } else { products[i][j] };
                            st_global_b32(rows[i] + n as u64 * 4, logit.to_bits());
                        }
                    }
                }
                barrier::sync();
                column += FLEX_MAP_COLUMNS;
            }
            for i in 0..opaque(ROWS_OF_WARP) {
                let m = self.first + self.thread.warp * ROWS_OF_WARP + i;
                if m < end {
                    self.softmax(map, m);
                }
            }
        }
    }
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn map<E: Element, const DIM: u32>(
    q: u64,
    mean_keys: u64,
    heads: u64,
    map: u64,
    sequences: *const SearchSequence,
    first_blocks: *const u32,
    params: &FlexPrefillParams,
) {
    // SAFETY: the caller's; the CTA leaves or stays as one.
    unsafe {
        let head = Head::current(sequences, first_blocks, params);
        let first = cta()[0] * FLEX_MAP_ROWS;
        if first >= head.grid.m_blocks() || head.kind(heads) != FlexHead::QUERY_AWARE {
            return;
        }
        let queries = dynamic_smem();
        let keys = queries + FLEX_MAP_ROWS * Map::<DIM>::STRIDE;
        let this = Map::<DIM> { thread: Thread::current(), head, params, first, queries, keys };
        this.run::<E>(q, mean_keys, map);
    }
}

macro_rules! map {
    ($($name:ident: $element:ty, $head_dim:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                mean_keys: u64,
                heads: u64,
                map: u64,
                sequences: *const SearchSequence,
    first_blocks: *const u32,
                params: FlexPrefillParams,
            ) {
                // SAFETY: see `crate::kernel`.
                unsafe { self::map::<$element, $head_dim>(q, mean_keys, heads, map, sequences, first_blocks, &params) }
            }
        }
    )*};
}

map! {
    flex_prefill_bf16_d64_map: Bf16, 64;
    flex_prefill_bf16_d128_map: Bf16, 128;
    flex_prefill_f16_d64_map: F16, 64;
    flex_prefill_f16_d128_map: F16, 128;
}
