//! The CUDA driver as a [`Driver`].

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUresult, CUstreamCaptureStatus as CaptureStatus,
};
use lacuna_core::DeviceError;

use crate::driver::{
    DeviceInfo, DevicePtr, Driver, EventHandle, GraphHandle, KernelHandle, LaunchConfig, MemoryInfo,
    ModuleHandle, RawStream,
};
use crate::image::Image;

/// The oldest driver that has every function used here and takes PTX ISA 8.0.
const MIN_CUDA: (u32, u32) = (12, 0);

/// Copies up to this size do not wait for their stream.
const SMALL_COPY_BYTES: usize = 4096;

/// Room for the messages of the driver's PTX compiler.
const COMPILER_LOG_BYTES: usize = 8192;

/// One CUDA device, through the driver API.
///
/// Works in the device's primary context, which is that of the CUDA runtime too: memory and streams of PyTorch, candle
/// and cudarc are at home in it. Every call makes the context current on the calling thread and leaves it so.
#[derive(Debug)]
pub struct CudaDriver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    /// Whether the primary context was retained and has to be released.
    retained: bool,
    info: DeviceInfo,
}

// SAFETY: a context may be current on any number of threads, and the driver API may be called from all of them.
unsafe impl Send for CudaDriver {}
// SAFETY: as above.
unsafe impl Sync for CudaDriver {}

impl CudaDriver {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::DriverTooOld`], [`DeviceError::NoSuchDevice`], and
    /// [`DeviceError::Driver`] for what else the driver may say.
    pub fn new(ordinal: usize) -> Result<Self, DeviceError> {
        let device = open(ordinal)?;
        // SAFETY: `device` comes from the driver.
        let context = check("cuDevicePrimaryCtxRetain", unsafe { result::primary_ctx::retain(device) })?;
        Self::in_context(device, context, true)
    }

    /// Works in a context of the caller's, one that is not the primary context of device `ordinal`.
    ///
    /// # Safety
    /// `context` is a `CUcontext` of device `ordinal` and outlives this driver and all that is made from it.
    ///
    /// # Errors
    /// As [`CudaDriver::new`].
    pub unsafe fn from_raw_context(ordinal: usize, context: *mut c_void) -> Result<Self, DeviceError> {
        Self::in_context(open(ordinal)?, context.cast(), false)
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// [`DeviceError::NoDriver`], [`DeviceError::DriverTooOld`].
    pub fn count() -> Result<usize, DeviceError> {
        init()
    }

    fn in_context(
        device: sys::CUdevice,
        context: sys::CUcontext,
        retained: bool,
    ) -> Result<Self, DeviceError> {
        let attribute = |attribute| {
            // SAFETY: `device` comes from the driver.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            check("cuDeviceGetAttribute", value).map(|value| value.max(0) as u32)
        };
        let read = || {
            Ok(DeviceInfo {
                name: check("cuDeviceGetName", result::device::get_name(device))?,
                driver: version().map(|(major, minor)| format!("CUDA {major}.{minor}"))?,
                compute_capability: (
                    attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                    attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
                ),
                multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
                max_smem_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            })
        };
        let unknown = DeviceInfo {
            name: String::new(),
            driver: String::new(),
            compute_capability: (0, 0),
            multiprocessors: 0,
            max_smem_bytes: 0,
        };
        // Made first, so that a failure below releases the context.
        let mut driver = Self { device, context, retained, info: unknown };
        driver.info = read()?;
        Ok(driver)
    }

    /// Makes the context current on this thread.
    fn bind(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as `self`.
        check("cuCtxSetCurrent", unsafe { result::ctx::set_current(self.context) })
    }

    /// Makes the context current for a copy between host and device. A stream that is being captured would keep the host's
    /// address for launches of the graph, when nothing need be there any more: that is refused.
    ///
    /// # Safety
    /// `stream` is a live stream of this device.
    unsafe fn bind_for_copy(&self, stream: RawStream, call: &'static str) -> Result<(), DeviceError> {
        self.bind()?;
        let mut status = CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
        // SAFETY: the caller's promise; `status` is written.
        let asked = unsafe { sys::cuStreamIsCapturing(stream_of(stream), &mut status) };
        check("cuStreamIsCapturing", asked.result())?;
        match status {
            CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => Ok(()),
            _ => check(call, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED.result()),
        }
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        if self.retained {
            // SAFETY: retained once by `new`. A failure has nowhere to go.
            let _ = unsafe { result::primary_ctx::release(self.device) };
        }
    }
}

/// Initialises the driver, and counts its devices.
fn init() -> Result<usize, DeviceError> {
    // Asked before any other call: the bindings panic without the library, even to format an error.
    if !is_driver_present() {
        return Err(DeviceError::NoDriver);
    }
    match result::init() {
        // A driver without a device, and the stub library of the toolkit.
        Err(DriverError(CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        Err(DriverError(CUresult::CUDA_ERROR_STUB_LIBRARY)) => return Err(DeviceError::NoDriver),
        done => check("cuInit", done)?,
    }
    let have = version()?;
    if have < MIN_CUDA {
        return Err(DeviceError::DriverTooOld { have, need: MIN_CUDA });
    }
    check("cuDeviceGetCount", result::device::get_count()).map(|count| count.max(0) as usize)
}

/// The newest CUDA version that the driver supports. The library is there.
fn version() -> Result<(u32, u32), DeviceError> {
    let mut version = 0;
    // SAFETY: `version` is written.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) }.result())?;
    Ok((version as u32 / 1000, version as u32 % 1000 / 10))
}

fn open(ordinal: usize) -> Result<sys::CUdevice, DeviceError> {
    let count = init()?;
    match i32::try_from(ordinal) {
        Ok(i) if ordinal < count => check("cuDeviceGet", result::device::get(i)),
        _ => Err(DeviceError::NoSuchDevice { ordinal, count }),
    }
}

/// Whether the driver's library can be loaded, by one of the names under which the bindings look for it. (Their own
/// check exists only where they load the library at run time, which another crate's choice of features can change.)
fn is_driver_present() -> bool {
    static PRESENT: OnceLock<bool> = OnceLock::new();
    *PRESENT.get_or_init(|| {
        let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so", "libcuda.so.1"] };
        // SAFETY: the driver's library has no constructors that ask anything of us.
        names.iter().any(|&name| unsafe { libloading::Library::new(name) }.is_ok())
    })
}

/// Names the failed call. Runs only after the library was found, so the name of the code can be asked for.
fn check<V>(call: &'static str, result: Result<V, DriverError>) -> Result<V, DeviceError> {
    result.map_err(|e| {
        let code = e.0 as u32;
        let name =
            e.error_name().map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned());
        match e.0 {
            CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => DeviceError::Unavailable { call, code, name },
            result if loses_context(result) => DeviceError::Lost { call, code, name },
            _ => DeviceError::Driver { call, code, name },
        }
    })
}

/// Whether a result leaves the context such that every later call gives it again (`CUresult` in the reference of the
/// driver API, which asks for the process to be started anew).
fn loses_context(result: CUresult) -> bool {
    matches!(
        result,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_UNKNOWN
    )
}

fn stream_of(stream: RawStream) -> sys::CUstream {
    stream.as_ptr().cast()
}

fn event_of(event: EventHandle) -> sys::CUevent {
    event.0 as usize as sys::CUevent
}

fn executable_of(graph: GraphHandle) -> sys::CUgraphExec {
    graph.0 as usize as sys::CUgraphExec
}

/// Ends and unites what the PTX compiler wrote.
fn message(log: &[u8]) -> String {
    let end = log.iter().position(|&c| c == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Driver for CudaDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn make_current(&self) -> Result<bool, DeviceError> {
        self.bind().map(|()| true)
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.bind()?;
        let (free, total) = check("cuMemGetInfo", result::mem_get_info())?;
        Ok(MemoryInfo { free: free as u64, total: total as u64 })
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr, DeviceError> {
        self.bind()?;
        // SAFETY: `bytes` is positive by the trait's contract; 0 is an error of the driver and no more.
        match unsafe { result::malloc_sync(bytes) } {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Err(DeviceError::OutOfMemory {
                what: what.to_owned(),
                asked: bytes as u64,
                free: self.memory().map_or(0, |memory| memory.free),
            }),
            done => check("cuMemAlloc", done).map(DevicePtr),
        }
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise. `cuMemFree` waits for the work that was queued before it.
        check("cuMemFree", unsafe { result::free_sync(ptr.0) })
    }

    unsafe fn copy_to_device(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        src: &[u8],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        unsafe { self.bind_for_copy(stream, "cuMemcpyHtoDAsync") }?;
        // Pageable memory is copied aside before the call returns, pinned memory is not; `src` may be either. A few bytes,
        // the lengths of a batch, are pageable on our stack and need no wait for the stream.
        let mut pageable = [0u8; SMALL_COPY_BYTES];
        match pageable.get_mut(..src.len()) {
            Some(pageable) => {
                pageable.copy_from_slice(src);
                // SAFETY: the caller's promise.
                let copied = unsafe { result::memcpy_htod_async(dst.0, &*pageable, stream_of(stream)) };
                check("cuMemcpyHtoDAsync", copied)
            }
            // SAFETY: the caller's promise; `src` stays borrowed until the copy is done.
            None => unsafe {
                check("cuMemcpyHtoDAsync", result::memcpy_htod_async(dst.0, src, stream_of(stream)))?;
                check("cuStreamSynchronize", result::stream::synchronize(stream_of(stream)))
            },
        }
    }

    unsafe fn copy_to_host(
        &self,
        stream: RawStream,
        src: DevicePtr,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise; `dst` stays borrowed until the copy is done.
        unsafe {
            self.bind_for_copy(stream, "cuMemcpyDtoHAsync")?;
            check("cuMemcpyDtoHAsync", result::memcpy_dtoh_async(dst, src.0, stream_of(stream)))?;
            check("cuStreamSynchronize", result::stream::synchronize(stream_of(stream)))
        }
    }

    unsafe fn fill(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        value: u8,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuMemsetD8Async", unsafe { result::memset_d8_async(dst.0, value, bytes, stream_of(stream)) })
    }

    fn load_module(&self, image: &Image) -> Result<ModuleHandle, DeviceError> {
        self.bind()?;
        let invalid = |reason: String| DeviceError::InvalidImage { reason };
        let text =
            CString::new(image.ptx).map_err(|e| invalid(format!("a zero byte at {}", e.nul_position())))?;
        let mut log = vec![0u8; COMPILER_LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // Numbers travel in the place of pointers.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), COMPILER_LOG_BYTES as *mut c_void];
        let mut module = std::ptr::null_mut();
        // SAFETY: text ends with a zero byte; both option arrays hold two entries; log and its size agree.
        let loaded = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                options.len() as u32,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        match loaded {
            CUresult::CUDA_ERROR_INVALID_PTX
            | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
            | CUresult::CUDA_ERROR_INVALID_IMAGE
            | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | CUresult::CUDA_ERROR_INVALID_SOURCE => {
                let said = message(&log);
                let code = check("", loaded.result()).err().map_or_else(String::new, |e| match e {
                    DeviceError::Driver { name, .. } => name,
                    other => other.to_string(),
                });
                Err(invalid(if said.is_empty() { code } else { format!("{code}: {said}") }))
            }
            done => {
                check("cuModuleLoadDataEx", done.result())?;
                Ok(ModuleHandle(module as usize as u64))
            }
        }
    }

    unsafe fn unload_module(&self, module: ModuleHandle) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuModuleUnload", unsafe { result::module::unload(module.0 as usize as sys::CUmodule) })
    }

    unsafe fn kernel(
        &self,
        module: ModuleHandle,
        name: &str,
        max_dynamic_smem_bytes: u32,
    ) -> Result<KernelHandle, DeviceError> {
        self.bind()?;
        let missing = || DeviceError::KernelNotFound { kernel: name.to_owned() };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let mut function = std::ptr::null_mut();
        let c_name: *const c_char = c_name.as_ptr();
        // SAFETY: the module is loaded by the caller's promise, and the name ends with a zero byte.
        match unsafe { sys::cuModuleGetFunction(&mut function, module.0 as usize as sys::CUmodule, c_name) } {
            CUresult::CUDA_ERROR_NOT_FOUND => return Err(missing()),
            done => check("cuModuleGetFunction", done.result())?,
        }
        // SAFETY: the function was just found. Above 48 KiB this is the opt-in, below it is without effect.
        check("cuFuncSetAttribute", unsafe {
            result::function::set_function_attribute(
                function,
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                max_dynamic_smem_bytes as i32,
            )
        })?;
        Ok(KernelHandle(function as usize as u64))
    }

    unsafe fn launch(
        &self,
        stream: RawStream,
        kernel: KernelHandle,
        config: &LaunchConfig,
        args: &[&[u8]],
    ) -> Result<(), DeviceError> {
        /// No kernel of ours has more; keeps the list off the heap.
        const MAX_ARGS: usize = 32;
        self.bind()?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        let Some(pointers) = pointers.get_mut(..args.len()) else {
            return Err(DeviceError::Fault {
                kernel: "cuLaunchKernel".into(),
                fault: format!("at most {MAX_ARGS} parameters, got {}", args.len()),
            });
        };
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.as_ptr().cast_mut().cast();
        }
        let [x, y, z] = config.grid;
        // SAFETY: the caller's promise; the driver reads the parameters before it returns and writes none.
        check("cuLaunchKernel", unsafe {
            result::launch_kernel(
                kernel.0 as usize as sys::CUfunction,
                (x, y, z),
                (config.threads, 1, 1),
                config.dynamic_smem_bytes,
                stream_of(stream),
                pointers,
            )
        })
    }

    fn create_stream(&self) -> Result<RawStream, DeviceError> {
        self.bind()?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        check("cuStreamCreate", stream).map(|stream| RawStream::from_ptr(stream.cast()))
    }

    unsafe fn destroy_stream(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuStreamDestroy", unsafe { result::stream::destroy(stream_of(stream)) })
    }

    fn synchronize_device(&self) -> Result<(), DeviceError> {
        self.bind()?;
        check("cuCtxSynchronize", result::ctx::synchronize())
    }

    unsafe fn synchronize(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuStreamSynchronize", unsafe { result::stream::synchronize(stream_of(stream)) })
    }

    fn create_event(&self) -> Result<EventHandle, DeviceError> {
        self.bind()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        check("cuEventCreate", event).map(|event| EventHandle(event as usize as u64))
    }

    unsafe fn destroy_event(&self, event: EventHandle) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuEventDestroy", unsafe { result::event::destroy(event_of(event)) })
    }

    unsafe fn record_event(&self, event: EventHandle, stream: RawStream) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuEventRecord", unsafe { result::event::record(event_of(event), stream_of(stream)) })
    }

    unsafe fn wait_event(&self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError> {
        self.bind()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: the caller's promise.
        check("cuStreamWaitEvent", unsafe {
            result::stream::wait_event(stream_of(stream), event_of(event), flags)
        })
    }

    unsafe fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<f32, DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe {
            check("cuEventSynchronize", result::event::synchronize(event_of(end)))?;
            check("cuEventElapsedTime", result::event::elapsed(event_of(start), event_of(end)))
        }
    }

    unsafe fn begin_capture(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.bind()?;
        // Other threads go on as they like; what would tear this recording apart is refused on this thread alone.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the caller's promise.
        check("cuStreamBeginCapture", unsafe {
            sys::cuStreamBeginCapture_v2(stream_of(stream), mode).result()
        })
    }

    unsafe fn end_capture(&self, stream: RawStream) -> Result<GraphHandle, DeviceError> {
        self.bind()?;
        let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the caller's promise; the graph comes from the driver, and what is made of it does not need it.
        unsafe {
            check("cuStreamEndCapture", sys::cuStreamEndCapture(stream_of(stream), &mut graph).result())?;
            let made = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result();
            let destroyed = sys::cuGraphDestroy(graph).result();
            check("cuGraphInstantiateWithFlags", made)?;
            check("cuGraphDestroy", destroyed)?;
        }
        Ok(GraphHandle(executable as usize as u64))
    }

    unsafe fn launch_graph(&self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise.
        check("cuGraphLaunch", unsafe {
            sys::cuGraphLaunch(executable_of(graph), stream_of(stream)).result()
        })
    }

    unsafe fn destroy_graph(&self, graph: GraphHandle) -> Result<(), DeviceError> {
        self.bind()?;
        // SAFETY: the caller's promise. A graph that runs is destroyed once it is done.
        check("cuGraphExecDestroy", unsafe { sys::cuGraphExecDestroy(executable_of(graph)).result() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_compiler_become_one_line() {
        assert_eq!(message(b"ptxas fatal : \n  Unresolved\0\0rest"), "ptxas fatal : Unresolved");
        assert_eq!(message(b""), "");
    }
}
