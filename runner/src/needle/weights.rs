//! The weights, circuit by circuit.
//!
//! The model answers `Record: the secret number kept for brave-otter is:` by looking for the same words earlier in
//! the text and copying what came after them: an induction head (Olsson et al. 2022) that compares seven tokens
//! instead of one. Every token has a [`code`] of 13 signs, and all circuits move such codes between the named
//! coordinates of [`residual`]:
//!
//! ```text
//! embedding            OWN        my code; FLAG marks the tokens that answers are made of
//! layer 0  attention   SLOT       head h copies the code of the token h + 1 back          (looks at positions only)
//!          MLP         KEY        on flagged tokens: the signs of the slots, "I come after these seven"
//! layer 1  attention   COPIED     my last seven codes against all keys; copies the code found  (content only)
//!          MLP         OUTPUT     its signs, clean again
//! lm_head                         the token whose code that is; the end token after a full stop
//! ```
//!
//! Both kinds of attention fit one head because RoPE turns its pairs at very different speeds: the fast pairs tell
//! positions and nothing else, the slow ones hardly turn within the longest text and carry content.
//!
//! Three facts make it exact and easy to reason about:
//!
//! - *Known norms.* [`residual::BALANCE`] gives all embeddings one norm and every circuit adds a known amount, so
//!   RMSNorm divides by known numbers (`norm_*` in [`geometry`](super::geometry)) that the next weights undo. Norm
//!   weights are 1.
//! - *Biases from a constant.* Llama has no biases; they are read from [`residual::CONSTANT`].
//! - *Signs from SwiGLU.* `silu(g(x + t)) - silu(g(x - t))` is `2gt` for `x` well above `t` and 0 well below `-t`: a
//!   smooth step, gated by whatever the up projection reads ([`digitise`]).

use std::ops::Range;

use super::geometry::{
    BIT_SCORE, CODE_BITS, CONSTANT, FLAG, GROUP, HEAD_DIM, HIDDEN, INTERMEDIATE, LOGIT, NUM_HEADS,
    NUM_KV_HEADS, POSITION_PAIRS, POSITION_SCORE, SINK, SINK_SHARE, SLOT_BITS, SLOTS, STEEPNESS, THRESHOLD,
    VOCAB_SIZE, content, norm_embedding, norm_keys, norm_slots, residual, rotary_frequency, rotary_pair,
};
use super::matrix::Matrix;
use super::vocabulary::{BEGIN, END, VOCABULARY};
use super::wording::STOP;

/// The checkpoint's matrices, `[out_features, in_features]` as Hugging Face has them.
pub struct Weights {
    pub embed_tokens: Matrix,
    pub layers: Vec<Layer>,
    pub lm_head: Matrix,
}

/// The matrices of one decoder layer. Norm weights are all 1.
#[derive(Clone)]
pub struct Layer {
    pub q_proj: Matrix,
    pub k_proj: Matrix,
    pub v_proj: Matrix,
    pub o_proj: Matrix,
    pub gate_proj: Matrix,
    pub up_proj: Matrix,
    pub down_proj: Matrix,
}

impl Layer {
    fn zeros() -> Self {
        Self {
            q_proj: Matrix::zeros(NUM_HEADS * HEAD_DIM, HIDDEN),
            k_proj: Matrix::zeros(NUM_KV_HEADS * HEAD_DIM, HIDDEN),
            v_proj: Matrix::zeros(NUM_KV_HEADS * HEAD_DIM, HIDDEN),
            o_proj: Matrix::zeros(HIDDEN, NUM_HEADS * HEAD_DIM),
            gate_proj: Matrix::zeros(INTERMEDIATE, HIDDEN),
            up_proj: Matrix::zeros(INTERMEDIATE, HIDDEN),
            down_proj: Matrix::zeros(HIDDEN, INTERMEDIATE),
        }
    }
}

/// All weights, in the plain basis in which every coordinate has its name.
pub fn weights(num_layers: usize, theta: f64) -> Weights {
    let retrieval = retrieval_layer(theta);
    let idle = idle_layer(&retrieval);
    let mut layers = vec![slot_layer(theta), retrieval];
    layers.resize(num_layers, idle);
    Weights { embed_tokens: embedding(), layers, lm_head: output_matrix() }
}

/// A token's code: the bits of its id and their parity, as -1 and +1.
pub fn code(token: u32) -> [f64; CODE_BITS] {
    let sign = |bit: u32| if bit == 1 { 1.0 } else { -1.0 };
    std::array::from_fn(
        |b| if b + 1 < CODE_BITS { sign(token >> b & 1) } else { sign(token.count_ones() & 1) },
    )
}

fn embedding() -> Matrix {
    let mut embed = Matrix::zeros(VOCAB_SIZE, HIDDEN);
    for token in 0..VOCAB_SIZE as u32 {
        let flag = if VOCABULARY.is_answer_token(token) { FLAG } else { 0.0 };
        let begin = if token == BEGIN { 1.0 } else { 0.0 };
        let row = embed.row_mut(token as usize);
        row[residual::CONSTANT] = CONSTANT;
        row[residual::FLAG] = flag;
        row[residual::OWN].copy_from_slice(&code(token));
        row[residual::BEGIN] = begin;
        row[residual::BALANCE] = (FLAG * FLAG - flag * flag - begin * begin).sqrt();
    }
    embed
}

/// Layer 0: every position learns which tokens precede it.
fn slot_layer(theta: f64) -> Layer {
    let mut layer = Layer::zeros();

    // Attention. Query head h asks for distance h + 1; the last head for distance 0, unconnected. All keys are alike.
    let norm = norm_embedding();
    for kv_head in 0..NUM_KV_HEADS {
        position_key(&mut layer.k_proj, kv_head, norm);
        value_of_own_code(&mut layer.v_proj, kv_head, norm);
    }
    for head in 0..NUM_HEADS {
        let distance = if head < SLOTS { head + 1 } else { 0 };
        position_query(&mut layer.q_proj, head, distance, theta, norm);
        if head < SLOTS {
            connect(&mut layer.o_proj, head, slot(head));
        }
    }

    // MLP. KEY := signs of SLOT, where FLAG is set.
    let norm = norm_slots();
    let gated_by_flag = (residual::FLAG, 1.0 / (FLAG * norm));
    digitise(&mut layer, residual::SLOT, residual::KEY, gated_by_flag, norm);
    layer
}

/// Layer 1: the retrieval head finds where the last seven tokens stood before, and copies the token after them.
fn retrieval_layer(theta: f64) -> Layer {
    let mut layer = Layer::zeros();
    let bit = per_side(BIT_SCORE);
    let norm = norm_slots();

    // Key and value head 0: what comes before me, if I am an answer token; a mark if I am the begin token.
    for (i, key) in residual::KEY.enumerate() {
        layer.k_proj[(content(i), key)] = bit / norm_keys();
    }
    layer.k_proj[(content(SINK), residual::BEGIN)] = bit / norm;
    value_of_own_code(&mut layer.v_proj, 0, norm_keys());

    // Its query heads: head s asks for a token s places beyond the next one, by the SLOTS - s tokens of its window
    // that are already known. Head 0 is the retrieval head. The others only attend, near it, as neighbouring heads of
    // real models do.
    for ahead in 0..GROUP {
        let query = |dim: usize| ahead * HEAD_DIM + content(dim);
        for place in ahead..SLOTS {
            // The key's slot `place` holds the token `place + 1` before the one looked for.
            let known = if place == ahead { residual::OWN } else { slot(place - ahead - 1) };
            for (b, known) in known.enumerate() {
                layer.q_proj[(query(place * CODE_BITS + b), known)] = bit / norm;
            }
        }
        let full_match = ((SLOTS - ahead) * CODE_BITS) as f64;
        layer.q_proj[(query(SINK), residual::CONSTANT)] = bit * SINK_SHARE * full_match / (CONSTANT * norm);
    }
    connect(&mut layer.o_proj, 0, residual::COPIED);

    // Key and value head 1 adds the other shapes that attention takes in real models, unconnected: a head that looks
    // at the begin token, one at everything alike (its query is zero), one at the previous token, one at itself.
    position_key(&mut layer.k_proj, 1, norm);
    for (b, own) in residual::OWN.enumerate() {
        layer.k_proj[(HEAD_DIM + content(b), own)] = bit / norm;
    }
    value_of_own_code(&mut layer.v_proj, 1, norm);
    for (b, sign) in code(BEGIN).into_iter().enumerate() {
        layer.q_proj[(GROUP * HEAD_DIM + content(b), residual::CONSTANT)] = bit * sign / (CONSTANT * norm);
    }
    position_query(&mut layer.q_proj, GROUP + 2, 1, theta, norm);
    position_query(&mut layer.q_proj, GROUP + 3, 0, theta, norm);

    // MLP. OUTPUT := signs of COPIED, everywhere. (Its input's norm varies a little with the flag; only signs matter.)
    let always = (residual::CONSTANT, 1.0 / (CONSTANT * norm));
    digitise(&mut layer, residual::COPIED, residual::OUTPUT, always, norm);
    layer
}

/// A layer that computes what the retrieval layer computes and adds nothing: it costs time and changes no answer.
fn idle_layer(retrieval: &Layer) -> Layer {
    let Layer { o_proj, down_proj, .. } = Layer::zeros();
    Layer { o_proj, down_proj, ..retrieval.clone() }
}

fn output_matrix() -> Matrix {
    let mut head = Matrix::zeros(VOCAB_SIZE, HIDDEN);
    for token in (0..VOCABULARY.tokens().len() as u32).filter(|token| ![BEGIN, END].contains(token)) {
        for (sign, output) in code(token).into_iter().zip(residual::OUTPUT) {
            head[(token as usize, output)] = LOGIT * sign;
        }
    }
    // The end token wins where the current token is a full stop, and loses by as much everywhere else: its own code
    // has to agree with that of the full stop in more than CODE_BITS - 2 places, and other codes reach CODE_BITS - 4.
    let full_stop = VOCABULARY.id(STOP).expect("the full stop is a token");
    let strength = LOGIT * CODE_BITS as f64;
    for (sign, own) in code(full_stop).into_iter().zip(residual::OWN) {
        head[(END as usize, own)] = strength * sign;
    }
    head[(END as usize, residual::CONSTANT)] = -strength * (CODE_BITS - 2) as f64 / CONSTANT;
    head
}

/// The coordinates of the `i`-th slot: the token `i + 1` back.
fn slot(i: usize) -> Range<usize> {
    let start = residual::SLOT.start + i * CODE_BITS;
    start..start + CODE_BITS
}

/// What query and key each carry so that, under the softmax scale 1/sqrt(HEAD_DIM), a product of ones scores `score`.
fn per_side(score: f64) -> f64 {
    (score * (HEAD_DIM as f64).sqrt()).sqrt()
}

/// A key that is the same at every position, before RoPE turns it: the unit vector (1, 0) in every position pair.
fn position_key(k_proj: &mut Matrix, kv_head: usize, norm: f64) {
    for pair in 0..POSITION_PAIRS {
        let (x, _) = rotary_pair(pair);
        k_proj[(kv_head * HEAD_DIM + x, residual::CONSTANT)] = per_side(POSITION_SCORE) / (CONSTANT * norm);
    }
}

/// The query that meets such a key at `distance` tokens back: (1, 0) turned back by so many tokens. After RoPE the
/// score at distance D is `POSITION_SCORE * sum over pairs of cos(frequency * (D - distance))`, with its one maximum
/// at D = distance.
fn position_query(q_proj: &mut Matrix, head: usize, distance: usize, theta: f64, norm: f64) {
    let amplitude = per_side(POSITION_SCORE) / (CONSTANT * norm);
    for pair in 0..POSITION_PAIRS {
        let (x, y) = rotary_pair(pair);
        let angle = rotary_frequency(pair, theta) * distance as f64;
        q_proj[(head * HEAD_DIM + x, residual::CONSTANT)] = amplitude * angle.cos();
        q_proj[(head * HEAD_DIM + y, residual::CONSTANT)] = -amplitude * angle.sin();
    }
}

/// The value is the token's own code, in the head's first dimensions.
fn value_of_own_code(v_proj: &mut Matrix, kv_head: usize, norm: f64) {
    for (b, own) in residual::OWN.enumerate() {
        v_proj[(kv_head * HEAD_DIM + b, own)] = 1.0 / norm;
    }
}

/// Adds the code that a head has attended to into `to`.
fn connect(o_proj: &mut Matrix, head: usize, to: Range<usize>) {
    for (b, to) in to.enumerate() {
        o_proj[(to, head * HEAD_DIM + b)] = 1.0;
    }
}

/// Adds the sign of every coordinate of `from` to the one in `to`, times a feature that is 0 or 1.
///
/// With g = STEEPNESS and t = THRESHOLD, two units per coordinate give `silu(g(x + t)) - silu(g(x - t))`, which is
/// `2gt` for x = 1 and 0 for x = -1 (to 1e-3): over `gt` that is 2 or 0. One more unit, `silu(g) = g`, subtracts 1
/// from all. The up projection reads the feature, so everything is 0 where the feature is.
fn digitise(
    layer: &mut Layer,
    from: Range<usize>,
    to: Range<usize>,
    (feature, feature_weight): (usize, f64),
    norm: f64,
) {
    let constant = 1.0 / (CONSTANT * norm);
    let mut unit = 0;
    for (from, to) in from.zip(to.clone()) {
        for side in [1.0, -1.0] {
            layer.gate_proj[(unit, from)] = STEEPNESS / norm;
            layer.gate_proj[(unit, residual::CONSTANT)] = side * STEEPNESS * THRESHOLD * constant;
            layer.up_proj[(unit, feature)] = feature_weight;
            layer.down_proj[(to, unit)] = side / (STEEPNESS * THRESHOLD);
            unit += 1;
        }
    }
    layer.gate_proj[(unit, residual::CONSTANT)] = STEEPNESS * constant;
    layer.up_proj[(unit, feature)] = feature_weight;
    for to in to {
        layer.down_proj[(to, unit)] = -1.0 / STEEPNESS;
    }
}

const _: () = assert!(2 * SLOT_BITS < INTERMEDIATE, "the MLP is too narrow to digitise all slots");
const _: () = assert!(SLOTS < NUM_HEADS && NUM_KV_HEADS == 2 && GROUP >= 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::needle::geometry::rope_theta;

    #[test]
    fn codes_differ_in_at_least_two_places() {
        let codes: Vec<_> = (0..VOCAB_SIZE as u32).map(code).collect();
        for (i, a) in codes.iter().enumerate().step_by(7) {
            for (j, b) in codes.iter().enumerate() {
                let product: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
                assert!(if i == j { product == 13.0 } else { product <= 9.0 });
            }
        }
    }

    #[test]
    fn every_embedding_has_the_norm_the_circuits_count_on() {
        let embed = embedding();
        for token in 0..VOCAB_SIZE {
            let norm2: f64 = embed.row(token).iter().map(|x| x * x).sum();
            assert!((norm2 - 21.0).abs() < 1e-12, "token {token}: {norm2}");
        }
    }

    /// The claims of `POSITION_SCORE`: distance 0 scores 640, its neighbours and everything else within `max_len` far
    /// less.
    #[test]
    fn position_heads_see_one_token() {
        for max_len in [256, 4096, 131072, 1 << 20] {
            let theta = rope_theta(max_len);
            let frequencies: Vec<_> = (0..POSITION_PAIRS).map(|pair| rotary_frequency(pair, theta)).collect();
            let score = |offset: usize| {
                POSITION_SCORE * frequencies.iter().map(|f| (f * offset as f64).cos()).sum::<f64>()
            };
            assert_eq!(score(0), 640.0);
            assert!(score(1) < 640.0 - 21.0, "max_len {max_len}: {}", score(1));
            let rest = (2..max_len).map(score).fold(f64::MIN, f64::max);
            assert!(rest < 640.0 - 65.0, "max_len {max_len}: {rest}");
        }
    }

    /// The claim of `rope_theta`: over `max_len` tokens, a full match loses at most 1.5 nats to the content pairs'
    /// rotation.
    #[test]
    fn content_hardly_turns() {
        for max_len in [256, 4096, 131072, 1 << 20] {
            let theta = rope_theta(max_len);
            let loss: f64 = (POSITION_PAIRS..HEAD_DIM / 2)
                .map(|pair| rotary_frequency(pair, theta) * max_len as f64)
                .map(|angle| 2.0 * (1.0 - angle.cos()) + 2.0 * angle.sin().abs())
                .sum();
            assert!(BIT_SCORE * loss < 1.5, "max_len {max_len}: {loss}");
        }
    }
}
