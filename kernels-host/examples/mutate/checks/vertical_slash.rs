//! Vertical-slash attention.

use half::{bf16, f16};
use lacuna_core::{AttentionOptions, AttentionShape, VerticalSlashIndex};
use lacuna_emulator::Scheduler;
use lacuna_kernels_host::vertical_slash::{AttentionPlan, DeviceVerticalSlashIndex};
use lacuna_reference::case;
use lacuna_reference::testing::Rng;

use super::{Check, check, options, parts_of, shape};
use crate::common::attention::Spoil;
use crate::common::vertical_slash::{random_index, sees};
use crate::common::{Half, Inputs};

pub(super) fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    match parts_of(kernel)? {
        ("vertical_slash", "bf16", head_dim, "") => Some(vertical_slash::<bf16>(head_dim)),
        ("vertical_slash", "f16", head_dim, "") => Some(vertical_slash::<f16>(head_dim)),
        _ => None,
    }
}

/// The same lists for every head; slashes ascend.
fn index_of(shape: &AttentionShape, columns: &[u32], slashes: &[u32]) -> VerticalSlashIndex {
    let slashes: Vec<u32> = slashes.iter().rev().copied().collect();
    let mut index = VerticalSlashIndex::empty(shape).expect("lengths that fit");
    for _ in 0..shape.seqlens.batch() * shape.num_heads {
        index.push_head(columns, &slashes).expect("lists in order");
    }
    index
}

fn every(step: usize, to: u32) -> Vec<u32> {
    (0..to).step_by(step).collect()
}

type Call = (AttentionShape, AttentionOptions, VerticalSlashIndex);

/// Lists that reach every branch of the walk, and ends in every round of copies of gathered keys.
fn walks(head_dim: usize) -> Vec<Call> {
    let plain = options(true, None, false);
    let call = |q, k, columns: &[u32], slashes: &[u32]| {
        let shape = shape(1, 1, head_dim, &[(q, k)]);
        let index = index_of(&shape, columns, slashes);
        (shape, plain, index)
    };
    let mut calls = vec![
        call(40, 300, &every(1, 300), &[0]),
        call(70, 700, &every(2, 700), &every(150, 700)),
        call(40, 900, &every(9, 900), &every(1, 900)),
        call(64, 500, &every(40, 500), &every(63, 500)),
        call(65, 300, &[], &every(3, 300)),
        // Columns where blocks begin and where they stop; slashes that end where a chain stops.
        call(64, 500, &[0, 35, 36, 99, 100, 101, 236, 300, 436], &[0, 200, 400]),
        call(64, 700, &[], &[0, 236, 290, 300]),
        // Most slashes begin beyond the rows.
        call(10, 90, &[3, 4], &every(7, 3000)),
        call(300, 300, &[0, 1, 5, 70, 130, 200], &[0, 1, 64, 100, 250]),
    ];
    calls.extend((0..8).map(|round| call(9, 200, &every(1, 8 * round + 3), &[0])));
    calls
}

fn vertical_slash<T: Half>(head_dim: usize) -> Vec<Check> {
    let random = |seed: u64, shape: AttentionShape, options| {
        let index = random_index(&mut Rng::new(seed), &shape);
        (shape, options, index)
    };
    let checked = |seed: u64, (shape, options, index): Call, spoil: Option<Spoil>| {
        let mut rng = Rng::new(seed);
        let mut inputs = Inputs::<T>::random(&mut rng, &shape);
        let mut expected = inputs.expect(&shape, &options, sees(&index));
        if let Some(spoil) = spoil {
            inputs.spoil(&mut rng, spoil);
            expected = inputs.expect_spoilt(&expected, &shape, &options, sees(&index));
        }
        check(move |device| {
            expected.assert(inputs.vertical_slash(device, &shape, &options, &index), &case!(0));
        })
    };
    let plain = options(true, None, false);
    let one = |q, k| shape(1, 1, head_dim, &[(q, k)]);
    let mut calls = walks(head_dim);
    calls.extend([
        random(1, one(3, 5), plain),
        random(2, shape(2, 1, head_dim, &[(37, 90), (0, 25), (20, 0), (70, 50)]), plain),
        random(3, shape(4, 2, head_dim, &[(9, 129)]), options(true, Some(0.5), true)),
        random(4, one(63, 64), options(true, Some(0.0), false)),
        random(5, one(65, 150), options(true, Some(-0.1), false)),
    ]);
    // Threads copy and store a tile in eight rounds or four: an end in each of them.
    calls.extend((0..8).map(|round| random(10, one(8 * round + 3, 8 * (7 - round) + 70), plain)));
    let mut checks: Vec<Check> = (0..).zip(calls).map(|(seed, call)| checked(seed, call, None)).collect();
    for (seed, past) in (30..).zip([0, 0, 17, 64, 200]) {
        let call = random(seed, one(64, 64 + past), plain);
        checks.push(checked(seed, call, Some(Spoil::BOTH[seed as usize % 2])));
    }
    let ordered = || checked(40, walks(head_dim).swap_remove(1), None);
    checks.push(ordered().under(Scheduler::Random(1)));
    checks.push(ordered().under(Scheduler::Adversarial(2)));
    checks.push(checked(41, random(41, one(50, 60), plain), None).storing(50 * (2 * head_dim + 4)));
    let (shape, plain, index) = random(42, one(20, 130), plain);
    let inputs = Inputs::<T>::random(&mut Rng::new(42), &shape);
    let expected = inputs.expect(&shape, &plain, sees(&index));
    checks.push(check(move |device| {
        let plan = AttentionPlan::<T>::new(&device.context, &shape, &plain).expect("a plan");
        let index = DeviceVerticalSlashIndex::from_host(&device.context, &index).expect("an index");
        let out = inputs.run(device, |stream, q, k, v, out, _| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &index, &mut out.view_mut(), None)
        });
        expected.assert_out(out.map(|(out, _)| out), &case!(0));
    }));
    checks
}
