//! Block pooling against the reference.

mod common;

use common::block_pool::{check, run};
use common::device::emulator;
use common::{Half, OnDevice, for_each, on_every_device};
use half::{bf16, f16};
use lacuna_emulator::{Class, Options, Scheduler};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::block_pool::Plan;
use lacuna_reference::testing::{self, Rng, Tensor, edge_lengths};
use lacuna_reference::{block_pool, case};

use crate::common::Device;

fn seeded<T: Half>(head_dim: usize) {
    let seeds: Vec<u64> = testing::seeds(50).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let block_size = *rng.choose(&[1, 7, 16, 32, 64, 100, 128, 256]);
        let mut cu_seqlens = vec![0];
        for b in 0..rng.range(1..=3) {
            let len = if rng.chance(0.15) { 0 } else { rng.range(1..=300) };
            cu_seqlens.push(cu_seqlens[b] + len as u32);
        }
        let (tokens, heads) = (*cu_seqlens.last().unwrap() as usize, rng.range(1..=4));
        let x = common::random::<T>(&mut rng, tokens, heads, head_dim);
        let case = case!(seed, "{} {cu_seqlens:?} {heads} heads, blocks of {block_size}", T::DTYPE);
        check(device, &x, &cu_seqlens, block_size, &case);
    });
}

crate::common::seeded!();

#[test]
fn edges_of_blocks() {
    let mut cases = Vec::new();
    for block in [64, 128] {
        cases.extend([1].into_iter().chain(edge_lengths(block)).map(|len| (block, len)));
    }
    for_each(&cases, |device, &(block, len)| {
        let x = common::random::<bf16>(&mut Rng::new(len as u64), len, 2, block);
        check(device, &x, &[0, len as u32], block, &case!(len as u64, "{len} tokens in blocks of {block}"));
    });
}

#[test]
fn small_integers_are_exact() {
    on_every_device(|device| {
        for (block, len) in [(128, 600), (64, 640), (1 << 40, 256)] {
            let x = Tensor::<f16>::sparse_integers(&mut Rng::new(1), len, 2, 128);
            let case = case!(1, "blocks of {block}");
            let pooled = check(device, &x, &[0, len as u32], block, &case);
            // Whole blocks are divided by a power of two; the order of the blocks of a head is that of the tokens.
            let want = block_pool(&x.view(), &[0, len as u32], block.min(len)).unwrap();
            let blocks = len.div_ceil(block);
            for n in 0..len / block.min(len) {
                for head in 0..2 {
                    let (at, from) = ((head * blocks + n) * 128, (n * 2 + head) * 128);
                    testing::assert_bits(&pooled[at..][..128], &want[from..][..128], &case);
                }
            }
        }
    });
}

#[test]
fn sequences_do_not_depend_on_their_neighbours_and_schedules_do_not_matter() {
    let cu_seqlens = [0u32, 77, 77, 300];
    let x = common::random::<bf16>(&mut Rng::new(3), 300, 3, 64);
    let run_on = |scheduler| {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        run(&Device { context, margin: 0 }, &x, &cu_seqlens, 32).1
    };
    let all = run_on(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2)] {
        testing::assert_bits(&run_on(scheduler), &all, &case!(3, "{scheduler:?}"));
    }
    on_every_device(|device| {
        let mut joined = Vec::new();
        for window in cu_seqlens.windows(2) {
            let alone = x.tokens(window[0] as usize..window[1] as usize);
            joined.extend(run(device, &alone, &[0, window[1] - window[0]], 32).1);
        }
        testing::assert_bits(&joined, &all, &case!(3));
    });
}

#[test]
fn what_is_not_finite_stays_in_its_block() {
    on_every_device(|device| {
        let mut x = common::random::<f16>(&mut Rng::new(4), 200, 2, 64);
        let (_, clean) = run(device, &x, &[0, 150, 200], 64);
        x.poison(130..131);
        let (plan, got) = run(device, &x, &[0, 150, 200], 64);
        for head in 0..2 {
            let spoilt = plan.row(0, head).0 + 2;
            for (row, (got, clean)) in got.chunks(64).zip(clean.chunks(64)).enumerate() {
                if row == spoilt {
                    assert!(got.iter().all(|x| x.is_nan()));
                } else if (0..2).all(|head| row != plan.row(0, head).0 + 2) {
                    testing::assert_bits(got, clean, &case!(4, "row {row}"));
                }
            }
        }
    });
}

#[test]
fn every_token_is_read_once() {
    let (tokens, heads, dim) = (500, 3, 128);
    let (context, driver) = emulator(Options::default());
    let x = Tensor::<bf16>::random(&mut Rng::new(5), tokens, heads, dim);
    run(&Device { context, margin: 0 }, &x, &[0, tokens as u32], 128);
    let counters = driver.report("block_pool_bf16_d128").expect("a launch").counters;
    assert_eq!(counters.totals().local_bytes, 0, "spills or local arrays");
    assert_eq!(counters.class(Class::Generic).warp_instructions, 0, "generic accesses");
    assert_eq!(counters.opcode("ld.global.v4").global_bytes, (tokens * heads * dim * 2) as u64);
    assert_eq!(counters.opcode("st.global").global_bytes, (4 * heads * dim * 4) as u64);
}

#[test]
fn bad_arguments_are_named() {
    let device = Device::emulated();
    let error = |cu_seqlens: &[u32], dim, block| {
        Plan::<bf16>::new(&device.context, cu_seqlens, 2, dim, block).expect_err("a bad argument").to_string()
    };
    assert!(error(&[0, 5], 64, 0).contains("block_size"));
    assert!(error(&[], 64, 8).contains("cu_seqlens"));
    assert!(error(&[1, 5], 64, 8).contains("cu_seqlens"));
    assert!(error(&[0, 5, 4], 64, 8).contains("cu_seqlens"));
    assert!(error(&[0, 5], 80, 8).contains("head_dim"));
    let why = Plan::<f32>::new(&device.context, &[0, 5], 2, 64, 8).expect_err("f32").to_string();
    assert!(why.contains("dtype"), "{why}");
    let plan = Plan::<bf16>::new(&device.context, &[0, 5], 2, 64, 8).unwrap();
    let x = OnDevice::copy(&device, &Tensor::<bf16>::random(&mut Rng::new(1), 6, 2, 64).view(), "x");
    let mut pooled = DeviceBuffer::<f32>::uninit(&device.context, 127, "pooled").unwrap();
    let stream = device.context.default_stream();
    let why = plan.run(&stream, &x.view(), &mut pooled).expect_err("another shape").to_string();
    assert!(why.contains('x'), "{why}");
    let x = OnDevice::copy(&device, &Tensor::<bf16>::random(&mut Rng::new(1), 5, 2, 64).view(), "x");
    let why = plan.run(&stream, &x.view(), &mut pooled).expect_err("too short").to_string();
    assert!(why.contains("pooled"), "{why}");
    // Nothing to do.
    let empty = Plan::<bf16>::new(&device.context, &[0, 0], 2, 64, 8).unwrap();
    assert_eq!(empty.pooled_len(), 0);
}
