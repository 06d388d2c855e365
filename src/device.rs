//! Where an operation runs.

/// The device a plan is made for.
///
/// Plans for one device take that device's memory. The CPU needs nothing: its kernels choose their instruction set at
/// run time (see [`cpu::simd`](crate::cpu::simd)) and run on rayon's current thread pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor; tensors are slices.
    #[default]
    Cpu,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}
