//! Lists of blocks in device memory: made of bitmasks, copied to and fro.

mod common;

use common::block_mask::Bits;
use common::{Device, emulator, for_each, on_every_device, random_mask};
use lacuna_core::{AttentionShape, BlockMask, Seqlens};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::DeviceBlockMask;
use lacuna_reference::case;
use lacuna_reference::testing::{self, Rng, ShapeLimits};

fn shape(heads: usize, lengths: &[(u32, u32)]) -> AttentionShape {
    let (mut cu_q, mut cu_k) = (vec![0], vec![0]);
    for (i, &(q, k)) in lengths.iter().enumerate() {
        cu_q.push(cu_q[i] + q);
        cu_k.push(cu_k[i] + k);
    }
    AttentionShape::new(heads, 1, 64, Seqlens::new(cu_q, cu_k).unwrap()).unwrap()
}

#[test]
fn lists_are_the_sets_of_the_bitmask() {
    let seeds: Vec<u64> = testing::seeds(60).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        // Blocks of a few tokens: many of them, so that rows have several words.
        let shape = rng.shape(&ShapeLimits { max_tokens: 200, ..Default::default() });
        let (block_m, block_n) = *rng.choose(&[(16, 1), (7, 3), (64, 64), (1, 5), (50, 2)]);
        let density = *rng.choose(&[0.0, 0.02, 0.3, 1.0]);
        let mask = random_mask(&mut rng, &shape, block_m, block_n, density);
        let case = case!(seed, "{shape:?} blocks {block_m} x {block_n} density {density}");
        Bits::of(&mask).check(device, &case);
    });
}

/// Edges of what a warp and a CTA take at a time.
#[test]
fn rows_and_words_at_the_edges() {
    let cases: Vec<(usize, usize)> = [1, 31, 32, 33, 1023, 1024, 1025, 2100]
        .into_iter()
        .flat_map(|rows| [1, 32, 33, 70].map(|blocks| (rows, blocks)))
        .chain([(3, 32 * 32), (3, 32 * 32 + 1), (3, 2100)])
        .collect();
    for_each(&cases, |device, &(rows, blocks)| {
        let mut rng = Rng::new((rows * 10_000 + blocks) as u64);
        let shape = shape(1, &[(rows as u32, blocks as u32)]);
        let mask = random_mask(&mut rng, &shape, 1, 1, 0.2);
        Bits::of(&mask).check(device, &case!(0, "{rows} rows of {blocks} blocks"));
    });
}

#[test]
fn no_rows_give_no_lists() {
    on_every_device(|device| {
        let none = BlockMask::empty(&shape(2, &[(0, 70)]), 8, 8).unwrap();
        Bits::of(&none).check(device, &case!(0));
        let empty = BlockMask::from_csr(&shape(1, &[(9, 0)]), 8, 8, vec![0; 3], vec![]).unwrap();
        Bits::of(&empty).check(device, &case!(0));
    });
}

#[test]
fn the_order_of_execution_does_not_change_a_bit() {
    let mut rng = Rng::new(1);
    let shape = shape(3, &[(400, 90), (5, 70)]);
    let bits = Bits::of(&random_mask(&mut rng, &shape, 1, 1, 0.3));
    for scheduler in [Scheduler::Random(1), Scheduler::Adversarial(2), Scheduler::Adversarial(3)] {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        bits.check(&Device { context, margin: 0 }, &case!(0, "{scheduler:?}"));
    }
}

/// Counts are read twice and each offset, each index written once, side by side.
#[test]
fn counters_state_the_design() {
    let shape = shape(4, &[(600, 300)]);
    let mask = random_mask(&mut Rng::new(2), &shape, 1, 1, 0.5);
    let (context, driver) = emulator(Options::default());
    Bits::of(&mask).check(&Device { context, margin: 0 }, &case!(2));
    let bytes = |kernel: &str, opcode: &str| {
        let counters = driver.report(kernel).expect("a launch").counters;
        assert_eq!(counters.totals().local_bytes, 0, "{kernel}");
        counters.opcode(opcode).global_bytes as usize
    };
    let (rows, words) = (mask.num_rows(), 300usize.div_ceil(32));
    assert_eq!(bytes("block_mask_scan", "ld.global"), 2 * 4 * rows);
    assert_eq!(bytes("block_mask_scan", "st.global"), 4 * (rows + 1));
    assert_eq!(bytes("block_mask_fill", "st.global"), 4 * mask.indices().len());
    assert!(bytes("block_mask_fill", "ld.global") >= 4 * rows * words);
}

#[test]
fn masks_come_back_as_they_went() {
    on_every_device(|device| {
        let context = &device.context;
        let stream = context.default_stream();
        let mut rng = Rng::new(4);
        for (heads, lengths) in [(2, vec![(100, 300), (0, 9), (7, 7)]), (1, vec![(0, 0)])] {
            let shape = shape(heads, &lengths);
            let mask = random_mask(&mut rng, &shape, 64, 32, 0.4);
            let on_device = DeviceBlockMask::from_host(context, &mask).unwrap();
            assert_eq!(on_device.to_host(&stream).unwrap(), mask);
            assert_eq!(on_device.num_blocks(&stream).unwrap(), mask.indices().len());
            // Made for a search, it is empty and has room for every block that can be found.
            let room = DeviceBlockMask::for_search(context, &shape, 32, true).unwrap();
            let dense = BlockMask::dense(&shape, 32, 32, true).unwrap();
            assert_eq!(room.capacity(), dense.indices().len());
            assert_eq!(room.num_blocks(&stream).unwrap(), 0);
            assert!(room.to_host(&stream).unwrap().indices().is_empty());
        }
    });
}

#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    on_every_device(|device| {
        let context = &device.context;
        let says = |why: lacuna_core::Error, parts: &[&str]| {
            let why = why.to_string();
            assert!(why.starts_with("block_mask: ") && parts.iter().all(|p| why.contains(p)), "{why}");
        };
        let this = shape(1, &[(50, 90)]);
        says(DeviceBlockMask::for_search(context, &this, 0, true).unwrap_err(), &["block_size"]);
        let incomplete = BlockMask::empty(&this, 64, 64).unwrap();
        says(DeviceBlockMask::from_host(context, &incomplete).unwrap_err(), &["indptr"]);
        let plan = lacuna_kernels_host::block_mask::Plan::new(context, 1 << 31, 5);
        says(plan.unwrap_err(), &["rows", "2147483648"]);
    });
}
