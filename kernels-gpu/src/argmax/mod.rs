//! The index of the largest logit of a row.
//!
//! # Tiling
//! A row is cut into slices of 4096 logits, one per CTA: one SM alone would take a row of 128 K logits (512 KB) at the pace
//! of its own path to the second-level cache, some 64 bytes a cycle, which is 5 us and more; 32 CTAs have all of it under
//! way at once. Beyond 64 rows a CTA has a whole row, the rows being many enough.
//!
//! # Thread mapping
//! A thread reads every 256th logit of the slice, 16 at a time, in loads of 4 bytes: warps read whole lines, and rows need
//! no alignment.
//!
//! # Meeting
//! A logit and its index are one number of 64 bits, the logit's key inverted above the index: the least of them is the
//! largest logit, and of equals the one with the lowest index. What is not finite makes it `u32::MAX` with nothing above,
//! less than any other. CTAs of a row meet in one atomic minimum; the last to come writes the index and puts the meeting
//! place back to its start, so that a captured graph can be launched again. The result is the same in whatever order they
//! come, and however the row is sliced.
//!
//! None of this has been timed. Expected for one row of 128 K logits that lie in the second-level cache: 2 to 3 us, nearly
//! all of it the latency of one launch, one round of loads, and three accesses one after the other at the meeting.
//!
//! Parameters: see [`crate::kernel`].

mod sm80;
