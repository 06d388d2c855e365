//! Matrix products against f64.

mod common;

use common::device::emulator;
use common::gemm::{Product, rows};
use common::{Device, Half, OnDevice, for_each, on_every_device, unwrap};
use half::{bf16, f16};
use lacuna_core::{Error, Layout};
use lacuna_emulator::{Options, Scheduler};
use lacuna_kernels_host::gemm::{Backend, Plan};
use lacuna_kernels_host::{Context, DeviceTensor, Graph};
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, seeds};

/// Rows on both sides of every border between tiles.
const ROWS: [usize; 18] = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 300];

fn seeded<T: Half, O: Half>() {
    let seeds: Vec<u64> = seeds(36).collect();
    for_each(&seeds, |device, &seed| {
        let mut rng = Rng::new(seed);
        let m = *rng.choose(&ROWS);
        // More products for fewer rows.
        let most = if m > 64 { 150 } else { 300 };
        let n = if size_of::<O>() == 4 { rng.range(1..=most) } else { 8 * rng.range(1..=most / 8) };
        let k = 8 * rng.range(1..=if m > 64 { 20 } else { 60 });
        let gap = |rng: &mut Rng| *rng.choose(&[0, 0, 8, 24, 64]);
        let out = if size_of::<O>() == 4 { *rng.choose(&[0, 0, 1, 2, 3, 8]) } else { gap(&mut rng) };
        let gaps = [gap(&mut rng), gap(&mut rng), out];
        let product = Product::<T>::normal(&mut rng, [m, n, k], gaps, seed % 2 == 0);
        let case = case!(seed, "{m} x {n} x {k}, {gaps:?}");
        let got = unwrap(product.run::<O>(device, m + rng.below(100)), &case);
        product.assert_product(&got, &case);
    });
}

#[test]
fn products_are_right_bf16() {
    seeded::<bf16, bf16>();
}

#[test]
fn products_are_right_f16() {
    seeded::<f16, f16>();
}

#[test]
fn products_of_bf16_are_right_in_f32() {
    seeded::<bf16, f32>();
}

#[test]
fn products_of_f16_are_right_in_f32() {
    seeded::<f16, f32>();
}

/// Integers, whose sums no order changes: every row count at tiles' borders, every number of splits.
#[test]
fn small_integers_are_exact() {
    let mut cases: Vec<[usize; 3]> = Vec::new();
    // Tails in all three, with one step, with as many as the ring has stages, with more.
    for m in [1, 8, 9, 16, 17, 40, 64, 65, 128, 130, 200] {
        cases.extend([[m, 72, 8], [m, 136, 200], [m, 64, 64 * 7 + 16]]);
    }
    // One tile of columns: from 1 to 16 splits, and what is left over by rounding them up.
    for steps in [4, 7, 8, 11, 12, 16, 20, 23, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60, 63, 64, 67] {
        cases.extend([[13, 24, 64 * steps], [18, 8, 64 * steps - 8]]);
    }
    for_each(&cases, |device, &[m, n, k]| {
        let mut rng = Rng::new((m * n * k) as u64);
        let case = case!(0, "{m} x {n} x {k}");
        let product = Product::<bf16>::integers(&mut rng, [m, n, k], [8, 0, 8], true);
        product.assert_exact(&unwrap(product.run::<bf16>(device, m), &case), &case);
        let product = Product::<f16>::integers(&mut rng, [m, n - 3, k], [0, 8, 0], false);
        product.assert_exact(&unwrap(product.run::<f32>(device, m), &case), &case);
    });
}

/// From one row to several tiles of them.
#[test]
fn every_number_of_rows_is_exact() {
    let rows: Vec<usize> = (1..=300).collect();
    for_each(&rows, |device, &m| {
        let case = case!(0, "{m} rows");
        let product = Product::<bf16>::integers(&mut Rng::new(m as u64), [m, 24, 72], [8, 0, 8], true);
        product.assert_exact(&unwrap(product.run::<bf16>(device, 300), &case), &case);
    });
}

/// Every end of the columns, in every tile but the largest, with a gap behind it that must stay as it is.
#[test]
fn every_number_of_columns_is_exact() {
    let ends: Vec<usize> = (1..=130).collect();
    for_each(&ends, |device, &n| {
        for m in [3, 12, 40] {
            let case = case!(0, "{m} rows, {n} columns");
            let product = Product::<bf16>::integers(&mut Rng::new(n as u64), [m, n, 24], [0, 0, 1], true);
            product.assert_exact(&unwrap(product.run::<f32>(device, m), &case), &case);
            let gap = n % 2 + 2;
            let product = Product::<f16>::integers(&mut Rng::new(n as u64), [m, n, 8], [0, 8, gap], true);
            product.assert_exact(&unwrap(product.run::<f32>(device, m), &case), &case);
        }
    });
}

/// As many tiles as make the large kernels worth it, the last group of rows smaller than the others.
#[test]
fn many_tiles_are_exact() {
    let cases = [
        ("gemm_bf16_128x128", [18 * 128 + 3, 2 * 128 + 40, 72]),
        ("gemm_bf16_128x128", [8 * 128, 7 * 128 + 8, 200]),
        ("gemm_bf16_128x256", [18 * 128 + 77, 6 * 128 - 24, 72]),
        ("gemm_bf16_128x256", [11 * 128, 5 * 256, 136]),
    ];
    for_each(&cases, |_, &(kernel, [m, n, k])| {
        let (context, driver) = emulator(Options::default());
        let device = Device { context, margin: 0 };
        let case = case!(0, "{m} x {n} x {k}");
        let product = Product::<bf16>::integers(&mut Rng::new(k as u64), [m, n, k], [0, 0, 8], true);
        product.assert_exact(&unwrap(product.run::<bf16>(&device, 4000), &case), &case);
        let counters = driver.report(kernel).unwrap().counters;
        // Operands of every tile once, outputs once, nothing else.
        let [tile_m, tile_n] = [128, if kernel.ends_with("256") { 256 } else { 128 }];
        let read = (m * n.div_ceil(tile_n) + n * m.div_ceil(tile_m)) * k * 2;
        assert_eq!(counters.opcode("cp.async").global_bytes as usize, read);
        assert_eq!(counters.opcode("st.global").global_bytes as usize, m * n * 2);
        let products =
            m.div_ceil(tile_m) * n.div_ceil(tile_n) * tile_m / 16 * tile_n / 8 * k.div_ceil(64) * 4;
        assert_eq!(counters.opcode("mma").warp_instructions as usize, products);
    });
}

#[test]
fn a_row_has_the_same_bits_whatever_is_beside_it() {
    on_every_device(|device| {
        for (least, most) in [(1, 8), (9, 16), (17, 64)] {
            let mut rng = Rng::new(3);
            let all = Product::<bf16>::normal(&mut rng, [most, 200, 64 * 19], [0; 3], true);
            let plan = Plan::<bf16, f32>::new(&device.context, 64, 200, 64 * 19, Backend::Own).unwrap();
            let want = all.run_with(device, &plan).unwrap();
            let fewer = Product { x: all.x.tokens(0..least), out: rows(least, 200, 0), ..all };
            let got = fewer.run_with(device, &plan).unwrap();
            assert!(got.iter().map(|x| x.to_bits()).eq(want[..least * 200].iter().map(|x| x.to_bits())));
        }
    });
}

#[test]
fn schedulers_give_the_same_bits() {
    let run = |scheduler| {
        let (context, _) = emulator(Options { scheduler, ..Options::default() });
        let device = Device { context, margin: 0 };
        let mut rng = Rng::new(4);
        [[5, 72, 64 * 21], [12, 72, 64 * 21], [50, 136, 64 * 9], [70, 40, 640]].map(|sizes| {
            let product = Product::<f16>::normal(&mut rng, sizes, [0; 3], true);
            product.run::<f32>(&device, sizes[0]).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let want = run(Scheduler::RoundRobin);
    for scheduler in [Scheduler::Random(1), Scheduler::Random(2), Scheduler::Adversarial(3)] {
        assert!(run(scheduler) == want, "{scheduler:?}");
    }
}

/// Short rows are a matter of bytes: each of the weight is read once, and of `x` those of a row for each tile of columns.
#[test]
fn every_byte_of_the_weight_is_read_once() {
    for (m, n, k, splits) in [(1, 256, 2048, 1), (5, 136, 200, 1), (16, 72, 512, 2), (9, 256, 2048, 8)] {
        let (context, driver) = emulator(Options::default());
        let device = Device { context, margin: 0 };
        let product = Product::<bf16>::integers(&mut Rng::new(5), [m, n, k], [0; 3], false);
        product.assert_exact(&product.run::<bf16>(&device, m).unwrap(), &case!(0));
        let (kernel, columns) = if m > 8 { ("gemm_bf16_16x64", 64) } else { ("gemm_bf16_8x16", 16) };
        let counters = driver.report(kernel).unwrap().counters;
        let tiles = n.div_ceil(columns);
        let bytes = |opcode| counters.opcode(opcode).global_bytes as usize;
        assert_eq!(bytes("cp.async"), (n * k + tiles * m * k) * 2);
        assert_eq!(bytes("st.global.v4") + bytes("st.global.b16"), m * n * 2);
        let partials = if splits > 1 { splits * tiles * 64 * m * 4 } else { 0 };
        assert_eq!([bytes("st.global.v2"), bytes("ld.global.v2")], [partials; 2], "{m} x {n} x {k}");
        assert_eq!(counters.totals().local_bytes, 0);
    }
}

/// What CTAs tell one another is as it was after every launch, and so is a graph's next launch.
#[test]
fn graphs_replay_on_new_inputs() {
    on_every_device(|Device { context, .. }| {
        let (n, k) = (136, 64 * 14);
        let stream = context.new_stream().unwrap();
        for rows in [1, 12, 40, 140] {
            let plan = Plan::<bf16>::new(context, 140, n, k, Backend::Own).unwrap();
            let tensor = |rows, features, what| {
                DeviceTensor::<bf16>::uninit(context, Layout::thd(rows, 1, features), what).unwrap()
            };
            let (mut x, mut weight, mut out) =
                (tensor(rows, k, "x"), tensor(n, k, "weight"), tensor(rows, n, "out"));
            // Recorded, the product is not made.
            out.fill_bytes(&stream, 0xff).unwrap();
            let graph = Graph::capture(&stream, |stream| {
                plan.run(stream, &x.view(), &weight.view(), None, &mut out.view_mut()?)
            })
            .unwrap();
            assert!(out.to_host(&stream).unwrap().iter().all(|x| x.is_nan()));
            for seed in 0..4 {
                let product = Product::<bf16>::integers(&mut Rng::new(seed), [rows, n, k], [0; 3], false);
                x.buffer_mut().copy_from_host(&stream, &product.x.to_vec()).unwrap();
                weight.buffer_mut().copy_from_host(&stream, &product.weight.to_vec()).unwrap();
                out.fill_bytes(&stream, 0xff).unwrap();
                if seed == 2 {
                    // Between two launches of the graph, one that is none of its.
                    plan.run(&stream, &x.view(), &weight.view(), None, &mut out.view_mut().unwrap()).unwrap();
                } else {
                    // SAFETY: plan and tensors live.
                    unsafe { graph.launch(&stream) }.unwrap();
                }
                product.assert_exact(&out.to_host(&stream).unwrap(), &case!(seed, "{rows} rows"));
            }
        }
    });
}

/// One plan serves any number of rows, in any order, and writes nothing for none.
#[test]
fn one_plan_takes_all_numbers_of_rows() {
    on_every_device(|device| {
        let plan = Plan::<f16>::new(&device.context, 130, 64, 640, Backend::default()).unwrap();
        for m in [130, 1, 64, 16, 0, 17, 129, 2] {
            let product = Product::<f16>::integers(&mut Rng::new(m as u64), [m, 64, 640], [0, 0, 8], true);
            product.assert_exact(&product.run_with(device, &plan).unwrap(), &case!(0, "{m} rows"));
        }
    });
}

#[test]
fn nothing_to_add_up_is_the_bias() {
    on_every_device(|device| {
        for (m, n) in [(3, 40), (30, 40), (0, 40), (3, 0)] {
            let product = Product::<bf16>::integers(&mut Rng::new(7), [m, n, 0], [0; 3], true);
            product.assert_exact(&product.run::<bf16>(device, m).unwrap(), &case!(0));
        }
    });
}

/// What is no number stays in its row and its column; what lies between rows is not multiplied at all.
#[test]
fn nan_and_infinity_stay_where_they_are() {
    on_every_device(|device| {
        for m in [5, 40] {
            let (n, k) = (72, 328);
            let mut product = Product::<bf16>::integers(&mut Rng::new(8), [m, n, k], [24, 24, 8], false);
            product.x.view_mut().row_mut(3, 0)[k - 1] = bf16::NAN;
            product.weight.view_mut().row_mut(n - 1, 0)[0] = bf16::INFINITY;
            let got = product.run::<f32>(device, m).unwrap();
            for (at, got) in got.iter().enumerate() {
                let (row, column) = (at / n, at % n);
                assert_eq!(got.is_finite(), row != 3 && column != n - 1, "{row}, {column}: {got}");
            }
        }
    });
}

#[test]
fn backends_have_names() {
    for backend in [Backend::Auto, Backend::CublasLt, Backend::Own] {
        assert_eq!(backend.to_string().parse::<Backend>().unwrap(), backend);
    }
    let why = "cublas".parse::<Backend>().unwrap_err().to_string();
    assert!(why.contains("auto, cublaslt or own") && why.contains("cublas"), "{why}");
    assert_eq!(Backend::default(), Backend::Auto);
}

#[test]
fn what_does_not_fit_is_refused() {
    let context = Device::emulated().context;
    let why = |plan: Result<Plan<bf16>, Error>| plan.unwrap_err().to_string();
    let plan = |rows, n, k| Plan::<bf16>::new(&context, rows, n, k, Backend::Own);
    assert!(why(plan(4, 64, 60)).contains("in_features"));
    assert!(why(plan(4, 60, 64)).contains("a multiple of 8 for outputs of bf16"));
    assert!(Plan::<bf16, f32>::new(&context, 4, 61, 64, Backend::Own).is_ok());
    for (rows, n, k) in [(1 << 31, 64, 64), (4, 1 << 31, 64), (4, 64, 1 << 31)] {
        assert!(matches!(plan(rows, n, k), Err(Error::TooLarge { .. })));
    }
    let why = Plan::<f32>::new(&context, 4, 64, 64, Backend::Own).unwrap_err().to_string();
    assert!(why.contains("bf16 or f16"), "{why}");
    let why = Plan::<bf16, f16>::new(&context, 4, 64, 64, Backend::Own).unwrap_err().to_string();
    assert!(why.contains("f32 or that of the operands"), "{why}");
    let plan_of = |backend| Plan::<bf16>::new(&context, 4, 64, 64, backend);
    let refused = plan_of(Backend::CublasLt).unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("cublaslt"), "{refused}");
    assert_eq!(plan_of(Backend::Auto).unwrap().backend(), Backend::Own);
}

#[test]
fn tensors_that_do_not_fit_the_plan_are_refused() {
    let device = Device::emulated();
    let context = &device.context;
    let plan = Plan::<bf16>::new(context, 4, 64, 128, Backend::Own).unwrap();
    let stream = context.default_stream();
    let tensor = |context: &Context, rows, features| {
        DeviceTensor::<bf16>::uninit(context, Layout::thd(rows, 1, features), "tensor").unwrap()
    };
    let run = |x: [usize; 2], weight: [usize; 2], bias: [usize; 2], out: [usize; 2]| {
        let [x, weight, bias, mut out] = [x, weight, bias, out].map(|[rows, n]| tensor(context, rows, n));
        let bias = &bias.view();
        let out = &mut out.view_mut().unwrap();
        plan.run(&stream, &x.view(), &weight.view(), Some(bias), out).unwrap_err().to_string()
    };
    assert!(run([5, 128], [64, 128], [1, 64], [5, 64]).contains("at most 4, got 5"));
    assert!(run([3, 64], [64, 128], [1, 64], [3, 64]).contains("x"));
    assert!(run([3, 128], [128, 64], [1, 64], [3, 64]).contains("weight"));
    assert!(run([3, 128], [64, 128], [1, 72], [3, 64]).contains("bias"));
    assert!(run([3, 128], [64, 128], [1, 64], [2, 64]).contains("out"));

    // Rows of 16 bits that are not aligned; of f32 they may be so.
    let [x, weight] = [tensor(context, 4, 128), tensor(context, 64, 128)];
    let mut out = OnDevice::<bf16>::poisoned(&device, rows(3, 64, 4), "out");
    let x3 = lacuna_kernels_host::DeviceView::new(x.buffer(), 0, Layout::thd(3, 1, 128)).unwrap();
    let why = plan.run(&stream, &x3, &weight.view(), None, &mut out.view_mut()).unwrap_err().to_string();
    assert!(why.contains("out") && why.contains("multiples of 8 elements"), "{why}");

    let other = Device::emulated().context;
    let elsewhere = tensor(&other, 64, 128);
    let mut out = tensor(context, 4, 64);
    let why = plan
        .run(&stream, &x.view(), &elsewhere.view(), None, &mut out.view_mut().unwrap())
        .unwrap_err()
        .to_string();
    assert!(why.contains("weight"), "{why}");
}
