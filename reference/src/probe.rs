//! The probe of the pattern searches: the attention of the last queries, summed along columns and diagonals.

/// Sums of the softmax over the probe rows, by key and by offset.
pub(crate) struct Probe {
    /// For key `j`, the sum over rows of `p[i, j]`.
    pub vertical: Vec<f64>,
    /// For offset `o`, the sum over rows of `p[i, position(i) - o]`.
    pub slash: Vec<f64>,
}

impl Probe {
    /// The softmax of the last `rows` queries over `seqlen_k` keys. Row `i` of them stands at key position
    /// `seqlen_k - rows + i` and sees the keys up to there.
    pub fn new(rows: usize, seqlen_k: usize, logit: impl Fn(usize, usize) -> f64) -> Self {
        let mut probe = Self { vertical: vec![0.0; seqlen_k], slash: vec![0.0; seqlen_k] };
        for i in 0..rows {
            let Some(position) = (seqlen_k + i).checked_sub(rows) else { continue };
            let logits: Vec<f64> = (0..=position).map(|j| logit(i, j)).collect();
            for (j, p) in softmax(&logits).into_iter().enumerate() {
                probe.vertical[j] += p;
                probe.slash[position - j] += p;
            }
        }
        probe
    }
}

/// `exp(x) / sum exp(x)`; `-inf` entries weigh 0, and all do when there are no others.
pub(crate) fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return vec![0.0; logits.len()];
    }
    let weights: Vec<f64> = logits.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}
