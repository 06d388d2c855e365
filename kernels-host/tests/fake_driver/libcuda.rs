//! A library with the names of the CUDA driver, for tests of what the host does with its answers. "Device" memory is host
//! memory, streams are empty, and it knows one kernel, which a capture of any stream records. The environment variable
//! `FAKE_CUDA` says what is wrong with it.

#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

const SUCCESS: c_uint = 0;
const INVALID_VALUE: c_uint = 1;
const OUT_OF_MEMORY: c_uint = 2;
const STUB_LIBRARY: c_uint = 34;
const DEVICE_UNAVAILABLE: c_uint = 46;
const NO_DEVICE: c_uint = 100;
const INVALID_DEVICE: c_uint = 101;
const INVALID_PTX: c_uint = 218;
const NOT_FOUND: c_uint = 500;
const ILLEGAL_ADDRESS: c_uint = 700;
const LAUNCH_FAILED: c_uint = 719;
const CAPTURE_UNSUPPORTED: c_uint = 900;
const CAPTURE_INVALIDATED: c_uint = 901;
const UNKNOWN: c_uint = 999;

const MEMORY: usize = 64 << 20;
const ALIGNMENT: usize = 256;

static ALLOCATIONS: Mutex<Option<HashMap<u64, usize>>> = Mutex::new(None);

type Work = unsafe extern "C" fn(*mut c_void);

/// A piece of work on a stream.
#[derive(Clone, Copy)]
enum Launch {
    /// What a launch of the kernel doubles.
    Double(u64, usize),
    /// What another library does.
    Other(Work, usize),
}

impl Launch {
    unsafe fn run(self) {
        unsafe {
            match self {
                Self::Double(data, count) => double(data as *mut u32, count),
                Self::Other(work, data) => work(data as *mut c_void),
            }
        }
    }
}

type Launches = Vec<Launch>;

/// The capture that is under way.
static CAPTURE: Mutex<Option<Launches>> = Mutex::new(None);

/// What the context answers to everything, once it is lost.
static LOST: AtomicU32 = AtomicU32::new(SUCCESS);

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

fn wrong() -> String {
    std::env::var("FAKE_CUDA").unwrap_or_default()
}

/// Loses the context if `when` is what is wrong, and says whether it is lost.
fn lost(when: &str) -> c_uint {
    let wrong = wrong();
    match wrong.strip_prefix("lost by ") {
        Some(by) if by == when => LOST.store(LAUNCH_FAILED, SeqCst),
        _ if wrong == "unknown" && when == "waiting" => LOST.store(UNKNOWN, SeqCst),
        _ => (),
    }
    LOST.load(SeqCst)
}

unsafe fn queue(launch: Launch) {
    match &mut *CAPTURE.lock().unwrap() {
        Some(launches) => launches.push(launch),
        None => unsafe { launch.run() },
    }
}

/// For libraries that launch work of their own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_queue(_stream: *mut c_void, work: Work, data: *mut c_void) {
    unsafe { queue(Launch::Other(work, data as usize)) };
}

fn with_allocations<V>(f: impl FnOnce(&mut HashMap<u64, usize>) -> V) -> V {
    f(ALLOCATIONS.lock().unwrap().get_or_insert_default())
}

fn used() -> usize {
    with_allocations(|all| all.values().sum())
}

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> c_uint {
    match wrong().as_str() {
        "no device" => NO_DEVICE,
        "stub" => STUB_LIBRARY,
        _ => SUCCESS,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_uint {
    unsafe { *version = if wrong() == "old" { 11040 } else { 12080 } };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_uint {
    unsafe { *count = 1 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_uint {
    unsafe { *device = ordinal };
    if ordinal == 0 { SUCCESS } else { INVALID_DEVICE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, _len: c_int, _device: c_int) -> c_uint {
    unsafe { c"Fake".as_ptr().copy_to(name, 5) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    _device: c_int,
) -> c_uint {
    let turing = wrong() == "turing";
    let known = match attribute {
        16 => 108,
        75 => {
            if turing {
                7
            } else {
                8
            }
        }
        76 => {
            if turing {
                5
            } else {
                0
            }
        }
        97 => 166_912,
        _ => return INVALID_VALUE,
    };
    unsafe { *value = known };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> c_uint {
    if wrong() == "unavailable" {
        return DEVICE_UNAVAILABLE;
    }
    unsafe { *context = 1 as *mut c_void };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> c_uint {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_uint {
    CURRENT.set(context as usize);
    if context as usize == 1 { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_uint {
    unsafe { *context = CURRENT.get() as *mut c_void };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_uint {
    unsafe { (*free, *total) = (MEMORY - used(), MEMORY) };
    LOST.load(SeqCst)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(ptr: *mut u64, bytes: usize) -> c_uint {
    if bytes == 0 {
        return INVALID_VALUE;
    }
    if LOST.load(SeqCst) != SUCCESS {
        return LOST.load(SeqCst);
    }
    if bytes > MEMORY - used() {
        return OUT_OF_MEMORY;
    }
    let memory = unsafe { alloc(Layout::from_size_align(bytes, ALIGNMENT).unwrap()) } as u64;
    with_allocations(|all| all.insert(memory, bytes));
    unsafe { *ptr = memory };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(ptr: u64) -> c_uint {
    match with_allocations(|all| all.remove(&ptr)) {
        Some(bytes) => {
            unsafe { dealloc(ptr as *mut u8, Layout::from_size_align(bytes, ALIGNMENT).unwrap()) };
            SUCCESS
        }
        None => INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    dst: u64,
    src: *const u8,
    bytes: usize,
    _: *mut c_void,
) -> c_uint {
    unsafe { src.copy_to(dst as *mut u8, bytes) };
    LOST.load(SeqCst)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    dst: *mut u8,
    src: u64,
    bytes: usize,
    _: *mut c_void,
) -> c_uint {
    if wrong() == "illegal address" {
        return ILLEGAL_ADDRESS;
    }
    unsafe { dst.copy_from(src as *const u8, bytes) };
    LOST.load(SeqCst)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(dst: u64, value: u8, bytes: usize, _: *mut c_void) -> c_uint {
    unsafe { (dst as *mut u8).write_bytes(value, bytes) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_char,
    count: c_uint,
    options: *const c_uint,
    values: *const *mut c_void,
) -> c_uint {
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy().into_owned();
    if text.contains("shove") {
        let message = c"ptxas fatal   : Unknown opcode\n 'shove'";
        for i in 0..count as usize {
            // CU_JIT_ERROR_LOG_BUFFER
            if unsafe { *options.add(i) } == 5 {
                let log = unsafe { *values.add(i) }.cast::<c_char>();
                unsafe { message.as_ptr().copy_to(log, message.count_bytes() + 1) };
            }
        }
        return INVALID_PTX;
    }
    unsafe { *module = 2 as *mut c_void };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_uint {
    if module as usize == 2 { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    _module: *mut c_void,
    name: *const c_char,
) -> c_uint {
    unsafe { *function = 3 as *mut c_void };
    if unsafe { CStr::from_ptr(name) } == c"double_it" { SUCCESS } else { NOT_FOUND }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(_function: *mut c_void, attribute: c_uint, _value: c_int) -> c_uint {
    if attribute == 8 { SUCCESS } else { INVALID_VALUE }
}

/// `double_it(u32* data, u32 count)`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    _function: *mut c_void,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    _smem: c_uint,
    _stream: *mut c_void,
    params: *const *const c_void,
    _extra: *mut c_void,
) -> c_uint {
    if [grid_x, grid_y, grid_z, block_x, block_y, block_z].contains(&0) {
        return INVALID_VALUE;
    }
    let (data, count) = unsafe {
        ((*params).cast::<*mut u32>().read_unaligned(), (*params.add(1)).cast::<u32>().read_unaligned())
    };
    let count = count.min(grid_x * block_x) as usize;
    unsafe { queue(Launch::Double(data as u64, count)) };
    lost("a launch")
}

unsafe fn double(data: *mut u32, count: usize) {
    for i in 0..count {
        unsafe { *data.add(i) *= 2 };
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: *mut c_void, mode: c_uint) -> c_uint {
    // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL; the default stream cannot be captured.
    if mode != 1 {
        return INVALID_VALUE;
    }
    if stream.is_null() {
        return CAPTURE_UNSUPPORTED;
    }
    *CAPTURE.lock().unwrap() = Some(Vec::new());
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(_stream: *mut c_void, status: *mut c_uint) -> c_uint {
    unsafe { *status = CAPTURE.lock().unwrap().is_some().into() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(_stream: *mut c_void, graph: *mut *mut Launches) -> c_uint {
    let launches = CAPTURE.lock().unwrap().take();
    if wrong() == "lost capture" {
        return CAPTURE_INVALIDATED;
    }
    unsafe { *graph = Box::into_raw(Box::new(launches.unwrap_or_default())) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut *mut Launches,
    graph: *mut Launches,
    flags: u64,
) -> c_uint {
    unsafe { *executable = Box::into_raw(Box::new((*graph).clone())) };
    if flags == 0 { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(executable: *mut Launches, _stream: *mut c_void) -> c_uint {
    for launch in unsafe { &*executable } {
        unsafe { launch.run() };
    }
    lost("a graph")
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphDestroy(graph: *mut Launches) -> c_uint {
    drop(unsafe { Box::from_raw(graph) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphExecDestroy(executable: *mut Launches) -> c_uint {
    drop(unsafe { Box::from_raw(executable) });
    SUCCESS
}

/// Handles of streams and events: any number will do.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _flags: c_uint) -> c_uint {
    unsafe { *stream = 4 as *mut c_void };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, _flags: c_uint) -> c_uint {
    unsafe { *event = 5 as *mut c_void };
    SUCCESS
}

macro_rules! successes {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_uint {
            SUCCESS
        }
    )*};
}

successes! {
    cuStreamDestroy_v2 cuStreamWaitEvent cuEventDestroy_v2 cuEventRecord
}

macro_rules! waits {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        pub extern "C" fn $name() -> c_uint {
            lost("waiting")
        }
    )*};
}

waits! {
    cuCtxSynchronize cuEventSynchronize cuStreamSynchronize
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(ms: *mut f32, _start: *mut c_void, _end: *mut c_void) -> c_uint {
    unsafe { *ms = 1.5 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_uint, name: *mut *const c_char) -> c_uint {
    let text = match code {
        INVALID_PTX => c"CUDA_ERROR_INVALID_PTX",
        ILLEGAL_ADDRESS => c"CUDA_ERROR_ILLEGAL_ADDRESS",
        DEVICE_UNAVAILABLE => c"CUDA_ERROR_DEVICE_UNAVAILABLE",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        UNKNOWN => c"CUDA_ERROR_UNKNOWN",
        CAPTURE_UNSUPPORTED => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        CAPTURE_INVALIDATED => c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
        _ => return INVALID_VALUE,
    };
    unsafe { *name = text.as_ptr() };
    SUCCESS
}
