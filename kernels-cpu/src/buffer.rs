//! Memory whose element type is chosen at run time.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use lacuna_core::{Error, Result};

/// Zeroed memory, aligned to cache lines.
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is owned and plain; access goes through the borrow of the buffer or through raw pointers, whose
// users vouch for disjointness.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    const ALIGN: usize = 64;

    /// `factors` multiplied together: a number of bytes. `op` names the operation in the error.
    pub(crate) fn zeroed(op: &'static str, factors: &[usize]) -> Result<Self> {
        let too_large = || Error::TooLarge {
            op,
            what: "the workspace in bytes",
            limit: isize::MAX as u64,
            got: factors.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
        };
        let bytes = factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f)).ok_or_else(too_large)?;
        let layout = Layout::from_size_align(bytes.max(1), Self::ALIGN).map_err(|_| too_large())?;
        // SAFETY: the layout's size is not zero.
        let ptr = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(too_large)?;
        Ok(Self { ptr, layout })
    }

    /// The first element.
    pub(crate) fn as_ptr<P>(&self) -> *const P {
        self.ptr.as_ptr().cast()
    }

    /// The first element.
    pub(crate) fn as_mut_ptr<P>(&mut self) -> *mut P {
        self.ptr.as_ptr().cast()
    }

    /// Its size.
    pub(crate) fn len_bytes(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}

/// A pointer that threads share because each writes its own elements.
pub(crate) struct SharedPtr<T>(pub(crate) *mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedPtr<T> {}
impl<T> SharedPtr<T> {
    /// The pointer `count` elements on. A method, so that closures capture the whole and not the bare pointer.
    ///
    /// # Safety
    /// As [`pointer::add`](https://doc.rust-lang.org/std/primitive.pointer.html#method.add).
    pub(crate) unsafe fn add(self, count: usize) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { self.0.add(count) })
    }
}
// SAFETY: whoever dereferences it vouches that no other thread touches the same elements.
unsafe impl<T: Send> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedPtr<T> {}

/// A zeroed vector of `factors` multiplied together elements. `op` names the operation in the error.
pub(crate) fn zeroed_vec<T: Clone + Default>(op: &'static str, factors: &[usize]) -> Result<Vec<T>> {
    let too_large = || Error::TooLarge {
        op,
        what: "the workspace in bytes",
        limit: isize::MAX as u64,
        got: factors.iter().map(usize::to_string).collect::<Vec<_>>().join(" x "),
    };
    let len = factors.iter().try_fold(1usize, |n, &f| n.checked_mul(f)).ok_or_else(too_large)?;
    let mut vec = Vec::new();
    vec.try_reserve_exact(len).map_err(|_| too_large())?;
    vec.resize(len, T::default());
    Ok(vec)
}
