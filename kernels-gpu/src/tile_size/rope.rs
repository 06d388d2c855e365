//! Rotary position embedding.

/// Threads of a CTA.
pub const ROPE_THREADS: u32 = 128;

/// Heads of a token that a thread turns by the same angles, at most.
pub const ROPE_HEADS: u32 = 4;

/// So many it turns in a launch of `rows` tokens: a single one, that of a decode step, is spread over more SMs.
pub const fn rope_heads_per_thread(rows: usize) -> u32 {
    if rows == 1 { 1 } else { ROPE_HEADS }
}

/// The most features of a head: a thread has 8 or 16 of them, and a CTA has a whole head.
pub const ROPE_MAX_HEAD_DIM: u32 = ROPE_THREADS * 8;
