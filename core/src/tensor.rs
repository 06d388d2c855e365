//! Views of caller-owned memory as `[tokens, heads, head_dim]` tensors.

use crate::{Element, Error, Layout, Result};

/// A read-only tensor view.
///
/// ```
/// use lacuna_core::TensorView;
/// let data = vec![0.0f32; 2 * 8 * 4 * 64];
/// // [batch 2, heads 4, seqlen 8, head_dim 64], as PyTorch's SDPA has it
/// let q = TensorView::bhsd(&data, 2, 4, 8, 64)?;
/// assert_eq!(q.shape(), [16, 4, 64]);
/// # Ok::<(), lacuna_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct TensorView<'a, T> {
    data: &'a [T],
    layout: Layout,
}

impl<'a, T: Element> TensorView<'a, T> {
    /// Any strides. The last dimension is contiguous; `data` must hold the layout's whole extent.
    pub fn new(data: &'a [T], layout: Layout) -> Result<Self> {
        let need = layout.required_len("TensorView::new")?;
        if data.len() < need {
            return Err(Error::invalid(
                "TensorView::new",
                "data",
                format_args!("at least {need} elements for {:?}", layout.shape()),
                data.len(),
            ));
        }
        Ok(Self { data, layout })
    }

    /// Contiguous `[tokens, heads, head_dim]`, a ragged batch or a single sequence.
    pub fn thd(data: &'a [T], tokens: usize, heads: usize, head_dim: usize) -> Result<Self> {
        Self::new(data, Layout::thd(tokens, heads, head_dim))
    }

    /// Contiguous `[batch, seqlen, heads, head_dim]` (flash-attn's layout).
    pub fn bshd(data: &'a [T], batch: usize, seqlen: usize, heads: usize, head_dim: usize) -> Result<Self> {
        Self::new(data, Layout::bshd(batch, seqlen, heads, head_dim))
    }

    /// Contiguous `[batch, heads, seqlen, head_dim]` (PyTorch's SDPA layout).
    pub fn bhsd(data: &'a [T], batch: usize, heads: usize, seqlen: usize, head_dim: usize) -> Result<Self> {
        Self::new(data, Layout::bhsd(batch, heads, seqlen, head_dim))
    }

    /// The strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `[tokens, heads, head_dim]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// The `head_dim` features of one token and head.
    ///
    /// # Panics
    /// When `token` or `head` is out of range, as slice indexing does.
    #[inline]
    pub fn row(&self, token: usize, head: usize) -> &'a [T] {
        debug_assert!(token < self.layout.tokens() && head < self.layout.heads);
        let start = self.layout.offset(token, head);
        &self.data[start..start + self.layout.head_dim]
    }
}

/// A mutable tensor view. Its rows never overlap.
#[derive(Debug)]
pub struct TensorViewMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

impl<'a, T: Element> TensorViewMut<'a, T> {
    /// Any strides that give every `(token, head)` its own elements.
    pub fn new(data: &'a mut [T], layout: Layout) -> Result<Self> {
        let need = layout.required_len("TensorViewMut::new")?;
        if data.len() < need {
            return Err(Error::invalid(
                "TensorViewMut::new",
                "data",
                format_args!("at least {need} elements for {:?}", layout.shape()),
                data.len(),
            ));
        }
        if !layout.is_disjoint() {
            return Err(Error::invalid(
                "TensorViewMut::new",
                "strides",
                "large enough that rows do not overlap",
                format_args!("{layout:?}"),
            ));
        }
        Ok(Self { data, layout })
    }

    /// Contiguous `[tokens, heads, head_dim]`.
    pub fn thd(data: &'a mut [T], tokens: usize, heads: usize, head_dim: usize) -> Result<Self> {
        Self::new(data, Layout::thd(tokens, heads, head_dim))
    }

    /// Contiguous `[batch, seqlen, heads, head_dim]`.
    pub fn bshd(
        data: &'a mut [T],
        batch: usize,
        seqlen: usize,
        heads: usize,
        head_dim: usize,
    ) -> Result<Self> {
        Self::new(data, Layout::bshd(batch, seqlen, heads, head_dim))
    }

    /// Contiguous `[batch, heads, seqlen, head_dim]`.
    pub fn bhsd(
        data: &'a mut [T],
        batch: usize,
        heads: usize,
        seqlen: usize,
        head_dim: usize,
    ) -> Result<Self> {
        Self::new(data, Layout::bhsd(batch, heads, seqlen, head_dim))
    }

    /// The strides.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `[tokens, heads, head_dim]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// The `head_dim` features of one token and head.
    ///
    /// # Panics
    /// When `token` or `head` is out of range, as slice indexing does.
    #[inline]
    pub fn row_mut(&mut self, token: usize, head: usize) -> &mut [T] {
        debug_assert!(token < self.layout.tokens() && head < self.layout.heads);
        let start = self.layout.offset(token, head);
        &mut self.data[start..start + self.layout.head_dim]
    }

    /// The same tensor, read-only.
    pub fn as_view(&self) -> TensorView<'_, T> {
        TensorView { data: self.data, layout: self.layout }
    }

    /// A shorter-lived view of the same memory.
    pub fn reborrow(&mut self) -> TensorViewMut<'_, T> {
        TensorViewMut { data: self.data, layout: self.layout }
    }

    /// The first element and the layout, for kernels whose threads write disjoint rows.
    ///
    /// The pointer is valid for the whole extent of the layout while `self` is borrowed; rows never overlap.
    pub fn as_mut_ptr(&mut self) -> (*mut T, Layout) {
        (self.data.as_mut_ptr(), self.layout)
    }
}
