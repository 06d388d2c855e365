//! Asks a GPU for the results of single instructions, and writes them where the emulator's tests replay them.
//!
//! ```text
//! cargo run --release -p lacuna-kernels-host --features emulator --example capture -- FOLDER [--emulated]
//! ```
//!
//! `--emulated` asks the emulator instead: a rehearsal, whose file is good for nothing else.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lacuna_emulator::conformance::{Device, Origin, SEED, capture, forms, replay};
use lacuna_kernels_host::driver::{LaunchConfig, ModuleHandle};
use lacuna_kernels_host::{CudaDriver, DeviceError, DevicePtr, Driver, EmulatedDriver, RawStream};

/// A driver, as a capture needs it.
struct Captured(Arc<dyn Driver>);

impl Device for Captured {
    type Buffer = DevicePtr;
    type Module = ModuleHandle;
    type Error = DeviceError;

    fn allocate(&mut self, bytes: usize) -> Result<DevicePtr, DeviceError> {
        let ptr = self.0.alloc(bytes, "capture")?;
        // SAFETY: just allocated, with that size.
        unsafe { self.0.fill(RawStream::DEFAULT, ptr, 0, bytes) }?;
        Ok(ptr)
    }

    fn free(&mut self, buffer: DevicePtr) -> Result<(), DeviceError> {
        // SAFETY: made by `allocate`, and given back once.
        unsafe { self.0.free(buffer) }
    }

    fn copy_in(&mut self, buffer: &DevicePtr, bytes: &[u8]) -> Result<(), DeviceError> {
        // SAFETY: the capture copies no more than it allocated.
        unsafe { self.0.copy_to_device(RawStream::DEFAULT, *buffer, bytes) }
    }

    fn copy_out(&mut self, buffer: &DevicePtr, bytes: &mut [u8]) -> Result<(), DeviceError> {
        // SAFETY: the capture copies no more than it allocated.
        unsafe { self.0.copy_to_host(RawStream::DEFAULT, *buffer, bytes) }
    }

    fn load(&mut self, ptx: &str) -> Result<ModuleHandle, DeviceError> {
        self.0.load_module(&ptx.into())
    }

    fn launch(
        &mut self,
        module: &ModuleHandle,
        kernel: &str,
        grid: u32,
        block: u32,
        buffers: [&DevicePtr; 2],
    ) -> Result<(), DeviceError> {
        let config = LaunchConfig { grid: [grid, 1, 1], threads: block, dynamic_smem_bytes: 0 };
        let [inputs, outputs] = buffers.map(|ptr| ptr.0.to_ne_bytes());
        // SAFETY: a form's kernel takes two buffers, of the sizes that the capture gives it; modules are never unloaded.
        unsafe {
            let kernel = self.0.kernel(*module, kernel, 0)?;
            self.0.launch(RawStream::DEFAULT, kernel, &config, &[&inputs, &outputs])
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let emulated = args.iter().any(|arg| arg == "--emulated");
    let Some(folder) = args.iter().find(|arg| !arg.starts_with('-')) else {
        eprintln!("usage: capture FOLDER [--emulated]");
        return ExitCode::FAILURE;
    };
    match run(Path::new(folder), emulated) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, emulated: bool) -> Result<String, String> {
    let driver: Arc<dyn Driver> = if emulated {
        Arc::new(EmulatedDriver::new())
    } else {
        Arc::new(CudaDriver::new(0).map_err(|e| e.to_string())?)
    };
    let info = driver.info().clone();
    let (major, minor) = info.compute_capability;
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let origin = Origin {
        gpu: info.name.clone(),
        driver: std::fs::read_to_string("/sys/module/nvidia/version").unwrap_or_default().trim().to_owned(),
        cuda: info.driver.clone(),
        date: format!("unix time {seconds}"),
        compute_capability: 10 * major + minor,
    };
    let forms = forms();
    let archive = capture(&mut Captured(driver), &forms, SEED, origin).map_err(|e| e.to_string())?;
    let path = folder.join(format!("{major}{minor}.bin"));
    let write = || std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, archive.to_bytes()));
    write().map_err(|e| format!("{}: {e}", path.display()))?;
    let replayed = replay(&archive);
    Ok(format!(
        "{}: {} forms of {}, {} words; the emulator differs in {} of them",
        path.display(),
        replayed.forms,
        info.name,
        replayed.words,
        replayed.findings.len(),
    ))
}
