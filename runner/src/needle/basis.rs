//! Hides the circuits in a random basis.
//!
//! In the plain basis most weights are zero, and a transposed matrix or a swapped layout may go unnoticed between
//! zeros. A random rotation of every space that the architecture leaves free changes no result (RMSNorm with weights
//! 1 commutes with rotations, a value space is rotated back by the output projection, and the order of MLP units is
//! arbitrary), but makes every weight a number that matters. Query and key spaces stay as they are: RoPE ties them to
//! their coordinates.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::geometry::{GROUP, HEAD_DIM, HIDDEN, INTERMEDIATE, NUM_KV_HEADS};
use super::matrix::Matrix;
use super::weights::{Layer, Weights};

/// Rewrites all weights in a basis drawn from `seed`.
pub fn rotate(weights: &mut Weights, seed: u64) {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let residual = Matrix::orthogonal(HIDDEN, rng);
    let into_residual = residual.transposed();

    // A row x of a matrix that is read from the residual stream becomes R x, a column that is written to it likewise.
    let read = |matrix: &mut Matrix| *matrix = matrix.times(&into_residual);
    let write = |matrix: &mut Matrix| *matrix = matrix.transposed().times(&into_residual).transposed();

    read(&mut weights.embed_tokens);
    read(&mut weights.lm_head);
    for layer in &mut weights.layers {
        for kv_head in 0..NUM_KV_HEADS {
            rotate_values(layer, kv_head, &Matrix::orthogonal(HEAD_DIM, rng));
        }
        permute_units(layer, rng);
        let Layer { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj } = layer;
        [q_proj, k_proj, v_proj, gate_proj, up_proj].into_iter().for_each(read);
        [o_proj, down_proj].into_iter().for_each(write);
    }
}

/// v becomes Q v, and the output projection of the query heads that read it undoes that.
fn rotate_values(layer: &mut Layer, kv_head: usize, q: &Matrix) {
    let rows = kv_head * HEAD_DIM..(kv_head + 1) * HEAD_DIM;
    let values = q.times(&layer.v_proj.permuted_rows(&rows.clone().collect::<Vec<_>>()));
    for (from, to) in rows.enumerate() {
        layer.v_proj.row_mut(to).copy_from_slice(values.row(from));
    }
    let back = q.transposed();
    for head in kv_head * GROUP..(kv_head + 1) * GROUP {
        for i in 0..HIDDEN {
            let part = &mut layer.o_proj.row_mut(i)[head * HEAD_DIM..][..HEAD_DIM];
            let row = Matrix { rows: 1, cols: HEAD_DIM, data: part.to_vec() };
            part.copy_from_slice(&row.times(&back).data);
        }
    }
}

fn permute_units(layer: &mut Layer, rng: &mut ChaCha8Rng) {
    let mut order: Vec<usize> = (0..INTERMEDIATE).collect();
    order.shuffle(rng);
    layer.gate_proj = layer.gate_proj.permuted_rows(&order);
    layer.up_proj = layer.up_proj.permuted_rows(&order);
    layer.down_proj = layer.down_proj.transposed().permuted_rows(&order).transposed();
}
