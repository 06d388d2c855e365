//! A small attention on random values, and the same by a plain loop in `f64`: what the kernels are checked against.

use lacuna::{
    AttentionShape, BlockMask, Element, Selection, Seqlens, TensorView, TensorViewMut, VerticalSlashIndex,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const SEED: u64 = 7;

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

    /// One output row, in `f64`.
    fn plain(&self, kept: &Kept, head: usize, row: usize) -> Vec<f64> {
        let AttentionShape { num_heads, num_heads_k, head_dim, .. } = self.shape;
        let head_k = self.shape.head_k(head, false);
        let row_of = |x: &[T], heads: usize, token: usize, head: usize| -> Vec<f64> {
            let at = (token * heads + head) * head_dim;
            x[at..at + head_dim].iter().map(|x| f64::from(x.to_f32())).collect()
        };
        let q = row_of(&self.q, num_heads, row, head);
        let (mut out, mut total) = (vec![0.0; head_dim], 0.0);
        for key in (0..=row).filter(|&key| kept.has(head, row, key)) {
            let k = row_of(&self.k, num_heads_k, key, head_k);
            let dot: f64 = k.iter().zip(&q).map(|(k, q)| k * q).sum();
            let weight = (dot / (head_dim as f64).sqrt()).exp();
            total += weight;
            let v = row_of(&self.v, num_heads_k, key, head_k);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += weight * v);
        }
        if total > 0.0 {
            out.iter_mut().for_each(|x| *x /= total);
        }
        out
    }
}
