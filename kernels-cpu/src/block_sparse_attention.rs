//! Block-sparse attention: every query block reads the key blocks that a [`BlockMask`] lists.

use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, Element, Error, Result, TensorView, TensorViewMut,
};

use crate::engine::{Engine, Pattern, Task};
use crate::key_list::KeyList;
use crate::tile_size::row_tile;

const OP: &str = "block_sparse_attention";

/// Block-sparse attention over a ragged batch, planned for one shape and block size and run with any mask.
///
/// The same engine as [`crate::dense_attention::Plan`], which says what is computed and how exactly; a row reads the
/// listed keys only, and of them those that the causal mask leaves. With a mask that lists all visible blocks, results
/// are those of dense attention to the bit.
///
/// Blocks of 64 and more tokens run at the speed of dense attention per block. Key blocks may have any size; multiples
/// of 16 need no element masks. Query blocks of fewer than 64 rows read the keys more often than they use them.
///
/// # Examples
/// ```
/// use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, Seqlens, TensorView, TensorViewMut};
/// use lacuna_kernels_cpu::block_sparse_attention::Plan;
///
/// let shape = AttentionShape::new(4, 2, 64, Seqlens::single(300, 300)?)?;
/// let mask = BlockMask::sink_and_local(&shape, 64, 64, 64, 64)?;
/// let (q, k, v) = (vec![0.1f32; 300 * 4 * 64], vec![0.2f32; 300 * 2 * 64], vec![0.3f32; 300 * 2 * 64]);
/// let mut out = vec![0.0f32; q.len()];
/// let mut plan = Plan::new(&shape, &AttentionOptions::default(), 64, 64)?;
/// plan.run(
///     &TensorView::thd(&q, 300, 4, 64)?,
///     &TensorView::thd(&k, 300, 2, 64)?,
///     &TensorView::thd(&v, 300, 2, 64)?,
///     &mask,
///     &mut TensorViewMut::thd(&mut out, 300, 4, 64)?,
///     None,
/// )?;
/// assert!((out[0] - 0.3).abs() < 1e-6);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
pub struct Plan<T: Element> {
    engine: Engine<T>,
    block_m: usize,
    block_n: usize,
}

impl Pattern for BlockMask {
    fn key_list(&self, task: &Task) -> KeyList<'_> {
        KeyList {
            starts: self.row(task.b, task.head, task.m_block),
            unit: self.block_n(),
            width: self.block_n(),
        }
    }
}

impl<T: Element> Plan<T> {
    /// Allocates everything that [`Plan::run`] needs, for the threads of the current rayon pool.
    ///
    /// # Errors
    /// A block size of 0; a `softmax_scale` that is not finite; sizes that no memory can hold.
    pub fn new(
        shape: &AttentionShape,
        options: &AttentionOptions,
        block_m: usize,
        block_n: usize,
    ) -> Result<Self> {
        for (arg, block) in [("block_m", block_m), ("block_n", block_n)] {
            if block == 0 {
                return Err(Error::invalid(OP, arg, "at least 1", block));
            }
        }
        let engine = Engine::new(OP, shape, options, block_m, row_tile(block_m), false)?;
        Ok(Self { engine, block_m, block_n })
    }

    /// Computes `out`, and `softmax_lse` if it is asked for.
    ///
    /// | name | shape |
    /// |---|---|
    /// | `q`, `out` | `[total_q, num_heads, head_dim]` |
    /// | `k`, `v` | `[total_k, num_heads_k, head_dim]` |
    /// | `block_mask` | made for the plan's shape and block sizes |
    /// | `softmax_lse` | `f32 [num_heads, total_q]`, natural logarithm |
    ///
    /// A row that sees no key gives zeros and `-inf`.
    ///
    /// # Errors
    /// A tensor, buffer or mask whose shape is not the plan's; a mask with rows missing.
    pub fn run(
        &mut self,
        q: &TensorView<T>,
        k: &TensorView<T>,
        v: &TensorView<T>,
        block_mask: &BlockMask,
        out: &mut TensorViewMut<T>,
        softmax_lse: Option<&mut [f32]>,
    ) -> Result<()> {
        let (want, got) = ([self.block_m, self.block_n], [block_mask.block_m(), block_mask.block_n()]);
        if want != got {
            return Err(Error::shape(OP, "the blocks of block_mask", want, got));
        }
        block_mask.check(OP, self.engine.shape())?;
        self.engine.run(q, k, v, block_mask, out, softmax_lse)
    }
}
