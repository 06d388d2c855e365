//! The PTX emulator as a [`Driver`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lacuna_core::DeviceError;
use lacuna_emulator::{Arch, Arg, Fault, KernelId, LaunchShape, Machine, ModuleId, Options, Report};

use crate::capture::misuse;
use crate::driver::{
    DeviceInfo, DevicePtr, Driver, EventHandle, GraphHandle, KernelHandle, LaunchConfig, MemoryInfo,
    ModuleHandle, RawStream,
};
use crate::image::Image;
use crate::queues::Queues;

/// The memory of an emulated device, unless it is given another.
const DEFAULT_MEMORY_BYTES: u64 = 16 << 30;

/// The emulated SM count: that of an A100.
const MULTIPROCESSORS: u32 = 108;

/// A device that is emulated on this machine's processor. Work is done before the call that queues it returns, or when the
/// graph is launched that it was recorded into.
pub struct EmulatedDriver {
    info: DeviceInfo,
    state: Mutex<State>,
}

struct State {
    machine: Machine,
    total_bytes: u64,
    /// Bytes of each allocation, to know what is free.
    allocations: HashMap<DevicePtr, u64>,
    modules: Vec<Option<ModuleId>>,
    kernels: Vec<(KernelId, String)>,
    queues: Queues<Work, Instant>,
    reports: HashMap<String, Report>,
    /// The launches since the start of a log.
    log: Option<Vec<EmulatedLaunch>>,
}

/// Work on a stream.
#[derive(Clone)]
enum Work {
    Launch { kernel: KernelId, name: String, shape: LaunchShape, args: Vec<Arg> },
    Fill { dst: DevicePtr, value: u8, bytes: usize },
}

/// A launch that an [`EmulatedDriver`] has done.
#[derive(Debug, Clone)]
pub struct EmulatedLaunch {
    /// Its size.
    pub config: LaunchConfig,
    /// What it reported.
    pub report: Report,
}

impl EmulatedDriver {
    /// An `sm_80` device with every check on.
    pub fn new() -> Self {
        Self::with_options(Arch::Sm80, Options::default())
    }

    /// A device of another architecture or with other settings.
    pub fn with_options(arch: Arch, options: Options) -> Self {
        let machine = Machine::with_options(arch, options);
        let number = arch.number();
        let info = DeviceInfo {
            name: format!("PTX emulator ({arch})"),
            driver: "lacuna-emulator".into(),
            compute_capability: (number / 10, number % 10),
            multiprocessors: MULTIPROCESSORS,
            max_smem_bytes: machine.profile().max_shared_bytes,
        };
        let state = State {
            machine,
            total_bytes: DEFAULT_MEMORY_BYTES,
            allocations: HashMap::new(),
            modules: Vec::new(),
            kernels: Vec::new(),
            queues: Queues::default(),
            reports: HashMap::new(),
            log: None,
        };
        Self { info, state: Mutex::new(state) }
    }

    /// Gives the device `bytes` of memory.
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> Self {
        self.state().total_bytes = bytes;
        self
    }

    /// Changes the settings of the launches to come.
    pub fn set_options(&self, options: Options) {
        self.state().machine.set_options(options);
    }

    /// What the launches of a kernel have reported since the start or [`EmulatedDriver::clear_reports`], counts added up.
    pub fn report(&self, kernel: &str) -> Option<Report> {
        self.state().reports.get(kernel).cloned()
    }

    /// The same for every kernel that was launched, by name.
    pub fn reports(&self) -> Vec<Report> {
        let mut reports: Vec<Report> = self.state().reports.values().cloned().collect();
        reports.sort_unstable_by(|a, b| a.kernel.cmp(&b.kernel));
        reports
    }

    /// Runs `work`, and gives its launches one by one, in order.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn launches_of<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Vec<EmulatedLaunch>, E> {
        self.state().log = Some(Vec::new());
        let done = work();
        let log = self.state().log.take().unwrap_or_default();
        done.map(|()| log)
    }

    /// Forgets what was reported.
    pub fn clear_reports(&self) {
        self.state().reports.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for EmulatedDriver {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EmulatedDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatedDriver").field("info", &self.info).finish_non_exhaustive()
    }
}

impl State {
    fn free_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.allocations.values().sum())
    }

    /// Does the work, or records it if the stream is being captured.
    fn queue(&mut self, stream: RawStream, work: Work) -> Result<(), DeviceError> {
        match self.queues.recording(stream)? {
            Some(recorded) => {
                recorded.push(work);
                Ok(())
            }
            None => self.perform(work),
        }
    }

    fn perform(&mut self, work: Work) -> Result<(), DeviceError> {
        match work {
            Work::Fill { dst, value, bytes } => {
                self.machine.fill(in_machine(dst), value, bytes).map_err(in_copy)
            }
            Work::Launch { kernel, name, shape, args } => {
                let report = self.machine.launch(kernel, &shape, &args);
                let report =
                    report.map_err(|fault| DeviceError::Fault { kernel: name, fault: fault.to_string() })?;
                if let Some(log) = &mut self.log {
                    let LaunchShape { grid, block: [threads, ..], dynamic_smem_bytes, .. } = shape;
                    let config = LaunchConfig { grid, threads, dynamic_smem_bytes };
                    log.push(EmulatedLaunch { config, report: report.clone() });
                }
                self.keep(report);
                Ok(())
            }
        }
    }

    /// Adds a launch to what its kernel has reported.
    fn keep(&mut self, report: Report) {
        if let Some(sum) = self.reports.get_mut(&report.kernel)
            && sum.counters.merge(&report.counters).is_ok()
        {
            sum.advisories.extend(report.advisories);
        } else {
            // The first of its name, or a kernel of another module under the same name.
            self.reports.insert(report.kernel.clone(), report);
        }
    }
}

fn in_copy(fault: Fault) -> DeviceError {
    misuse("a copy", fault.to_string())
}

fn in_machine(ptr: DevicePtr) -> lacuna_emulator::DevicePtr {
    lacuna_emulator::DevicePtr::from_address(ptr.0)
}

impl Driver for EmulatedDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        let state = self.state();
        Ok(MemoryInfo { free: state.free_bytes(), total: state.total_bytes })
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr, DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("an allocation")?;
        let (asked, free) = (bytes as u64, state.free_bytes());
        if asked > free {
            return Err(DeviceError::OutOfMemory { what: what.to_owned(), asked, free });
        }
        let ptr = DevicePtr(state.machine.alloc(bytes, what).address());
        state.allocations.insert(ptr, asked);
        Ok(ptr)
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("freeing memory")?;
        state.machine.free(in_machine(ptr)).map_err(in_copy)?;
        state.allocations.remove(&ptr);
        Ok(())
    }

    unsafe fn copy_to_device(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        src: &[u8],
    ) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_not_captured(stream, "a copy from the host")?;
        state.machine.copy_in(in_machine(dst), src).map_err(in_copy)
    }

    unsafe fn copy_to_host(
        &self,
        stream: RawStream,
        src: DevicePtr,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_not_captured(stream, "a copy to the host")?;
        state.machine.copy_out(in_machine(src), dst).map_err(in_copy)
    }

    unsafe fn fill(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        value: u8,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        self.state().queue(stream, Work::Fill { dst, value, bytes })
    }

    fn load_module(&self, image: &Image) -> Result<ModuleHandle, DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("loading a module")?;
        let module = state.machine.load_module(image.ptx, Some(image.lines));
        let module = module.map_err(|e| DeviceError::InvalidImage { reason: e.to_string() })?;
        state.modules.push(Some(module));
        Ok(ModuleHandle(state.modules.len() as u64))
    }

    unsafe fn unload_module(&self, module: ModuleHandle) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("unloading a module")?;
        match state.modules.get_mut((module.0 as usize).wrapping_sub(1)) {
            // The machine keeps the text; its kernels can no longer be found.
            Some(loaded @ Some(_)) => {
                *loaded = None;
                Ok(())
            }
            _ => Err(misuse("unloading a module", format!("module {} is not loaded", module.0))),
        }
    }

    unsafe fn kernel(
        &self,
        module: ModuleHandle,
        name: &str,
        max_dynamic_smem_bytes: u32,
    ) -> Result<KernelHandle, DeviceError> {
        let mut state = self.state();
        let loaded = state.modules.get((module.0 as usize).wrapping_sub(1)).copied().flatten();
        let kernel = loaded.and_then(|module| state.machine.kernel(module, name));
        let kernel = kernel.ok_or_else(|| DeviceError::KernelNotFound { kernel: name.to_owned() })?;
        if max_dynamic_smem_bytes > self.info.max_smem_bytes {
            let limit = self.info.max_smem_bytes;
            let fault = format!("{max_dynamic_smem_bytes} bytes of shared memory, at most {limit}");
            return Err(misuse(name, fault));
        }
        state.kernels.push((kernel, name.to_owned()));
        Ok(KernelHandle(state.kernels.len() as u64))
    }

    unsafe fn launch(
        &self,
        stream: RawStream,
        kernel: KernelHandle,
        config: &LaunchConfig,
        args: &[&[u8]],
    ) -> Result<(), DeviceError> {
        let mut state = self.state();
        let found = state.kernels.get((kernel.0 as usize).wrapping_sub(1)).cloned();
        let (kernel, name) =
            found.ok_or_else(|| misuse("a launch", format!("kernel {} does not exist", kernel.0)))?;
        let shape = LaunchShape {
            grid: config.grid,
            block: [config.threads, 1, 1],
            cluster: [1, 1, 1],
            dynamic_smem_bytes: config.dynamic_smem_bytes,
        };
        let args = args.iter().map(|bytes| Arg::bytes(bytes)).collect();
        state.queue(stream, Work::Launch { kernel, name, shape, args })
    }

    fn create_stream(&self) -> Result<RawStream, DeviceError> {
        Ok(self.state().queues.create_stream())
    }

    unsafe fn destroy_stream(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.state().queues.destroy_stream(stream)
    }

    fn synchronize_device(&self) -> Result<(), DeviceError> {
        self.state().queues.check_thread("waiting for the device")
    }

    unsafe fn synchronize(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.state().queues.check_not_captured(stream, "waiting for a stream")
    }

    fn create_event(&self) -> Result<EventHandle, DeviceError> {
        Ok(self.state().queues.create_event())
    }

    unsafe fn destroy_event(&self, event: EventHandle) -> Result<(), DeviceError> {
        self.state().queues.destroy_event(event)
    }

    unsafe fn record_event(&self, event: EventHandle, stream: RawStream) -> Result<(), DeviceError> {
        self.state().queues.record_event(event, stream, Instant::now())
    }

    unsafe fn wait_event(&self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError> {
        self.state().queues.wait_event(stream, event)
    }

    unsafe fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<f32, DeviceError> {
        let (start, end) = self.state().queues.recorded(start, end)?;
        Ok(end.saturating_duration_since(start).as_secs_f32() * 1e3)
    }

    unsafe fn begin_capture(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.state().queues.begin_capture(stream)
    }

    unsafe fn end_capture(&self, stream: RawStream) -> Result<GraphHandle, DeviceError> {
        self.state().queues.end_capture(stream)
    }

    unsafe fn launch_graph(&self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError> {
        let mut state = self.state();
        let work = state.queues.graph(graph)?;
        work.into_iter().try_for_each(|work| state.queue(stream, work))
    }

    unsafe fn destroy_graph(&self, graph: GraphHandle) -> Result<(), DeviceError> {
        self.state().queues.destroy_graph(graph)
    }
}
