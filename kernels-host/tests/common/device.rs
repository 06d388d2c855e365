//! Where a test runs: on the emulator, and with the feature `gpu-tests` on a GPU as well.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use lacuna_emulator::{Arch, Options};
use lacuna_kernels_host::{Context, DeviceInfo, DryRunDriver, EmulatedDriver, Image};

/// The shipped image for compute capability 8.0, or the one that the environment variable `LACUNA_PTX` names, with the table
/// of lines that lies beside it.
pub fn image() -> Image<'static> {
    static FILES: OnceLock<[String; 2]> = OnceLock::new();
    let [ptx, lines] = FILES.get_or_init(|| {
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../ptx/sm_80.ptx");
        let path = PathBuf::from(std::env::var("LACUNA_PTX").unwrap_or_else(|_| shipped.to_owned()));
        let ptx = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        [ptx, std::fs::read_to_string(path.with_extension("lines")).unwrap_or_default()]
    });
    Image { ptx, lines }
}

/// An emulated device, and the driver underneath to ask for counters.
pub fn emulator(options: Options) -> (Context, Arc<EmulatedDriver>) {
    emulator_of(image(), options)
}

/// The same with another image.
pub fn emulator_of<'a>(
    image: impl Into<Image<'a>> + Copy,
    options: Options,
) -> (Context, Arc<EmulatedDriver>) {
    let driver = Arc::new(EmulatedDriver::with_options(Arch::Sm80, options));
    let context = Context::new(driver.clone(), &[image]).unwrap_or_else(|e| panic!("{e}"));
    (context, driver)
}

/// What an A100 is.
pub fn a100() -> DeviceInfo {
    DeviceInfo {
        name: "A100".into(),
        driver: "dry run".into(),
        compute_capability: (8, 0),
        multiprocessors: 108,
        max_smem_bytes: 166_912,
    }
}

/// A device of so much memory that does not exist, and the driver underneath to ask for counts.
pub fn dry_run(memory_bytes: u64) -> (Context, Arc<DryRunDriver>) {
    let driver = Arc::new(DryRunDriver::new(a100(), memory_bytes));
    let context = Context::new(driver.clone(), &[image()]).unwrap_or_else(|e| panic!("{e}"));
    (context, driver)
}

/// A device and what tests have to know of it.
pub struct Device {
    pub context: Context,
    /// Elements of NaN before and behind every tensor. Zero where the device checks bounds itself.
    pub margin: usize,
}

impl Device {
    /// The emulator, with every check on.
    pub fn emulated() -> Self {
        Self { context: emulator(Options::default()).0, margin: 0 }
    }
}

/// Runs `test` for every case: on emulators, one per processor of this machine, and on the GPU if there is one.
pub fn for_each<C: Sync>(cases: &[C], test: impl Fn(&Device, &C) + Sync) {
    let workers = std::thread::available_parallelism().map_or(1, |n| n.get()).min(cases.len());
    let next = AtomicUsize::new(0);
    // Failures name the test by the thread's name.
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    std::thread::scope(|scope| {
        let work = || {
            let device = Device::emulated();
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                test(&device, case);
            }
        };
        let workers: Vec<_> = (0..workers)
            .map(|_| std::thread::Builder::new().name(name.clone()).spawn_scoped(scope, work).unwrap())
            .collect();
        for worker in workers {
            if let Err(panic) = worker.join() {
                // The others have nothing to add.
                next.store(cases.len(), Ordering::Relaxed);
                resume_unwind(panic);
            }
        }
    });
    if let Some(device) = gpu() {
        cases.iter().for_each(|case| test(&device, case));
    }
}

/// Runs `test` on the emulator, and on the GPU if there is one.
pub fn on_every_device(test: impl Fn(&Device) + Sync) {
    for_each(&[()], |device, ()| test(device));
}

/// The first CUDA device, if the feature `gpu-tests` is on. Prints why there is none; `REQUIRE_GPU=1` makes that a failure.
pub fn gpu() -> Option<Device> {
    #[cfg(all(feature = "gpu-tests", feature = "cuda"))]
    match Context::cuda(0, &[image()]) {
        Ok(context) => return Some(Device { context, margin: 512 }),
        Err(why) if std::env::var_os("REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{why}"),
        Err(why) => eprintln!("skipped on the GPU: {why}"),
    }
    None
}
