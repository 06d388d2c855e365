//! A cuBLASLt library that multiplies on the processor, over a `libcuda` whose device memory is the host's. It does what
//! layouts, transposes, types and leading dimensions say, so that a wrong descriptor gives a wrong product. The environment
//! variable `FAKE_CUBLASLT` says what is wrong with it.

#![allow(non_snake_case, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const SUCCESS: c_uint = 0;
const NOT_INITIALIZED: c_uint = 1;
const INVALID_VALUE: c_uint = 7;
const EXECUTION_FAILED: c_uint = 13;
const NOT_SUPPORTED: c_uint = 15;

const R_32F: c_uint = 0;
const R_16F: c_uint = 2;
const R_16BF: c_uint = 14;
const COMPUTE_32F: c_uint = 68;
const EPILOGUE_DEFAULT: u32 = 1;
const EPILOGUE_BIAS: u32 = 4;
const REDUCTION_IN_COMPUTE_TYPE: u32 = 2;

/// Bytes that the algorithm writes to its workspace.
const WORKSPACE: usize = 1 << 20;
const HANDLE: *mut c_void = 77 as *mut c_void;

static HANDLES: AtomicUsize = AtomicUsize::new(0);
static CREATED: AtomicUsize = AtomicUsize::new(0);
static DESCRIPTORS: AtomicUsize = AtomicUsize::new(0);
static CHOICES: AtomicUsize = AtomicUsize::new(0);

/// Handles that live, handles ever made, descriptors that live, algorithms chosen.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fake_counts(counts: *mut [usize; 4]) {
    unsafe { *counts = [&HANDLES, &CREATED, &DESCRIPTORS, &CHOICES].map(|n| n.load(SeqCst)) };
}

#[link(name = "cuda")]
unsafe extern "C" {
    fn cuCtxGetCurrent(context: *mut *mut c_void) -> c_uint;
    /// Calls `work` with `data`, now or when the graph is launched that `stream` is being recorded into.
    fn fake_queue(stream: *mut c_void, work: unsafe extern "C" fn(*mut c_void), data: *mut c_void);
}

fn wrong() -> String {
    std::env::var("FAKE_CUBLASLT").unwrap_or_default()
}

fn has_context() -> bool {
    let mut context = std::ptr::null_mut();
    unsafe { cuCtxGetCurrent(&mut context) == SUCCESS && !context.is_null() }
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Layout {
    dtype: c_uint,
    rows: u64,
    cols: u64,
    ld: i64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Operation {
    compute: c_uint,
    scale: c_uint,
    transa: c_int,
    transb: c_int,
    epilogue: u32,
    bias: u64,
}

struct Preference {
    workspace: u64,
    reduction: u32,
    /// Of A, B, C and D.
    alignments: [u32; 4],
}

fn boxed<V>(value: V) -> *mut V {
    DESCRIPTORS.fetch_add(1, SeqCst);
    Box::into_raw(Box::new(value))
}

unsafe fn unboxed<V>(value: *mut V) -> c_uint {
    DESCRIPTORS.fetch_sub(1, SeqCst);
    drop(unsafe { Box::from_raw(value) });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut *mut c_void) -> c_uint {
    if wrong() == "no handle" || !has_context() {
        return NOT_INITIALIZED;
    }
    HANDLES.fetch_add(1, SeqCst);
    CREATED.fetch_add(1, SeqCst);
    unsafe { *handle = HANDLE };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: *mut c_void) -> c_uint {
    if handle != HANDLE || !has_context() {
        return INVALID_VALUE;
    }
    HANDLES.fetch_sub(1, SeqCst);
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut *mut Layout,
    dtype: c_uint,
    rows: u64,
    cols: u64,
    ld: i64,
) -> c_uint {
    unsafe { *layout = boxed(Layout { dtype, rows, cols, ld }) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: *mut Layout) -> c_uint {
    unsafe { unboxed(layout) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    operation: *mut *mut Operation,
    compute: c_uint,
    scale: c_uint,
) -> c_uint {
    let made = Operation { compute, scale, transa: 0, transb: 0, epilogue: EPILOGUE_DEFAULT, bias: 0 };
    unsafe { *operation = boxed(made) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(operation: *mut Operation) -> c_uint {
    unsafe { unboxed(operation) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    operation: *mut Operation,
    attribute: c_uint,
    value: *const c_void,
    bytes: usize,
) -> c_uint {
    let operation = unsafe { &mut *operation };
    unsafe {
        match (attribute, bytes) {
            (3, 4) => operation.transa = *value.cast(),
            (4, 4) => operation.transb = *value.cast(),
            (7, 4) => operation.epilogue = *value.cast(),
            (8, 8) => operation.bias = *value.cast(),
            _ => return INVALID_VALUE,
        }
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(preference: *mut *mut Preference) -> c_uint {
    unsafe { *preference = boxed(Preference { workspace: 0, reduction: u32::MAX, alignments: [256; 4] }) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: *mut Preference) -> c_uint {
    unsafe { unboxed(preference) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: *mut Preference,
    attribute: c_uint,
    value: *const c_void,
    bytes: usize,
) -> c_uint {
    let preference = unsafe { &mut *preference };
    unsafe {
        match (attribute, bytes) {
            (1, 8) => preference.workspace = *value.cast(),
            (3, 4) => preference.reduction = *value.cast(),
            (5..=8, 4) => preference.alignments[attribute as usize - 5] = *value.cast(),
            _ => return INVALID_VALUE,
        }
    }
    SUCCESS
}

/// What an algorithm was chosen for; it fits in the library's 64 bytes and holds for nothing else.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug)]
struct Algorithm {
    shape: [u32; 3],
    lds: [u32; 3],
    types: [u8; 2],
    has_bias: bool,
    alignments: [u16; 4],
    workspace: u64,
}

#[repr(C)]
struct Heuristic {
    algorithm: [u64; 8],
    workspace: usize,
    state: c_uint,
    waves: f32,
    reserved: [c_int; 4],
}

/// What the matrices and the operation amount to, if they fit one another and the library's tables.
fn understood(operation: &Operation, a: &Layout, b: &Layout, d: &Layout) -> Result<Algorithm, c_uint> {
    if (operation.compute, operation.scale) != (COMPUTE_32F, R_32F) {
        return Err(NOT_SUPPORTED);
    }
    let op = |layout: &Layout, transposed: c_int| match transposed {
        0 => (layout.rows, layout.cols),
        _ => (layout.cols, layout.rows),
    };
    let ((m, k), (k_b, n)) = (op(a, operation.transa), op(b, operation.transb));
    let fits = k == k_b && (d.rows, d.cols) == (m, n) && [a, b, d].iter().all(|l| l.ld >= l.rows as i64);
    if !fits || [m, n, k].contains(&0) {
        return Err(INVALID_VALUE);
    }
    let types = a.dtype == b.dtype && matches!(a.dtype, R_16F | R_16BF) && [a.dtype, R_32F].contains(&d.dtype);
    let epilogue = matches!(operation.epilogue, EPILOGUE_DEFAULT | EPILOGUE_BIAS);
    if !types || !epilogue {
        return Err(NOT_SUPPORTED);
    }
    Ok(Algorithm {
        shape: [m, n, k].map(|x| x as u32),
        lds: [a, b, d].map(|l| l.ld as u32),
        types: [a.dtype as u8, d.dtype as u8],
        has_bias: operation.epilogue == EPILOGUE_BIAS,
        alignments: [0; 4],
        workspace: 0,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: *mut c_void,
    operation: *const Operation,
    a: *const Layout,
    b: *const Layout,
    c: *const Layout,
    d: *const Layout,
    preference: *const Preference,
    requested: c_int,
    results: *mut Heuristic,
    count: *mut c_int,
) -> c_uint {
    let (operation, preference) = unsafe { (&*operation, &*preference) };
    let (a, b, c, d) = unsafe { (&*a, &*b, &*c, &*d) };
    if handle != HANDLE || !has_context() || requested < 1 || c != d {
        return INVALID_VALUE;
    }
    let mut algorithm = match understood(operation, a, b, d) {
        Ok(algorithm) => algorithm,
        Err(status) => return status,
    };
    // An odd stride needs elements that are read one by one.
    let aligned = |layout: &Layout, bytes: u32, size: u64| {
        bytes <= 16 && (layout.ld as u64 * size).is_multiple_of(bytes.min(size as u32).into())
    };
    let d_size = if d.dtype == R_32F { 4 } else { 2 };
    let [of_a, of_b, of_c, of_d] = preference.alignments;
    let fits = aligned(a, of_a, 2) && aligned(b, of_b, 2) && aligned(d, of_d, d_size) && of_c == of_d;
    let bias = !algorithm.has_bias || (operation.bias != 0 && operation.bias % 32 == 16);
    if !fits || !bias || preference.reduction != REDUCTION_IN_COMPUTE_TYPE {
        return INVALID_VALUE;
    }
    CHOICES.fetch_add(1, SeqCst);
    let has_none = wrong() == "no algorithm" || (wrong() == "none for 5 rows" && algorithm.shape[1] == 5);
    unsafe { *count = if has_none { 0 } else { 1 } };
    if has_none {
        return SUCCESS;
    }
    algorithm.alignments = preference.alignments.map(|n| n as u16);
    algorithm.workspace = preference.workspace.min(WORKSPACE as u64);
    const { assert!(size_of::<Algorithm>() <= 64) };
    let mut data = [0u64; 8];
    unsafe {
        data.as_mut_ptr().cast::<Algorithm>().write(algorithm);
        results.write(Heuristic {
            algorithm: data,
            workspace: algorithm.workspace as usize,
            state: SUCCESS,
            waves: 1.0,
            reserved: [0; 4],
        });
    }
    SUCCESS
}

/// A product that is queued.
struct Product {
    operation: Operation,
    layouts: [Layout; 3],
    pointers: [u64; 3],
    workspace: (u64, usize),
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: *mut c_void,
    operation: *const Operation,
    alpha: *const f32,
    a: u64,
    a_layout: *const Layout,
    b: u64,
    b_layout: *const Layout,
    beta: *const f32,
    c: u64,
    c_layout: *const Layout,
    d: u64,
    d_layout: *const Layout,
    algorithm: *const Algorithm,
    workspace: u64,
    workspace_bytes: usize,
    stream: *mut c_void,
) -> c_uint {
    if handle != HANDLE || !has_context() || wrong() == "failing product" {
        return EXECUTION_FAILED;
    }
    let (operation, chosen) = unsafe { (*operation, *algorithm) };
    let layouts = unsafe { [*a_layout, *b_layout, *d_layout] };
    let Ok(mut wanted) = understood(&operation, &layouts[0], &layouts[1], &layouts[2]) else {
        return INVALID_VALUE;
    };
    (wanted.alignments, wanted.workspace) = (chosen.alignments, chosen.workspace);
    let aligned = [a, b, c, d].iter().zip(chosen.alignments).all(|(ptr, n)| ptr.is_multiple_of(n.into()));
    let in_place = c == d && unsafe { *c_layout == *d_layout };
    let scaled = unsafe { (*alpha, *beta) } == (1.0, 0.0);
    if wanted != chosen || !aligned || !in_place || !scaled || workspace_bytes < chosen.workspace as usize {
        return INVALID_VALUE;
    }
    if wanted.has_bias && (operation.bias == 0 || operation.bias % 16 != 0) {
        return INVALID_VALUE;
    }
    let workspace = (workspace, chosen.workspace as usize);
    let product = Product { operation, layouts, pointers: [a, b, d], workspace };
    // Kept for as long as a graph may be launched: to the end of the process.
    let product = Box::into_raw(Box::new(product));
    unsafe { fake_queue(stream, multiply, product.cast()) };
    SUCCESS
}

unsafe extern "C" fn multiply(product: *mut c_void) {
    let Product { operation, layouts: [a, b, d], pointers: [at_a, at_b, at_d], workspace } =
        unsafe { &*product.cast::<Product>() };
    unsafe { (workspace.0 as *mut u8).write_bytes(0xff, workspace.1) };
    let element = |layout: &Layout, at: u64, transposed: c_int, row: u64, col: u64| {
        let (row, col) = if transposed == 0 { (row, col) } else { (col, row) };
        unsafe { read(layout.dtype, at, row + col * layout.ld as u64) }
    };
    let k = if operation.transa == 0 { a.cols } else { a.rows };
    for col in 0..d.cols {
        for row in 0..d.rows {
            let mut sum = 0.0;
            for i in 0..k {
                sum += element(a, *at_a, operation.transa, row, i) * element(b, *at_b, operation.transb, i, col);
            }
            if operation.epilogue == EPILOGUE_BIAS {
                sum += unsafe { read(d.dtype, operation.bias, row) };
            }
            unsafe { write(d.dtype, *at_d, row + col * d.ld as u64, sum) };
        }
    }
}

unsafe fn read(dtype: c_uint, at: u64, i: u64) -> f32 {
    unsafe {
        match dtype {
            R_32F => *(at as *const f32).add(i as usize),
            R_16BF => f32::from_bits(u32::from(*(at as *const u16).add(i as usize)) << 16),
            _ => from_f16(*(at as *const u16).add(i as usize)),
        }
    }
}

unsafe fn write(dtype: c_uint, at: u64, i: u64, value: f32) {
    unsafe {
        match dtype {
            R_32F => *(at as *mut f32).add(i as usize) = value,
            R_16BF => *(at as *mut u16).add(i as usize) = to_bf16(value),
            _ => *(at as *mut u16).add(i as usize) = to_f16(value),
        }
    }
}

fn from_f16(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 31, f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024.0 + fraction) * 2f32.powi(i32::from(e) - 25),
    };
    if sign == 0 { magnitude } else { -magnitude }
}

/// To nearest, ties to even.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// To nearest, ties to even, for numbers that f16 holds normally, and zero.
fn to_f16(value: f32) -> u16 {
    let (bits, sign) = (value.to_bits(), (value.to_bits() >> 31 << 15) as u16);
    if value == 0.0 {
        return sign;
    }
    let rounded = (bits & 0x7fff_ffff) + 0xfff + (bits >> 13 & 1);
    sign | ((rounded >> 13) - (112 << 10)) as u16
}
