//! The mixed kernel of vertical-slash attention: unaligned key tiles for the slashes, gathered columns for the
//! verticals.

use lacuna_core::{
    AttentionOptions, AttentionShape, Element, Error, Result, TensorView, TensorViewMut, VerticalSlashIndex,
};

use crate::engine::{Engine, Pattern, Task};
use crate::key_list::KeyList;

const OP: &str = "vertical_slash_attention";
const TILE: usize = VerticalSlashIndex::TILE;

/// Attention over the keys of a [`VerticalSlashIndex`], planned for one shape and run with any index (the mixed kernel
/// of MInference, [Jiang et al. 2024](https://arxiv.org/abs/2407.02490)).
///
/// The same engine as [`crate::dense_attention::Plan`], which says what is computed and how exactly; always causal. A
/// tile of 64 query rows reads the key tiles of the index, wherever they start, then its single columns, which are
/// packed 128 at a time.
///
/// # Examples
/// ```
/// use lacuna_core::{AttentionOptions, AttentionShape, Seqlens, TensorView, TensorViewMut, VerticalSlashIndex};
/// use lacuna_kernels_cpu::vertical_slash::AttentionPlan;
///
/// let shape = AttentionShape::new(1, 1, 64, Seqlens::single(300, 300)?)?;
/// let mut index = VerticalSlashIndex::empty(&shape)?;
/// index.push_head(&[0, 1, 5, 70], &[250, 100, 64, 1, 0])?;
/// let (q, k, v) = (vec![0.1f32; 300 * 64], vec![0.2f32; 300 * 64], vec![0.3f32; 300 * 64]);
/// let mut out = vec![0.0f32; q.len()];
/// AttentionPlan::new(&shape, &AttentionOptions::default())?.run(
///     &TensorView::thd(&q, 300, 1, 64)?,
///     &TensorView::thd(&k, 300, 1, 64)?,
///     &TensorView::thd(&v, 300, 1, 64)?,
///     &index,
///     &mut TensorViewMut::thd(&mut out, 300, 1, 64)?,
///     None,
/// )?;
/// assert!((out[0] - 0.3).abs() < 1e-6);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct AttentionPlan<T: Element> {
    engine: Engine<T>,
}

impl Pattern for VerticalSlashIndex {
    fn key_list(&self, task: &Task) -> KeyList<'_> {
        KeyList { starts: self.blocks(task.b, task.head, task.m_block), unit: 1, width: TILE }
    }

    fn columns(&self, task: &Task) -> &[u32] {
        VerticalSlashIndex::columns(self, task.b, task.head, task.m_block)
    }
}

impl<T: Element> AttentionPlan<T> {
    /// Allocates everything that [`AttentionPlan::run`] needs, for the threads of the current rayon pool.
    ///
    /// # Errors
    /// Options that are not causal; a `softmax_scale` that is not finite; sizes that no memory can hold.
    pub fn new(shape: &AttentionShape, options: &AttentionOptions) -> Result<Self> {
        if !options.causal {
            return Err(Error::invalid(OP, "causal", true, false));
        }
        Ok(Self { engine: Engine::new(OP, shape, options, TILE, TILE, true)? })
    }

    /// Computes `out`, and `softmax_lse` if it is asked for.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `out` | `[total_q, num_heads, head_dim]` |
    /// | `k`, `v` | `[total_k, num_heads_k, head_dim]` |
    /// | `index` | made for the plan's shape |
    /// | `softmax_lse` | `f32 [num_heads, total_q]`, natural logarithm |
    ///
    /// A row that sees no key gives zeros and `-inf`.
    ///
    /// # Errors
    /// A tensor, buffer or index whose shape is not the plan's; an index with rows missing.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        index: &VerticalSlashIndex,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        index.check(OP, self.engine.shape())?;
        self.engine.run(q, k, v, index, out, softmax_lse)
    }
}
