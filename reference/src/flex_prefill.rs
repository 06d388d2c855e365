//! The pattern search of FlexPrefill (Lai et al. 2025, arXiv 2502.20766).

use lacuna_core::{AttentionShape, BlockMask, Element, FlexPrefillOptions, Result, TensorView};

use crate::{
    block_pool::block_pool,
    masked_attention::dot,
    probe::{Probe, softmax},
    ranking::{Ranking, Slack},
    testing::MaskBounds,
};

/// The fewest probe rows that estimate anything; shorter query runs attend densely.
const MIN_PROBE: usize = 16;

/// What FlexPrefill decided for one head.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlexPrefillHead {
    /// The head keeps query-aware blocks.
    pub query_aware: bool,
    /// Root of the Jensen-Shannon divergence between pooled and true block attention of the probe.
    pub sqrt_jsd: f64,
    /// Block columns kept, the forced one among them.
    pub vertical_blocks: usize,
    /// Block diagonals kept, the forced one among them.
    pub slash_blocks: usize,
}

/// The result of [`flex_prefill`].
#[derive(Debug, Clone, PartialEq)]
pub struct FlexPrefill {
    /// The blocks to read.
    pub block_mask: BlockMask,
    /// Per (sequence, query head); `None` where the head attends densely.
    pub heads: Vec<Option<FlexPrefillHead>>,
}

/// FlexPrefill's block selection, causal.
///
/// Every (sequence, head) decides alone. With `b = block_size`, `Nq`, `Nk` the lengths, `P = Nk - Nq`,
/// `nq = ceil(Nq / b)`, `nk = ceil(Nk / b)`:
///
/// 0. *Dense*: every causal block is kept when `gamma >= 1`, `P < 0`, `min(b, Nq) < 16`, or
///    `Nk <= max(2 b, ceil(min_budget / b) b)`.
/// 1. *Probe*: the last `m = min(b, Nq)` query rows. Row `i` of them stands at key `Nk - m + i` and sees the keys up to
///    there; `p[i, :]` is the softmax of `scale * q_i . k_j`.
/// 2. *Scores*: `vert[j] = sum_i p[i, j] / m` for key `j`; `slash[o] = sum_i p[i, Nk - m + i - o] / m` for offset `o`.
///    Both sum to 1.
/// 3. *Budgets in blocks*: with `c(x)` = 1 + the number of prefix sums of `x`, sorted descending, that are `<= gamma`,
///    `nv = c(vert) / b + 1` and `ns = c(slash) / b + 1` (integer division), raised to `max(1, ceil(min_budget / b))`,
///    then lowered to `max(1, ceil(max_budget / b))`, then to `nk`.
/// 4. *Block sums*: `V[c]` sums `vert` over the keys of block `c`; `Sg[s]` sums `slash` over the offsets
///    `s b .. (s + 1) b`.
/// 5. *Pattern test*: `kbar[c]` is the mean key of block `c`, `qbar` the mean probe row, `seen[c]` the number of pairs
///    (probe row, key of block `c`) that the causal mask leaves. `a = softmax_c(scale * qbar . kbar[c] + ln seen[c])` is
///    the pooled estimate of `V`. `D^2 = (sum a ln(a / u) + sum V ln(V / u)) / 2` with `u = (a + V) / 2` and
///    `0 ln 0 = 0`, not below 0. The head is query-aware iff `D < tau`; then `nv = ns = max(1, ceil(min_budget / b))`,
///    at most `nk`.
/// 6. *Vertical-slash blocks*: the `nv` largest `V` and the `ns` largest `Sg`, with `V[0]` and `Sg[0]` taken as infinite
///    and ties to the lowest index. Query block `r` covers key positions `t0 = P + r b ..= t1 = P + min((r + 1) b, Nq) - 1`.
///    It keeps block `c` of the columns iff `c b <= t1`, and for a diagonal group `s` all key blocks that meet the
///    positions `max(0, t0 - s b - b + 1) ..= t1 - s b` (none when the end is negative).
/// 7. *Query-aware blocks*, in query-aware heads only: `A[r, :]` is the softmax over `c b <= t1` of
///    `scale * mean query of block r . kbar[c]`. The `nq x nk` map is sorted descending, ties by lowest `r nk + c`; an
///    entry is kept iff its inclusive prefix sum is `<= gamma nq`. With `qa_only` these replace the blocks of step 6.
/// 8. *Always*: key block 0 and all key blocks that meet `t0 ..= t1`.
///
/// Switches of [`FlexPrefillCompat`](lacuna_core::FlexPrefillCompat):
///
/// - `count_div`: step 3 divides by 128.
/// - `slash_cover`: in step 6 group `s` keeps only block `t1 / b - s`.
/// - `tail_align`: in step 4 group `t` sums `slash` over the columns `Nk - 1 - o` in `t b .. (t + 1) b`; it stands for
///   diagonal group `s = nk - 1 - t`. Ties go to the lowest `t`.
/// - `jsd_weighted`: step 5 without `ln seen[c]`, with `a` and `V` in `f32`; `0 ln 0` and the root of a negative number
///   are NaN, and a NaN divergence is not query-aware.
/// - `probe_round`: scaled queries, logits, and pooled keys, queries and logits are rounded to `T`.
///
/// With all of them set, no past and `gamma < 1` this is the published code.
///
/// # Errors
/// `q` or `k` of another shape than `shape` says, options out of range.
pub fn flex_prefill<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &FlexPrefillOptions,
) -> Result<FlexPrefill> {
    search(shape, q, k, options, Slack::Exact)
}

/// What a [`flex_prefill`] in `f32` may select: prefix sums and scores within `eps` relative of their cut, and a squared
/// divergence within `eps / 10` of `tau^2`, may fall either way.
///
/// # Errors
/// As [`flex_prefill`].
pub fn flex_prefill_bounds<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &FlexPrefillOptions,
    eps: f64,
) -> Result<MaskBounds> {
    let mask = |slack| search(shape, q, k, options, slack).map(|found| found.block_mask);
    Ok(MaskBounds { certain: mask(Slack::Certain(eps))?, possible: mask(Slack::Possible(eps))? })
}

fn search<T: Element>(
    shape: &AttentionShape,
    q: &TensorView<T>,
    k: &TensorView<T>,
    options: &FlexPrefillOptions,
    slack: Slack,
) -> Result<FlexPrefill> {
    const OP: &str = "flex_prefill";
    shape.check_q(OP, "q", q)?;
    shape.check_k(OP, "k", k)?;
    options.check(OP)?;
    let block_size = options.block_size;
    let dense = BlockMask::dense(shape, block_size, block_size, true)?;
    let mut block_mask = BlockMask::empty(shape, block_size, block_size)?;
    let mut heads = Vec::new();
    for b in 0..shape.seqlens.batch() {
        for h in 0..shape.num_heads {
            if attends_densely(shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b), options) {
                for m in 0..dense.m_blocks(b) {
                    block_mask.push_row(dense.row(b, h, m))?;
                }
                heads.push(None);
                continue;
            }
            let head = Head::new(shape, q, k, options, b, h);
            let choice = Choice::new(&head, slack);
            for m in 0..head.m_blocks {
                let row: Vec<u32> =
                    (0..head.n_blocks).filter(|&n| choice.keeps(&head, m, n)).map(|n| n as u32).collect();
                block_mask.push_row(&row)?;
            }
            heads.push(Some(choice.report));
        }
    }
    Ok(FlexPrefill { block_mask, heads })
}

fn attends_densely(seqlen_q: usize, seqlen_k: usize, options: &FlexPrefillOptions) -> bool {
    let block_size = options.block_size;
    let budget = options.min_budget.div_ceil(block_size).saturating_mul(block_size);
    options.gamma >= 1.0
        || seqlen_k < seqlen_q
        || seqlen_q.min(block_size) < MIN_PROBE
        || seqlen_k <= budget.max(2 * block_size)
}

/// The scores of one (sequence, head): steps 1, 2, 4 and 5, and the map of step 7.
struct Head<'a> {
    options: &'a FlexPrefillOptions,
    m_blocks: usize,
    n_blocks: usize,
    past: usize,
    seqlen_q: usize,
    /// Coverage counts need token scores, choices block sums.
    vertical: Ranking,
    slash: Ranking,
    vertical_blocks: Ranking,
    slash_blocks: Ranking,
    /// The divergence itself, `D^2` of step 5.
    jsd: f64,
    /// `A` of step 7, flattened.
    map: Ranking,
    /// The causal entries of the map, flattened.
    causal: Vec<bool>,
}

impl<'a> Head<'a> {
    fn new<T: Element>(
        shape: &AttentionShape,
        q: &TensorView<T>,
        k: &TensorView<T>,
        options: &'a FlexPrefillOptions,
        b: usize,
        h: usize,
    ) -> Self {
        let (compat, block_size) = (options.compat, options.block_size);
        let round = |x: f64| if compat.probe_round { T::from_f64(x).to_f32() as f64 } else { x };
        let scale = shape.softmax_scale(options.softmax_scale) as f64;
        let (q_range, k_range) = (shape.seqlens.q_range(b), shape.seqlens.k_range(b));
        let (seqlen_q, seqlen_k) = (q_range.len(), k_range.len());
        let (m_blocks, n_blocks) = (seqlen_q.div_ceil(block_size), seqlen_k.div_ceil(block_size));
        let (past, head_k) = (seqlen_k - seqlen_q, shape.head_k(h, options.gqa_interleave));
        let dim = shape.head_dim;

        let m = block_size.min(seqlen_q);
        let probe_rows: Vec<Vec<f64>> = (0..m)
            .map(|i| q.row(q_range.end - m + i, h).iter().map(|x| round(x.to_f32() as f64 * scale)).collect())
            .collect();
        let k_row = |j: usize| k.row(k_range.start + j, head_k);
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let probe = if compat.probe_round {
            let keys: Vec<Vec<f64>> =
                (0..seqlen_k).map(|j| k_row(j).iter().map(|x| x.to_f32() as f64).collect()).collect();
            Probe::new(m, seqlen_k, |i, j| round(product(&probe_rows[i], &keys[j])))
        } else {
            Probe::new(m, seqlen_k, |i, j| scale * dot(q.row(q_range.end - m + i, h), k_row(j)))
        };
        let mean = |x: &[f64]| x.iter().map(|x| x / m as f64).collect::<Vec<f64>>();
        let (vertical, slash) = (mean(&probe.vertical), mean(&probe.slash));

        let block_sums = |x: &[f64]| x.chunks(block_size).map(|x| x.iter().sum()).collect::<Vec<f64>>();
        let by_column: Vec<f64> = slash.iter().rev().copied().collect();
        let column_sums = block_sums(&vertical);
        let mut slash_sums = block_sums(if compat.tail_align { &by_column } else { &slash });

        let k_mean = pool(k, k_range.clone(), head_k, block_size);
        let k_mean: Vec<Vec<f64>> = k_mean.iter().map(|x| x.iter().map(|&x| round(x)).collect()).collect();
        let q_mean: Vec<f64> =
            (0..dim).map(|d| round(probe_rows.iter().map(|row| row[d]).sum::<f64>() / m as f64)).collect();
        let pooled: Vec<f64> = k_mean
            .iter()
            .enumerate()
            .map(|(n, k_mean)| {
                let keys = n * block_size..((n + 1) * block_size).min(seqlen_k);
                let seen: usize =
                    (0..m).map(|i| keys.clone().filter(|&j| j <= seqlen_k - m + i).count()).sum();
                round(product(&q_mean, k_mean)) + if compat.jsd_weighted { 0.0 } else { (seen as f64).ln() }
            })
            .collect();
        let jsd = divergence(&softmax(&pooled), &column_sums, compat.jsd_weighted);

        let mut map = vec![0.0; m_blocks * n_blocks];
        let mut causal = vec![false; m_blocks * n_blocks];
        for (r, q_mean) in pool(q, q_range, h, block_size).into_iter().enumerate() {
            let rows = block_size.min(seqlen_q - r * block_size) as f64;
            let q_mean: Vec<f64> = if compat.probe_round {
                // The published code averages a zero-padded block and corrects the count afterwards.
                let padded = block_size as f64;
                q_mean
                    .iter()
                    .map(|x| round(round(round(x * rows / padded) * (padded / rows)) * scale))
                    .collect()
            } else {
                q_mean.iter().map(|x| x * scale).collect()
            };
            let visible = ((past + ((r + 1) * block_size).min(seqlen_q) - 1) / block_size + 1).min(n_blocks);
            let logits: Vec<f64> =
                k_mean[..visible].iter().map(|k_mean| round(product(&q_mean, k_mean))).collect();
            map[r * n_blocks..][..visible].copy_from_slice(&softmax(&logits));
            causal[r * n_blocks..][..visible].fill(true);
        }

        let mut forced_columns = column_sums;
        forced_columns[0] = f64::INFINITY;
        slash_sums[if compat.tail_align { n_blocks - 1 } else { 0 }] = f64::INFINITY;
        Self {
            options,
            m_blocks,
            n_blocks,
            past,
            seqlen_q,
            vertical: Ranking::new(&vertical),
            slash: Ranking::new(&slash),
            vertical_blocks: Ranking::new(&forced_columns),
            slash_blocks: Ranking::new(&slash_sums),
            jsd,
            map: Ranking::new(&map),
            causal,
        }
    }
}

/// The block means of one head of one sequence.
fn pool<T: Element>(
    x: &TensorView<T>,
    tokens: std::ops::Range<usize>,
    head: usize,
    block_size: usize,
) -> Vec<Vec<f64>> {
    let row: Vec<T> = tokens.clone().flat_map(|t| x.row(t, head).to_vec()).collect();
    let (len, dim) = (tokens.len(), x.shape()[2]);
    let view = TensorView::thd(&row, len, 1, dim).expect("rows just gathered");
    let pooled = block_pool(&view, &[0, len as u32], block_size).expect("one sequence of all tokens");
    pooled.chunks(dim).map(<[f64]>::to_vec).collect()
}

/// The Jensen-Shannon divergence of two distributions.
fn divergence(a: &[f64], b: &[f64], as_published: bool) -> f64 {
    let round = |x: f64| if as_published { x as f32 as f64 } else { x };
    let term = |x: f64, mean: f64| if x == 0.0 && !as_published { 0.0 } else { x * (x / mean).ln() };
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (round(a), round(b)))
        .map(|(a, b)| term(a, (a + b) / 2.0) + term(b, (a + b) / 2.0))
        .sum();
    if as_published { sum / 2.0 } else { (sum / 2.0).max(0.0) }
}

/// The decisions of one (sequence, head): steps 3, 5, 6 and 7.
struct Choice {
    report: FlexPrefillHead,
    columns: Vec<usize>,
    diagonals: Vec<usize>,
    extra: Vec<bool>,
    /// Whether the blocks of step 6 and those of step 7 count.
    by_columns: bool,
    by_map: bool,
    /// Both kinds, when rounding decides which one the head is: a certain block is kept by both.
    alternatives: Option<Box<[Choice; 2]>>,
    slack: Slack,
}

impl Choice {
    fn new(head: &Head, slack: Slack) -> Self {
        let tau = head.options.tau as f64;
        let mut choice = Self::of_kind(head, slack, head.jsd.sqrt() < tau);
        // A published divergence near 0 may also be NaN by rounding; tau 0 makes no head query-aware.
        let close = |target: f64| (head.jsd - target).abs() <= slack.eps() / 10.0;
        let near = close(tau * tau) || (head.options.compat.jsd_weighted && close(0.0));
        if slack != Slack::Exact && tau > 0.0 && near {
            let both = [Self::of_kind(head, slack, false), Self::of_kind(head, slack, true)];
            choice.alternatives = Some(Box::new(both));
        }
        choice
    }

    fn of_kind(head: &Head, slack: Slack, query_aware: bool) -> Self {
        let (options, gamma) = (head.options, head.options.gamma as f64);
        let least = options.min_budget.div_ceil(options.block_size).max(1);
        let most = options.max_budget.map_or(usize::MAX, |max| max.div_ceil(options.block_size).max(1));
        let divisor = if options.compat.count_div { 128 } else { options.block_size };
        let budget = |tokens: &Ranking| {
            let blocks = (1 + tokens.covered(slack.limit(gamma))) / divisor + 1;
            if query_aware { least } else { blocks.max(least).min(most) }.min(head.n_blocks)
        };
        let (vertical_blocks, slash_blocks) = (budget(&head.vertical), budget(&head.slash));
        let mut extra = vec![false; head.causal.len()];
        if query_aware {
            let limit = slack.limit(gamma * head.m_blocks as f64);
            for (i, keep) in extra.iter_mut().enumerate() {
                *keep = head.causal[i] && head.map.sum_of(head.map.before(i, slack) + 1) <= limit;
            }
        }
        let mut diagonals = head.slash_blocks.top(slash_blocks, slack);
        if options.compat.tail_align {
            diagonals.iter_mut().for_each(|t| *t = head.n_blocks - 1 - *t);
        }
        Self {
            report: FlexPrefillHead { query_aware, sqrt_jsd: head.jsd.sqrt(), vertical_blocks, slash_blocks },
            columns: head.vertical_blocks.top(vertical_blocks, slack),
            diagonals,
            extra,
            by_columns: !(query_aware && options.qa_only),
            by_map: query_aware,
            alternatives: None,
            slack,
        }
    }

    fn keeps(&self, head: &Head, m: usize, n: usize) -> bool {
        if let Some(both) = &self.alternatives {
            let [a, b] = [both[0].keeps(head, m, n), both[1].keeps(head, m, n)];
            return if matches!(self.slack, Slack::Certain(_)) { a && b } else { a || b };
        }
        let block_size = head.options.block_size;
        let t0 = head.past + m * block_size;
        let t1 = head.past + ((m + 1) * block_size).min(head.seqlen_q) - 1;
        if n * block_size > t1 {
            return false;
        }
        let on_diagonal = |s: usize| {
            if head.options.compat.slash_cover {
                return t1 / block_size == n + s;
            }
            let first = t0.saturating_sub(s * block_size + block_size - 1);
            t1 >= s * block_size && (first / block_size..=(t1 - s * block_size) / block_size).contains(&n)
        };
        let forced = n == 0 || (t0 / block_size..=t1 / block_size).contains(&n);
        let by_columns = || self.columns.contains(&n) || self.diagonals.iter().any(|&s| on_diagonal(s));
        forced || (self.by_columns && by_columns()) || (self.by_map && self.extra[m * head.n_blocks + n])
    }
}
