//! The kernels for compute capability 8.0 and later.

use super::{cut, draw, histogram};
use crate::params::SampleParams;

kernel! {
    fn sample_histogram(logits: u64, top: u64, control: u64, counts: u64, sums: u64, params: SampleParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { histogram::histogram(logits, top, control, counts, sums, &params) }
    }
}

kernel! {
    fn sample_cut(logits: u64, top: u64, control: u64, survivors: u64, params: SampleParams) {
        // SAFETY: see `crate::kernel`.
        unsafe { cut::cut(logits, top, control, survivors, &params) }
    }
}

kernel! {
    fn sample_draw(
        logits: u64,
        top: u64,
        control: u64,
        slice_sums: u64,
        uniform: u64,
        out: u64,
        counters: u64,
        params: SampleParams,
    ) {
        // SAFETY: see `crate::kernel`.
        unsafe { draw::draw(logits, top, control, slice_sums, uniform, out, counters, &params) }
    }
}
