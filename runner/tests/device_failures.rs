//! What goes wrong on a device is one sentence, and leaves nothing half done.

mod common;
#[path = "common/program.rs"]
mod program;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lacuna::gpu::driver::{EventHandle, GraphHandle, KernelHandle, LaunchConfig, ModuleHandle};
use lacuna::gpu::{
    Context, DeviceInfo, DevicePtr, Driver, DryRunDriver, EmulatedDriver, Image, MemoryInfo, RawStream,
};
use lacuna::{Arch, DType, DeviceError};
use lacuna_runner::Error;
use lacuna_runner::model::{self, LoadOptions, Model, typical_device};
use program::{lacuna, path};
use serde_json::json;

/// A checkpoint of random weights that GPU kernels take.
fn checkpoint() -> tempfile::TempDir {
    let mut config = common::config();
    for (key, value) in
        [("hidden_size", 64), ("head_dim", 64), ("num_attention_heads", 2), ("num_key_value_heads", 1)]
    {
        config[key] = json!(value);
    }
    let dir = tempfile::tempdir().unwrap();
    common::write_checkpoint(dir.path(), &config, &common::tensors(&config, 3), DType::Bf16);
    common::write_byte_tokenizer(dir.path());
    dir
}

fn load(driver: Arc<dyn Driver>, dir: &Path) -> lacuna_runner::Result<Box<dyn Model>> {
    let context = Context::new(driver, &lacuna::ptx::IMAGES)?;
    model::load_on(&context, dir, &LoadOptions::default(), &mut |_| ())
}

/// An emulated device that is lost when its launches are used up.
#[derive(Debug)]
struct Mortal {
    device: EmulatedDriver,
    launches_left: AtomicU32,
}

impl Mortal {
    fn lost(&self) -> Result<(), DeviceError> {
        let spend = |left: u32| left.checked_sub(1);
        match self.launches_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend) {
            Ok(_) => Ok(()),
            Err(_) => Err(DeviceError::Lost {
                call: "cuLaunchKernel",
                code: 719,
                name: "CUDA_ERROR_LAUNCH_FAILED".into(),
            }),
        }
    }
}

// SAFETY, for each call below: it is the caller's, handed on.
impl Driver for Mortal {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }
    fn memory(&self) -> Result<MemoryInfo, DeviceError> {
        self.device.memory()
    }
    fn alloc(&self, bytes: usize, what: &str) -> Result<DevicePtr, DeviceError> {
        self.device.alloc(bytes, what)
    }
    unsafe fn free(&self, ptr: DevicePtr) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.free(ptr) }
    }
    unsafe fn copy_to_device(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        src: &[u8],
    ) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.copy_to_device(stream, dst, src) }
    }
    unsafe fn copy_to_host(
        &self,
        stream: RawStream,
        src: DevicePtr,
        dst: &mut [u8],
    ) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.copy_to_host(stream, src, dst) }
    }
    unsafe fn fill(
        &self,
        stream: RawStream,
        dst: DevicePtr,
        value: u8,
        bytes: usize,
    ) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.fill(stream, dst, value, bytes) }
    }
    fn load_module(&self, image: &Image) -> Result<ModuleHandle, DeviceError> {
        self.device.load_module(image)
    }
    unsafe fn unload_module(&self, module: ModuleHandle) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.unload_module(module) }
    }
    unsafe fn kernel(
        &self,
        module: ModuleHandle,
        name: &str,
        smem: u32,
    ) -> Result<KernelHandle, DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.kernel(module, name, smem) }
    }
    unsafe fn launch(
        &self,
        stream: RawStream,
        kernel: KernelHandle,
        config: &LaunchConfig,
        args: &[&[u8]],
    ) -> Result<(), DeviceError> {
        self.lost()?;
        // SAFETY: see above.
        unsafe { self.device.launch(stream, kernel, config, args) }
    }
    fn create_stream(&self) -> Result<RawStream, DeviceError> {
        self.device.create_stream()
    }
    unsafe fn destroy_stream(&self, stream: RawStream) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.destroy_stream(stream) }
    }
    fn synchronize_device(&self) -> Result<(), DeviceError> {
        self.device.synchronize_device()
    }
    unsafe fn synchronize(&self, stream: RawStream) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.synchronize(stream) }
    }
    fn create_event(&self) -> Result<EventHandle, DeviceError> {
        self.device.create_event()
    }
    unsafe fn destroy_event(&self, event: EventHandle) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.destroy_event(event) }
    }
    unsafe fn record_event(&self, event: EventHandle, stream: RawStream) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.record_event(event, stream) }
    }
    unsafe fn wait_event(&self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.wait_event(stream, event) }
    }
    unsafe fn elapsed_ms(&self, start: EventHandle, end: EventHandle) -> Result<f32, DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.elapsed_ms(start, end) }
    }
    unsafe fn begin_capture(&self, stream: RawStream) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.begin_capture(stream) }
    }
    unsafe fn end_capture(&self, stream: RawStream) -> Result<GraphHandle, DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.end_capture(stream) }
    }
    unsafe fn launch_graph(&self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError> {
        self.lost()?;
        // SAFETY: see above.
        unsafe { self.device.launch_graph(stream, graph) }
    }
    unsafe fn destroy_graph(&self, graph: GraphHandle) -> Result<(), DeviceError> {
        // SAFETY: see above.
        unsafe { self.device.destroy_graph(graph) }
    }
}

#[test]
fn a_device_that_is_lost_says_so_and_the_context_is_as_it_was() {
    let dir = checkpoint();
    let tokens = common::random_tokens(20, 1);
    for (launches, cached) in [(0, 0), (7, 0), (40, 20)] {
        let device = EmulatedDriver::with_options(Arch::Sm80, Default::default());
        let device = Arc::new(Mortal { device, launches_left: AtomicU32::new(launches) });
        let model = load(device, dir.path()).unwrap();
        let mut session = model.session(64).unwrap();
        let mut run = || -> lacuna_runner::Result<()> {
            session.forward(&tokens, &Default::default(), &mut ())?;
            for token in 0..30 {
                session.decode(token)?;
            }
            Ok(())
        };
        let error = run().unwrap_err();
        assert!(
            error.to_string().starts_with("the device is lost, with all that was in its memory"),
            "{error}"
        );
        assert!(session.len() >= cached && session.len() < 50, "{}", session.len());
        // What comes after says the same.
        assert!(matches!(
            session.decode(1).unwrap_err(),
            Error::Attention(lacuna::Error::Device(DeviceError::Lost { .. }))
        ));
    }
}

#[test]
fn an_old_device_and_a_small_one_are_refused_before_weights_are_read() {
    let dir = checkpoint();
    let old = DeviceInfo { name: "Tesla T4".into(), compute_capability: (7, 5), ..typical_device() };
    let refused = load(Arc::new(DryRunDriver::new(old, 16 << 30)), dir.path()).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "Tesla T4 has compute capability 7.5, expected at least 8.0");

    // Enough for the plans alone, then for the weights, then for a short context.
    let device = |bytes| Arc::new(DryRunDriver::new(typical_device(), bytes));
    let unlimited = device(1 << 40);
    let model = load(unlimited.clone(), dir.path()).unwrap();
    let weights = unlimited.allocated_bytes();
    drop(model);
    let full = load(device(weights - 1), dir.path()).map(|_| ()).unwrap_err();
    assert!(full.to_string().starts_with("out of device memory: weights needs "), "{full}");

    let device = device(weights + (4 << 20));
    let model = load(device.clone(), dir.path()).unwrap();
    let before = device.allocated_bytes();
    let full = model.session(1 << 20).map(|_| ()).unwrap_err();
    assert!(full.to_string().starts_with("out of device memory: the KV cache needs "), "{full}");
    assert_eq!(device.allocated_bytes(), before, "what was half made is not given back");
    let mut session = model.session(100).unwrap();
    let before = device.allocated_bytes();
    let launches = device.launches().len();
    let full = session.forward(&vec![1; 100], &Default::default(), &mut ()).map(|_| ());
    assert!(full.is_ok(), "{full:?}");
    let mut session_of_many = model.session(3000).unwrap();
    let held = device.allocated_bytes();
    let full = session_of_many.forward(&vec![1; 3000], &Default::default(), &mut ()).map(|_| ());
    let full = full.unwrap_err().to_string();
    assert!(full.starts_with("out of device memory: activations needs "), "{full}");
    assert_eq!((device.allocated_bytes(), session_of_many.len()), (held, 0));
    drop((session, session_of_many));
    assert!(device.allocated_bytes() <= before && device.launches().len() > launches);
}

#[test]
fn types_and_sizes_that_gpus_do_not_take_are_named() {
    let dir = checkpoint();
    let options = LoadOptions { dtype: Some(DType::F32), ..Default::default() };
    let context =
        Context::new(Arc::new(DryRunDriver::new(typical_device(), 1 << 30)), &lacuna::ptx::IMAGES).unwrap();
    let refused = model::load_on(&context, dir.path(), &options, &mut |_| ()).map(|_| ()).unwrap_err();
    assert_eq!(refused.to_string(), "dtype must be bf16 or f16 on a GPU, got f32");
    // Heads of 16 features.
    let small = common::random_checkpoint(1);
    let options = LoadOptions { dtype: Some(DType::Bf16), ..Default::default() };
    let refused = model::load_on(&context, small.path(), &options, &mut |_| ()).map(|_| ());
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("head_dim must be 64 or 128 on a device, got 16"), "{refused}");
}

#[test]
fn the_program_says_why_in_a_sentence_and_prints_nothing_else() {
    let dir = checkpoint();
    let dir = path(dir.path());
    if lacuna::Device::Cuda(0).context().is_err() {
        let run = lacuna(["generate", "-m", dir, "-p", "hi", "--device", "cuda"]);
        run.fails(1, &["error: no NVIDIA driver: this machine has no libcuda to load"]);
        assert_eq!(run.stderr().lines().count(), 1);
    }
    let big = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/configs/llama_8b");
    let args = ["generate", "-m", big, "--load-format", "dummy", "--prompt-tokens", "64k", "--dtype", "bf16"];
    lacuna([&args[..], &["--device", "emulated", "--json"]].concat())
        .fails(1, &["of device memory, but 16.0 GiB are free; the most of it is for weights"]);
    let run = lacuna(["generate", "-m", dir, "-p", "hi", "--device", "emulated", "--gemm", "cublaslt"]);
    run.fails(1, &[]);
    assert!(run.stderr().to_lowercase().contains("cublaslt"), "{}", run.stderr());
    lacuna(["generate", "-m", dir, "-p", "hi", "--device", "tpu"])
        .fails(2, &["expected cpu, cuda, cuda:N or emulated, got tpu"]);
}

#[test]
fn the_program_runs_a_model_on_the_emulator() {
    let dir = checkpoint();
    let dir = path(dir.path());
    let on = |device| {
        let run =
            lacuna(["generate", "-m", dir, "-p", "What a day", "-n", "3", "--json", "--device", device]);
        run.json()
    };
    let (cpu, emulated) = (on("cpu"), on("emulated"));
    assert_eq!(emulated["device"], "emulated:sm_80");
    assert_eq!((&emulated["gemm"], &cpu["gemm"]), (&json!("own"), &json!(null)));
    assert_eq!(emulated["answers"][0]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(emulated["answers"][0]["tokens"], cpu["answers"][0]["tokens"]);
    let drawn =
        lacuna(["mask", "-m", dir, "-p", "What a day", "-a", "streaming,block=64", "--device", "emulated"]);
    assert!(!drawn.ok().is_empty());
}
