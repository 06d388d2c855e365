//! Rows by index: the embedding, and the rows whose logits are asked for.

use bytemuck::Pod;
use lacuna::gpu::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Stream, gather_rows};
use lacuna::{Element, Layout, Result};

/// The most bytes of a row that the kernel takes as one piece.
const MAX_PIECE_BYTES: usize = 4096;

/// `out[i] = src[index[i]]` for rows of so many features, planned for one table and one number of rows.
pub(super) struct Gather<T> {
    plan: gather_rows::Plan<T>,
    src: Layout,
    out: Layout,
}

impl<T: Element + Pod> Gather<T> {
    /// Plans `rows` rows of a table `[tokens, features]`.
    pub fn new(context: &Context, tokens: usize, features: usize, rows: usize) -> Result<Self> {
        let fits = |piece: &usize| {
            features.is_multiple_of(*piece)
                && (piece * size_of::<T>()).is_multiple_of(16)
                && piece * size_of::<T>() <= MAX_PIECE_BYTES
        };
        // A row is read as so many heads; where there is no such cut, the plan says what it takes.
        let piece = (1..=features).map(|n| features / n).find(fits).unwrap_or(features);
        let pieces = features / piece;
        Ok(Self {
            plan: gather_rows::Plan::new(context, tokens, pieces, piece, rows)?,
            src: Layout::thd(tokens, pieces, piece),
            out: Layout::thd(rows, pieces, piece),
        })
    }

    /// Queues the copy.
    pub fn run(
        &self,
        stream: &Stream,
        src: &DeviceBuffer<T>,
        index: &DeviceBuffer<u32>,
        out: &mut DeviceBuffer<T>,
    ) -> Result<()> {
        let src = DeviceView::new(src, 0, self.src)?;
        let mut out = DeviceViewMut::new(out, 0, self.out)?;
        self.plan.run(stream, &src, index, gather_rows::Count::All, &mut out)
    }
}
