//! Products by cuBLASLt, as told by a library of its names that multiplies on the processor what its descriptors say. Each
//! test runs itself again in a process that finds that library first.
#![cfg(all(feature = "cublaslt", target_os = "linux"))]

mod fake_driver;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use bytemuck::Pod;
use half::{bf16, f16};
use lacuna_core::{DeviceError, Element, Error, Layout};
use lacuna_kernels_host::gemm::{Backend, Plan};
use lacuna_kernels_host::{Context, DeviceBuffer, DeviceView, DeviceViewMut, Graph};
use lacuna_reference::testing::Rng;

const IMAGE: &str = ".version 7.0\n.target sm_80\n";

/// The folder of a driver and a cuBLASLt.
fn library() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fake_cublaslt");
        fake_driver::build(&folder, "libcuda.rs", "cuda");
        fake_driver::build(&folder, "libcublaslt.rs", "cublasLt");
        folder
    })
}

/// Runs `test`, which is called `name`, where the library is `wrong`.
fn inside(name: &str, wrong: &str, test: impl FnOnce()) {
    fake_driver::inside(library, name, &[("FAKE_CUBLASLT", wrong)], test);
}

fn cuda() -> Context {
    Context::cuda(0, &[IMAGE]).unwrap()
}

/// Handles that live, handles ever made, descriptors that live, algorithms chosen.
fn counts() -> [usize; 4] {
    let mut counts = [0; 4];
    // SAFETY: the library is loaded, and the function takes room for four numbers.
    unsafe {
        let library = libloading::Library::new("libcublasLt.so").unwrap();
        let ask = library.get::<unsafe extern "C" fn(*mut [usize; 4])>(b"fake_counts").unwrap();
        ask(&mut counts);
    }
    counts
}

/// Small whole numbers: products of them are exact in every type.
fn whole<T: Element>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::from_f32(rng.below(5) as f32 - 2.0)).collect()
}

/// A matrix of rows `stride` elements apart, `first` elements into its buffer; what lies between is not a number.
struct Matrix<T> {
    rows: usize,
    cols: usize,
    stride: usize,
    first: usize,
    data: Vec<T>,
}

impl<T: Element + Pod> Matrix<T> {
    fn new(rng: &mut Rng, [rows, cols]: [usize; 2], gap: usize, first: usize) -> Self {
        let mut data = vec![T::from_f32(f32::NAN); first + rows * (cols + gap) + gap];
        let stride = cols + gap;
        for row in 0..rows {
            data[first + row * stride..][..cols].copy_from_slice(&whole(rng, cols));
        }
        Self { rows, cols, stride, first, data }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.data[self.first + row * self.stride + col].to_f32()
    }

    fn layout(&self) -> Layout {
        Layout {
            batch: 1,
            seqlen: self.rows,
            heads: 1,
            head_dim: self.cols,
            batch_stride: self.rows * self.stride,
            token_stride: self.stride,
            head_stride: self.cols,
        }
    }

    fn upload(&self, context: &Context) -> DeviceBuffer<T> {
        DeviceBuffer::from_host(context, &self.data, "matrix").unwrap()
    }
}

/// A product of one shape on one set of matrices.
struct Case {
    rows: usize,
    out: usize,
    inner: usize,
    gaps: [usize; 3],
    first: usize,
    has_bias: bool,
}

/// Runs a case, and compares every element of the output's buffer.
fn check<T: Element + Pod, O: Element + Pod>(context: &Context, plan: &Plan<T, O>, case: &Case, seed: u64) {
    let Case { rows, out, inner, gaps, first, has_bias } = *case;
    let mut rng = Rng::new(seed);
    let x = Matrix::<T>::new(&mut rng, [rows, inner], gaps[0], first);
    let weight = Matrix::<T>::new(&mut rng, [out, inner], gaps[1], first);
    let bias = Matrix::<T>::new(&mut rng, [1, out], 0, first);
    let mut result = Matrix::<O>::new(&mut rng, [rows, out], gaps[2], first);
    result.data.fill(O::from_f32(f32::NAN));

    let stream = context.new_stream().unwrap();
    let [on_x, on_weight, on_bias] = [&x, &weight, &bias].map(|matrix| matrix.upload(context));
    let mut on_result = result.upload(context);
    let view = |buffer, matrix: &Matrix<T>| DeviceView::new(buffer, matrix.first, matrix.layout()).unwrap();
    let layout = result.layout();
    let mut to = DeviceViewMut::new(&mut on_result, first, layout).unwrap();
    let on_bias = has_bias.then(|| view(&on_bias, &bias));
    plan.run(&stream, &view(&on_x, &x), &view(&on_weight, &weight), on_bias.as_ref(), &mut to).unwrap();

    for row in 0..rows {
        for col in 0..out {
            let sum: f32 = (0..inner).map(|i| x.at(row, i) * weight.at(col, i)).sum();
            let sum = sum + if has_bias { bias.at(0, col) } else { 0.0 };
            result.data[first + row * result.stride + col] = O::from_f32(sum);
        }
    }
    let bits = |data: &[O]| data.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>();
    let got = on_result.to_host(&stream).unwrap();
    assert!(
        bits(&got) == bits(&result.data),
        "[{rows}, {inner}] by [{out}, {inner}], {gaps:?} {first} {has_bias}"
    );
}

fn products<T: Element + Pod>(context: &Context) {
    for (i, &(out, inner)) in [(8, 8), (64, 24), (24, 136), (8, 40)].iter().enumerate() {
        let plan = Plan::<T>::new(context, 9, out, inner, Backend::CublasLt).unwrap();
        assert_eq!(plan.backend(), Backend::CublasLt);
        for rows in [0, 1, 2, 5, 9] {
            for (gaps, first, has_bias) in
                [([0, 0, 0], 0, false), ([8, 16, 24], 8, false), ([0, 8, 0], 16, true), ([16, 0, 8], 0, true)]
            {
                check(context, &plan, &Case { rows, out, inner, gaps, first, has_bias }, i as u64);
            }
        }
    }
}

#[test]
fn products_of_bf16() {
    inside("products_of_bf16", "", || products::<bf16>(&cuda()));
}

#[test]
fn products_of_f16() {
    inside("products_of_f16", "", || products::<f16>(&cuda()));
}

fn logits(context: &Context) {
    for (out, gap) in [(64, 0), (64, 4), (61, 0), (61, 3)] {
        let plan = Plan::<bf16, f32>::new(context, 5, out, 40, Backend::CublasLt).unwrap();
        for rows in [1, 3] {
            let case = Case { rows, out, inner: 40, gaps: [8, 0, gap], first: 8, has_bias: false };
            check(context, &plan, &case, out as u64);
        }
    }
}

#[test]
fn logits_are_written_in_f32() {
    inside("logits_are_written_in_f32", "", || logits(&cuda()));
}

/// The library itself, with the feature `gpu-tests`. Prints why there is none; `REQUIRE_GPU=1` makes that a failure.
#[cfg(feature = "gpu-tests")]
#[test]
fn the_library_itself() {
    let context = Context::cuda(0, &[IMAGE]).and_then(|context| {
        let started = Plan::<bf16>::new(&context, 1, 64, 64, Backend::CublasLt);
        started.map(|_| context)
    });
    match context {
        Ok(context) => {
            products::<bf16>(&context);
            products::<f16>(&context);
            logits(&context);
        }
        Err(why) if std::env::var_os("REQUIRE_GPU").is_some_and(|v| v == "1") => panic!("{why}"),
        Err(why) => eprintln!("skipped on the GPU: {why}"),
    }
}

#[test]
fn the_library_takes_no_bias_of_another_type() {
    inside("the_library_takes_no_bias_of_another_type", "", || {
        let context = cuda();
        let plan = Plan::<bf16, f32>::new(&context, 5, 64, 40, Backend::CublasLt).unwrap();
        let buffer = |len| DeviceBuffer::<bf16>::uninit(&context, len, "matrix").unwrap();
        let (x, weight, bias) = (buffer(40), buffer(64 * 40), buffer(64));
        let mut out = DeviceBuffer::<f32>::uninit(&context, 64, "logits").unwrap();
        let why = plan.run(
            &context.default_stream(),
            &DeviceView::new(&x, 0, Layout::thd(1, 1, 40)).unwrap(),
            &DeviceView::new(&weight, 0, Layout::thd(64, 1, 40)).unwrap(),
            Some(&DeviceView::new(&bias, 0, Layout::thd(1, 1, 64)).unwrap()),
            &mut DeviceViewMut::new(&mut out, 0, Layout::thd(1, 1, 64)).unwrap(),
        );
        let said = "gemm: bias must be none where cuBLASLt writes f32, got one of bf16";
        assert_eq!(why.unwrap_err().to_string(), said);
    });
}

#[test]
fn algorithms_are_chosen_once_and_everything_is_freed() {
    inside("algorithms_are_chosen_once_and_everything_is_freed", "", || {
        let context = cuda();
        let free = context.memory().unwrap().free;
        let plan = Plan::<bf16>::new(&context, 16, 64, 24, Backend::CublasLt).unwrap();
        let other = Plan::<bf16>::new(&context, 16, 24, 24, Backend::CublasLt).unwrap();
        // One handle; for either plan, one row and the most.
        assert_eq!(counts(), [1, 1, 0, 4]);
        let case = |rows| Case { rows, out: 64, inner: 24, gaps: [0; 3], first: 0, has_bias: false };
        for rows in [1, 16, 1, 16] {
            check(&context, &plan, &case(rows), 3);
        }
        assert_eq!(counts(), [1, 1, 0, 4]);
        for _ in 0..3 {
            check(&context, &plan, &case(7), 4);
            check(&context, &plan, &Case { has_bias: true, ..case(7) }, 4);
            // A single row lies at any stride.
            check(&context, &plan, &Case { gaps: [8, 0, 16], ..case(1) }, 4);
        }
        assert_eq!(counts(), [1, 1, 0, 6]);
        drop((plan, other));
        assert_eq!(context.memory().unwrap().free, free);
        drop(context);
        assert_eq!(counts(), [0, 1, 0, 6]);
    });
}

#[test]
fn plans_outlive_their_context_and_run_on_other_threads() {
    inside("plans_outlive_their_context_and_run_on_other_threads", "", || {
        let context = cuda();
        let plan = Plan::<bf16>::new(&context, 16, 64, 24, Backend::CublasLt).unwrap();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (context, plan) = (&context, &plan);
                scope.spawn(move || {
                    let rows = seed as usize + 1;
                    let case = Case { rows, out: 64, inner: 24, gaps: [0; 3], first: 0, has_bias: true };
                    check(context, plan, &case, seed);
                });
            }
        });
        // A thread that has not spoken to the driver before.
        let square = |len| DeviceBuffer::<bf16>::uninit(&context, len, "matrix").unwrap();
        let (x, weight, mut out) = (square(24), square(64 * 24), square(64));
        std::thread::scope(|scope| {
            let product = || {
                let stream = context.default_stream();
                plan.run(
                    &stream,
                    &DeviceView::new(&x, 0, Layout::thd(1, 1, 24))?,
                    &DeviceView::new(&weight, 0, Layout::thd(64, 1, 24))?,
                    None,
                    &mut DeviceViewMut::new(&mut out, 0, Layout::thd(1, 1, 64))?,
                )
            };
            scope.spawn(product).join().unwrap().unwrap();
        });
        drop((x, weight, out));
        drop(context);
        // The last of it goes on a thread that the context was never current on.
        std::thread::spawn(move || drop(plan)).join().unwrap();
        assert_eq!(counts()[0], 0);
    });
}

#[test]
fn products_are_recorded() {
    inside("products_are_recorded", "", || {
        let context = cuda();
        let plan = Plan::<bf16>::new(&context, 4, 8, 8, Backend::CublasLt).unwrap();
        let stream = context.new_stream().unwrap();
        let identity: Vec<bf16> =
            (0..64).map(|i| bf16::from_f32(if i % 9 == 0 { 2.0 } else { 0.0 })).collect();
        let weight = DeviceBuffer::from_host(&context, &identity, "weight").unwrap();
        let ones = [bf16::ONE; 8];
        let mut x = DeviceBuffer::from_host(&context, &ones, "x").unwrap();
        let mut out = DeviceBuffer::from_host(&context, &ones, "out").unwrap();
        let before = counts();
        let graph = Graph::capture(&stream, |stream| {
            let layout = Layout::thd(1, 1, 8);
            plan.run(
                stream,
                &DeviceView::new(&x, 0, layout)?,
                &DeviceView::new(&weight, 0, Layout::thd(8, 1, 8))?,
                None,
                &mut DeviceViewMut::new(&mut out, 0, layout)?,
            )
        });
        let graph = graph.unwrap();
        // Nothing was chosen, and nothing has run.
        assert_eq!(counts(), before);
        assert_eq!(out.to_host(&stream).unwrap(), ones);
        for n in [3.0, 5.0] {
            x.copy_from_host(&stream, &[bf16::from_f32(n); 8]).unwrap();
            // SAFETY: plan and buffers live.
            unsafe { graph.launch(&stream) }.unwrap();
            assert_eq!(out.to_host(&stream).unwrap(), [bf16::from_f32(2.0 * n); 8]);
        }
    });
}

fn refused(backend: Backend) -> Error {
    Plan::<bf16>::new(&cuda(), 16, 64, 24, backend).unwrap_err()
}

#[test]
fn a_machine_without_the_library() {
    let name = "a_machine_without_the_library";
    fake_driver::inside(fake_driver::driver, name, &[], || {
        let why = refused(Backend::CublasLt);
        assert!(matches!(why, Error::Device(DeviceError::NoLibrary { library: "cuBLASLt", .. })), "{why:?}");
        let said = why.to_string();
        assert!(said.starts_with("no cuBLASLt on this machine: none of libcublasLt.so, "), "{said}");
        assert!(said.ends_with(" can be loaded"), "{said}");
        // Our own kernels are taken instead, which this image does not hold.
        let why = refused(Backend::Auto);
        assert!(matches!(why, Error::Device(DeviceError::KernelNotFound { .. })), "{why:?}");
    });
}

#[test]
fn the_library_is_taken_where_it_is() {
    inside("the_library_is_taken_where_it_is", "", || {
        let plan = Plan::<bf16>::new(&cuda(), 16, 64, 24, Backend::Auto).unwrap();
        assert_eq!(plan.backend(), Backend::CublasLt);
        let why = refused(Backend::Own);
        assert!(matches!(why, Error::Device(DeviceError::KernelNotFound { .. })), "{why:?}");
        let why = Plan::<bf16>::new(&emulated(), 16, 64, 24, Backend::CublasLt).unwrap_err().to_string();
        assert_eq!(why, "cublasLtCreate failed with no CUDA device (PTX emulator (sm_80))");
    });
}

fn emulated() -> Context {
    Context::emulated(&[IMAGE]).unwrap()
}

#[test]
fn a_library_that_does_not_start() {
    inside("a_library_that_does_not_start", "no handle", || {
        let why = refused(Backend::CublasLt).to_string();
        assert_eq!(why, "cublasLtCreate failed with CUBLAS_STATUS_NOT_INITIALIZED");
        assert_eq!(counts(), [0; 4]);
    });
}

#[test]
fn a_shape_without_an_algorithm() {
    inside("a_shape_without_an_algorithm", "no algorithm", || {
        let context = cuda();
        let free = context.memory().unwrap().free;
        let why = Plan::<bf16>::new(&context, 16, 64, 24, Backend::CublasLt).unwrap_err().to_string();
        let said = "[1, 24] times the transpose of [64, 24], bf16 to bf16";
        assert_eq!(
            why,
            format!("gemm: the product must be one that cuBLASLt has an algorithm for, got {said}")
        );
        assert_eq!((counts()[2], context.memory().unwrap().free), (0, free));
    });
}

#[test]
fn a_failing_product_is_named_and_leaves_nothing() {
    inside("a_failing_product_is_named_and_leaves_nothing", "failing product", || {
        let context = cuda();
        let plan = Plan::<bf16>::new(&context, 4, 8, 8, Backend::CublasLt).unwrap();
        let buffer = || DeviceBuffer::<bf16>::uninit(&context, 64, "matrix").unwrap();
        let (x, weight, mut out) = (buffer(), buffer(), buffer());
        let (row, square) = (Layout::thd(1, 1, 8), Layout::thd(8, 1, 8));
        let why = plan.run(
            &context.default_stream(),
            &DeviceView::new(&x, 0, row).unwrap(),
            &DeviceView::new(&weight, 0, square).unwrap(),
            None,
            &mut DeviceViewMut::new(&mut out, 0, row).unwrap(),
        );
        let said = "cublasLtMatmul failed with CUBLAS_STATUS_EXECUTION_FAILED";
        assert_eq!(why.unwrap_err().to_string(), said);
        assert_eq!(counts()[2], 0);
    });
}
