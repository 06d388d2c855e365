//! A row of logits as the kernels see it.

use super::control;
use super::weight;
use crate::arch::global::{ld_global_b32, st_global_b32};
use crate::params::SampleParams;
use crate::tile_size::{SAMPLE_LEVELS, SAMPLE_LEVELS_PER_OCTAVE, SAMPLE_SLICE};

/// A row whose logits are finite.
#[derive(Clone, Copy)]
pub(super) struct Row {
    /// The address of its first logit.
    pub(super) logits: u64,
    /// The largest logit.
    top: f32,
    scale_log2: f32,
    /// The address of its words of control.
    pub(super) control: u64,
}

impl Row {
    /// Row `row`; `None` where a logit is not finite.
    ///
    /// # Safety
    /// The addresses are what [`crate::kernel`] says.
    #[inline(always)]
    pub(super) unsafe fn new(
        logits: u64,
        top: u64,
        control: u64,
        row: u32,
        params: &SampleParams,
    ) -> Option<Self> {
        let logits = logits + row as u64 * params.row_stride * 4;
        // SAFETY: the caller's.
        let top = unsafe { ld_global_b32(top + row as u64 * 4) };
        if top >= params.vocab_size {
            return None;
        }
        let control = control + row as u64 * (4 * control::WORDS as u64);
        let mut this = Self { logits, top: 0.0, scale_log2: params.scale_log2, control };
        // SAFETY: a token of the row.
        this.top = unsafe { this.logit(top) };
        Some(this)
    }

    /// # Safety
    /// `token` is one of the row's.
    #[inline(always)]
    pub(super) unsafe fn logit(&self, token: u32) -> f32 {
        // SAFETY: the caller's.
        f32::from_bits(unsafe { ld_global_b32(self.logits + 4 * token as u64) })
    }

    /// The weight of a logit.
    #[inline(always)]
    pub(super) fn weight(&self, logit: f32) -> u64 {
        weight::weight(logit, self.top, self.scale_log2)
    }

    /// The level of a logit, 0 for the likeliest, and its weight.
    #[inline(always)]
    pub(super) fn level_and_weight(&self, logit: f32) -> (u32, u64) {
        let log2_weight = weight::log2_weight(logit, self.top, self.scale_log2);
        // No NaN comes here, and conversions end at the largest integer.
        let level = log2_weight * -(SAMPLE_LEVELS_PER_OCTAVE as f32);
        let level = (level.min(SAMPLE_LEVELS as f32 - 1.0)) as u32;
        (level, weight::of_log2(log2_weight))
    }

    /// A word of control.
    ///
    /// # Safety
    /// No other CTA writes it meanwhile.
    #[inline(always)]
    pub(super) unsafe fn get(&self, word: u64) -> u32 {
        // SAFETY: the caller's.
        unsafe { ld_global_b32(self.control + word) }
    }

    /// Writes a word of control.
    ///
    /// # Safety
    /// No other thread accesses it meanwhile.
    #[inline(always)]
    pub(super) unsafe fn set(&self, word: u64, value: u32) {
        // SAFETY: the caller's.
        unsafe { st_global_b32(self.control + word, value) };
    }
}

/// The tokens of a slice: the first, and the end.
#[inline(always)]
pub(super) fn slice_of(slice: u32, params: &SampleParams) -> (u32, u32) {
    let first = slice * SAMPLE_SLICE;
    (first, (first + SAMPLE_SLICE).min(params.vocab_size))
}
