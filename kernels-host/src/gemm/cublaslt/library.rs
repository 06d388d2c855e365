//! The library: whether it is there, and a context's handle to it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use lacuna_core::DeviceError;
use libloading::Library;

use crate::driver::Driver;

/// Names under which the bindings look for the library too, which panic where they find none.
#[cfg(windows)]
const NAMES: &[&str] = &["cublasLt64_12.dll"];
/// As above.
#[cfg(all(not(windows), feature = "cuda-13000"))]
const NAMES: &[&str] = &["libcublasLt.so", "libcublasLt.so.13", "libcublasLt.so.12"];
/// As above.
#[cfg(all(not(windows), not(feature = "cuda-13000")))]
const NAMES: &[&str] = &["libcublasLt.so", "libcublasLt.so.12"];

/// Whether the library can be loaded.
pub(crate) fn is_available() -> bool {
    // Kept: it is large, and the bindings load it right after.
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    // SAFETY: its constructors ask nothing of us.
    let load = || NAMES.iter().find_map(|&name| unsafe { Library::new(name) }.ok());
    LIBRARY.get_or_init(load).is_some()
}

/// The library's state for one device.
pub(crate) struct Handle {
    /// Keeps the CUDA context that the handle lives in.
    driver: Arc<dyn Driver>,
    raw: Mutex<Raw>,
}

struct Raw(sys::cublasLtHandle_t);

// SAFETY: a handle is not bound to the thread that made it.
unsafe impl Send for Raw {}

impl Handle {
    /// Starts the library on the device of `driver`.
    ///
    /// # Errors
    /// [`DeviceError::NoLibrary`]; [`DeviceError::Library`] for what it refuses, a device that is not one of CUDA among
    /// that.
    pub(crate) fn new(driver: &Arc<dyn Driver>) -> Result<Self, DeviceError> {
        // Asked before any other call: the bindings panic without the library.
        if !is_available() {
            return Err(DeviceError::NoLibrary { library: "cuBLASLt", looked_for: NAMES.join(", ") });
        }
        if !driver.make_current()? {
            let status = format!("no CUDA device ({})", driver.info().name);
            return Err(DeviceError::Library { call: "cublasLtCreate", status });
        }
        let raw = check("cublasLtCreate", result::create_handle())?;
        Ok(Self { driver: driver.clone(), raw: Mutex::new(Raw(raw)) })
    }

    /// Makes the device current on this thread, and keeps other threads from the handle meanwhile: the library allows
    /// sharing, with care where its state changes.
    pub(super) fn enter(&self) -> Result<Entered<'_>, DeviceError> {
        let raw = self.raw.lock().unwrap_or_else(PoisonError::into_inner);
        self.driver.make_current()?;
        Ok(Entered(raw))
    }
}

/// A handle in the hands of one thread, with its device current.
pub(super) struct Entered<'a>(MutexGuard<'a, Raw>);

impl Entered<'_> {
    /// The library's own handle.
    pub(super) fn raw(&self) -> sys::cublasLtHandle_t {
        self.0.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.driver.make_current();
        let Raw(raw) = *self.raw.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: made by `new`. A failure has nowhere to go.
        let _ = unsafe { result::destroy_handle(raw) };
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("cublaslt::Handle").field(&self.driver).finish()
    }
}

/// Names the failed call.
pub(super) fn check<V>(call: &'static str, result: Result<V, CublasError>) -> Result<V, DeviceError> {
    result.map_err(|CublasError(status)| DeviceError::Library { call, status: format!("{status:?}") })
}
