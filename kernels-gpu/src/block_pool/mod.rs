//! Mean pooling of blocks of tokens.
//!
//! A CTA takes the mean of one block of one head. `head_dim / 8` threads share a row, 16 bytes each; the 128 threads take
//! 16 rows at a time at head dim 64, 8 at 128, four such loads under way. A thread adds its rows in order; then the lanes of a
//! warp that hold the same features meet by shuffles, the warps in shared memory. The order depends on nothing but the head
//! dim. The tokens are read once, and there is nothing to compute: the time is that of reading them.
//!
//! Parameters: see [`crate::kernel`].

mod sm80;
