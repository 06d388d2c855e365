//! Selections of the largest entries, run and compared.

use lacuna_core::{AttentionShape, Error};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::top_k::{Plan, TokenPlan, TokenTopK};
use lacuna_reference::testing::Rng;
use lacuna_reference::top_k;

use super::Device;

/// The lists of all rows.
pub fn select(
    device: &Device,
    rows: usize,
    scores: &[f32],
    k: usize,
    forced: Option<&[bool]>,
) -> Result<Vec<Vec<u32>>, Error> {
    let context = &device.context;
    let n = scores.len().checked_div(rows).unwrap_or(0);
    let plan = Plan::new(context, rows, n, k, forced)?;
    let scores = DeviceBuffer::from_host(context, scores, "scores")?;
    let mut indices = DeviceBuffer::uninit(context, rows * plan.list_len(), "indices")?;
    let stream = context.default_stream();
    plan.run(&stream, &scores, &mut indices)?;
    let indices = indices.to_host(&stream)?;
    let list = |row: usize| indices[row * plan.list_len()..][..plan.list_len()].to_vec();
    Ok((0..rows).map(list).collect())
}

/// The list of one row.
pub fn expected(scores: &[f32], k: usize, forced: Option<&[bool]>) -> Vec<u32> {
    let scores: Vec<f64> = scores.iter().map(|&x| x as f64).collect();
    let forced = forced.unwrap_or(&[]);
    let forced: Vec<u32> = (0..).zip(forced).filter(|(_, f)| **f).map(|(i, _)| i).collect();
    top_k(&scores, k, &forced)
}

/// Scores of one kind or another: few values, many, of all magnitudes, with what is no number.
pub fn random_scores(rng: &mut Rng, n: usize) -> Vec<f32> {
    let kind = rng.below(5);
    let close = *rng.choose(&[3, 1 << 10, 1 << 12]);
    let special =
        [f32::NAN, -f32::NAN, f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, 1e-40, f32::MAX, f32::MIN];
    (0..n)
        .map(|_| match kind {
            0 => rng.below(4) as f32 - 1.0,
            1 => rng.normal() as f32,
            2 => *rng.choose(&special),
            3 => f32::from_bits(rng.below(u32::MAX as usize) as u32),
            // Equal in the first digits of their bits.
            _ => f32::from_bits(0x3f80_0000 + rng.below(close) as u32),
        })
        .collect()
}

/// The lists of all sequences and heads.
pub fn select_tokens(
    device: &Device,
    shape: &AttentionShape,
    scores: &[f32],
    options: TokenTopK,
) -> Result<Vec<Vec<u32>>, Error> {
    let context = &device.context;
    let plan = TokenPlan::new(context, shape, options)?;
    let rows = shape.seqlens.batch() * shape.num_heads;
    let scores = DeviceBuffer::from_host(context, scores, "scores")?;
    let mut indices = DeviceBuffer::from_host(context, &vec![7; rows * plan.list_len()], "indices")?;
    let mut counts = DeviceBuffer::uninit(context, rows, "counts")?;
    let stream = context.default_stream();
    plan.run(&stream, &scores, &mut indices, &mut counts)?;
    let (indices, counts) = (indices.to_host(&stream)?, counts.to_host(&stream)?);
    let list = |(row, count): (usize, &u32)| {
        let (list, rest) = indices[row * plan.list_len()..][..plan.list_len()].split_at(*count as usize);
        assert!(rest.iter().all(|&i| i == 7), "written behind the end of list {row}");
        list.to_vec()
    };
    Ok(counts.iter().enumerate().map(list).collect())
}

/// The list of one sequence and head.
pub fn expected_tokens(scores: &[f32], options: TokenTopK) -> Vec<u32> {
    // Beyond `k`, forced tokens are tokens like any other: the first `k` are kept.
    let forced: Vec<bool> = (0..scores.len()).map(|i| i < options.forced.min(options.k)).collect();
    let mut list = expected(scores, options.k, Some(&forced));
    if options.descending {
        list.reverse();
    }
    list
}
