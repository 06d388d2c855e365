//! Inputs and results that were published, or recorded from published code: every engine reads this one copy.

use lacuna_core::{
    AttentionShape, BlockMask, FlexPrefillCompat, FlexPrefillOptions, Layout, Seqlens, Threshold,
    XAttentionCompat, XAttentionOptions,
};

use super::{Lcg, Tensor};

const TOKENS: usize = 1000;
const HEAD_DIM: usize = 16;

/// What the recorded searches ran on: 1000 tokens of 16 features, with one loud feature in all queries and in the first
/// four keys.
pub fn inputs(heads: usize, heads_k: usize) -> (AttentionShape, Tensor<f32>, Tensor<f32>) {
    let fill = |seed: u32, heads: usize, bias: &dyn Fn(usize, usize) -> f32| {
        let mut lcg = Lcg::new(seed);
        Tensor::from_fn(Layout::thd(TOKENS, heads, HEAD_DIM), |token, head, d| {
            let loud = if d == 0 { bias(token, head) } else { 0.0 };
            (lcg.next_f32() * 4.0 + loud) as f64
        })
    };
    let q = fill(1, heads, &|_, head| if head == 0 { 3.0 } else { 0.0 });
    let k = fill(2, heads_k, &|token, _| if token < 4 { 8.0 } else { 0.0 });
    let seqlens = Seqlens::single(TOKENS, TOKENS).expect("lengths that fit");
    (AttentionShape::new(heads, heads_k, HEAD_DIM, seqlens).expect("heads that divide"), q, k)
}

/// One head of one search of FlexPrefill's published code on [`inputs`]`(2, 1)`.
#[derive(Debug, Clone, Copy)]
pub struct FlexPrefillRow {
    /// Share of the attention to cover.
    pub gamma: f32,
    /// Limit of the divergence.
    pub tau: f32,
    /// Least number of blocks of a head.
    pub min_blocks: usize,
    /// The head that the rest is about.
    pub head: usize,
    /// Whether it was searched by its pooled queries.
    pub query_aware: bool,
    /// Columns of blocks kept.
    pub vertical_blocks: usize,
    /// Diagonals of blocks kept.
    pub slash_blocks: usize,
    /// Root of the Jensen-Shannon divergence, to six digits.
    pub sqrt_jsd: f64,
    blocks: &'static str,
}

impl FlexPrefillRow {
    /// The options of the search: the published code's, blocks of 128.
    pub fn options(&self) -> FlexPrefillOptions {
        FlexPrefillOptions {
            gamma: self.gamma,
            tau: self.tau,
            min_budget: self.min_blocks * 128,
            compat: FlexPrefillCompat::ORIGINAL,
            ..Default::default()
        }
    }

    /// The blocks kept, as `query block * number of key blocks + key block`.
    pub fn blocks(&self) -> Vec<usize> {
        self.blocks.split(' ').map(|id| id.parse().expect("a number")).collect()
    }
}

/// The blocks of one head as [`FlexPrefillRow::blocks`] counts them.
pub fn flat_blocks(mask: &BlockMask, head: usize) -> Vec<usize> {
    let n_blocks = mask.n_blocks(0);
    (0..mask.m_blocks(0))
        .flat_map(|m| mask.row(0, head, m).iter().map(move |&n| m * n_blocks + n as usize))
        .collect()
}

const fn flex(
    (gamma, tau, min_blocks): (f32, f32, usize),
    (head, query_aware): (usize, bool),
    (vertical_blocks, slash_blocks): (usize, usize),
    sqrt_jsd: f64,
    blocks: &'static str,
) -> FlexPrefillRow {
    FlexPrefillRow {
        gamma,
        tau,
        min_blocks,
        head,
        query_aware,
        vertical_blocks,
        slash_blocks,
        sqrt_jsd,
        blocks,
    }
}

/// FlexPrefill, recorded.
#[rustfmt::skip]
pub const FLEX_PREFILL: [FlexPrefillRow; 7] = [
    flex((0.9, 0.1, 1), (0, false), (5, 6), 0.328462, "0 8 9 16 17 18 24 25 26 27 32 33 34 35 36 40 41 42 43 44 45 48 49 50 52 53 54 56 57 58 61 62 63"),
    flex((0.9, 0.1, 1), (1, false), (7, 7), 0.105112, "0 8 9 16 17 18 24 25 26 27 32 33 34 35 36 40 41 42 43 44 45 48 49 50 51 52 53 54 56 57 58 59 60 61 62 63"),
    flex((0.9, 0.25, 1), (1, true), (1, 1), 0.105112, "0 8 9 16 17 18 24 25 26 27 32 33 34 35 36 40 41 42 43 44 45 48 49 50 51 52 53 54 56 58 63"),
    flex((0.5, 0.1, 1), (0, false), (1, 1), 0.328462, "0 8 9 16 18 24 27 32 36 40 45 48 54 56 63"),
    flex((0.5, 0.1, 1), (1, false), (3, 4), 0.105112, "0 8 9 16 17 18 24 25 27 32 33 34 36 40 41 43 45 48 49 52 53 54 56 57 58 61 63"),
    flex((0.5, 0.3, 2), (0, false), (2, 2), 0.328462, "0 8 9 16 18 24 27 32 36 40 45 48 53 54 56 61 63"),
    flex((0.5, 0.3, 2), (1, true), (2, 2), 0.105112, "0 8 9 16 17 18 24 25 26 27 32 36 40 45 48 49 53 54 56 58 61 63"),
];

/// One head of one search of XAttention's published code on [`inputs`]`(2, 2)`.
#[derive(Debug, Clone, Copy)]
pub struct XAttentionRow {
    /// Options of the search.
    pub stride: usize,
    /// Share of the attention to cover.
    pub threshold: f32,
    /// Which of the published rules hold.
    pub compat: XAttentionCompat,
    /// The head that the rows are of.
    pub head: usize,
    /// Rows of bits, key block 0 first, as [`bit_rows`] writes them.
    pub rows: &'static str,
}

impl XAttentionRow {
    /// The options of the search.
    pub fn options(&self) -> XAttentionOptions {
        XAttentionOptions {
            stride: self.stride,
            threshold: Threshold::Scalar(self.threshold),
            chunk_size: Some(2048),
            compat: self.compat,
            ..Default::default()
        }
    }
}

/// XAttention: by the published code, and by the rule that its authors describe.
pub fn x_attention() -> impl Iterator<Item = XAttentionRow> {
    #[rustfmt::skip]
    let table = [
        (8, 0, "1 11 111 1111 11111 111111 1111101 11110111", "1 11 101 1101 11011 111101 1111001 11110101"),
        (8, 1, "1 11 111 1111 11111 111111 1101111 11011111", "1 11 111 1011 11011 111101 1101101 11010111"),
        (16, 0, "1 11 111 1111 11111 111111 1111101 11110111", "1 11 111 1101 11011 111101 1111001 11110011"),
        (16, 1, "1 11 111 1111 11111 111111 1101111 11011111", "1 11 111 1011 11011 111101 1101011 11010111"),
    ];
    let original = XAttentionCompat::ORIGINAL;
    let described = XAttentionCompat { first_chunk_quirk: false, ..original };
    let all = "1 11 111 1111 11111 111111 1111111 11111111";
    table.into_iter().flat_map(move |(stride, head, published, intended)| {
        [(0.7, original, published), (0.7, described, intended), (0.9, original, all), (0.9, described, all)]
            .map(|(threshold, compat, rows)| XAttentionRow { stride, threshold, compat, head, rows })
    })
}

/// The lower triangle of one head's blocks: a row of bits for each query block.
pub fn bit_rows(mask: &BlockMask, head: usize) -> String {
    let bits = |m: usize| -> String {
        (0..=m as u32).map(|n| if mask.row(0, head, m).contains(&n) { '1' } else { '0' }).collect()
    };
    (0..mask.m_blocks(0)).map(bits).collect::<Vec<_>>().join(" ")
}

/// Scores of one head in blocks of 128 and the blocks that XAttention's rule takes at each threshold.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Query and key tokens.
    pub seqlens: (usize, usize),
    /// Which of the published rules hold.
    pub compat: XAttentionCompat,
    /// `[m_blocks, n_blocks]`.
    pub scores: &'static [f32],
    /// Threshold, and the key blocks of each query block.
    pub rows: &'static [(f32, &'static [&'static [u32]])],
}

impl Selection {
    /// One head of the recorded lengths.
    pub fn shape(&self) -> AttentionShape {
        let seqlens = Seqlens::single(self.seqlens.0, self.seqlens.1).expect("lengths that fit");
        AttentionShape::new(1, 1, HEAD_DIM, seqlens).expect("one head")
    }

    /// The options at a threshold.
    pub fn options(&self, threshold: f32) -> XAttentionOptions {
        XAttentionOptions {
            threshold: Threshold::Scalar(threshold),
            compat: self.compat,
            ..Default::default()
        }
    }
}

/// XAttention's selection from given scores: a first chunk by the published code, and a later one.
#[rustfmt::skip]
pub fn selections() -> [Selection; 2] {
    const STAIRS: &[&[u32]] = &[&[0], &[0, 1], &[0, 1, 2], &[0, 1, 2, 3]];
    const HALF: &[&[u32]] = &[&[0, 2, 3], &[0, 1, 4]];
    const ALL: &[&[u32]] = &[&[0, 1, 2, 3], &[0, 1, 2, 3, 4]];
    const LATER: &[(f32, &[&[u32]])] = &[
        (0.0, &[&[0, 3], &[0, 4]]),
        (0.5, HALF), (0.6, HALF),
        (0.8f32.next_down(), &[&[0, 2, 3], &[0, 1, 3, 4]]),
        (0.9f32.next_up(), ALL), (1.0, ALL),
    ];
    [
        Selection {
            seqlens: (512, 512),
            compat: XAttentionCompat { first_chunk_quirk: true, ..Default::default() },
            scores: &[0.5, 0.0, 0.0, 0.0, 0.2, 0.3, 0.0, 0.0, 0.1, 0.35, 0.05, 0.0, 0.05, 0.4, 0.25, 0.3],
            rows: &[
                (0.0, &[&[0], &[0, 1], &[0, 2], &[0, 3]]),
                (0.5, STAIRS), (0.7, STAIRS), (0.9, STAIRS), (1.0, STAIRS),
            ],
        },
        // For scores in f32: at 0.5 the forced blocks of the first row fall short of half by rounding alone; 0.8 and 0.9
        // are covered exactly, and lie just below and above the nearest f32.
        Selection {
            seqlens: (256, 640),
            compat: XAttentionCompat::default(),
            scores: &[0.1, 0.2, 0.3, 0.4, 0.0, 0.05, 0.25, 0.1, 0.15, 0.45],
            rows: LATER,
        },
    ]
}
