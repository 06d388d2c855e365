//! Counts of a device that does not exist: those that the plans state, and those of a device that runs them.

mod common;

use std::sync::Arc;

use common::device::{a100, dry_run, image};
use half::bf16;
use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, DecodeShape, DeviceError, Error, FlexPrefillOptions, Layout,
    Result, Seqlens, XAttentionOptions,
};
use lacuna_kernels_host::driver::LaunchConfig;
use lacuna_kernels_host::{
    Context, DeviceBlockMask, DeviceBuffer, DevicePtr, DeviceTensor, Driver, DryRunDriver, EmulatedDriver,
    Graph, RawStream, Stream, block_sparse_attention, decode_attention, decode_attention_workspace_bytes,
    dense_attention, flex_prefill, x_attention,
};

fn single(len: usize, heads: usize, heads_k: usize, head_dim: usize) -> AttentionShape {
    AttentionShape::new(heads, heads_k, head_dim, Seqlens::uniform(1, len, len).unwrap()).unwrap()
}

fn tensor(context: &Context, tokens: usize, heads: usize, head_dim: usize) -> DeviceTensor<bf16> {
    DeviceTensor::uninit(context, Layout::thd(tokens, heads, head_dim), "tensor").unwrap()
}

#[test]
fn a_search_at_131072_tokens_allocates_what_its_plan_says() {
    let (context, driver) = dry_run(80 << 30);
    let shape = single(131_072, 32, 8, 128);
    let mut plan = flex_prefill::Plan::<bf16>::new(&context, &shape, &FlexPrefillOptions::default()).unwrap();
    // Beside the workspace there are tables of the one sequence.
    let tables = |(what, _): &&(String, u64)| {
        ["table", "sequences", "first blocks"].iter().any(|word| what.contains(word))
    };
    let tables: u64 = driver.allocations().iter().filter(tables).map(|(_, bytes)| bytes).sum();
    assert!((1..256).contains(&tables), "{tables}");
    assert_eq!(
        driver.allocated_bytes(),
        plan.workspace_bytes() as u64 + tables,
        "{:?}",
        driver.allocations()
    );
    let mut mask = plan.empty_mask().unwrap();
    // 1024 rows of 32 heads and one more; 1024 x 1025 / 2 blocks that some query sees.
    let lists = 4 * (1024 * 32 + 1 + 32 * 1024 * 1025 / 2);
    assert_eq!(mask.bytes(), lists);
    assert_eq!(driver.allocated_bytes(), (plan.workspace_bytes() + lists) as u64 + tables);

    let (q, k) = (tensor(&context, 131_072, 32, 128), tensor(&context, 131_072, 8, 128));
    let stream = context.new_stream().unwrap();
    driver.clear_launches();
    plan.run(&stream, &q.view(), &k.view(), &mut mask).unwrap();
    assert_eq!(driver.launches().len(), plan.launches());
    assert!(driver.launches()[0].kernel.starts_with("probe_bf16_d128"), "{:?}", driver.launches()[0]);

    let held = driver.allocated_bytes();
    drop((q, k, mask, plan));
    assert_eq!((driver.allocated_bytes(), driver.peak_bytes()), (0, held));
    assert_eq!(driver.allocations(), []);
}

/// Makes a plan of each kind at a small size and runs it: what it allocates, and what it launches.
fn small_plans(context: &Context, counted: &mut dyn FnMut(&str)) -> Result<()> {
    let stream = context.default_stream();
    let shape = single(300, 4, 2, 64);
    let options = AttentionOptions::default();
    let [mut q, mut out] = [tensor(context, 300, 4, 64), tensor(context, 300, 4, 64)];
    let [mut k, mut v] = [tensor(context, 300, 2, 64), tensor(context, 300, 2, 64)];
    for tensor in [&mut q, &mut k, &mut v] {
        tensor.buffer_mut().fill_bytes(&stream, 0)?;
    }
    counted("tensors");

    let mut flex = flex_prefill::Plan::<bf16>::new(
        context,
        &shape,
        &FlexPrefillOptions { block_size: 64, min_budget: 0, ..Default::default() },
    )?;
    let mut mask = flex.empty_mask()?;
    counted("flex_prefill");
    flex.run(&stream, &q.view(), &k.view(), &mut mask)?;
    let x_options = XAttentionOptions { block_size: 64, stride: 8, ..Default::default() };
    let mut x = x_attention::Plan::<bf16>::new(context, &shape, &x_options, true)?;
    let mut x_mask = x.empty_mask()?;
    counted("x_attention");
    x.run(&stream, &q.view(), &k.view(), &mut x_mask)?;
    drop((flex, x, x_mask));
    counted("searches dropped");

    let uploaded = BlockMask::dense(&shape, 64, 64, true)?;
    let mask = DeviceBlockMask::from_host(context, &uploaded)?;
    let sparse = block_sparse_attention::Plan::<bf16>::new(context, &shape, &options, 64, 64)?;
    counted("block_sparse_attention");
    sparse.run(&stream, &q.view(), &k.view(), &v.view(), &mask, &mut out.view_mut()?, None)?;
    let dense = dense_attention::Plan::<bf16>::new(context, &shape, &options)?;
    counted("dense_attention");
    dense.run(&stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut()?, None)?;
    Ok(())
}

#[test]
fn small_plans_count_the_same_as_on_the_emulator() {
    let count = |context: &Context| {
        let total = context.memory().unwrap().total;
        let mut bytes = Vec::new();
        let mut counted = |what: &str| {
            bytes.push((what.to_owned(), total - context.memory().unwrap().free));
        };
        small_plans(context, &mut counted).unwrap();
        bytes
    };
    let (context, driver) = dry_run(16 << 30);
    let dry = count(&context);
    assert!(dry.windows(2).any(|w| w[0].1 < w[1].1) && dry.windows(2).any(|w| w[0].1 > w[1].1), "{dry:?}");
    let emulated = Arc::new(EmulatedDriver::new());
    let context = Context::new(emulated.clone(), &[image()]).unwrap();
    let mut run = Vec::new();
    let launches = emulated.launches_of(|| -> Result<()> {
        run = count(&context);
        Ok(())
    });
    assert_eq!(dry, run);
    // The same kernels with the same grids, in the same order.
    let launches: Vec<_> = launches.unwrap().into_iter().map(|l| (l.report.kernel, l.config)).collect();
    let dry: Vec<_> = driver.launches().into_iter().map(|l| (l.kernel, l.config)).collect();
    assert_eq!(dry, launches);
    assert_eq!((driver.allocated_bytes(), driver.allocations().len()), (0, 0));
}

#[test]
fn graphs_are_logged_when_they_are_launched() {
    let (context, driver) = dry_run(1 << 30);
    let sizes = DecodeShape {
        batch: 1,
        max_seqlen_q: 1,
        num_heads: 32,
        num_heads_k: 8,
        head_dim: 128,
        max_seqlen_k: 8192,
    };
    let plan = decode_attention::Plan::<bf16>::new(&context, &sizes, &AttentionOptions::default()).unwrap();
    let workspace =
        driver.allocations().into_iter().filter(|(what, _)| what.contains("partial")).map(|(_, n)| n);
    assert_eq!(workspace.sum::<u64>(), decode_attention_workspace_bytes(&sizes).unwrap() as u64);
    let (stream, module) = (context.new_stream().unwrap(), driver.load_module(&image()).unwrap());
    let config = LaunchConfig { grid: [3, 2, 1], threads: 64, dynamic_smem_bytes: 0 };
    // SAFETY: nothing runs.
    let kernel = unsafe { driver.kernel(module, "gather_rows", 0) }.unwrap();
    let graph = Graph::capture(&stream, |stream| {
        // SAFETY: as above.
        unsafe { driver.launch(stream.raw(), kernel, &config, &[]) }?;
        Ok(())
    });
    let graph = graph.unwrap();
    assert_eq!(driver.launches(), []);
    for _ in 0..3 {
        // SAFETY: as above.
        unsafe { graph.launch(&stream) }.unwrap();
    }
    let launches = driver.launches();
    assert_eq!(launches.len(), 3);
    assert!(launches.iter().all(|launch| launch.kernel == "gather_rows" && launch.config == config));
    driver.clear_launches();
    assert_eq!(driver.launches(), []);

    let why = Graph::capture(&stream, |_| DeviceBuffer::<u8>::uninit(&context, 1, "late").map(drop));
    assert_eq!(why.unwrap_err().to_string(), "an allocation: not possible while a stream is being captured");
    let before = driver.allocated_bytes();
    drop((plan, graph));
    assert!(driver.allocated_bytes() < before);
}

#[test]
fn memory_ends_where_it_is_said_to() {
    let (context, driver) = dry_run(1000);
    let first = DeviceBuffer::<u8>::uninit(&context, 600, "first").unwrap();
    let why = DeviceBuffer::<u8>::uninit(&context, 401, "second").unwrap_err().to_string();
    assert_eq!(why, "out of device memory: second needs 401 bytes, 400 are free");
    let second = DeviceBuffer::<u8>::uninit(&context, 400, "second").unwrap();
    let list = [("first".to_owned(), 600), ("second".to_owned(), 400)];
    assert_eq!((driver.allocations(), driver.peak_bytes()), (list.to_vec(), 1000));
    assert!(first.ptr().0.is_multiple_of(256) && second.ptr().0.is_multiple_of(256));
    drop(first);
    let memory = context.memory().unwrap();
    assert_eq!((memory.free, memory.total, driver.peak_bytes()), (600, 1000, 1000));
    let third = DeviceBuffer::<u8>::uninit(&context, 600, "third").unwrap();
    assert!(third.ptr() > second.ptr());
}

#[test]
fn what_needs_no_data_to_be_wrong_is_refused() {
    let (context, driver) = dry_run(1 << 20);
    let stream = context.new_stream().unwrap();
    let buffer = DeviceBuffer::<u32>::uninit(&context, 100, "list").unwrap();
    assert_eq!(buffer.to_host(&stream).unwrap(), [0; 100]);
    let refused = |result: std::result::Result<(), DeviceError>, want: &str| {
        assert_eq!(result.unwrap_err().to_string(), want);
    };
    let at = buffer.ptr();
    // SAFETY: nothing is done with any of these.
    unsafe {
        let past = format!("8 bytes from {:#x} on do not lie in one allocation", at.0 + 396);
        refused(
            driver.copy_to_device(stream.raw(), at.offset(396), &[0; 8]),
            &format!("a copy from the host: {past}"),
        );
        refused(
            driver.copy_to_host(stream.raw(), at.offset(396), &mut [0; 8]),
            &format!("a copy to the host: {past}"),
        );
        refused(driver.fill(stream.raw(), at.offset(396), 0, 8), &format!("a fill: {past}"));
        refused(
            driver.fill(stream.raw(), DevicePtr(16), 0, usize::MAX),
            &format!("a fill: {} bytes from 0x10 on do not lie in one allocation", usize::MAX),
        );
        refused(driver.free(DevicePtr(16)), "freeing memory: 0x10 is not allocated");
        refused(driver.synchronize(RawStream(77)), "a call with a stream: stream 77 does not exist");

        let module = driver.load_module(&image()).unwrap();
        refused(
            driver.kernel(module, "gather", 0).map(drop),
            &DeviceError::KernelNotFound { kernel: "gather".into() }.to_string(),
        );
        refused(
            driver.kernel(module, "gather_rows", 1 << 20).map(drop),
            "gather_rows: 1048576 bytes of shared memory, at most 166912",
        );
        let kernel = driver.kernel(module, "gather_rows", 1024).unwrap();
        let fits = LaunchConfig { grid: [1, 65535, 1], threads: 1024, dynamic_smem_bytes: 1024 };
        driver.launch(stream.raw(), kernel, &fits, &[]).unwrap();
        for wrong in [
            LaunchConfig { grid: [0, 1, 1], ..fits },
            LaunchConfig { grid: [1, 65536, 1], ..fits },
            LaunchConfig { threads: 1025, ..fits },
            LaunchConfig { threads: 0, ..fits },
            LaunchConfig { dynamic_smem_bytes: 1025, ..fits },
        ] {
            let why = driver.launch(stream.raw(), kernel, &wrong, &[]).unwrap_err().to_string();
            assert!(why.starts_with("gather_rows: no device takes LaunchConfig { grid: ["), "{why}");
        }
        driver.unload_module(module).unwrap();
        refused(driver.unload_module(module), "unloading a module: module 1 is not loaded");
        assert!(driver.kernel(module, "gather_rows", 0).is_err());
    }
    assert_eq!(driver.launches().len(), 1);
}

#[test]
fn streams_and_events_are_handles() {
    let (context, _) = dry_run(1 << 20);
    let (stream, other) = (context.new_stream().unwrap(), context.default_stream());
    let [start, end] = [context.new_event().unwrap(), context.new_event().unwrap()];
    start.record(&stream).unwrap();
    assert!(start.elapsed_ms(&end).is_err());
    end.record(&stream).unwrap();
    other.wait(&end).unwrap();
    assert_eq!(start.elapsed_ms(&end).unwrap(), 0.0);
    stream.synchronize().unwrap();
    let (theirs, _) = dry_run(1 << 20);
    let buffer = DeviceBuffer::<u8>::uninit(&context, 8, "list").unwrap();
    let foreign: Stream = theirs.new_stream().unwrap();
    assert!(buffer.to_host(&foreign).is_err());
}

#[test]
fn a_device_that_is_too_old_is_refused() {
    let turing = lacuna_kernels_host::DeviceInfo { compute_capability: (7, 5), name: "T4".into(), ..a100() };
    let why = Context::new(Arc::new(DryRunDriver::new(turing, 1 << 30)), &[image()]).unwrap_err();
    assert!(matches!(why, Error::Device(DeviceError::UnsupportedArch { have: (7, 5), need: (8, 0), .. })));
    assert_eq!(why.to_string(), "T4 has compute capability 7.5, expected at least 8.0");
}

#[test]
fn a_few_numbers_of_the_host_come_back_and_nothing_else() {
    let (context, _) = dry_run(1 << 20);
    let stream = context.default_stream();
    let read = |buffer: &DeviceBuffer<u32>| {
        let mut read = vec![7; buffer.len()];
        buffer.copy_to_host(&stream, 0, &mut read).unwrap();
        read
    };
    let mut flag = DeviceBuffer::from_host(&context, &[u32::MAX], "flag").unwrap();
    assert_eq!(read(&flag), [u32::MAX]);
    flag.copy_from_host(&stream, &[3]).unwrap();
    assert_eq!(read(&flag), [3]);
    flag.fill_bytes(&stream, 0xff).unwrap();
    assert_eq!(read(&flag), [0]);
    assert_eq!(read(&DeviceBuffer::from_host(&context, &[5; 100], "list").unwrap()), [0; 100]);
    assert_eq!(read(&DeviceBuffer::uninit(&context, 3, "nothing").unwrap()), [0; 3]);
}
