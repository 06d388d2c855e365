//! The drivers themselves: what they refuse, and that a machine without one gets an error and no crash.

mod common;

use std::sync::Arc;

use lacuna_core::{DeviceError, Error, Layout, TensorView};
use lacuna_emulator::{Arch, Options};
use lacuna_kernels_host::driver::{LaunchConfig, RawStream};
use lacuna_kernels_host::{
    Context, DeviceBuffer, DevicePtr, DeviceTensor, DeviceView, DeviceViewMut, EmulatedDriver,
};

/// Takes a list to its doubles, one thread per word.
const DOUBLE: &str = "
.version 7.0
.target sm_80
.address_size 64
.visible .entry double_it(.param .u64 .ptr .align 4 data, .param .u32 count) {
    .reg .pred %p<2>;
    .reg .b32 %r<7>;
    .reg .b64 %rd<5>;
    ld.param.b64    %rd1, [data];
    ld.param.b32    %r1, [count];
    mov.u32         %r2, %tid.x;
    mov.u32         %r3, %ctaid.x;
    mov.u32         %r4, %ntid.x;
    mad.lo.s32      %r5, %r3, %r4, %r2;
    setp.ge.u32     %p1, %r5, %r1;
    @%p1 bra        $done;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32    %rd3, %r5, 4;
    add.s64         %rd4, %rd2, %rd3;
    ld.global.b32   %r6, [%rd4];
    shl.b32         %r6, %r6, 1;
    st.global.b32   [%rd4], %r6;
$done:
    ret;
}
";

fn contexts(image: &str) -> Vec<Context> {
    let mut all = vec![Context::emulated(&[image]).unwrap()];
    if let Some(device) = common::device::gpu() {
        all.push(Context::new(device.context.driver().clone(), &[image]).unwrap());
    }
    all
}

#[test]
fn a_kernel_runs_over_a_stream() {
    for context in contexts(DOUBLE) {
        let driver = context.driver();
        let stream = context.new_stream().unwrap();
        let data: Vec<u32> = (0..100).collect();
        let mut buffer = DeviceBuffer::from_host(&context, &data, "data").unwrap();
        let module = driver.load_module(&DOUBLE.into()).unwrap();
        let config = LaunchConfig { grid: [4, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
        let [start, end] = [context.new_event().unwrap(), context.new_event().unwrap()];
        start.record(&stream).unwrap();
        // SAFETY: the module stays loaded; the arguments are the kernel's, and the buffer holds `count` words.
        unsafe {
            let kernel = driver.kernel(module, "double_it", 0).unwrap();
            let (ptr, count) = (buffer.ptr().0.to_ne_bytes(), 100u32.to_ne_bytes());
            driver.launch(stream.raw(), kernel, &config, &[&ptr, &count]).unwrap();
        }
        end.record(&stream).unwrap();
        let other = context.new_stream().unwrap();
        other.wait(&end).unwrap();
        let want: Vec<u32> = data.iter().map(|x| 2 * x).collect();
        assert_eq!(buffer.to_host(&other).unwrap(), want);
        assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
        buffer.fill_bytes(&stream, 0xff).unwrap();
        assert!(buffer.to_host(&stream).unwrap().iter().all(|&x| x == u32::MAX));
        stream.synchronize().unwrap();
        // SAFETY: its work is done.
        unsafe { driver.unload_module(module) }.unwrap();
    }
}

#[test]
fn a_missing_kernel_and_a_bad_image_are_named() {
    for context in contexts(DOUBLE) {
        let driver = context.driver();
        let module = driver.load_module(&DOUBLE.into()).unwrap();
        // SAFETY: the module is loaded.
        let why = unsafe { driver.kernel(module, "triple_it", 0) }.unwrap_err();
        assert_eq!(why, DeviceError::KernelNotFound { kernel: "triple_it".into() });
        // SAFETY: it has no work.
        unsafe { driver.unload_module(module) }.unwrap();
        let broken = DOUBLE.replace("shl.b32 ", "shove.b32 ");
        let of_driver = driver.load_module(&broken.as_str().into()).unwrap_err();
        let of_context = Context::new(driver.clone(), &["no directive at all"]).unwrap_err();
        for why in [of_driver.into(), of_context] {
            assert!(matches!(&why, Error::Device(DeviceError::InvalidImage { .. })), "{why}");
            assert!(!why.to_string().contains('\n'), "{why}");
        }
    }
}

#[test]
fn memory_that_is_not_there_is_asked_for_in_vain() {
    for context in contexts(DOUBLE) {
        let free = context.memory().unwrap().free;
        let why = DeviceBuffer::<u8>::uninit(&context, 1 << 50, "a petabyte").unwrap_err();
        match why {
            Error::Device(DeviceError::OutOfMemory { what, asked, .. }) => {
                assert_eq!((what.as_str(), asked), ("a petabyte", 1 << 50));
            }
            other => panic!("{other}"),
        }
        assert_eq!(context.memory().unwrap().free, free);
        let why = DeviceBuffer::<u64>::uninit(&context, usize::MAX / 4, "too much").unwrap_err();
        assert!(matches!(why, Error::TooLarge { .. }), "{why}");
        let huge = Layout::thd(usize::MAX / 2, 8, 64);
        let why = DeviceTensor::<f32>::uninit(&context, huge, "too much").unwrap_err();
        assert!(matches!(why, Error::TooLarge { .. }), "{why}");
    }
}

#[test]
fn an_emulated_device_has_as_much_memory_as_it_is_given() {
    let driver = Arc::new(EmulatedDriver::new().with_memory(1000));
    let context = Context::new(driver, &[DOUBLE]).unwrap();
    let first = DeviceBuffer::<u8>::uninit(&context, 600, "first").unwrap();
    let why = DeviceBuffer::<u8>::uninit(&context, 401, "second").unwrap_err();
    assert_eq!(why.to_string(), "out of device memory: second needs 401 bytes, 400 are free");
    drop(first);
    assert_eq!(context.memory().unwrap().free, 1000);
    DeviceBuffer::<u8>::uninit(&context, 1000, "second").unwrap();
}

#[test]
fn an_image_for_a_newer_device_is_refused() {
    let driver = Arc::new(EmulatedDriver::with_options(Arch::Sm80, Options::default()));
    let newer = DOUBLE.replace("sm_80", "sm_90a");
    let why = Context::new(driver, &[newer.as_str()]).unwrap_err();
    assert_eq!(why.to_string(), "PTX emulator (sm_80) has compute capability 8.0, expected at least 9.0");
}

#[test]
fn a_fault_of_the_emulator_is_an_error_with_a_place() {
    let context = Context::emulated(&[DOUBLE]).unwrap();
    let driver = context.driver();
    let module = driver.load_module(&DOUBLE.into()).unwrap();
    let buffer = DeviceBuffer::from_host(&context, &[0u32; 32], "data").unwrap();
    let config = LaunchConfig { grid: [2, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
    // SAFETY: the emulator checks every access; that the count is too large is what is tested.
    let why = unsafe {
        let kernel = driver.kernel(module, "double_it", 0).unwrap();
        let (ptr, count) = (buffer.ptr().0.to_ne_bytes(), 64u32.to_ne_bytes());
        driver.launch(RawStream::DEFAULT, kernel, &config, &[&ptr, &count]).unwrap_err()
    };
    let text = why.to_string();
    assert!(matches!(why, DeviceError::Fault { .. }), "{text}");
    assert!(text.starts_with("double_it: ") && text.contains("data") && text.contains("ld.global"), "{text}");
    // Handles that never were are errors, too.
    let config = LaunchConfig { grid: [1, 1, 1], threads: 32, dynamic_smem_bytes: 0 };
    // SAFETY: the emulator checks handles and addresses.
    unsafe {
        let kernel = driver.kernel(module, "double_it", 0).unwrap();
        assert!(driver.launch(RawStream(77), kernel, &config, &[]).is_err());
        assert!(driver.launch(RawStream::DEFAULT, kernel, &config, &[&[0; 8]]).is_err());
        assert!(driver.free(DevicePtr(1)).is_err());
        assert!(driver.copy_to_host(RawStream::DEFAULT, DevicePtr(1 << 50), &mut [0; 4]).is_err());
        driver.unload_module(module).unwrap();
        assert!(driver.kernel(module, "double_it", 0).is_err());
        assert!(driver.unload_module(module).is_err());
    }
    let fresh = DeviceBuffer::<u32>::uninit(&context, 4, "fresh").unwrap();
    assert!(fresh.to_host(&context.default_stream()).is_err(), "nothing was written there");
    let (start, end) = (context.new_event().unwrap(), context.new_event().unwrap());
    assert!(start.elapsed_ms(&end).is_err(), "neither was recorded");
}

#[test]
fn tensors_come_back_as_they_went() {
    for context in contexts(DOUBLE) {
        let stream = context.default_stream();
        let data: Vec<f32> = (0..3 * 4 * 8).map(|i| i as f32).collect();
        let heads_first = TensorView::bhsd(&data, 1, 4, 3, 8).unwrap();
        let tensor = DeviceTensor::from_host(&context, &heads_first, "tensor").unwrap();
        let want: Vec<f32> = (0..3)
            .flat_map(|t| (0..4).map(move |h| (t, h)))
            .flat_map(|(t, h)| heads_first.row(t, h).to_vec())
            .collect();
        assert_eq!(tensor.to_host(&stream).unwrap(), want);
        let as_is = DeviceTensor::from_memory(&context, &data, Layout::bhsd(1, 4, 3, 8), "tensor").unwrap();
        assert_eq!(as_is.to_host(&stream).unwrap(), want);
        assert_eq!(as_is.buffer().to_host(&stream).unwrap(), data);
        let empty = DeviceTensor::<f32>::uninit(&context, Layout::thd(0, 4, 8), "empty").unwrap();
        assert_eq!(empty.to_host(&stream).unwrap(), []);
        assert!(empty.view().ptr().is_null());
        let short = DeviceTensor::from_memory(&context, &data[1..], Layout::bhsd(1, 4, 3, 8), "tensor");
        assert!(short.unwrap_err().to_string().contains("96"));
    }
}

#[test]
fn a_part_of_a_buffer_is_overwritten_and_read() {
    for context in contexts(DOUBLE) {
        let stream = context.default_stream();
        let mut buffer = DeviceBuffer::from_host(&context, &[0.0f32, 1.0, 2.0, 3.0, 4.0], "buffer").unwrap();
        buffer.copy_from_host_at(&stream, 2, &[20.0, 30.0]).unwrap();
        buffer.copy_from_host(&stream, &[-1.0]).unwrap();
        buffer.copy_from_host_at(&stream, 5, &[]).unwrap();
        assert_eq!(buffer.to_host(&stream).unwrap(), [-1.0, 1.0, 20.0, 30.0, 4.0]);
        let mut part = [0.0; 2];
        buffer.copy_to_host(&stream, 3, &mut part).unwrap();
        assert_eq!(part, [30.0, 4.0]);
        for first in [4, 6, usize::MAX] {
            assert!(buffer.copy_from_host_at(&stream, first, &[7.0, 7.0]).is_err(), "from {first}");
        }
        assert_eq!(buffer.to_host(&stream).unwrap(), [-1.0, 1.0, 20.0, 30.0, 4.0]);
    }
}

#[test]
fn views_stay_inside_their_buffers() {
    let context = Context::emulated(&[DOUBLE]).unwrap();
    let mut buffer = DeviceBuffer::<f32>::uninit(&context, 100, "buffer").unwrap();
    let layout = Layout::thd(3, 4, 8);
    let view = DeviceView::new(&buffer, 4, layout).unwrap();
    assert_eq!(view.ptr(), buffer.ptr().offset(16));
    for first in [5, usize::MAX] {
        assert!(DeviceView::new(&buffer, first, layout).is_err());
        assert!(DeviceViewMut::new(&mut buffer, first, layout).is_err());
    }
    let overlapping = Layout { token_stride: 7, ..Layout::thd(3, 1, 8) };
    assert!(DeviceView::new(&buffer, 0, overlapping).is_ok());
    let why = DeviceViewMut::new(&mut buffer, 0, overlapping).unwrap_err();
    assert!(why.to_string().contains("do not overlap"), "{why}");
    let mut tensor = DeviceTensor::<f32>::uninit(&context, overlapping, "overlapping").unwrap();
    assert!(tensor.view_mut().is_err());
    assert!(buffer.copy_from_host(&context.default_stream(), &[0.0; 101]).is_err());
    assert!(buffer.copy_to_host(&context.default_stream(), 99, &mut [0.0; 2]).is_err());
    let other = Context::emulated(&[DOUBLE]).unwrap();
    assert!(buffer.fill_bytes(&other.default_stream(), 0).is_err());
}

/// Every way into CUDA, on a machine that has no driver. On one that has, the ways lead somewhere.
#[cfg(feature = "cuda")]
#[test]
fn no_driver() {
    use lacuna_kernels_host::CudaDriver;

    let reached = [
        CudaDriver::count().map(drop),
        CudaDriver::new(0).map(drop),
        CudaDriver::new(usize::MAX).map(drop),
        // SAFETY: without a driver the context is not looked at; with one, device `usize::MAX` does not exist.
        unsafe { CudaDriver::from_raw_context(usize::MAX, std::ptr::null_mut()) }.map(drop),
    ];
    let context = Context::cuda(0, &[DOUBLE]).map(drop);
    if reached[0] == Err(DeviceError::NoDriver) {
        for result in &reached {
            assert_eq!(*result, Err(DeviceError::NoDriver));
        }
        assert_eq!(context, Err(Error::Device(DeviceError::NoDriver)));
        let text = DeviceError::NoDriver.to_string();
        assert!(text.contains("NVIDIA driver") && format!("{:?}", reached[0]).contains("NoDriver"));
    } else {
        eprintln!("this machine has a driver: {reached:?}");
        for (result, ordinal) in [(&reached[2], usize::MAX), (&reached[3], usize::MAX)] {
            assert!(matches!(result, Err(DeviceError::NoSuchDevice { ordinal: o, .. }) if *o == ordinal));
        }
    }
}
