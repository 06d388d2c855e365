//! Device memory that the kernels of the search hand on.

use lacuna_core::{Error, Result};
use lacuna_kernels_gpu::params::FlexHead;
use lacuna_kernels_gpu::tile_size::WARP;

use super::OP;
use crate::buffer::DeviceBuffer;
use crate::context::Context;

/// A list for each kind of value, as the kernels' documentation says.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) mean_keys: DeviceBuffer<f32>,
    pub(super) token_counts: DeviceBuffer<u32>,
    pub(super) column_sums: DeviceBuffer<f32>,
    pub(super) slash_sums: DeviceBuffer<f32>,
    pub(super) logits: DeviceBuffer<f32>,
    pub(super) columns: DeviceBuffer<u32>,
    pub(super) diagonals: DeviceBuffer<u32>,
    /// [`FlexHead`]s, word by word.
    pub(super) heads: DeviceBuffer<u32>,
}

impl Workspace {
    /// For `heads` query heads of each of `batch` sequences, which have `blocks` key blocks together.
    pub(super) fn new(
        context: &Context,
        batch: usize,
        heads: usize,
        blocks: usize,
        mean_keys: usize,
    ) -> Result<Self> {
        let per_head = product(&[batch, heads])?;
        let per_block = product(&[blocks, heads])?;
        // Each sequence begins a word of its own.
        let words = product(&[blocks / WARP as usize + batch, heads])?;
        let of_head = vec![0; product(&[per_head, size_of::<FlexHead>() / 4])?];
        let floats = |len, what| DeviceBuffer::uninit(context, len, what);
        let bits = |len, what| DeviceBuffer::uninit(context, len, what);
        Ok(Self {
            mean_keys: floats(mean_keys, "flex_prefill mean keys")?,
            token_counts: bits(product(&[per_head, 2])?, "flex_prefill token counts")?,
            column_sums: floats(per_block, "flex_prefill column sums")?,
            slash_sums: floats(per_block, "flex_prefill slash sums")?,
            logits: floats(per_block, "flex_prefill pooled logits")?,
            columns: bits(words, "flex_prefill columns")?,
            diagonals: bits(words, "flex_prefill diagonals")?,
            heads: DeviceBuffer::from_host(context, &of_head, "flex_prefill heads")?,
        })
    }

    /// Bytes of device memory.
    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.mean_keys, &self.column_sums, &self.slash_sums, &self.logits];
        let words = [&self.token_counts, &self.columns, &self.diagonals, &self.heads];
        let len = floats.map(DeviceBuffer::len).iter().sum::<usize>()
            + words.map(DeviceBuffer::len).iter().sum::<usize>();
        len * size_of::<u32>()
    }
}

fn product(factors: &[usize]) -> Result<usize> {
    let product = factors.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    product.ok_or_else(|| Error::TooLarge {
        op: OP,
        what: "the workspace",
        limit: usize::MAX as u64,
        got: format!("{factors:?}"),
    })
}
