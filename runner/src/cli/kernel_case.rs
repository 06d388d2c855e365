//! A small attention on random values, and the same by a plain loop in `f64`: what the kernels are checked against.

use lacuna::{
    AttentionShape, BlockMask, Element, Selection, Seqlens, TensorView, TensorViewMut, VerticalSlashIndex,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 7;
/// Sums of probabilities in `f32` that lie closer are equal.
const SLACK: f64 = 1e-5;

/// Queries, keys and values between -1 and 1, of one sequence without a past.
pub struct KernelCase<T> {
    pub shape: AttentionShape,
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

/// A selection that outlives its plan.
pub enum Kept {
    All,
    Blocks(BlockMask),
    VerticalSlash(VerticalSlashIndex),
}

impl Kept {
    pub fn new(selection: Selection<'_>) -> Self {
        match selection {
            Selection::Blocks(mask) => Self::Blocks(mask.clone()),
            Selection::VerticalSlash(index) => Self::VerticalSlash(index.clone()),
            _ => Self::All,
        }
    }

    fn has(&self, head: usize, row: usize, key: usize) -> bool {
        match self {
            Self::All => true,
            Self::Blocks(mask) => {
                let block = (key / mask.block_n()) as u32;
                mask.row(0, head, row / mask.block_m()).binary_search(&block).is_ok()
            }
            Self::VerticalSlash(index) => {
                let tile = row / VerticalSlashIndex::TILE;
                index.columns(0, head, tile).binary_search(&(key as u32)).is_ok()
                    || index.blocks(0, head, tile).iter().any(|&start| {
                        (start as usize..start as usize + VerticalSlashIndex::TILE).contains(&key)
                    })
            }
        }
    }
}

impl<T: Element> KernelCase<T> {
    pub fn new(tokens: usize, num_heads: usize, num_heads_k: usize, head_dim: usize) -> lacuna::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut values = |heads: usize| -> Vec<T> {
            (0..tokens * heads * head_dim).map(|_| T::from_f32(rng.random_range(-1.0..1.0))).collect()
        };
        let shape = AttentionShape::new(num_heads, num_heads_k, head_dim, Seqlens::single(tokens, tokens)?)?;
        Ok(Self { shape, q: values(num_heads), k: values(num_heads_k), v: values(num_heads_k) })
    }

    /// `q`, `k` and `v`.
    pub fn views(&self) -> lacuna::Result<[TensorView<'_, T>; 3]> {
        let AttentionShape { num_heads, num_heads_k, head_dim, seqlens } = &self.shape;
        let tokens = seqlens.total_q();
        Ok([
            TensorView::thd(&self.q, tokens, *num_heads, *head_dim)?,
            TensorView::thd(&self.k, tokens, *num_heads_k, *head_dim)?,
            TensorView::thd(&self.v, tokens, *num_heads_k, *head_dim)?,
        ])
    }

    /// An output that nothing has written.
    pub fn unwritten(&self) -> Vec<T> {
        vec![T::from_f32(f32::NAN); self.q.len()]
    }

    /// The view of an output.
    pub fn out<'a>(&self, out: &'a mut [T]) -> lacuna::Result<TensorViewMut<'a, T>> {
        TensorViewMut::thd(out, self.shape.seqlens.total_q(), self.shape.num_heads, self.shape.head_dim)
    }

    /// How far the rows of `out` from `first` on are from the plain loop over what was kept. A NaN is no small error.
    pub fn max_error(&self, kept: &Kept, first: usize, out: &[T]) -> f64 {
        let AttentionShape { num_heads, head_dim, .. } = self.shape;
        let mut max_error = 0.0;
        for (row, out) in (first..).zip(out.chunks(num_heads * head_dim)) {
            for (head, got) in out.chunks(head_dim).enumerate() {
                for (want, got) in self.plain(kept, head, row).iter().zip(got) {
                    let error = (want - f64::from(got.to_f32())).abs();
                    // `f64::max` would drop a NaN.
                    max_error = if error <= max_error { max_error } else { error };
                }
            }
        }
        max_error
    }

    /// Whether `kept` are the keys that the rows from `first` on weigh most in dense attention, summed over rows and heads;
    /// scores within rounding of the least may stand for one another.
    pub fn is_top_k(&self, kept: &[u32], first: usize) -> bool {
        let tokens = self.shape.seqlens.total_k();
        let mut mass = vec![0.0; tokens];
        for row in first..tokens {
            for head in 0..self.shape.num_heads {
                let weights = self.weights(&Kept::All, head, row);
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                weights.into_iter().for_each(|(key, weight)| mass[key] += weight / total);
            }
        }
        let mut descending = mass.clone();
        descending.sort_by(|a, b| b.total_cmp(a));
        let ascending = kept.windows(2).all(|pair| pair[0] < pair[1]);
        let Some(least) = kept.len().checked_sub(1).map(|last| descending[last]) else { return true };
        let among = |key: &u32| mass.get(*key as usize).is_some_and(|&x| x >= least * (1.0 - SLACK));
        let missed =
            |key: usize| mass[key] > least * (1.0 + SLACK) && kept.binary_search(&(key as u32)).is_err();
        ascending && kept.iter().all(among) && !(0..tokens).any(missed)
    }

    /// One output row, in `f64`.
    fn plain(&self, kept: &Kept, head: usize, row: usize) -> Vec<f64> {
        let head_k = self.shape.head_k(head, false);
        let (mut out, mut total) = (vec![0.0; self.shape.head_dim], 0.0);
        for (key, weight) in self.weights(kept, head, row) {
            total += weight;
            let v = self.row(&self.v, self.shape.num_heads_k, key, head_k);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * v);
        }
        if total > 0.0 {
            out.iter_mut().for_each(|x| *x /= total);
        }
        out
    }

    /// The exponentials of a row's logits, by key.
    fn weights(&self, kept: &Kept, head: usize, row: usize) -> Vec<(usize, f64)> {
        let AttentionShape { num_heads, num_heads_k, head_dim, .. } = self.shape;
        let head_k = self.shape.head_k(head, false);
        let q: Vec<f64> = self.row(&self.q, num_heads, row, head).collect();
        let keys = (0..=row).filter(|&key| kept.has(head, row, key));
        keys.map(|key| {
            let k = self.row(&self.k, num_heads_k, key, head_k);
            let dot: f64 = k.zip(&q).map(|(k, q)| k * q).sum();
            (key, (dot / (head_dim as f64).sqrt()).exp())
        })
        .collect()
    }

    fn row(&self, x: &[T], heads: usize, token: usize, head: usize) -> impl Iterator<Item = f64> {
        let at = (token * heads + head) * self.shape.head_dim;
        x[at..at + self.shape.head_dim].iter().map(|x| f64::from(x.to_f32()))
    }
}
