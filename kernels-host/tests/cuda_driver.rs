//! What the host makes of the CUDA driver's answers, told by a library that has the driver's names and no device behind
//! them. Each test runs itself again in a process that finds that library first.
#![cfg(all(feature = "cuda", target_os = "linux"))]

mod fake_driver;

use lacuna_core::{DeviceError, Error};
use lacuna_kernels_host::driver::LaunchConfig;
use lacuna_kernels_host::{Context, CudaDriver, DeviceBuffer, Graph, Stream};

const IMAGE: &str = ".version 7.0\n.target sm_80\n";

/// Runs `test`, which is called `name`, where the driver is the library with `wrong` wrong.
fn inside(name: &str, wrong: &str, test: impl FnOnce()) {
    fake_driver::inside(fake_driver::driver, name, &[("FAKE_CUDA", wrong)], test);
}

fn cuda() -> Result<Context, Error> {
    Context::cuda(0, &[IMAGE])
}

#[test]
fn a_machine_without_devices() {
    inside("a_machine_without_devices", "no device", || {
        assert_eq!(CudaDriver::count(), Ok(0));
        let why = cuda().unwrap_err();
        assert_eq!(why, Error::Device(DeviceError::NoSuchDevice { ordinal: 0, count: 0 }));
        assert_eq!(why.to_string(), "no CUDA device 0: the driver sees 0, counted from 0");
    });
}

#[test]
fn the_stub_of_the_toolkit_is_no_driver() {
    inside("the_stub_of_the_toolkit_is_no_driver", "stub", || {
        assert_eq!(cuda().unwrap_err(), Error::Device(DeviceError::NoDriver));
    });
}

#[test]
fn an_old_driver() {
    inside("an_old_driver", "old", || {
        let why = cuda().unwrap_err().to_string();
        assert_eq!(why, "the NVIDIA driver supports CUDA 11.4, expected at least CUDA 12.0");
    });
}

#[test]
fn an_old_device() {
    inside("an_old_device", "turing", || {
        let why = cuda().unwrap_err().to_string();
        assert_eq!(why, "Fake has compute capability 7.5, expected at least 8.0");
    });
}

#[test]
fn a_device_that_is_not_there() {
    inside("a_device_that_is_not_there", "", || {
        for ordinal in [1, 1 << 40] {
            let why = CudaDriver::new(ordinal).unwrap_err();
            assert_eq!(why, DeviceError::NoSuchDevice { ordinal, count: 1 });
        }
    });
}

#[test]
fn a_device_that_another_process_holds() {
    inside("a_device_that_another_process_holds", "unavailable", || {
        let why = cuda().unwrap_err();
        assert!(matches!(why, Error::Device(DeviceError::Unavailable { code: 46, .. })), "{why:?}");
        assert_eq!(
            why.to_string(),
            "the device is not available, held by another process or closed to all by its compute mode: \
             cuDevicePrimaryCtxRetain failed with CUDA error 46 (CUDA_ERROR_DEVICE_UNAVAILABLE)"
        );
    });
}

/// What is said of a lost device.
fn is_lost(why: Error, call: &str, code: u32, name: &str) {
    assert!(matches!(why, Error::Device(DeviceError::Lost { .. })), "{why:?}");
    assert_eq!(
        why.to_string(),
        format!(
            "the device is lost, with all that was in its memory: {call} failed with CUDA error {code} ({name}); \
             start the program again"
        )
    );
}

#[test]
fn an_illegal_address_loses_the_device() {
    inside("an_illegal_address_loses_the_device", "illegal address", || {
        let context = cuda().unwrap();
        let buffer = DeviceBuffer::from_host(&context, &[1u32], "data").unwrap();
        let why = buffer.to_host(&context.default_stream()).unwrap_err();
        is_lost(why, "cuMemcpyDtoHAsync", 700, "CUDA_ERROR_ILLEGAL_ADDRESS");
    });
}

/// A device that is lost at the first wait, launch or graph launch, and what comes after.
fn a_lost_device(by: &str, call: &str, code: u32, error: &str) {
    let context = cuda().unwrap();
    let driver = context.driver().clone();
    let stream = context.new_stream().unwrap();
    let buffer = DeviceBuffer::<u32>::uninit(&context, 8, "data").unwrap();
    let module = driver.load_module(&IMAGE.into()).unwrap();
    let config = LaunchConfig { grid: [1, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
    let (ptr, count) = (buffer.ptr().0.to_ne_bytes(), 0u32.to_ne_bytes());
    // SAFETY: the library's one kernel, with its parameters.
    let kernel = unsafe { driver.kernel(module, "double_it", 0) }.unwrap();
    // SAFETY: as above.
    let launch = || Ok(unsafe { driver.launch(stream.raw(), kernel, &config, &[&ptr, &count]) }?);
    let first = match by {
        "launch" => launch(),
        "graph" => {
            let graph = Graph::capture(&stream, |_| Ok(())).unwrap();
            // SAFETY: it is empty.
            unsafe { graph.launch(&stream) }
        }
        _ => launch().and_then(|()| stream.synchronize()),
    };
    is_lost(first.unwrap_err(), call, code, error);
    // Nothing works from now on, and each call says why.
    is_lost(context.memory().unwrap_err(), "cuMemGetInfo", code, error);
    is_lost(DeviceBuffer::<u32>::uninit(&context, 8, "more").unwrap_err(), "cuMemAlloc", code, error);
    is_lost(launch().unwrap_err(), "cuLaunchKernel", code, error);
    is_lost(stream.synchronize().unwrap_err(), "cuStreamSynchronize", code, error);
    // Dropping what was there neither panics nor aborts.
    drop((buffer, stream, context));
}

#[test]
fn a_device_that_a_launch_loses() {
    inside("a_device_that_a_launch_loses", "lost by a launch", || {
        a_lost_device("launch", "cuLaunchKernel", 719, "CUDA_ERROR_LAUNCH_FAILED");
    });
}

#[test]
fn a_device_that_is_found_lost_by_waiting() {
    inside("a_device_that_is_found_lost_by_waiting", "lost by waiting", || {
        a_lost_device("waiting", "cuStreamSynchronize", 719, "CUDA_ERROR_LAUNCH_FAILED");
    });
}

#[test]
fn a_device_that_a_graph_loses() {
    inside("a_device_that_a_graph_loses", "lost by a graph", || {
        a_lost_device("graph", "cuGraphLaunch", 719, "CUDA_ERROR_LAUNCH_FAILED");
    });
}

#[test]
fn a_device_that_fails_for_unknown_reasons() {
    inside("a_device_that_fails_for_unknown_reasons", "unknown", || {
        a_lost_device("waiting", "cuStreamSynchronize", 999, "CUDA_ERROR_UNKNOWN");
    });
}

#[test]
fn memory_modules_launches_streams_and_events() {
    inside("memory_modules_launches_streams_and_events", "", || {
        let context = cuda().unwrap();
        assert_eq!((context.info().compute_capability, context.info().multiprocessors), ((8, 0), 108));
        assert_eq!(context.info().driver, "CUDA 12.8");
        let driver = context.driver().clone();
        let (stream, other) = (context.new_stream().unwrap(), context.default_stream());

        let free = context.memory().unwrap().free;
        let mut buffer = DeviceBuffer::from_host(&context, &(0..100).collect::<Vec<u32>>(), "data").unwrap();
        assert_eq!(context.memory().unwrap().free, free - 400);
        let why = DeviceBuffer::<u8>::uninit(&context, 1 << 30, "too much").unwrap_err().to_string();
        assert_eq!(
            why,
            format!("out of device memory: too much needs 1073741824 bytes, {} are free", free - 400)
        );

        let module = driver.load_module(&IMAGE.into()).unwrap();
        let config = LaunchConfig { grid: [4, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
        let [start, end] = [context.new_event().unwrap(), context.new_event().unwrap()];
        start.record(&stream).unwrap();
        // SAFETY: the library's one kernel, with its parameters.
        unsafe {
            let missing = driver.kernel(module, "triple_it", 0).unwrap_err();
            assert_eq!(missing, DeviceError::KernelNotFound { kernel: "triple_it".into() });
            let kernel = driver.kernel(module, "double_it", 100 << 10).unwrap();
            let (ptr, count) = (buffer.ptr().0.to_ne_bytes(), 100u32.to_ne_bytes());
            driver.launch(stream.raw(), kernel, &config, &[&ptr, &count]).unwrap();
            let too_many = [&[0u8; 8][..]; 33];
            assert!(driver.launch(stream.raw(), kernel, &config, &too_many).is_err());
        }
        end.record(&stream).unwrap();
        other.wait(&end).unwrap();
        assert_eq!(start.elapsed_ms(&end).unwrap(), 1.5);
        assert!(buffer.to_host(&stream).unwrap().into_iter().eq((0..100).map(|x| 2 * x)));
        buffer.fill_bytes(&stream, 7).unwrap();
        assert!(buffer.to_host(&other).unwrap().iter().all(|&x| x == 0x0707_0707));
        stream.synchronize().unwrap();
        // SAFETY: none of its kernels runs.
        unsafe { driver.unload_module(module) }.unwrap();

        let why = driver.load_module(&".version 7.0\n.target sm_80\nshove;".into()).unwrap_err().to_string();
        let said = "CUDA_ERROR_INVALID_PTX: ptxas fatal : Unknown opcode 'shove'";
        assert_eq!(why, format!("the image was not accepted: {said}"));
        assert!(driver.load_module(&"a\0b".into()).unwrap_err().to_string().contains("a zero byte at 1"));
        drop(buffer);
        assert_eq!(context.memory().unwrap().free, free);
    });
}

#[test]
fn graphs() {
    inside("graphs", "", || {
        let context = cuda().unwrap();
        let driver = context.driver().clone();
        let stream = context.new_stream().unwrap();
        let mut buffer = DeviceBuffer::from_host(&context, &[1u32, 2, 3], "data").unwrap();
        let module = driver.load_module(&IMAGE.into()).unwrap();
        let config = LaunchConfig { grid: [1, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
        let (ptr, count) = (buffer.ptr().0.to_ne_bytes(), 3u32.to_ne_bytes());
        let double = |stream: &Stream| -> Result<(), Error> {
            // SAFETY: the library's one kernel, with its parameters.
            unsafe {
                let kernel = driver.kernel(module, "double_it", 0)?;
                Ok(driver.launch(stream.raw(), kernel, &config, &[&ptr, &count])?)
            }
        };
        let graph = Graph::capture(&stream, |stream| {
            double(stream)?;
            double(stream)
        });
        let graph = graph.unwrap();
        assert_eq!(buffer.to_host(&stream).unwrap(), [1, 2, 3]);
        // SAFETY: the buffer lives, and so does the module.
        unsafe { graph.launch(&stream) }.unwrap();
        assert_eq!(buffer.to_host(&stream).unwrap(), [4, 8, 12]);
        buffer.copy_from_host(&stream, &[5]).unwrap();
        // SAFETY: as above.
        unsafe { graph.launch(&stream) }.unwrap();
        assert_eq!(buffer.to_host(&stream).unwrap(), [20, 32, 48]);

        // Recorded copies would keep addresses of the host.
        let why = Graph::capture(&stream, |stream| buffer.copy_from_host(stream, &[7])).unwrap_err();
        let said = "cuMemcpyHtoDAsync failed with CUDA error 900 (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)";
        assert_eq!(why.to_string(), said);
        let why = Graph::capture(&stream, |stream| buffer.to_host(stream).map(drop)).unwrap_err();
        assert_eq!(why.to_string(), said.replace("HtoD", "DtoH"));
        assert_eq!(buffer.to_host(&stream).unwrap(), [20, 32, 48]);
        let why = Graph::capture(&context.default_stream(), |_| Ok(())).unwrap_err();
        assert_eq!(why.to_string(), said.replace("cuMemcpyHtoDAsync", "cuStreamBeginCapture"));
    });
}

#[test]
fn a_capture_that_the_driver_gave_up() {
    inside("a_capture_that_the_driver_gave_up", "lost capture", || {
        let context = cuda().unwrap();
        let stream = context.new_stream().unwrap();
        let why = Graph::capture(&stream, |_| Ok(())).unwrap_err().to_string();
        assert_eq!(
            why,
            "cuStreamEndCapture failed with CUDA error 901 (CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)"
        );
        stream.synchronize().unwrap();
    });
}
