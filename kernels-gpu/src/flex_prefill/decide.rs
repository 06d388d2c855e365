//! What a head keeps.
//!
//! A CTA per head: the mean probe query is summed by all warps, each a share of the rows; a warp takes four mean keys at a
//! time, lanes a share of the features each; what follows is a thread per key block.

use core::marker::PhantomData;

use super::divergence::{ln, term};
use super::head::Head;
use crate::arch::global::{ld_global_b32, ld_global_v2_b32, st_global_b32, st_global_v4_b32};
use crate::arch::math::{div_rem, ex2, fma, lg2, rcp, sqrt};
use crate::arch::shared::{dynamic_smem, ld_shared_f32, st_shared_b32};
use crate::arch::{barrier, opaque, shuffle};
use crate::element::{Bf16, Element, F16};
use crate::merge_state::{F32, RowElement};
use crate::params::{FlexHead, FlexPrefillParams, SearchSequence};
use crate::select::compact::{self, Place};
use crate::select::{Cta, key, radix};
use crate::tile_size::{ELEMENT_BYTES, FLEX_DECIDE_THREADS, SELECT_COUNT_SMEM_BYTES, WARP};

const WARPS: u32 = FLEX_DECIDE_THREADS / WARP;

/// Mean keys that a warp multiplies at a time.
const KEYS: u32 = 4;

/// `x` rounded to the element type.
#[inline(always)]
pub(super) fn round<E: Element>(x: f32) -> f32 {
    E::unpack(E::pack(x, 0.0))[0]
}

/// Kernel pointers that the steps share.
#[derive(Clone, Copy)]
struct Tensors {
    q: u64,
    mean_keys: u64,
    counts: u64,
    column_sums: u64,
    slash_sums: u64,
    logits: u64,
    columns: u64,
    diagonals: u64,
    heads: u64,
}

/// A head whose element type is `E` with `32 N` features.
struct Decide<'a, E, const N: usize> {
    cta: Cta<WARPS>,
    head: Head,
    params: &'a FlexPrefillParams,
    element: PhantomData<E>,
}

impl<E: Element, const N: usize> Decide<'_, E, N> {
    const HEAD_DIM: u32 = N as u32 * WARP;
    /// The mean query in shared memory, behind what selections use, and a place per warp behind it.
    const MEAN_QUERY: u32 = SELECT_COUNT_SMEM_BYTES;
    const PLACES: u32 = Self::MEAN_QUERY + Self::HEAD_DIM * 4;

    /// Leaves the mean probe query in shared memory.
    ///
    /// # Safety
    /// Reached by all threads; nothing else uses shared memory.
    #[inline(always)]
    unsafe fn mean_query(&self, q: u64) {
        let (thread, params, search) = (self.cta.thread, self.params, &self.head.sequence);
        let rows = params.probe_rows(search.q_len);
        let first = search.q_start + search.q_len - rows;
        let scaled = params.has(FlexPrefillParams::PROBE_ROUND);
        // SAFETY: the caller's; partial sums of warps are written and read between barriers.
        unsafe {
            let mut sums = [0.0; N];
            let mut row = thread.warp;
            while row < rows {
                let at = params.q.offset(first + row, self.head.head, ELEMENT_BYTES);
                let x =
                    <E as RowElement>::load::<N>(q + at + (thread.lane * N as u32 * ELEMENT_BYTES) as u64);
                for i in 0..N {
                    sums[i] += if scaled { round::<E>(x[i] * params.softmax_scale) } else { x[i] };
                }
                row += WARPS;
            }
            for i in 0..N {
                let feature = thread.lane * N as u32 + i as u32;
                st_shared_b32(
                    self.cta.smem + (thread.warp * Self::HEAD_DIM + feature) * 4,
                    sums[i].to_bits(),
                );
            }
            barrier::sync();
            if thread.index < Self::HEAD_DIM {
                let mut sum = 0.0;
                for warp in 0..WARPS {
                    sum += ld_shared_f32(self.cta.smem + (warp * Self::HEAD_DIM + thread.index) * 4);
                }
                let mean = sum / rows as f32;
                let mean = if scaled { round::<E>(mean) } else { mean * params.softmax_scale };
                st_shared_b32(self.cta.smem + Self::MEAN_QUERY + thread.index * 4, mean.to_bits());
            }
            barrier::sync();
        }
    }

    /// Writes the logits of the pooled estimate.
    ///
    /// # Safety
    /// Reached by all threads, behind [`Self::mean_query`].
    #[inline(always)]
    unsafe fn pooled_logits(&self, mean_keys: u64, logits: u64) {
        let (thread, params) = (self.cta.thread, self.params);
        let blocks = self.head.grid.n_blocks();
        let rounded = params.has(FlexPrefillParams::PROBE_ROUND);
        // SAFETY: the caller's; rows of blocks that exist.
        unsafe {
            let mean_keys = mean_keys + self.head.mean_keys(params) * Self::HEAD_DIM as u64 * 4;
            let lane = (thread.lane * N as u32 * 4) as u64;
            let mut query = [0.0; N];
            for i in 0..N {
                let feature = thread.lane * N as u32 + i as u32;
                query[i] = ld_shared_f32(self.cta.smem + Self::MEAN_QUERY + feature * 4);
            }
            let mut first = thread.warp * KEYS;
            while first < blocks {
                let mut keys = [[0.0; N]; KEYS as usize];
                for k in 0..KEYS {
                    // Past the end, the last key once more.
                    let block = (first + k).min(blocks - 1) as u64;
                    keys[k as usize] = F32::load::<N>(mean_keys + block * Self::HEAD_DIM as u64 * 4 + lane);
                }
                for k in 0..KEYS {
                    let mut product = 0.0;
                    for i in 0..N {
                        let key = keys[k as usize][i];
                        product = fma(query[i], if rounded { round::<E>(key) } else { key }, product);
                    }
                    let product = shuffle::warp_sum(product);
                    let block = first + k;
                    if block < blocks && thread.lane == k {
                        let logit = if rounded { round::<E>(product) } else { product };
                        let weight = if params.has(FlexPrefillParams::JSD_WEIGHTED) {
                            0.0
                        } else {
                            ln(self.seen(block) as f32)
                        };
                        st_global_b32(logits + block as u64 * 4, (logit + weight).to_bits());
                    }
                }
                first += WARPS * KEYS;
            }
            barrier::sync();
        }
    }

    /// Pairs of a probe row and a key of block `n` that the causal mask leaves: key `j` is seen by the last `k_len - j` rows.
    #[inline(always)]
    fn seen(&self, n: u32) -> u32 {
        let (k_len, block) = (self.head.grid.k_len, self.params.block);
        let rows = self.params.probe_rows(self.head.grid.q_len);
        let (first, end) = (n * block, ((n + 1) * block).min(k_len));
        // Keys from here on are not seen by all rows.
        let ramp = (k_len - rows + 1).max(first).min(end);
        let (all, some) = (ramp - first, end - ramp);
        // The most and the least that see one of them: k_len - ramp and k_len - end + 1.
        rows * all + some * (2 * k_len - ramp - end + 1) / 2
    }

    /// `D^2`, the same bits in all threads; NaN when something is not finite.
    ///
    /// # Safety
    /// Reached by all threads, behind [`Self::pooled_logits`].
    #[inline(always)]
    unsafe fn divergence(&self, logits: u64, column_sums: u64) -> f32 {
        let published = self.params.has(FlexPrefillParams::JSD_WEIGHTED);
        // SAFETY: the caller's.
        unsafe {
            let load = |base: u64, n: u32| f32::from_bits(ld_global_b32(base + n as u64 * 4));
            let mut max = f32::NEG_INFINITY;
            self.for_each_block(|n| max = max.max(load(logits, n)));
            let max = self.all(shuffle::warp_max(max), f32::max);
            let exponent = |n: u32| (load(logits, n) - max) * core::f32::consts::LOG2_E;
            let mut sum = 0.0;
            self.for_each_block(|n| sum += ex2(exponent(n)));
            let sum = self.all(shuffle::warp_sum(sum), |a, b| a + b);
            let (norm, log_sum) = (rcp(sum), lg2(sum));
            let rows = rcp(self.params.probe_rows(self.head.grid.q_len) as f32);
            let mut total = 0.0;
            self.for_each_block(|n| {
                let exponent = exponent(n);
                let (a, v) = (ex2(exponent) * norm, load(column_sums, n) * rows);
                // What f32 does not hold is 0 there, and 0 ln 0 is NaN.
                let lost = published && (exponent - log_sum < -150.0 || v == 0.0);
                total += if lost { f32::NAN } else { term(a, v) };
            });
            0.5 * self.all(shuffle::warp_sum(total), |a, b| a + b)
        }
    }

    /// Calls `f` with every `THREADS`-th block.
    #[inline(always)]
    fn for_each_block(&self, mut f: impl FnMut(u32)) {
        let mut n = self.cta.thread.index;
        while n < self.head.grid.n_blocks() {
            f(n);
            n += FLEX_DECIDE_THREADS;
        }
    }

    /// What `join` makes of the values of all warps, in their order.
    ///
    /// # Safety
    /// Reached by all threads; `value` is the same in a warp.
    #[inline(always)]
    unsafe fn all(&self, value: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
        let places = self.cta.smem + Self::PLACES;
        // SAFETY: the caller's; a place per warp, written and read between barriers.
        unsafe {
            if self.cta.thread.lane == 0 {
                st_shared_b32(places + self.cta.thread.warp * 4, value.to_bits());
            }
            barrier::sync();
            let mut joined = ld_shared_f32(places);
            for warp in 1..WARPS {
                joined = join(joined, ld_shared_f32(places + warp * 4));
            }
            barrier::sync();
            joined
        }
    }

    /// Marks the `k` largest of the block sums; `forced` is taken first, ties go to the lowest index.
    ///
    /// # Safety
    /// Reached by all threads with the same arguments.
    #[inline(always)]
    unsafe fn mark(&self, sums: u64, k: u32, forced: u32, write: impl Fn(u32, u32)) {
        let blocks = self.head.grid.n_blocks();
        // SAFETY: the caller's.
        unsafe {
            let key = |n: u32| {
                if n == forced {
                    return key::FORCED;
                }
                key::score(f32::from_bits(ld_global_b32(sums + n as u64 * 4)))
            };
            let cut = radix::by_count(self.cta, blocks, k, key);
            compact::visit(
                self.cta,
                blocks,
                cut.ties,
                |n| Place::of_key(key(n), cut),
                |first, kept, _| {
                    if self.cta.thread.lane == 0 {
                        write(first / WARP, kept);
                    }
                },
            );
        }
    }

    /// # Safety
    /// Launched as [`crate::kernel`] says, for a sequence that is searched.
    #[inline(always)]
    unsafe fn run(&self, tensors: &Tensors) {
        let (head, params) = (&self.head, self.params);
        let blocks = head.grid.n_blocks();
        let first_block = head.first_block * 4;
        // SAFETY: the caller's.
        unsafe {
            let logits = tensors.logits + first_block;
            let column_sums = tensors.column_sums + first_block;
            self.mean_query(tensors.q);
            self.pooled_logits(tensors.mean_keys, logits);
            let sqrt_jsd = sqrt(self.divergence(logits, column_sums));
            // NaN is not below.
            let query_aware = sqrt_jsd < params.tau;

            let counts = ld_global_v2_b32(tensors.counts + head.index as u64 * 8);
            let [vertical_blocks, slash_blocks] = counts.map(|tokens| {
                let covered = div_rem(1 + tokens, params.count_divisor).0 + 1;
                let budget = covered.max(params.min_blocks).min(params.max_blocks);
                if query_aware { params.min_blocks } else { budget }.min(blocks)
            });
            // Bits of diagonals descend with the distance: groups that ascend with it are turned round.
            let tail_align = params.has(FlexPrefillParams::TAIL_ALIGN);
            let last_word = head.words() - 1;
            // A loop: the selection is long, and there once.
            for which in 0..opaque(2) {
                let is_slash = which == 1;
                let (sums, bits, k, forced) = if is_slash {
                    let main = if tail_align { blocks - 1 } else { 0 };
                    (tensors.slash_sums + first_block, tensors.diagonals, slash_blocks, main)
                } else {
                    (column_sums, tensors.columns, vertical_blocks, 0)
                };
                let bits = bits + head.first_word * 4;
                let turned = is_slash && !tail_align;
                self.mark(sums, k, forced, |word, kept| {
                    let (word, kept) =
                        if turned { (last_word - word, kept.reverse_bits()) } else { (word, kept) };
                    st_global_b32(bits + word as u64 * 4, kept);
                });
            }
            let kind = if query_aware { FlexHead::QUERY_AWARE } else { FlexHead::VERTICAL_SLASH };
            self.report(tensors.heads, FlexHead { kind, sqrt_jsd, vertical_blocks, slash_blocks });
        }
    }

    /// # Safety
    /// `heads` is the list of decisions.
    #[inline(always)]
    unsafe fn report(&self, heads: u64, of: FlexHead) {
        if self.cta.thread.index == 0 {
            let at = heads + self.head.index as u64 * size_of::<FlexHead>() as u64;
            // SAFETY: the caller's; every head has its own.
            unsafe {
                st_global_v4_b32(at, [of.kind, of.sqrt_jsd.to_bits(), of.vertical_blocks, of.slash_blocks]);
            }
        }
    }
}

/// # Safety
/// Launched as [`crate::kernel`] says.
#[inline(always)]
unsafe fn decide<E: Element, const N: usize>(
    tensors: &Tensors,
    sequences: *const SearchSequence,
    first_blocks: *const u32,
    params: &FlexPrefillParams,
) {
    // SAFETY: the caller's; the CTA leaves or stays as one.
    unsafe {
        let cta = Cta::<WARPS>::new(dynamic_smem());
        let head = Head::current(sequences, first_blocks, params);
        let this = Decide::<E, N> { cta, head, params, element: PhantomData };
        if params.attends_densely(head.grid.q_len, head.grid.k_len) {
            let dense =
                FlexHead { kind: FlexHead::DENSE, sqrt_jsd: 0.0, vertical_blocks: 0, slash_blocks: 0 };
            this.report(tensors.heads, dense);
            return;
        }
        this.run(tensors);
    }
}

macro_rules! decide {
    ($($name:ident: $element:ty, $n:literal;)*) => {$(
        kernel! {
            fn $name(
                q: u64,
                mean_keys: u64,
                counts: u64,
                column_sums: u64,
                slash_sums: u64,
                logits: u64,
                columns: u64,
                diagonals: u64,
                heads: u64,
                sequences: *const SearchSequence,
    first_blocks: *const u32,
                params: FlexPrefillParams,
            ) {
                let tensors = Tensors {
                    q, mean_keys, counts, column_sums, slash_sums, logits, columns, diagonals, heads,
                };
                // SAFETY: see `crate::kernel`.
                unsafe { decide::<$element, $n>(&tensors, sequences, first_blocks, &params) }
            }
        }
    )*};
}

decide! {
    flex_prefill_bf16_d64_decide: Bf16, 2;
    flex_prefill_bf16_d128_decide: Bf16, 4;
    flex_prefill_f16_d64_decide: F16, 2;
    flex_prefill_f16_d128_decide: F16, 4;
}
