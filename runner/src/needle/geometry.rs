//! The numbers of the constructed model: its sizes, its amplitudes, and what every coordinate of its vectors means.

use std::ops::Range;

/// Width of the residual stream.
pub const HIDDEN: usize = 256;
/// Width of the MLPs.
pub const INTERMEDIATE: usize = 256;
/// Query heads.
pub const NUM_HEADS: usize = 8;
/// Key and value heads; each serves `GROUP` query heads.
pub const NUM_KV_HEADS: usize = 2;
/// Query heads of one key and value head.
pub const GROUP: usize = NUM_HEADS / NUM_KV_HEADS;
/// Width of one head.
pub const HEAD_DIM: usize = 128;
/// Rows of the embedding and of the output matrix.
pub const VOCAB_SIZE: usize = 4096;
/// `rms_norm_eps`.
pub const RMS_NORM_EPS: f64 = 1e-5;

/// Bits of a token's code: the 12 bits of its id and their parity, as -1 and +1. The parity makes two different
/// codes differ in at least two places, so that their product is at most `CODE_BITS - 4` against `CODE_BITS`.
pub const CODE_BITS: usize = 13;
/// How many tokens back a position remembers: the retrieval head compares this many tokens.
pub const SLOTS: usize = 7;
/// Elements of all slots together, and of all keys.
pub const SLOT_BITS: usize = SLOTS * CODE_BITS;

/// The meaning of the coordinates of the residual stream, before a dense basis hides it.
pub mod residual {
    use super::{CODE_BITS, HIDDEN, Range, SLOT_BITS};

    /// The same for every token: what biases are read from.
    pub const CONSTANT: usize = 0;
    /// [`super::FLAG`] on the tokens that answers are made of, 0 on others.
    pub const FLAG: usize = 1;
    /// The token's own code.
    pub const OWN: Range<usize> = span(2, CODE_BITS);
    /// The codes of the previous tokens, nearest first. Written by layer 0's attention.
    pub const SLOT: Range<usize> = span(OWN.end, SLOT_BITS);
    /// The slots again, on answer tokens only: "I come after these". Written by layer 0's MLP.
    pub const KEY: Range<usize> = span(SLOT.end, SLOT_BITS);
    /// The code that the retrieval head found. Written by layer 1's attention.
    pub const COPIED: Range<usize> = span(KEY.end, CODE_BITS);
    /// The signs of the copied code, which the output matrix reads. Written by layer 1's MLP.
    pub const OUTPUT: Range<usize> = span(COPIED.end, CODE_BITS);
    /// 1 on the begin token.
    pub const BEGIN: usize = OUTPUT.end;
    /// What it takes to give every token's embedding the same norm, so that the factor of each RMSNorm is a known
    /// number.
    pub const BALANCE: usize = HIDDEN - 1;

    const _: () = assert!(BEGIN < BALANCE);

    const fn span(start: usize, len: usize) -> Range<usize> {
        start..start + len
    }
}

/// Rotary pairs of a head that tell positions, the fastest ones. The slower ones hardly turn within `max_len` and
/// carry content.
pub const POSITION_PAIRS: usize = 16;

/// The two dimensions that RoPE turns together, in the half-split layout of Llama.
pub const fn rotary_pair(pair: usize) -> (usize, usize) {
    (pair, pair + HEAD_DIM / 2)
}

/// The head dimension of the `i`-th content coordinate: the slow pairs' first halves, then their second halves.
pub const fn content(i: usize) -> usize {
    const PER_HALF: usize = HEAD_DIM / 2 - POSITION_PAIRS;
    assert!(i < 2 * PER_HALF);
    if i < PER_HALF { POSITION_PAIRS + i } else { HEAD_DIM / 2 + POSITION_PAIRS + (i - PER_HALF) }
}

/// The content coordinate on which the begin token is found, after those of the slots.
pub const SINK: usize = SLOT_BITS;

/// `rope_theta`: 1e24 at 131072 tokens, and such at other lengths that the fastest content pair, whose frequency is
/// `theta^(-1/4)`, turns by the same 0.131 radians from the first token to the last. A full match of the retrieval head
/// then loses at most 1.5 of its 182 to rotation.
pub fn rope_theta(max_len: usize) -> f64 {
    1e24 * (max_len as f64 / 131072.0).powi((HEAD_DIM / 2 / POSITION_PAIRS) as i32)
}

/// Radians that a rotary pair turns per token.
pub fn rotary_frequency(pair: usize, theta: f64) -> f64 {
    theta.powf(-2.0 * pair as f64 / HEAD_DIM as f64)
}

/// Amplitude of [`residual::CONSTANT`].
pub const CONSTANT: f64 = 2.0;
/// Amplitude of [`residual::FLAG`].
pub const FLAG: f64 = 2.0;

/// Score of one position pair at the right distance. All 16 give 640; the neighbours of the right distance are 21 or
/// more below that and everything else at least 65, so these heads attend to one token.
pub const POSITION_SCORE: f64 = 40.0;
/// Score of one matching bit. A full match of the retrieval head gives 182, and a token that differs costs 8 or more.
pub const BIT_SCORE: f64 = 2.0;
/// Score of the begin token, as a share of a full match: where the retrieval head looks when nothing matches.
pub const SINK_SHARE: f64 = 0.5;

/// Steepness of the digitising MLP's units.
pub const STEEPNESS: f64 = 20.0;
/// Where those units switch, between -1 and +1 on both sides of 0.
pub const THRESHOLD: f64 = 0.5;
/// Logit per matching bit, before the last RMSNorm's factor.
pub const LOGIT: f64 = 2.0;

/// Squared norm of an embedding.
const NORM2_EMBEDDING: f64 = CONSTANT * CONSTANT + FLAG * FLAG + CODE_BITS as f64;
/// RMSNorm factor of an embedding: layer 0's attention.
pub fn norm_embedding() -> f64 {
    norm_factor(NORM2_EMBEDDING)
}
/// RMSNorm factor with the slots filled: layer 0's MLP, and layer 1 where no keys were written.
pub fn norm_slots() -> f64 {
    norm_factor(NORM2_EMBEDDING + SLOT_BITS as f64)
}
/// RMSNorm factor with slots and keys filled: layer 1 on answer tokens.
pub fn norm_keys() -> f64 {
    norm_factor(NORM2_EMBEDDING + 2.0 * SLOT_BITS as f64)
}

fn norm_factor(norm2: f64) -> f64 {
    1.0 / (norm2 / HIDDEN as f64 + RMS_NORM_EPS).sqrt()
}
