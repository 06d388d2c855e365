//! Rows of a tensor by index: `out[i] = in[index[i]]` along the token axis, for all heads. Keys and values of chosen tokens
//! become a dense cache.
//!
//! # Thread mapping
//! A CTA copies a tile of rows of one head, 16 bytes per thread and load: `pieces` threads side by side have one row, so
//! that a warp reads whole rows, and each thread four rows a constant apart, whose loads are under way together. The
//! kernel knows nothing of element types.
//!
//! Rows from the count on are left as they are. A row whose index lies outside the source becomes zeros, and nothing is
//! read for it: lists made on the device cannot be checked by the host, and must not lead beyond the tensor.
//!
//! Parameters: see [`crate::kernel`].

#[cfg(target_arch = "nvptx64")]
mod sm80;
