//! The decisions of one (sequence, head): budgets, pattern, columns, diagonals.

use lacuna_core::{Element, FlexPrefillOptions, TensorView};

use super::HeadReport;
use super::coverage::Coverage;
use super::divergence::{jensen_shannon, softmax};
use crate::probe::Probe;
use crate::top_k;

/// What a decision is made from.
pub(super) struct Head<'a, T> {
    pub options: &'a FlexPrefillOptions,
    pub softmax_scale: f32,
    pub probe: &'a Probe<T>,
    pub q: &'a TensorView<'a, T>,
    pub b: usize,
    pub head: usize,
    /// The query after the sequence's last.
    pub q_end: usize,
    pub seqlen_k: usize,
    /// `[key block][head_dim]`
    pub mean_keys: &'a [f32],
}

/// What a thread works in.
pub(super) struct Scratch {
    coverage: Coverage,
    column_sums: Vec<f64>,
    slash_sums: Vec<f64>,
    pooled: Vec<f64>,
    mean_query: Vec<f64>,
    keys: Vec<u64>,
    indices: Vec<u32>,
}

impl Scratch {
    pub fn new(n_blocks: usize, head_dim: usize) -> Self {
        Self {
            coverage: Coverage::new(),
            column_sums: Vec::with_capacity(n_blocks),
            slash_sums: Vec::with_capacity(n_blocks),
            pooled: Vec::with_capacity(n_blocks),
            mean_query: vec![0.0; head_dim],
            keys: Vec::with_capacity(n_blocks),
            indices: Vec::with_capacity(n_blocks),
        }
    }
}

impl<T: Element> Head<'_, T> {
    /// Marks the kept columns and diagonal groups.
    pub fn decide(&self, scratch: &mut Scratch, columns: &mut [bool], diagonals: &mut [bool]) -> HeadReport {
        let (options, compat) = (self.options, self.options.compat);
        let (n_blocks, m) = (columns.len(), self.probe.rows(self.b));
        // Sums over the probe rows stand for their means: all limits and sums are `m` times as large.
        let vertical = self.probe.vertical(self.b, self.head).flatten().copied();
        let by_column = self.probe.slash(self.b, self.head).flatten().copied();
        let limit = options.gamma as f64 * m as f64;
        let [vertical_tokens, slash_tokens] = [
            scratch.coverage.cut(vertical.clone(), limit).count,
            scratch.coverage.cut(by_column.clone(), limit).count,
        ];
        block_sums(vertical, options.block_size, m, &mut scratch.column_sums);
        if compat.tail_align {
            block_sums(by_column, options.block_size, m, &mut scratch.slash_sums);
        } else {
            block_sums(by_column.rev(), options.block_size, m, &mut scratch.slash_sums);
        }
        self.pool(scratch, m);
        let jsd = jensen_shannon(&scratch.pooled, &scratch.column_sums, compat.jsd_weighted);
        // A NaN is not below.
        let query_aware = jsd.sqrt() < options.tau as f64;

        let least = options.min_budget.div_ceil(options.block_size).max(1);
        let most = options.max_budget.map_or(usize::MAX, |max| max.div_ceil(options.block_size).max(1));
        let divisor = if compat.count_div { 128 } else { options.block_size };
        let budget = |tokens: usize| {
            let blocks = (1 + tokens) / divisor + 1;
            if query_aware { least } else { blocks.max(least).min(most) }.min(n_blocks)
        };
        let (vertical_blocks, slash_blocks) = (budget(vertical_tokens), budget(slash_tokens));
        let Scratch { column_sums, slash_sums, keys, indices, .. } = scratch;
        top_k::select(column_sums.iter().map(|&x| x as f32), vertical_blocks, |n| n == 0, keys, indices);
        columns.fill(false);
        indices.iter().for_each(|&n| columns[n as usize] = true);
        // Groups count from the main diagonal; from the other end when aligned to column 0.
        let group = |i: usize| if compat.tail_align { n_blocks - 1 - i } else { i };
        let is_main = |i: usize| group(i) == 0;
        top_k::select(slash_sums.iter().map(|&x| x as f32), slash_blocks, is_main, keys, indices);
        diagonals.fill(false);
        indices.iter().for_each(|&i| diagonals[group(i as usize)] = true);
        HeadReport { dense: false, query_aware, sqrt_jsd: jsd.sqrt() as f32, vertical_blocks, slash_blocks }
    }

    /// The block attention that mean queries and keys predict for the probe.
    fn pool(&self, scratch: &mut Scratch, m: usize) {
        let compat = self.options.compat;
        let round = |x: f64| if compat.probe_round { T::from_f64(x).to_f32() as f64 } else { x };
        let Scratch { pooled, mean_query, .. } = scratch;
        mean_query.fill(0.0);
        for token in self.q_end - m..self.q_end {
            for (sum, x) in mean_query.iter_mut().zip(self.q.row(token, self.head)) {
                *sum += round(x.to_f32() as f64 * self.softmax_scale as f64);
            }
        }
        mean_query.iter_mut().for_each(|x| *x = round(*x / m as f64));
        pooled.clear();
        for (n, mean_key) in self.mean_keys.chunks_exact(mean_query.len()).enumerate() {
            let logit: f64 = mean_query.iter().zip(mean_key).map(|(q, &k)| q * k as f64).sum();
            let keys = n * self.options.block_size..((n + 1) * self.options.block_size).min(self.seqlen_k);
            let seen: usize = keys.map(|key| m.min(self.seqlen_k - key)).sum();
            pooled.push(round(logit) + if compat.jsd_weighted { 0.0 } else { (seen as f64).ln() });
        }
        softmax(pooled);
    }
}

/// The sums of every `block_size` values, divided by `m`.
fn block_sums(values: impl Iterator<Item = f32>, block_size: usize, m: usize, sums: &mut Vec<f64>) {
    sums.clear();
    let (mut sum, mut count) = (0.0f64, 0);
    values.for_each(|x| {
        sum += x as f64;
        count += 1;
        if count == block_size {
            sums.push(sum / m as f64);
            (sum, count) = (0.0, 0);
        }
    });
    if count > 0 {
        sums.push(sum / m as f64);
    }
}
