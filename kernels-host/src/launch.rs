//! From a kernel and its arguments to a launch.

use lacuna_core::{Error, Result};
use lacuna_kernels_gpu::kernel::Kernel;
use lacuna_kernels_gpu::params::Params;

use crate::context::Context;
use crate::driver::{DevicePtr, KernelHandle, LaunchConfig, RawStream};

/// The most CTAs in x, and in y or z (CUDA programming guide, compute capabilities).
pub(crate) const MAX_GRID: [usize; 3] = [i32::MAX as usize, 65535, 65535];

/// A kernel with the grid that a plan computed for it.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    context: Context,
    op: &'static str,
    kernel: KernelHandle,
    config: LaunchConfig,
    /// What each extent of the grid counts.
    what: [&'static str; 3],
}

impl Launch {
    /// Looks the kernel up and checks the grid; `what` says what each extent counts.
    pub(crate) fn new(
        context: &Context,
        op: &'static str,
        kernel: &Kernel,
        grid: [usize; 3],
        what: [&'static str; 3],
    ) -> Result<Self> {
        let config = LaunchConfig {
            grid: checked_grid(op, grid, what)?,
            threads: kernel.threads,
            dynamic_smem_bytes: kernel.dynamic_smem_bytes,
        };
        Ok(Self { kernel: context.kernel(kernel)?, context: context.clone(), op, config, what })
    }

    /// The same kernel with another grid, for plans whose calls differ in their number of rows.
    pub(crate) fn with_grid(&self, grid: [usize; 3]) -> Result<Self> {
        let grid = checked_grid(self.op, grid, self.what)?;
        Ok(Self { config: LaunchConfig { grid, ..self.config }, ..self.clone() })
    }

    /// The same launch for another number of rows, which the grid has in x.
    pub(crate) fn with_rows(&self, rows: usize) -> Result<Self> {
        let [_, y, z] = self.config.grid.map(|extent| extent as usize);
        self.with_grid([rows, y, z])
    }

    /// Launches, unless the grid is empty.
    ///
    /// # Safety
    /// `pointers` and `params` are what the kernel takes (see [`lacuna_kernels_gpu::kernel`]), and lead to memory that
    /// lives until the launch is done. `stream` is a live stream of the context's device.
    pub(crate) unsafe fn run<const N: usize>(
        &self,
        stream: RawStream,
        pointers: [DevicePtr; N],
        params: &impl Params,
    ) -> Result<()> {
        /// Pointers and the struct behind them; no kernel of ours has more.
        const MAX_ARGS: usize = 12;
        const { assert!(N < MAX_ARGS) };
        if self.config.grid.contains(&0) {
            return Ok(());
        }
        let pointers = pointers.map(|ptr| ptr.0.to_ne_bytes());
        let mut args: [&[u8]; MAX_ARGS] = [&[]; MAX_ARGS];
        for (arg, ptr) in args.iter_mut().zip(&pointers) {
            *arg = ptr;
        }
        args[N] = params.as_bytes();
        // SAFETY: the caller's promise; `context` keeps the module loaded.
        Ok(unsafe { self.context.driver().launch(stream, self.kernel, &self.config, &args[..=N]) }?)
    }

    /// The device that it launches on.
    pub(crate) fn context(&self) -> &Context {
        &self.context
    }
}

fn checked_grid(op: &'static str, grid: [usize; 3], what: [&'static str; 3]) -> Result<[u32; 3]> {
    for ((&extent, limit), what) in grid.iter().zip(MAX_GRID).zip(what) {
        if extent > limit {
            return Err(Error::TooLarge { op, what, limit: limit as u64, got: extent.to_string() });
        }
    }
    Ok(grid.map(|extent| extent as u32))
}
