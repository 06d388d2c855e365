//! Device memory that frees itself.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use lacuna_core::{Error, Result};

use crate::context::Context;
use crate::driver::{DevicePtr, Driver};
use crate::stream::Stream;

const OP: &str = "DeviceBuffer";

/// A list of `T` in device memory.
///
/// Dropping it frees the memory once the work that was queued before is done. Work on different streams is not ordered
/// against one another: whoever uses a buffer on two of them lets the one wait for an event of the other.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    driver: Arc<dyn Driver>,
    ptr: DevicePtr,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Pod> DeviceBuffer<T> {
    /// Room for `len` elements, their values undefined. `what` names it in errors and in the emulator's reports.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`](lacuna_core::DeviceError::OutOfMemory); a size that overflows.
    pub fn uninit(context: &Context, len: usize, what: &str) -> Result<Self> {
        let driver = context.driver().clone();
        let bytes = bytes_of::<T>(len)?;
        let ptr = if bytes == 0 { DevicePtr::NULL } else { driver.alloc(bytes, what)? };
        Ok(Self { driver, ptr, len, element: PhantomData })
    }

    /// A copy of `data`.
    ///
    /// # Errors
    /// As [`DeviceBuffer::uninit`].
    pub fn from_host(context: &Context, data: &[T], what: &str) -> Result<Self> {
        let mut buffer = Self::uninit(context, data.len(), what)?;
        let stream = context.default_stream();
        buffer.copy_from_host(&stream, data)?;
        // Streams of their own do not wait for the default one.
        stream.synchronize()?;
        Ok(buffer)
    }

    /// Overwrites the start of the buffer.
    ///
    /// # Errors
    /// More data than the buffer holds; a stream of another device.
    pub fn copy_from_host(&mut self, stream: &Stream, data: &[T]) -> Result<()> {
        self.copy_from_host_at(stream, 0, data)
    }

    /// Overwrites the elements from `first` on.
    ///
    /// # Errors
    /// More data than the buffer holds from there on; a stream of another device.
    pub fn copy_from_host_at(&mut self, stream: &Stream, first: usize, data: &[T]) -> Result<()> {
        self.check(stream, first.saturating_add(data.len()))?;
        if data.is_empty() {
            return Ok(());
        }
        let dst = self.ptr.offset(first * size_of::<T>());
        // SAFETY: inside the buffer, which lives until the copy is done.
        Ok(unsafe { self.driver.copy_to_device(stream.raw(), dst, bytemuck::cast_slice(data)) }?)
    }

    /// Copies `data.len()` elements, from element `first` on, to the host.
    ///
    /// # Errors
    /// More data than the buffer holds; a stream of another device.
    pub fn copy_to_host(&self, stream: &Stream, first: usize, data: &mut [T]) -> Result<()> {
        self.check(stream, first.saturating_add(data.len()))?;
        if data.is_empty() {
            return Ok(());
        }
        let src = self.ptr.offset(first * size_of::<T>());
        // SAFETY: inside the buffer.
        Ok(unsafe { self.driver.copy_to_host(stream.raw(), src, bytemuck::cast_slice_mut(data)) }?)
    }

    /// A copy of it all.
    ///
    /// # Errors
    /// A stream of another device, and what the driver reports: on the emulator, memory that nothing has written.
    pub fn to_host(&self, stream: &Stream) -> Result<Vec<T>> {
        let mut data = vec![T::zeroed(); self.len];
        self.copy_to_host(stream, 0, &mut data)?;
        Ok(data)
    }

    /// Fills every byte with `value`. `0xff` makes floats of any size NaN.
    ///
    /// # Errors
    /// A stream of another device, and what the driver reports.
    pub fn fill_bytes(&mut self, stream: &Stream, value: u8) -> Result<()> {
        self.check(stream, self.len)?;
        if self.len == 0 {
            return Ok(());
        }
        // SAFETY: inside the buffer; freeing it waits for the fill.
        Ok(unsafe { self.driver.fill(stream.raw(), self.ptr, value, self.len * size_of::<T>()) }?)
    }

    fn check(&self, stream: &Stream, need: usize) -> Result<()> {
        if !Arc::ptr_eq(&self.driver, stream.driver()) {
            return Err(Error::invalid(OP, "stream", "of the buffer's device", "one of another"));
        }
        if need > self.len {
            return Err(Error::invalid(OP, "range", format_args!("within {} elements", self.len), need));
        }
        Ok(())
    }
}

impl<T> DeviceBuffer<T> {
    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its first byte; null when it is empty.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    pub(crate) fn driver(&self) -> &Arc<dyn Driver> {
        &self.driver
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        if !self.ptr.is_null() {
            // SAFETY: allocated by `uninit`; views borrow the buffer, so none is left. A failure has nowhere to go.
            let _ = unsafe { self.driver.free(self.ptr) };
        }
    }
}

fn bytes_of<T>(len: usize) -> Result<usize> {
    len.checked_mul(size_of::<T>()).filter(|&n| n <= isize::MAX as usize).ok_or_else(|| Error::TooLarge {
        op: OP,
        what: "the number of elements",
        limit: (isize::MAX as usize / size_of::<T>().max(1)) as u64,
        got: len.to_string(),
    })
}
