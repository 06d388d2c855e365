//! What the launchers need of a device: memory, modules, launches, streams, events.

use std::ffi::c_void;
use std::fmt::Debug;

use lacuna_core::{DeviceError, Result};

use crate::image::Image;

/// An address in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No address; kernels take it for an output that nobody wants.
    pub const NULL: Self = Self(0);

    /// Whether this is no address.
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes as u64))
    }
}

/// A queue of device work: a `CUstream` of any owner, or the default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct RawStream(pub u64);

impl RawStream {
    /// The default stream of the device's context.
    pub const DEFAULT: Self = Self(0);

    /// The stream behind a `CUstream` (`cudaStream_t` is the same pointer).
    pub fn from_ptr(stream: *mut c_void) -> Self {
        Self(stream as usize as u64)
    }

    /// The `CUstream`.
    pub fn as_ptr(self) -> *mut c_void {
        self.0 as usize as *mut c_void
    }
}

/// A loaded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModuleHandle(pub u64);

/// A kernel of a loaded image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KernelHandle(pub u64);

/// A mark in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventHandle(pub u64);

/// Recorded work, ready to be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GraphHandle(pub u64);

/// The size of one launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// CTAs in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a CTA.
    pub threads: u32,
    /// Shared memory of a CTA beyond what the kernel declares.
    pub dynamic_smem_bytes: u32,
}

/// Bytes of device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Not allocated.
    pub free: u64,
    /// Of the device.
    pub total: u64,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its name, as its maker gives it.
    pub name: String,
    /// What drives it: the newest CUDA version of the driver, or the emulator.
    pub driver: String,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// The most dynamic shared memory that a CTA can opt in to, in bytes.
    pub max_smem_bytes: u32,
}

/// One device. The launchers are written against this alone; it is implemented over the CUDA driver and over the PTX
/// emulator, so that what runs on the one has been run on the other.
///
/// Handles belong to the driver that gave them out. Work on one stream runs in order.
pub trait Driver: Debug + Send + Sync {
    /// What this device is.
    fn info(&self) -> &DeviceInfo;

    /// Makes the device's CUDA context current on the calling thread, for libraries of CUDA that work in it. `false`: the
    /// device is not one of CUDA, and has none.
    fn make_current(&self) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// How much memory is free.
    fn memory(&self) -> Result<MemoryInfo, DeviceError>;

    /// Allocates `bytes > 0` bytes, aligned to 256, their content undefined. `what` names them in errors and reports.
    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr, DeviceError>;

    /// Frees an allocation, once the device's work that was queued before is done.
    ///
    /// # Safety
    /// `ptr` comes from [`Driver::alloc`] of this driver, is freed once, and no later work uses it.
    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), DeviceError>;

    /// Copies `src` to the device, ordered on `stream`; the bytes have been read when this returns.
    ///
    /// # Safety
    /// `dst` is the start of at least `src.len()` bytes of live device memory.
    unsafe fn copy_to_device(&self, stream: RawStream, dst: DevicePtr, src: &[u8])
    -> Result<(), DeviceError>;

    /// Copies from the device to `dst`, ordered on `stream`; the bytes have arrived when this returns.
    ///
    /// # Safety
    /// `src` is the start of at least `dst.len()` bytes of live device memory.
    unsafe fn copy_to_host(
        &self,
        stream: RawStream,
        src: DevicePtr,
        dst: &mut [u8],
    ) -> Result<(), DeviceError>;

    /// Queues a fill of `bytes` bytes with `value`.
    ///
    /// # Safety
    /// `dst` is the start of at least `bytes` bytes of device memory that lives until the fill is done.
    unsafe fn fill(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        value: u8,
        bytes: usize,
    ) -> Result<(), DeviceError>;

    /// Loads PTX text, all kernels in it.
    fn load_module(&self, image: &Image) -> Result<ModuleHandle, DeviceError>;

    /// Unloads an image.
    ///
    /// # Safety
    /// `module` comes from [`Driver::load_module`] of this driver, is unloaded once, and no work that uses its kernels is
    /// queued or will be.
    unsafe fn unload_module(&self, module: ModuleHandle) -> Result<(), DeviceError>;

    /// Looks up a kernel and readies it for launches with up to `max_dynamic_smem_bytes` of dynamic shared memory.
    ///
    /// # Safety
    /// `module` is loaded.
    unsafe fn kernel(
        &self,
        module: ModuleHandle,
        name: &str,
        max_dynamic_smem_bytes: u32,
    ) -> Result<KernelHandle, DeviceError>;

    /// Queues a launch. `args` holds the bytes of each parameter, in order; they are copied before this returns.
    ///
    /// # Safety
    /// The module of `kernel` is loaded and stays so until the launch is done. `args` has the number and the sizes of the
    /// kernel's parameters, and every address among them leads to memory that the kernel may use as it does, until the
    /// launch is done.
    unsafe fn launch(
        &self,
        stream: RawStream,
        kernel: KernelHandle,
        config: &LaunchConfig,
        args: &[&[u8]],
    ) -> Result<(), DeviceError>;

    /// Creates a stream that does not wait for the default stream.
    fn create_stream(&self) -> Result<RawStream, DeviceError>;

    /// Destroys a stream; what is queued on it still runs.
    ///
    /// # Safety
    /// `stream` comes from [`Driver::create_stream`] of this driver and is not used any more.
    unsafe fn destroy_stream(&self, stream: RawStream) -> Result<(), DeviceError>;

    /// Waits until all work on all streams of the device's context is done.
    fn synchronize_device(&self) -> Result<(), DeviceError>;

    /// Waits until all work on `stream` is done.
    ///
    /// # Safety
    /// `stream` is a live stream of this device.
    unsafe fn synchronize(&self, stream: RawStream) -> Result<(), DeviceError>;

    /// Creates an event that takes the time.
    fn create_event(&self) -> Result<EventHandle, DeviceError>;

    /// Destroys an event.
    ///
    /// # Safety
    /// `event` comes from [`Driver::create_event`] of this driver and is not used any more.
    unsafe fn destroy_event(&self, event: EventHandle) -> Result<(), DeviceError>;

    /// Queues the taking of the time.
    ///
    /// # Safety
    /// `event` and `stream` are live and of this device.
    unsafe fn record_event(&self, event: EventHandle, stream: RawStream) -> Result<(), DeviceError>;

    /// Makes work that is queued on `stream` from now on wait for `event`.
    ///
    /// # Safety
    /// `event` and `stream` are live and of this device.
    unsafe fn wait_event(&self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError>;

    /// Waits for `end`, and gives the milliseconds from `start` to it. On the emulator that is the time of emulation.
    ///
    /// # Safety
    /// Both are live, of this device, and recorded.
    unsafe fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<f32, DeviceError>;

    /// Begins to record what is queued on `stream` instead of running it, until [`Driver::end_capture`].
    ///
    /// Meanwhile the stream takes launches and fills and nothing else, and the calling thread neither allocates nor frees
    /// memory, loads modules or waits for the device: such calls are errors, after which a driver may give the recording
    /// up. The default stream cannot be recorded.
    ///
    /// # Safety
    /// `stream` is a live stream of this device.
    unsafe fn begin_capture(&self, stream: RawStream) -> Result<(), DeviceError>;

    /// Ends the recording, from the thread that began it, and readies what was recorded. The stream takes work as before,
    /// whether this succeeds or not.
    ///
    /// # Safety
    /// `stream` is a live stream of this device.
    unsafe fn end_capture(&self, stream: RawStream) -> Result<GraphHandle, DeviceError>;

    /// Queues recorded work, in the order it was recorded in.
    ///
    /// # Safety
    /// `graph` and `stream` are live and of this device, and all that was promised of each recorded call holds for this
    /// launch of it.
    unsafe fn launch_graph(&self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError>;

    /// Forgets recorded work; launches that are queued still run.
    ///
    /// # Safety
    /// `graph` comes from [`Driver::end_capture`] of this driver and is not used any more.
    unsafe fn destroy_graph(&self, graph: GraphHandle) -> Result<(), DeviceError>;
}
