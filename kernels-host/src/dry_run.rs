//! A [`Driver`] without a device, that counts what is asked of it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lacuna_core::DeviceError;

use crate::capture::misuse;
use crate::driver::{
    DeviceInfo, DevicePtr, Driver, EventHandle, GraphHandle, KernelHandle, LaunchConfig, MemoryInfo,
    ModuleHandle, RawStream,
};
use crate::image::{self, Image};
use crate::launch::MAX_GRID;
use crate::queues::Queues;

/// Alignment of addresses, that of the CUDA driver.
const ALIGNMENT: u64 = 256;

/// The first address that is given out.
const FIRST_ADDRESS: u64 = 1 << 32;

/// The most bytes of a copy to the device that copies back give again: flags and counters, of which kernels may change nothing.
const MAX_HELD: usize = 64;

/// The most threads of a CTA (CUDA programming guide, compute capabilities).
const MAX_THREADS: u32 = 1024;

/// A device of any size that does not exist: memory is counted and not there, launches are noted and not done.
///
/// What a model or a shape needs is found by making its plans on such a device and running them: the numbers come from the
/// code that plans on a real one, and cannot drift from it.
///
/// ```
/// use std::sync::Arc;
///
/// use lacuna_core::Layout;
/// use lacuna_kernels_host::{Context, DeviceBuffer, DeviceInfo, DeviceTensor, DryRunDriver, gather_rows};
///
/// # let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ptx/sm_80.ptx")).unwrap();
/// # let shipped = shipped.as_str();
/// let info = DeviceInfo {
///     name: "80 GiB, to be".into(),
///     driver: "dry run".into(),
///     compute_capability: (8, 0),
///     multiprocessors: 108,
///     max_smem_bytes: 166_912,
/// };
/// let device = Arc::new(DryRunDriver::new(info, 80 << 30));
/// let context = Context::new(device.clone(), &[shipped])?;
///
/// // Rows of an embedding table of 128256 x 4096 for 2^20 tokens.
/// let plan = gather_rows::Plan::<half::bf16>::new(&context, 128_256, 32, 128, 1 << 20)?;
/// let table = DeviceTensor::uninit(&context, Layout::thd(128_256, 32, 128), "embedding")?;
/// let mut rows = DeviceTensor::uninit(&context, Layout::thd(1 << 20, 32, 128), "activations")?;
/// let tokens = DeviceBuffer::uninit(&context, 1 << 20, "tokens")?;
/// let stream = context.new_stream()?;
/// plan.run(&stream, &table.view(), &tokens, gather_rows::Count::All, &mut rows.view_mut()?)?;
///
/// assert_eq!(device.allocations()[1], ("activations".to_owned(), 8 << 30));
/// assert_eq!(device.launches()[0].kernel, "gather_rows");
/// drop(rows);
/// assert!(device.peak_bytes() > device.allocated_bytes() + (7 << 30));
/// # Ok::<(), lacuna_kernels_host::Error>(())
/// ```
///
/// # What it checks
///
/// What needs no data: that there is memory left, that kernels are in the image and fit the device's shared memory, that
/// grids are ones a device takes, that copies and fills stay inside an allocation, that memory is freed once, and that
/// nothing is queued in a capture which a graph cannot hold.
///
/// # Limits
///
/// Copies from the device give what the host last put there, where that is a few numbers, and
/// zeros elsewhere. Whatever is decided from such a copy is decided from these, and whatever a kernel decides is not decided
/// at all: lists of blocks have the room that they are given, and loops that end by what the device has found do not end as
/// they would.
///
/// Bytes are those that are asked for. The CUDA driver rounds each allocation up, to 512 bytes where it is small, and takes
/// memory from the device in pages of 2 MiB; its context and the kernels' code take some hundred MiB of their own.
pub struct DryRunDriver {
    info: DeviceInfo,
    state: Mutex<State>,
}

/// A launch that a [`DryRunDriver`] was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRunLaunch {
    /// The kernel's name.
    pub kernel: String,
    /// Its size.
    pub config: LaunchConfig,
}

struct State {
    memory: Memory,
    /// The kernels' names.
    modules: Vec<Option<HashSet<String>>>,
    /// Names, and the most dynamic shared memory that they were readied for.
    kernels: Vec<(String, u32)>,
    queues: Queues<DryRunLaunch, ()>,
    launches: Vec<DryRunLaunch>,
}

/// What is allocated.
#[derive(Default)]
struct Memory {
    total: u64,
    allocated: u64,
    peak: u64,
    next: u64,
    /// What each address is for, and its bytes. Addresses are not used twice: their order is that of allocation.
    live: BTreeMap<DevicePtr, (String, u64)>,
    /// What the host put somewhere, where that is little.
    held: BTreeMap<DevicePtr, Vec<u8>>,
}

impl Memory {
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<DevicePtr, DeviceError> {
        let free = self.total - self.allocated;
        if bytes > free {
            return Err(DeviceError::OutOfMemory { what: what.to_owned(), asked: bytes, free });
        }
        let ptr = DevicePtr(self.next);
        // A gap behind each: no address belongs to two.
        let next =
            bytes.checked_next_multiple_of(ALIGNMENT).and_then(|n| self.next.checked_add(n + ALIGNMENT));
        self.next = next.ok_or_else(|| misuse("an allocation", "no addresses are left".into()))?;
        self.live.insert(ptr, (what.to_owned(), bytes));
        self.allocated += bytes;
        self.peak = self.peak.max(self.allocated);
        Ok(ptr)
    }

    fn free(&mut self, ptr: DevicePtr) -> Result<(), DeviceError> {
        let freed = self.live.remove(&ptr);
        let (_, bytes) =
            freed.ok_or_else(|| misuse("freeing memory", format!("{:#x} is not allocated", ptr.0)))?;
        self.allocated -= bytes;
        self.held.remove(&ptr);
        Ok(())
    }

    /// Notes a copy from the host.
    fn put(&mut self, ptr: DevicePtr, bytes: &[u8]) {
        if bytes.len() <= MAX_HELD {
            self.held.insert(ptr, bytes.to_vec());
        } else {
            self.held.remove(&ptr);
        }
    }

    /// What a copy to the host gives.
    fn get(&self, ptr: DevicePtr, bytes: &mut [u8]) {
        bytes.fill(0);
        if let Some((start, held)) = self.held.range(..=ptr).next_back() {
            let rest = held.get((ptr.0 - start.0) as usize..).unwrap_or_default();
            let len = rest.len().min(bytes.len());
            bytes[..len].copy_from_slice(&rest[..len]);
        }
    }

    /// Refuses a range that does not lie in one allocation.
    fn check(&self, ptr: DevicePtr, bytes: usize, call: &str) -> Result<(), DeviceError> {
        let holds = |(start, &(_, len)): (&DevicePtr, &(String, u64))| {
            let first = ptr.0 - start.0;
            first.checked_add(bytes as u64).is_some_and(|end| end <= len)
        };
        if self.live.range(..=ptr).next_back().is_some_and(holds) {
            return Ok(());
        }
        Err(misuse(call, format!("{bytes} bytes from {:#x} on do not lie in one allocation", ptr.0)))
    }
}

impl DryRunDriver {
    /// A device that is said to be `info`, with `memory_bytes` of memory.
    pub fn new(info: DeviceInfo, memory_bytes: u64) -> Self {
        let memory = Memory { total: memory_bytes, next: FIRST_ADDRESS, ..Default::default() };
        let state = State {
            memory,
            modules: Vec::new(),
            kernels: Vec::new(),
            queues: Queues::default(),
            launches: Vec::new(),
        };
        Self { info, state: Mutex::new(state) }
    }

    /// What is allocated: what each allocation is for and its bytes, oldest first.
    pub fn allocations(&self) -> Vec<(String, u64)> {
        self.state().memory.live.values().cloned().collect()
    }

    /// Bytes that are allocated.
    pub fn allocated_bytes(&self) -> u64 {
        self.state().memory.allocated
    }

    /// The most bytes that were allocated at a time.
    pub fn peak_bytes(&self) -> u64 {
        self.state().memory.peak
    }

    /// The launches since the start or [`DryRunDriver::clear_launches`], in the order in which they were queued, those of a
    /// graph each time that it is launched.
    pub fn launches(&self) -> Vec<DryRunLaunch> {
        self.state().launches.clone()
    }

    /// Forgets the launches.
    pub fn clear_launches(&self) {
        self.state().launches.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DryRunDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DryRunDriver").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Driver for DryRunDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        let Memory { total, allocated, .. } = self.state().memory;
        Ok(MemoryInfo { free: total - allocated, total })
    }

    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr, DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("an allocation")?;
        state.memory.alloc(bytes as u64, what)
    }

    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("freeing memory")?;
        state.memory.free(ptr)
    }

    unsafe fn copy_to_device(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        src: &[u8],
    ) -> Result<(), DeviceError> {
        const CALL: &str = "a copy from the host";
        let mut state = self.state();
        state.queues.check_not_captured(stream, CALL)?;
        state.memory.check(dst, src.len(), CALL)?;
        state.memory.put(dst, src);
        Ok(())
    }

    unsafe fn copy_to_host(
        &self,
        stream: RawStream,
        src: DevicePtr,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        const CALL: &str = "a copy to the host";
        let mut state = self.state();
        state.queues.check_not_captured(stream, CALL)?;
        state.memory.check(src, dst.len(), CALL)?;
        state.memory.get(src, dst);
        Ok(())
    }

    unsafe fn fill(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        _value: u8,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_stream(stream)?;
        state.memory.check(dst, bytes, "a fill")?;
        state.memory.held.remove(&dst);
        Ok(())
    }

    fn load_module(&self, image: &Image) -> Result<ModuleHandle, DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("loading a module")?;
        state.modules.push(Some(image::kernels(image.ptx).map(str::to_owned).collect()));
        Ok(ModuleHandle(state.modules.len() as u64))
    }

    unsafe fn unload_module(&self, module: ModuleHandle) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_thread("unloading a module")?;
        let loaded = state.modules.get_mut((module.0 as usize).wrapping_sub(1)).and_then(Option::take);
        let missing = || misuse("unloading a module", format!("module {} is not loaded", module.0));
        loaded.map(drop).ok_or_else(missing)
    }

    unsafe fn kernel(
        &self,
        module: ModuleHandle,
        name: &str,
        max_dynamic_smem_bytes: u32,
    ) -> Result<KernelHandle, DeviceError> {
        let mut state = self.state();
        let loaded = state.modules.get((module.0 as usize).wrapping_sub(1)).and_then(Option::as_ref);
        if !loaded.is_some_and(|kernels| kernels.contains(name)) {
            return Err(DeviceError::KernelNotFound { kernel: name.to_owned() });
        }
        let limit = self.info.max_smem_bytes;
        if max_dynamic_smem_bytes > limit {
            let fault = format!("{max_dynamic_smem_bytes} bytes of shared memory, at most {limit}");
            return Err(misuse(name, fault));
        }
        state.kernels.push((name.to_owned(), max_dynamic_smem_bytes));
        Ok(KernelHandle(state.kernels.len() as u64))
    }

    unsafe fn launch(
        &self,
        stream: RawStream,
        kernel: KernelHandle,
        config: &LaunchConfig,
        _args: &[&[u8]],
    ) -> Result<(), DeviceError> {
        let mut state = self.state();
        state.queues.check_stream(stream)?;
        let found = state.kernels.get((kernel.0 as usize).wrapping_sub(1)).cloned();
        let missing = || misuse("a launch", format!("kernel {} does not exist", kernel.0));
        let (kernel, max_dynamic_smem_bytes) = found.ok_or_else(missing)?;
        let grid = config.grid.iter().zip(MAX_GRID).all(|(&n, most)| n > 0 && n as usize <= most);
        let threads = (1..=MAX_THREADS).contains(&config.threads);
        if !grid || !threads || config.dynamic_smem_bytes > max_dynamic_smem_bytes {
            return Err(misuse(&kernel, format!("no device takes {config:?}")));
        }
        let launch = DryRunLaunch { kernel, config: *config };
        let State { queues, launches, .. } = &mut *state;
        queues.recording(stream)?.unwrap_or(launches).push(launch);
        Ok(())
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
        self.state().queues.record_event(event, stream, ())
    }

    unsafe fn wait_event(&self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError> {
        self.state().queues.wait_event(stream, event)
    }

    /// No time passes where nothing is done.
    unsafe fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<f32, DeviceError> {
        self.state().queues.recorded(start, end).map(|_| 0.0)
    }

    unsafe fn begin_capture(&self, stream: RawStream) -> Result<(), DeviceError> {
        self.state().queues.begin_capture(stream)
    }

    unsafe fn end_capture(&self, stream: RawStream) -> Result<GraphHandle, DeviceError> {
        self.state().queues.end_capture(stream)
    }

    unsafe fn launch_graph(&self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError> {
        let mut state = self.state();
        let State { queues, launches, .. } = &mut *state;
        queues.check_stream(stream)?;
        let work = queues.graph(graph)?;
        queues.recording(stream)?.unwrap_or(launches).extend(work);
        Ok(())
    }

    unsafe fn destroy_graph(&self, graph: GraphHandle) -> Result<(), DeviceError> {
        self.state().queues.destroy_graph(graph)
    }
}
