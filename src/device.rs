//! Where an operation runs.

#[cfg(feature = "emulator")]
pub use lacuna_kernels_host::Arch;

/// The device a plan is made for.
///
/// Plans of this crate take tensors of the host on every device. On [`Device::Cpu`] that is all there is: its kernels
/// choose their instruction set at run time (see [`cpu::simd`](crate::cpu::simd)) and run on rayon's current thread pool.
/// For the others a plan holds memory on the device; each run copies the inputs there and the results back, and waits.
/// Who keeps tensors on the device uses [`gpu`](crate::gpu), whose plans take device memory and a stream.
///
/// ```
/// use lacuna::Device;
/// assert_eq!("cpu".parse(), Ok(Device::Cpu));
/// # #[cfg(feature = "cuda")]
/// assert_eq!("cuda:1".parse(), Ok(Device::Cuda(1)));
/// assert_eq!("tpu".parse::<Device>().unwrap_err(), "expected cpu, cuda, cuda:N or emulated, got tpu");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of that number, as its driver counts them. `bf16` and `f16`, head dims 64 and 128.
    #[cfg(feature = "cuda")]
    Cuda(usize),
    /// The kernels for NVIDIA GPUs, run on this machine's processor instruction by instruction and checked as they go: for
    /// tests, thousands of times slower than a GPU. As [`Device::Cuda`].
    #[cfg(feature = "emulator")]
    Emulated(Arch),
}

impl Device {
    /// The shipped kernels, loaded on the device; `None` for [`Device::Cpu`], which needs no loading.
    ///
    /// A CUDA device is opened once and stays open; every emulated context is a machine of its own.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) for a device that is not there or cannot run the kernels.
    pub fn context(self) -> crate::Result<Option<crate::gpu::Context>> {
        match self {
            Self::Cpu => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => cuda_context(ordinal).map(Some),
            #[cfg(feature = "emulator")]
            Self::Emulated(arch) => {
                let driver = crate::gpu::EmulatedDriver::with_options(arch, Default::default());
                crate::gpu::Context::new(std::sync::Arc::new(driver), &crate::ptx::IMAGES).map(Some)
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda_context(ordinal: usize) -> crate::Result<crate::gpu::Context> {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    static OPEN: Mutex<Option<HashMap<usize, crate::gpu::Context>>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(context) = open.get(&ordinal) {
        return Ok(context.clone());
    }
    let context = crate::gpu::Context::cuda(ordinal, &crate::ptx::IMAGES)?;
    open.insert(ordinal, context.clone());
    Ok(context)
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            #[cfg(feature = "emulator")]
            Self::Emulated(arch) => write!(f, "emulated:{arch}"),
        }
    }
}

impl std::str::FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            let mut names = vec!["cpu"];
            if cfg!(feature = "cuda") {
                names.extend(["cuda", "cuda:N"]);
            }
            if cfg!(feature = "emulator") {
                names.push("emulated");
            }
            let last = names.pop().unwrap_or_default();
            let list = if names.is_empty() { last.into() } else { format!("{} or {last}", names.join(", ")) };
            format!("expected {list}, got {text}")
        };
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "cuda")]
            None if text == "cuda" => Ok(Self::Cuda(0)),
            #[cfg(feature = "cuda")]
            Some(("cuda", ordinal)) => ordinal.parse().map(Self::Cuda).map_err(|_| expected()),
            #[cfg(feature = "emulator")]
            None if text == "emulated" => Ok(Self::Emulated(Arch::Sm80)),
            #[cfg(feature = "emulator")]
            Some(("emulated", name)) => Arch::ALL
                .into_iter()
                .find(|arch| arch.to_string() == name)
                .map(Self::Emulated)
                .ok_or_else(expected),
            _ => Err(expected()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Device;

    #[test]
    fn names_are_read_as_they_are_written() {
        let mut devices = vec![Device::Cpu];
        #[cfg(feature = "cuda")]
        devices.extend([Device::Cuda(0), Device::Cuda(17)]);
        #[cfg(feature = "emulator")]
        devices.extend(super::Arch::ALL.map(Device::Emulated));
        for device in devices {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        for bad in [
            "",
            "CPU",
            "cuda:",
            "cuda:-1",
            "cuda:99999999999999999999",
            "emulated:",
            "emulated:sm_70",
            "cpu:0",
        ] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }
}
