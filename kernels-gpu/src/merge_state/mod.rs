//! Merging attention over disjoint sets of keys by log-sum-exp.
//!
//! With `M = max lse_p` and `Z = sum exp(lse_p - M)`, `out = sum exp(lse_p - M) / Z * out_p` and `lse = M + ln Z`. A part
//! whose LSE is `-inf` is not read, whatever it holds; a row without any other gets 0 and `-inf`.
//!
//! One warp per row of `head_dim` features, `N = head_dim / 32` of them per lane. Parts are summed in order, so that the
//! bits do not depend on anything else. The time is that of reading the parts once; 26 to 48 registers, no shared memory.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;

#[cfg(target_arch = "nvptx64")]
pub(crate) use sm80::{F32, Parts, RowElement};
