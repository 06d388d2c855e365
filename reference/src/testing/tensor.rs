//! Owned tensors for tests, with NaN wherever no element lies.

use std::ops::Range;

use lacuna_core::{Element, Layout, TensorView, TensorViewMut};

use super::Rng;

/// `len` NaNs: outputs and workspaces start as these.
pub fn nans<T: Element>(len: usize) -> Vec<T> {
    vec![T::from_f32(f32::NAN); len]
}

/// A tensor that owns its memory. Memory between its rows, and before the first of them, holds NaN.
#[derive(Debug, Clone)]
pub struct Tensor<T> {
    data: Vec<T>,
    layout: Layout,
}

impl<T: Element> Tensor<T> {
    /// Element by element: `f(token, head, feature)`.
    ///
    /// # Panics
    /// When the layout overflows or its rows overlap.
    pub fn from_fn(layout: Layout, mut f: impl FnMut(usize, usize, usize) -> f64) -> Self {
        let len = layout.required_len("Tensor::from_fn").expect("a layout that fits in memory");
        let mut tensor = Self { data: nans(len), layout };
        let [tokens, heads, dim] = layout.shape();
        let mut view = tensor.view_mut();
        for token in 0..tokens {
            for head in 0..heads {
                for d in 0..dim {
                    view.row_mut(token, head)[d] = T::from_f64(f(token, head, d));
                }
            }
        }
        tensor
    }

    /// Contiguous `[tokens, heads, head_dim]`, standard normal.
    pub fn random(rng: &mut Rng, tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self::from_fn(Layout::thd(tokens, heads, head_dim), |_, _, _| rng.normal())
    }

    /// Standard normal, heads before tokens or after, with random gaps.
    pub fn random_strided(rng: &mut Rng, tokens: usize, heads: usize, head_dim: usize) -> Self {
        let mut layout = Layout::thd(tokens, heads, head_dim);
        let gap = |rng: &mut Rng| *rng.choose(&[0, 0, 1, 8, 17]);
        if rng.chance(0.5) {
            layout.head_stride = head_dim + gap(rng);
            layout.token_stride = heads * layout.head_stride + gap(rng);
        } else {
            layout.token_stride = head_dim + gap(rng);
            layout.head_stride = tokens * layout.token_stride + gap(rng);
        }
        Self::from_fn(layout, |_, _, _| rng.normal())
    }

    /// Contiguous, 80 % zeros, else integers up to 2: products and short sums of these are exact in every type.
    pub fn sparse_integers(rng: &mut Rng, tokens: usize, heads: usize, head_dim: usize) -> Self {
        Self::from_fn(Layout::thd(tokens, heads, head_dim), |_, _, _| rng.sparse_integer())
    }

    /// Queries and keys of a single sequence whose softmax is one-hot: `(q, k, chosen)` such that query row `i`, in every
    /// head, gives key `chosen[i]` all of its weight. That key is one of the first `visible(i)` and its product with the
    /// query at least 4096 ahead of all others, so that `exp` of the difference is 0 in `f32` at the default scale. The
    /// output is a copy of a row of V, bit for bit. (`chosen[i]` means nothing where `visible(i)` is 0.)
    ///
    /// # Panics
    /// When there are more than `2^head_dim` keys.
    pub fn one_hot(
        rng: &mut Rng,
        tokens_q: usize,
        tokens_k: usize,
        heads: usize,
        heads_k: usize,
        head_dim: usize,
        visible: impl Fn(usize) -> usize,
    ) -> (Self, Self, Vec<usize>) {
        assert!(head_dim >= 63 || tokens_k <= 1 << head_dim, "too many keys for {head_dim} features");
        let chosen: Vec<usize> = (0..tokens_q).map(|i| rng.below(visible(i).max(1))).collect();
        // Keys are distinct sign patterns: where a pattern differs from the chosen one, the product falls by 2 x 2048.
        let sign = |key: usize, d: usize| if d < 63 && key >> d & 1 == 1 { 1.0 } else { -1.0 };
        let q = Self::from_fn(Layout::thd(tokens_q, heads, head_dim), |i, _, d| 2048.0 * sign(chosen[i], d));
        let k = Self::from_fn(Layout::thd(tokens_k, heads_k, head_dim), |j, _, d| sign(j, d));
        (q, k, chosen)
    }

    /// Fills whole tokens with NaN, in all heads.
    pub fn poison(&mut self, tokens: Range<usize>) {
        let heads = self.layout.heads;
        for token in tokens {
            for head in 0..heads {
                self.view_mut().row_mut(token, head).fill(T::from_f32(f32::NAN));
            }
        }
    }

    /// Read-only.
    pub fn view(&self) -> TensorView<'_, T> {
        TensorView::new(&self.data, self.layout).expect("checked when made")
    }

    /// Mutable.
    pub fn view_mut(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut::new(&mut self.data, self.layout).expect("rows that do not overlap")
    }

    /// The elements as contiguous `[tokens, heads, head_dim]`.
    pub fn to_vec(&self) -> Vec<T> {
        let [tokens, heads, _] = self.layout.shape();
        let view = self.view();
        (0..tokens).flat_map(|t| (0..heads).flat_map(move |h| view.row(t, h).to_vec())).collect()
    }

    /// Some tokens, contiguous.
    pub fn tokens(&self, tokens: Range<usize>) -> Self {
        let [_, heads, head_dim] = self.layout.shape();
        Self::from_fn(Layout::thd(tokens.len(), heads, head_dim), |t, h, d| {
            self.view().row(tokens.start + t, h)[d].to_f32() as f64
        })
    }

    /// Some heads in any order, repeated at will, contiguous.
    pub fn heads(&self, heads: &[usize]) -> Self {
        let [tokens, _, head_dim] = self.layout.shape();
        Self::from_fn(Layout::thd(tokens, heads.len(), head_dim), |t, h, d| {
            self.view().row(t, heads[h])[d].to_f32() as f64
        })
    }
}
