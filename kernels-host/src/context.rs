//! A device with the kernels loaded on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use lacuna_core::{DeviceError, Result};
use lacuna_kernels_gpu::kernel::Kernel;

use crate::driver::{DeviceInfo, Driver, KernelHandle, MemoryInfo, ModuleHandle};
use crate::image::{self, Image};
use crate::stream::{Event, Stream};

/// A device with the kernels loaded on it. Cheap to clone; all clones share the device.
///
/// ```
/// # #[cfg(feature = "cuda")] {
/// use lacuna_kernels_host::{Context, DeviceError, Error};
/// match Context::cuda(0, &[".version 8.0\n.target sm_80\n.address_size 64\n"]) {
///     Ok(context) => println!("{}", context.info().name),
///     Err(Error::Device(DeviceError::NoDriver)) => println!("no NVIDIA driver here"),
///     Err(e) => println!("{e}"),
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<dyn Driver>,
    /// The image's text and its table of lines.
    ptx: String,
    lines: String,
    kernels: Mutex<HashMap<&'static str, (ModuleHandle, KernelHandle)>>,
    #[cfg(feature = "cublaslt")]
    cublaslt: Mutex<Option<Arc<crate::gemm::cublaslt::Handle>>>,
}

impl Context {
    /// A device that takes its kernels from that of `images` which is made for the newest target that it runs.
    ///
    /// Kernels are loaded when a plan first needs them: on CUDA, the driver compiles each of them then, and remembers it for
    /// other processes.
    ///
    /// # Errors
    /// [`DeviceError::UnsupportedArch`] when the device runs none of them, [`DeviceError::InvalidImage`] for one without a
    /// target.
    pub fn new<'a>(driver: Arc<dyn Driver>, images: &[impl Into<Image<'a>> + Copy]) -> Result<Self> {
        let images: Vec<Image> = images.iter().map(|&image| image.into()).collect();
        let Image { ptx, lines } = image::choose(&images, driver.info())?;
        let (ptx, lines) = (ptx.to_owned(), lines.to_owned());
        Ok(Self {
            inner: Arc::new(Inner {
                driver,
                ptx,
                lines,
                kernels: Mutex::default(),
                #[cfg(feature = "cublaslt")]
                cublaslt: Mutex::default(),
            }),
        })
    }

    /// CUDA device `ordinal`, in its primary context.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::DriverTooOld`], [`DeviceError::NoSuchDevice`], and as
    /// [`Context::new`].
    #[cfg(feature = "cuda")]
    pub fn cuda<'a>(ordinal: usize, images: &[impl Into<Image<'a>> + Copy]) -> Result<Self> {
        Self::new(Arc::new(crate::CudaDriver::new(ordinal)?), images)
    }

    /// The emulator, as an `sm_80` device.
    ///
    /// # Errors
    /// As [`Context::new`].
    #[cfg(feature = "emulator")]
    pub fn emulated<'a>(images: &[impl Into<Image<'a>> + Copy]) -> Result<Self> {
        Self::new(Arc::new(crate::EmulatedDriver::new()), images)
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        self.inner.driver.info()
    }

    /// How much memory is free.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn memory(&self) -> Result<MemoryInfo> {
        Ok(self.inner.driver.memory()?)
    }

    /// The driver underneath.
    pub fn driver(&self) -> &Arc<dyn Driver> {
        &self.inner.driver
    }

    /// The device's default stream.
    pub fn default_stream(&self) -> Stream {
        Stream::default_of(self.inner.driver.clone())
    }

    /// A new stream, which does not wait for the default one.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new_stream(&self) -> Result<Stream> {
        Ok(Stream::new(self.inner.driver.clone())?)
    }

    /// A new event, which takes the time when a stream comes to it.
    ///
    /// # Errors
    /// What the driver reports.
    pub fn new_event(&self) -> Result<Event> {
        Ok(Event::new(self.inner.driver.clone())?)
    }

    /// Loads a kernel, once.
    pub(crate) fn kernel(&self, kernel: &Kernel) -> Result<KernelHandle, DeviceError> {
        let Inner { driver, ptx, lines, kernels, .. } = &*self.inner;
        let mut kernels = kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&(_, handle)) = kernels.get(kernel.name) {
            return Ok(handle);
        }
        let missing = || DeviceError::KernelNotFound { kernel: kernel.name.into() };
        let ptx = image::with_one_kernel(ptx, kernel.name).ok_or_else(missing)?;
        let module = driver.load_module(&Image { ptx: &ptx, lines })?;
        // SAFETY: the module is loaded as long as `inner` lives.
        let handle =
            unsafe { driver.kernel(module, kernel.name, kernel.dynamic_smem_bytes) }.inspect_err(|_| {
                // SAFETY: nothing of it was launched. The first failure is the one to report.
                let _ = unsafe { driver.unload_module(module) };
            })?;
        kernels.insert(kernel.name, (module, handle));
        Ok(handle)
    }

    /// cuBLASLt on this device, started once.
    #[cfg(feature = "cublaslt")]
    pub(crate) fn cublaslt(&self) -> Result<Arc<crate::gemm::cublaslt::Handle>, DeviceError> {
        let mut started = self.inner.cublaslt.lock().unwrap_or_else(PoisonError::into_inner);
        match &*started {
            Some(handle) => Ok(handle.clone()),
            None => {
                let handle = Arc::new(crate::gemm::cublaslt::Handle::new(&self.inner.driver)?);
                Ok(started.insert(handle).clone())
            }
        }
    }

    /// Whether memory and streams of `driver` can be used here.
    pub(crate) fn is_on(&self, driver: &Arc<dyn Driver>) -> bool {
        Arc::ptr_eq(&self.inner.driver, driver)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Context").field(&self.inner.driver).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self.driver.synchronize_device();
        let kernels = self.kernels.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (module, _) in kernels.values() {
            // SAFETY: plans hold a `Context`, so none is left to launch, and what was launched is done. A failure has
            // nowhere to go.
            let _ = unsafe { self.driver.unload_module(*module) };
        }
    }
}
