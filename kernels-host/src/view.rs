//! Tensors in device memory: owned, viewed, and as the raw level passes them.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use lacuna_core::{Element, Error, Layout, Result, TensorView};

use crate::buffer::DeviceBuffer;
use crate::context::Context;
use crate::driver::{DevicePtr, Driver};
use crate::stream::Stream;

/// A tensor that owns its device memory.
#[derive(Debug)]
pub struct DeviceTensor<T> {
    buffer: DeviceBuffer<T>,
    layout: Layout,
}

impl<T: Element + Pod> DeviceTensor<T> {
    /// Room for a tensor, its values undefined.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](lacuna_core::DeviceError::OutOfMemory), sizes that overflow.
    pub fn uninit(context: &Context, layout: Layout, what: &str) -> Result<Self> {
        let len = layout.required_len("DeviceTensor::uninit")?;
        Ok(Self { buffer: DeviceBuffer::uninit(context, len, what)?, layout })
    }

    /// A contiguous copy `[tokens, heads, head_dim]` of a tensor of the host.
    ///
    /// # Errors
    /// As [`DeviceTensor::uninit`].
    pub fn from_host(context: &Context, host: &TensorView<T>, what: &str) -> Result<Self> {
        let [tokens, heads, head_dim] = host.shape();
        let rows = (0..tokens).flat_map(|token| (0..heads).map(move |head| (token, head)));
        let data: Vec<T> = rows.flat_map(|(token, head)| host.row(token, head)).copied().collect();
        Self::from_memory(context, &data, Layout::thd(tokens, heads, head_dim), what)
    }

    /// A copy of host memory as it is, gaps between rows included; `layout` says where the rows lie in it.
    ///
    /// # Errors
    /// Memory that does not hold the layout; as [`DeviceTensor::uninit`].
    pub fn from_memory(context: &Context, memory: &[T], layout: Layout, what: &str) -> Result<Self> {
        let need = layout.required_len("DeviceTensor::from_memory")?;
        if memory.len() < need {
            return Err(Error::invalid(
                "DeviceTensor::from_memory",
                "memory",
                format_args!("at least {need} elements for {:?}", layout.shape()),
                memory.len(),
            ));
        }
        Ok(Self { buffer: DeviceBuffer::from_host(context, memory, what)?, layout })
    }

    /// The elements as contiguous `[tokens, heads, head_dim]`. Gaps between rows are not read.
    ///
    /// # Errors
    /// As [`DeviceBuffer::to_host`].
    pub fn to_host(&self, stream: &Stream) -> Result<Vec<T>> {
        const OP: &str = "DeviceTensor::to_host";
        let [tokens, heads, head_dim] = self.layout.shape();
        // Overlapping rows may be more elements than the memory holds.
        let len = Layout::thd(tokens, heads, head_dim).required_len(OP)?;
        let mut data = vec![T::default(); len];
        if self.layout == Layout::bshd(self.layout.batch, self.layout.seqlen, heads, head_dim) {
            self.buffer.copy_to_host(stream, 0, &mut data)?;
        } else if len > 0 {
            for (row, data) in data.chunks_exact_mut(head_dim).enumerate() {
                self.buffer.copy_to_host(stream, self.layout.offset(row / heads, row % heads), data)?;
            }
        }
        Ok(data)
    }

    /// Fills every byte with `value`, gaps included.
    ///
    /// # Errors
    /// As [`DeviceBuffer::fill_bytes`].
    pub fn fill_bytes(&mut self, stream: &Stream, value: u8) -> Result<()> {
        self.buffer.fill_bytes(stream, value)
    }

    /// Where the rows lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The memory underneath.
    pub fn buffer(&self) -> &DeviceBuffer<T> {
        &self.buffer
    }

    /// The memory underneath, for writing.
    pub fn buffer_mut(&mut self) -> &mut DeviceBuffer<T> {
        &mut self.buffer
    }

    /// Read-only.
    pub fn view(&self) -> DeviceView<'_, T> {
        DeviceView {
            driver: self.buffer.driver(),
            ptr: self.buffer.ptr(),
            layout: self.layout,
            memory: PhantomData,
        }
    }

    /// For writing.
    ///
    /// # Errors
    /// A layout whose rows overlap.
    pub fn view_mut(&mut self) -> Result<DeviceViewMut<'_, T>> {
        check_disjoint(&self.layout)?;
        Ok(DeviceViewMut {
            driver: self.buffer.driver(),
            ptr: self.buffer.ptr(),
            layout: self.layout,
            memory: PhantomData,
        })
    }
}

/// A read-only tensor in device memory.
#[derive(Debug, Clone, Copy)]
pub struct DeviceView<'a, T> {
    driver: &'a Arc<dyn Driver>,
    ptr: DevicePtr,
    layout: Layout,
    memory: PhantomData<&'a T>,
}

impl<'a, T: Element> DeviceView<'a, T> {
    /// A tensor that starts at element `first` of a buffer.
    ///
    /// # Errors
    /// A buffer that does not hold the layout.
    pub fn new(buffer: &'a DeviceBuffer<T>, first: usize, layout: Layout) -> Result<Self> {
        let ptr = within("DeviceView::new", buffer, first, &layout)?;
        Ok(Self { driver: buffer.driver(), ptr, layout, memory: PhantomData })
    }

    /// A tensor in memory of another owner.
    ///
    /// # Safety
    /// `ptr` is the start of live memory of the context's device that holds `layout`'s extent, and that nothing writes
    /// to while work that reads the view is queued or runs.
    pub unsafe fn from_raw(context: &'a Context, ptr: DevicePtr, layout: Layout) -> Self {
        Self { driver: context.driver(), ptr, layout, memory: PhantomData }
    }

    /// Where the rows lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `[tokens, heads, head_dim]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// Its first element.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// As the raw level takes it. Of a batch it has the strides inside a sequence.
    pub fn raw(&self) -> RawTensor {
        let Layout { token_stride, head_stride, .. } = self.layout;
        RawTensor { ptr: self.ptr, token_stride, head_stride }
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        self.driver
    }
}

/// A tensor in device memory that an operation writes. Its rows do not overlap.
#[derive(Debug)]
pub struct DeviceViewMut<'a, T> {
    driver: &'a Arc<dyn Driver>,
    ptr: DevicePtr,
    layout: Layout,
    memory: PhantomData<&'a mut T>,
}

impl<'a, T: Element> DeviceViewMut<'a, T> {
    /// A tensor that starts at element `first` of a buffer.
    ///
    /// # Errors
    /// A buffer that does not hold the layout, a layout whose rows overlap.
    pub fn new(buffer: &'a mut DeviceBuffer<T>, first: usize, layout: Layout) -> Result<Self> {
        check_disjoint(&layout)?;
        let ptr = within("DeviceViewMut::new", buffer, first, &layout)?;
        Ok(Self { driver: buffer.driver(), ptr, layout, memory: PhantomData })
    }

    /// A tensor in memory of another owner.
    ///
    /// # Safety
    /// `ptr` is the start of live memory of the context's device that holds `layout`'s extent, and that nothing else
    /// reads or writes while work that writes the view is queued or runs.
    ///
    /// # Errors
    /// A layout whose rows overlap.
    pub unsafe fn from_raw(context: &'a Context, ptr: DevicePtr, layout: Layout) -> Result<Self> {
        check_disjoint(&layout)?;
        Ok(Self { driver: context.driver(), ptr, layout, memory: PhantomData })
    }

    /// Where the rows lie.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `[tokens, heads, head_dim]`.
    pub fn shape(&self) -> [usize; 3] {
        self.layout.shape()
    }

    /// Its first element.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// As the raw level takes it. Of a batch it has the strides inside a sequence.
    pub fn raw(&self) -> RawTensor {
        let Layout { token_stride, head_stride, .. } = self.layout;
        RawTensor { ptr: self.ptr, token_stride, head_stride }
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        self.driver
    }
}

fn check_disjoint(layout: &Layout) -> Result<()> {
    if layout.is_disjoint() {
        Ok(())
    } else {
        let expected = "large enough that rows do not overlap";
        Err(Error::invalid("DeviceViewMut", "strides", expected, format_args!("{layout:?}")))
    }
}

fn within<T>(op: &'static str, buffer: &DeviceBuffer<T>, first: usize, layout: &Layout) -> Result<DevicePtr> {
    let need = first.saturating_add(layout.required_len(op)?);
    if need > buffer.len() {
        let expected = format!("at least {need} elements for {:?} from {first} on", layout.shape());
        return Err(Error::invalid(op, "buffer", expected, buffer.len()));
    }
    Ok(buffer.ptr().offset(first * size_of::<T>()))
}

/// A tensor as the raw level takes it: an address, and strides in elements. The last dimension is contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawTensor {
    /// The first element; a multiple of 16 bytes.
    pub ptr: DevicePtr,
    /// Elements from a token to the next; a multiple of 16 bytes.
    pub token_stride: usize,
    /// Elements from a head to the next; a multiple of 16 bytes.
    pub head_stride: usize,
}

impl RawTensor {
    /// Contiguous `[tokens, heads, head_dim]`.
    pub fn thd(ptr: DevicePtr, heads: usize, head_dim: usize) -> Self {
        Self { ptr, token_stride: heads.saturating_mul(head_dim), head_stride: head_dim }
    }
}
