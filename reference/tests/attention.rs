//! What the attention operations owe one another.

use half::{bf16, f16};
use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, Element, Layout, Seqlens, TensorView, VerticalSlashIndex,
    VerticalSlashOptions,
};
use lacuna_reference::testing::{
    LENGTHS, Rng, ShapeLimits, Tensor, Tolerance, assert_bits, assert_close, seeds, twin_attention,
};
use lacuna_reference::{
    AttentionOutput, block_sparse_attention, case, column_mass, decode_attention, dense_attention,
    masked_attention, merge_state, vertical_slash, vertical_slash_attention,
};

/// Sums in another order.
const ROUNDING: Tolerance = Tolerance { max: 1e-12, mean: 1e-12 };

struct Inputs<T> {
    shape: AttentionShape,
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
}

impl<T: Element> Inputs<T> {
    fn new(rng: &mut Rng, shape: AttentionShape) -> Self {
        let q = Tensor::random_strided(rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
        let [k, v] = [0, 1]
            .map(|_| Tensor::random_strided(rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim));
        Self { shape, q, k, v }
    }

    fn random(rng: &mut Rng, max_tokens: usize) -> Self {
        let shape = rng.shape(&ShapeLimits { max_tokens, head_dims: &[8, 16], ..Default::default() });
        Self::new(rng, shape)
    }

    fn single(rng: &mut Rng, q: usize, k: usize) -> Self {
        Self::new(rng, AttentionShape::new(4, 2, 8, Seqlens::single(q, k).unwrap()).unwrap())
    }

    fn dense(&self, options: &AttentionOptions) -> AttentionOutput {
        dense_attention(&self.shape, &self.q.view(), &self.k.view(), &self.v.view(), options).unwrap()
    }

    fn sparse(&self, mask: &BlockMask, options: &AttentionOptions) -> AttentionOutput {
        block_sparse_attention(&self.shape, &self.q.view(), &self.k.view(), &self.v.view(), mask, options)
            .unwrap()
    }

    fn masked(&self, sees: impl Fn(usize, usize, usize, usize) -> bool) -> AttentionOutput {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        masked_attention(&self.shape, &q, &k, &v, &AttentionOptions::default(), sees).unwrap()
    }
}

fn assert_same(got: &AttentionOutput, want: &AttentionOutput, case: &lacuna_reference::testing::Case) {
    assert_close(&got.out, &want.out, ROUNDING, case);
    assert_close(&got.softmax_lse, &want.softmax_lse, ROUNDING, case);
}

fn options(rng: &mut Rng) -> AttentionOptions {
    AttentionOptions {
        causal: rng.chance(0.7),
        softmax_scale: rng.chance(0.5).then_some(0.3),
        gqa_interleave: rng.chance(0.5),
    }
}

/// Three keys, by hand.
#[test]
fn known_weights() {
    let shape = AttentionShape::new(1, 1, 1, Seqlens::single(2, 3).unwrap()).unwrap();
    let view = |x| TensorView::thd(x, 3, 1, 1).unwrap();
    let q = TensorView::thd(&[1.0f32, 1.0], 2, 1, 1).unwrap();
    // Weights 1 : 2 : 4, the first row sees the first two.
    let (k, v) = ([0.0f32, 2f32.ln(), 4f32.ln()], [7.0f32, 14.0, 28.0]);
    let got = dense_attention(&shape, &q, &view(&k), &view(&v), &AttentionOptions::default()).unwrap();
    let case = case!(0);
    assert_close(&got.out, &[35.0 / 3.0, 21.0], Tolerance::absolute(1e-5), &case);
    assert_close(&got.softmax_lse, &[3f64.ln(), 7f64.ln()], Tolerance::absolute(1e-6), &case);
}

#[test]
fn rows_that_see_nothing_are_zero_with_negative_infinity() {
    for (q, k) in LENGTHS.into_iter().filter(|(q, k)| q > k) {
        let inputs = Inputs::<f32>::single(&mut Rng::new(0), q, k);
        let got = inputs.dense(&AttentionOptions::default());
        for i in 0..q {
            for h in 0..4 {
                let (row, lse) = (&got.out[(i * 4 + h) * 8..][..8], got.softmax_lse[h * q + i]);
                if i < q - k {
                    assert_eq!((row, lse), ([0.0; 8].as_slice(), f64::NEG_INFINITY));
                } else {
                    assert!(row.iter().all(|&x| x != 0.0) && lse.is_finite());
                }
            }
        }
    }
    // Nor does a row whose logits are all -inf.
    let shape = AttentionShape::new(1, 1, 1, Seqlens::single(1, 2).unwrap()).unwrap();
    let (q, k) = (TensorView::thd(&[1.0f32], 1, 1, 1).unwrap(), [f32::NEG_INFINITY; 2]);
    let k = TensorView::thd(&k, 2, 1, 1).unwrap();
    let got = dense_attention(&shape, &q, &k, &k, &AttentionOptions::default()).unwrap();
    assert_eq!((got.out, got.softmax_lse), (vec![0.0], vec![f64::NEG_INFINITY]));

    let inputs = Inputs::<f32>::single(&mut Rng::new(0), 20, 20);
    let empty = BlockMask::from_csr(&inputs.shape, 16, 16, vec![0; 9], vec![]).unwrap();
    let got = inputs.sparse(&empty, &AttentionOptions::default());
    assert!(got.out.iter().all(|&x| x == 0.0) && got.softmax_lse.iter().all(|&x| x == f64::NEG_INFINITY));
}

#[test]
fn full_mask_is_dense_and_hidden_memory_is_not_read() {
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let mut inputs = Inputs::<f32>::random(&mut rng, 60);
        let options = options(&mut rng);
        let (block_m, block_n) = (*rng.choose(&[8, 16, 64]), *rng.choose(&[8, 16, 64]));
        let case = case!(seed, "{:?} {options:?} {block_m} x {block_n}", inputs.shape);
        let full = BlockMask::dense(&inputs.shape, block_m, block_n, options.causal).unwrap();
        assert_same(&inputs.sparse(&full, &options), &inputs.dense(&options), &case);

        // Key block 1 of each sequence is in no list, and holds NaN.
        let mut mask = BlockMask::empty(&inputs.shape, block_m, block_n).unwrap();
        let seqlens = inputs.shape.seqlens.clone();
        for b in 0..seqlens.batch() {
            for h in 0..inputs.shape.num_heads {
                for m in 0..full.m_blocks(b) {
                    let row: Vec<u32> = full.row(b, h, m).iter().copied().filter(|&n| n != 1).collect();
                    mask.push_row(&row).unwrap();
                }
            }
        }
        let clean = inputs.sparse(&mask, &options);
        for b in 0..seqlens.batch() {
            let keys = seqlens.k_range(b);
            let block = (keys.start + block_n).min(keys.end)..(keys.start + 2 * block_n).min(keys.end);
            inputs.k.poison(block.clone());
            inputs.v.poison(block);
        }
        assert_bits(&inputs.sparse(&mask, &options).out, &clean.out, &case);
        assert!(clean.out.iter().all(|x| x.is_finite()), "{case}");
    }
}

#[test]
fn split_keys_merge_to_the_whole() {
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let inputs = Inputs::<f32>::random(&mut rng, 50);
        let parts = rng.range(1..=5);
        // Key `j` belongs to part `j / 7 % parts`, uneven and for some rows empty.
        let split: Vec<_> =
            (0..parts).map(|part| inputs.masked(|_, _, _, j| j / 7 % parts == part)).collect();
        let rounded: Vec<(Vec<f32>, Vec<f32>)> = split
            .iter()
            .map(|part| {
                let f32s = |x: &[f64]| x.iter().map(|&x| x as f32).collect();
                (f32s(&part.out), f32s(&part.softmax_lse))
            })
            .collect();
        let (tokens, heads, dim) =
            (inputs.shape.seqlens.total_q(), inputs.shape.num_heads, inputs.shape.head_dim);
        let mut views: Vec<(TensorView<f32>, &[f32])> = rounded
            .iter()
            .map(|(out, lse)| (TensorView::thd(out, tokens, heads, dim).unwrap(), lse.as_slice()))
            .collect();
        let case = case!(seed, "{:?} {parts} parts", inputs.shape);
        let whole = inputs.dense(&AttentionOptions::default());
        for _ in 0..2 {
            let merged = merge_state(&views).unwrap();
            assert_close(&merged.out, &whole.out, Tolerance::absolute(1e-5), &case);
            assert_close(&merged.softmax_lse, &whole.softmax_lse, Tolerance::absolute(1e-5), &case);
            views.reverse();
        }
    }
}

#[test]
fn grouped_heads_are_repeated_heads() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let inputs = Inputs::<f16>::random(&mut rng, 40);
        let options = options(&mut rng);
        let AttentionShape { num_heads, num_heads_k, head_dim, ref seqlens } = inputs.shape;
        let group = num_heads / num_heads_k;
        let source: Vec<usize> = (0..num_heads)
            .map(|h| if options.gqa_interleave { h % num_heads_k } else { h / group })
            .collect();
        let repeated = Inputs {
            shape: AttentionShape::new(num_heads, num_heads, head_dim, seqlens.clone()).unwrap(),
            q: inputs.q.clone(),
            k: inputs.k.heads(&source),
            v: inputs.v.heads(&source),
        };
        let case = case!(seed, "{:?} {options:?}", inputs.shape);
        assert_bits(&inputs.dense(&options).out, &repeated.dense(&options).out, &case);
    }
}

#[test]
fn a_ragged_batch_is_its_sequences() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let inputs = Inputs::<bf16>::random(&mut rng, 40);
        let options = options(&mut rng);
        let batch = inputs.dense(&options);
        let (heads, dim) = (inputs.shape.num_heads, inputs.shape.head_dim);
        for b in 0..inputs.shape.seqlens.batch() {
            let (q, k) = (inputs.shape.seqlens.q_range(b), inputs.shape.seqlens.k_range(b));
            let shape = AttentionShape {
                seqlens: Seqlens::single(q.len(), k.len()).unwrap(),
                ..inputs.shape.clone()
            };
            let alone = Inputs {
                shape,
                q: inputs.q.tokens(q.clone()),
                k: inputs.k.tokens(k.clone()),
                v: inputs.v.tokens(k),
            };
            let case = case!(seed, "{:?}, sequence {b}", inputs.shape);
            assert_bits(
                &alone.dense(&options).out,
                &batch.out[q.start * heads * dim..q.end * heads * dim],
                &case,
            );
        }
    }
}

#[test]
fn the_last_row_sees_everything() {
    let inputs = Inputs::<f32>::single(&mut Rng::new(1), 9, 30);
    let causal = inputs.dense(&AttentionOptions::default());
    let full = inputs.dense(&AttentionOptions { causal: false, ..Default::default() });
    assert_bits(&causal.out[8 * 32..], &full.out[8 * 32..], &case!(1));
    assert!(causal.out[..8 * 32].iter().zip(&full.out).all(|(a, b)| a != b));
}

#[test]
fn block_diagonal_is_dense_per_block() {
    let inputs = Inputs::<f32>::single(&mut Rng::new(2), 50, 50);
    let mask = BlockMask::block_diagonal(&inputs.shape, 16, 16, 16).unwrap();
    let got = inputs.sparse(&mask, &AttentionOptions::default());
    for tokens in [0..16, 16..32, 32..48, 48..50] {
        let alone = Inputs {
            shape: AttentionShape {
                seqlens: Seqlens::single(tokens.len(), tokens.len()).unwrap(),
                ..inputs.shape.clone()
            },
            q: inputs.q.tokens(tokens.clone()),
            k: inputs.k.tokens(tokens.clone()),
            v: inputs.v.tokens(tokens.clone()),
        };
        let alone = alone.dense(&AttentionOptions::default());
        assert_bits(&got.out[tokens.start * 32..tokens.end * 32], &alone.out, &case!(2, "{tokens:?}"));
    }
}

#[test]
fn static_masks_hold_every_pair_of_their_pattern() {
    let inputs = Inputs::<f32>::single(&mut Rng::new(3), 70, 100);
    let (shape, past) = (&inputs.shape, 30);
    let near = |i: usize, j: usize| j < 20 || i + past - j < 17;
    let masks = [
        BlockMask::sink_and_local(shape, 16, 16, 20, 17).unwrap(),
        BlockMask::tri_shape(shape, 16, 16, 20, 17, 9).unwrap(),
    ];
    for (mask, last) in masks.into_iter().zip([0, 9]) {
        // With one key of weight, output and sum say whether it was seen: each pair of the token pattern must be.
        let sparse = inputs.sparse(&mask, &AttentionOptions::default());
        let pattern = inputs.masked(|_, _, i, j| i + last >= 70 || near(i, j));
        let dense = inputs.dense(&AttentionOptions::default());
        for row in 0..pattern.softmax_lse.len() {
            let lse = [pattern.softmax_lse[row], sparse.softmax_lse[row], dense.softmax_lse[row]];
            assert!(lse[0] <= lse[1] + 1e-12 && lse[1] <= lse[2] + 1e-12, "row {row}: {lse:?}");
        }
    }
}

#[test]
fn decode_is_the_end_of_a_prefill() {
    for seed in seeds(40) {
        let mut rng = Rng::new(seed);
        let (batch, seqlen_q, capacity) = (rng.range(0..=3), rng.range(1..=5), 40);
        let options = options(&mut rng);
        let (heads, heads_k, dim) = (4, 2, 8);
        let cache_seqlens: Vec<u32> = (0..batch).map(|_| rng.range(0..=capacity) as u32).collect();
        let q = Tensor::<f32>::random(&mut rng, batch * seqlen_q, heads, dim);
        let layout = match rng.chance(0.5) {
            true => Layout::bshd(batch, capacity, heads_k, dim),
            false => Layout::bhsd(batch, heads_k, capacity, dim),
        };
        let [mut k, mut v] = [0, 1].map(|_| Tensor::<f32>::from_fn(layout, |_, _, _| rng.normal()));
        for (b, &len) in cache_seqlens.iter().enumerate() {
            let unused = b * capacity + len as usize..(b + 1) * capacity;
            k.poison(unused.clone());
            v.poison(unused);
        }
        let got = decode_attention(&q.view(), &k.view(), &v.view(), &cache_seqlens, &options).unwrap();
        for (b, &len) in cache_seqlens.iter().enumerate() {
            let keys = b * capacity..b * capacity + len as usize;
            let rows = b * seqlen_q..(b + 1) * seqlen_q;
            let seqlens = Seqlens::single(seqlen_q, keys.len()).unwrap();
            let alone = Inputs {
                shape: AttentionShape::new(heads, heads_k, dim, seqlens).unwrap(),
                q: q.tokens(rows.clone()),
                k: k.tokens(keys.clone()),
                v: v.tokens(keys),
            };
            let want = alone.dense(&options);
            let case = case!(seed, "sequence {b} of {cache_seqlens:?}, {seqlen_q} rows, {options:?}");
            let row = heads * dim;
            assert_bits(&got.out[rows.start * row..rows.end * row], &want.out, &case);
            let lse: Vec<f64> = (0..heads)
                .flat_map(|h| got.softmax_lse[h * batch * seqlen_q..][rows.clone()].to_vec())
                .collect();
            assert_bits(&lse, &want.softmax_lse, &case);
        }
    }
    let x = Tensor::<f32>::random(&mut Rng::new(0), 6, 1, 8);
    let refused = |lens: &[u32]| {
        decode_attention(&x.view(), &x.view(), &x.view(), lens, &AttentionOptions::default()).is_err()
    };
    assert!(!refused(&[3, 0]) && refused(&[4, 0]) && refused(&[1; 4]) && refused(&[]));
}

#[test]
fn column_mass_is_the_column_sum_of_the_weights() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let inputs = Inputs::<f32>::random(&mut rng, 30);
        let options = options(&mut rng);
        let shape = &inputs.shape;
        let (q, k) = (inputs.q.view(), inputs.k.view());
        let lse: Vec<f32> = inputs.dense(&options).softmax_lse.iter().map(|&x| x as f32).collect();
        for b in 0..shape.seqlens.batch() {
            let (len_q, len_k) = (shape.seqlens.seqlen_q(b), shape.seqlens.seqlen_k(b));
            let case = case!(seed, "{shape:?} {options:?}, sequence {b}");
            let range = |rng: &mut Rng, len: usize| {
                let start = rng.range(0..=len);
                start..rng.range(start..=len)
            };
            let (rows, columns) = (range(&mut rng, len_q), range(&mut rng, len_k));
            // Accumulates.
            let mut mass = vec![2.0; columns.len()];
            column_mass(shape, &q, &k, &lse, b, rows.clone(), columns.clone(), &options, &mut mass).unwrap();
            let mut want = vec![2.0; columns.len()];
            for (want, j) in want.iter_mut().zip(columns.clone()) {
                // Values that are 1 at key `j` and 0 elsewhere: the output is the weight of `j`.
                let key = shape.seqlens.k_range(b).start + j;
                let v = Tensor::<f32>::from_fn(*k.layout(), |t, _, _| (t == key) as u8 as f64);
                let out = dense_attention(shape, &q, &k, &v.view(), &options).unwrap().out;
                for i in rows.clone() {
                    let row = (shape.seqlens.q_range(b).start + i) * shape.num_heads;
                    *want += (row..row + shape.num_heads).map(|row| out[row * shape.head_dim]).sum::<f64>();
                }
            }
            assert_close(&mass, &want, Tolerance::absolute(1e-4), &case);
        }
    }
}

#[test]
fn vertical_slash_with_everything_kept_is_dense() {
    for seed in seeds(20) {
        let mut rng = Rng::new(seed);
        let inputs = Inputs::<f32>::random(&mut rng, 150);
        let shape = &inputs.shape;
        let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
        let found = vertical_slash(shape, &q, &k, &VerticalSlashOptions::default()).unwrap();
        let options = AttentionOptions::default();
        let got = vertical_slash_attention(shape, &q, &k, &v, &found.index, &options).unwrap();
        assert_same(&got, &inputs.dense(&options), &case!(seed, "{shape:?}"));
    }
}

#[test]
fn vertical_slash_keeps_the_heaviest_columns_and_diagonals() {
    let (len, past) = (300, 37);
    let shape = AttentionShape::new(1, 1, 16, Seqlens::single(len, len + past).unwrap()).unwrap();
    let mut rng = Rng::new(0);
    // One heavy column, and queries that repeat the key 111 tokens back.
    let k = Tensor::<f32>::from_fn(Layout::thd(len + past, 1, 16), |t, _, d| match (t, d) {
        (170, 0) => 30.0,
        (_, 0) => 0.0,
        _ => {
            if rng.chance(0.5) {
                2.0
            } else {
                -2.0
            }
        }
    });
    let q = Tensor::<f32>::from_fn(Layout::thd(len, 1, 16), |t, _, d| match d {
        0 => 2.0,
        _ if t + past >= 111 => k.view().row(t + past - 111, 0)[d] as f64,
        _ => 0.0,
    });
    let options = VerticalSlashOptions {
        vertical_size: 31,
        slash_size: 51,
        sink: 30,
        recent: 50,
        ..Default::default()
    };
    let found = vertical_slash(&shape, &q.view(), &k.view(), &options).unwrap();
    let head = &found.heads[0];
    assert_eq!(head.columns, (0..30).chain([170]).collect::<Vec<u32>>());
    assert_eq!(head.slashes, [111].into_iter().chain((0..50).rev()).collect::<Vec<u32>>());
    let mut index = VerticalSlashIndex::empty(&shape).unwrap();
    index.push_head(&head.columns, &head.slashes).unwrap();
    assert_eq!(found.index, index);
    // All rows of weights sum to one along columns; along diagonals likewise.
    let finite = |x: &[f64]| x.iter().filter(|x| x.is_finite()).sum::<f64>();
    assert!(finite(&head.column_scores) <= 64.0 + 1e-9 && finite(&head.slash_scores) <= 64.0 + 1e-9);
}

#[test]
fn one_hot_softmax_copies_values() {
    for seed in seeds(10) {
        let mut rng = Rng::new(seed);
        let (len_q, len_k, dim) = (40, 50, *rng.choose(&[16, 64, 256]));
        let shape = AttentionShape::new(2, 1, dim, Seqlens::single(len_q, len_k).unwrap()).unwrap();
        let (q, k, chosen) = Tensor::<bf16>::one_hot(&mut rng, len_q, len_k, 2, 1, dim, |i| i + 11);
        let v = Tensor::<bf16>::random(&mut rng, len_k, 1, dim);
        let options = AttentionOptions::default();
        let (q, k) = (q.view(), k.view());
        let got = dense_attention(&shape, &q, &k, &v.view(), &options).unwrap();
        let twin = twin_attention(&shape, &q, &k, &v.view(), &options, |_, _, _, _| true).unwrap();
        let want: Vec<bf16> = chosen.iter().flat_map(|&j| v.view().row(j, 0).repeat(2)).collect();
        let rounded: Vec<bf16> = got.out.iter().map(|&x| bf16::from_f64(x)).collect();
        assert_bits(&rounded, &want, &case!(seed, "{shape:?}"));
        assert_bits(&twin.out, &want, &case!(seed, "{shape:?}"));
    }
}

/// The twin lies within its own type's reach of the reference, and no closer type is mistaken for it.
#[test]
fn the_twin_has_the_error_of_its_type() {
    fn errors<T: Element>() -> f64 {
        let mut worst = 0.0f64;
        for seed in seeds(10) {
            let inputs = Inputs::<T>::random(&mut Rng::new(seed), 80);
            let options = AttentionOptions::default();
            let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
            let want = inputs.dense(&options);
            let twin = twin_attention(&inputs.shape, &q, &k, &v, &options, |_, _, _, _| true).unwrap();
            let case = case!(seed, "{:?}", inputs.shape);
            assert_close(&twin.softmax_lse, &want.softmax_lse, Tolerance::absolute(1e-5), &case);
            let error = want.out.iter().zip(&twin.out).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let tolerance = Tolerance::attention::<T>(&want.out, &twin.out);
            assert!(tolerance.max >= 2.0 * error && tolerance.max <= 4.0 * error + 2e-2, "{case}");
            worst = worst.max(error);
        }
        worst
    }
    let (f32s, f16s, bf16s) = (errors::<f32>(), errors::<f16>(), errors::<bf16>());
    assert!(
        f32s < 3e-6 && f16s > 1e-4 && f16s < 3e-3 && bf16s > 1e-3 && bf16s < 3e-2,
        "{f32s} {f16s} {bf16s}"
    );
}

#[test]
fn refuses_what_does_not_fit() {
    let inputs = Inputs::<f32>::single(&mut Rng::new(0), 4, 6);
    let (q, k, v) = (inputs.q.view(), inputs.k.view(), inputs.v.view());
    let options = AttentionOptions::default();
    let attend = |shape: &AttentionShape| dense_attention(shape, &q, &k, &v, &options).is_err();
    let shape =
        |heads, dim, q, k| AttentionShape::new(heads, 2, dim, Seqlens::single(q, k).unwrap()).unwrap();
    assert!(!attend(&shape(4, 8, 4, 6)));
    assert!(attend(&shape(2, 8, 4, 6)) && attend(&shape(4, 4, 4, 6)));
    assert!(attend(&shape(4, 8, 5, 6)) && attend(&shape(4, 8, 4, 5)));
    let nan = AttentionOptions { softmax_scale: Some(f32::NAN), ..options };
    assert!(dense_attention(&inputs.shape, &q, &k, &v, &nan).is_err());
    let other = BlockMask::dense(&shape(4, 8, 5, 6), 16, 16, true).unwrap();
    assert!(block_sparse_attention(&inputs.shape, &q, &k, &v, &other, &options).is_err());
    let lse = [0.0f32; 16];
    let mass = |b, rows, columns, len| {
        let mut mass = vec![0.0; len];
        column_mass(&inputs.shape, &q, &k, &lse, b, rows, columns, &options, &mut mass).is_err()
    };
    assert!(!mass(0, 0..4, 0..6, 6));
    assert!(
        mass(1, 0..4, 0..6, 6) && mass(0, 0..5, 0..6, 6) && mass(0, 0..4, 0..7, 7) && mass(0, 0..4, 0..6, 5)
    );
}
