//! Why a device could not be used.

/// What went wrong on the way to a device, or on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The machine has no NVIDIA driver.
    #[error("no NVIDIA driver: this machine has no libcuda to load")]
    NoDriver,
    /// The driver is older than the kernels.
    #[error("the NVIDIA driver supports CUDA {}.{}, expected at least CUDA {}.{}", have.0, have.1, need.0, need.1)]
    DriverTooOld {
        /// The newest CUDA version the driver supports.
        have: (u32, u32),
        /// The CUDA version the kernels need.
        need: (u32, u32),
    },
    /// There is no device of that number.
    #[error("no CUDA device {ordinal}: the driver sees {count}, counted from 0")]
    NoSuchDevice {
        /// The number that was asked for.
        ordinal: usize,
        /// How many devices the driver sees.
        count: usize,
    },
    /// The device does not take this process.
    #[error(
        "the device is not available, held by another process or closed to all by its compute mode: {call} failed with \
         CUDA error {code} ({name})"
    )]
    Unavailable {
        /// The driver's function.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: String,
    },
    /// None of the images runs on this device.
    #[error("{device} has compute capability {}.{}, expected at least {}.{}", have.0, have.1, need.0, need.1)]
    UnsupportedArch {
        /// The device's name.
        device: String,
        /// Its compute capability.
        have: (u32, u32),
        /// The least compute capability that an image is made for.
        need: (u32, u32),
    },
    /// An allocation does not fit.
    #[error("out of device memory: {what} needs {asked} bytes, {free} are free")]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// Bytes asked for.
        asked: u64,
        /// Bytes free when it failed.
        free: u64,
    },
    /// The image is not PTX that this device takes.
    #[error("the image was not accepted: {reason}")]
    InvalidImage {
        /// The compiler's words.
        reason: String,
    },
    /// The image lacks a kernel that this version of the library launches.
    #[error("the image holds no kernel named {kernel}")]
    KernelNotFound {
        /// The name looked for.
        kernel: String,
    },
    /// The emulator, or a dry run, found the program wrong.
    #[error("{kernel}: {fault}")]
    Fault {
        /// The kernel or the call that was running.
        kernel: String,
        /// What was found, and where.
        fault: String,
    },
    /// The device's context is of no use any more: a kernel went wrong, or the hardware did.
    #[error(
        "the device is lost, with all that was in its memory: {call} failed with CUDA error {code} ({name}); \
         start the program again"
    )]
    Lost {
        /// The driver's function that reported it; what went wrong was queued before.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: String,
    },
    /// A library that was asked for is not on this machine.
    #[error("no {library} on this machine: none of {looked_for} can be loaded")]
    NoLibrary {
        /// The library.
        library: &'static str,
        /// The names of the files that were looked for.
        looked_for: String,
    },
    /// A call of a library on the device failed.
    #[error("{call} failed with {status}")]
    Library {
        /// The library's function.
        call: &'static str,
        /// The name of its status.
        status: String,
    },
    /// A driver call failed in a way that has no variant of its own.
    #[error("{call} failed with CUDA error {code} ({name})")]
    Driver {
        /// The driver's function.
        call: &'static str,
        /// Its result.
        code: u32,
        /// The result's name.
        name: String,
    },
}
