//! The sampler and a device draw the same tokens from the same logits.

use lacuna::gpu::{Context, DeviceBuffer, DeviceView, argmax, sample};
use lacuna::{Device, Layout};
use lacuna_runner::generate::{Sampler, SamplingOptions};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn emulator() -> Context {
    let device: Device = "emulated".parse().unwrap();
    device.context().unwrap().expect("a device")
}

/// Normal enough: the sum of four numbers, rounded to eighths now and then, so that there are ties.
fn random_logits(rng: &mut impl Rng, n: usize) -> Vec<f32> {
    let rounded = rng.random::<bool>();
    (0..n)
        .map(|_| {
            let x = (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * 8.0;
            if rounded { (x * 8.0).round() / 8.0 } else { x }
        })
        .collect()
}

#[test]
fn one_seed_gives_one_stream_of_tokens_on_the_processor_and_on_a_device() {
    let context = emulator();
    let stream = context.default_stream();
    let base = SamplingOptions { temperature: 0.8, seed: 5, ..Default::default() };
    for (vocab_size, options) in [
        (259, base.clone()),
        (259, SamplingOptions { temperature: 3.0, top_k: 40, ..base.clone() }),
        (5000, SamplingOptions { top_p: 0.9, ..base.clone() }),
        (5000, SamplingOptions { min_p: 0.05, ..base.clone() }),
        (5000, SamplingOptions { top_k: 50, top_p: 0.9, min_p: 0.02, ..base.clone() }),
        (97, SamplingOptions { top_k: 97, top_p: 0.5, ..base }),
    ] {
        let SamplingOptions { temperature, top_k, top_p, min_p, .. } = options;
        let of_device = sample::Options { temperature, top_k, top_p, min_p };
        let plan = sample::Plan::new(&context, vocab_size, &of_device).unwrap();
        let mut on_cpu = Sampler::new(options.clone()).unwrap();
        let mut numbers = Sampler::new(options.clone()).unwrap();
        let mut out = DeviceBuffer::from_host(&context, &[0u32], "out").unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for step in 0..24 {
            let logits = random_logits(&mut rng, vocab_size);
            let uniform = DeviceBuffer::from_host(&context, &[numbers.next_uniform()], "uniform").unwrap();
            let on_device = DeviceBuffer::from_host(&context, &logits, "logits").unwrap();
            let view = DeviceView::new(&on_device, 0, Layout::thd(1, 1, vocab_size)).unwrap();
            plan.run(&stream, &view, &uniform, &mut out, None).unwrap();
            let token = on_cpu.sample(&logits, &[]).unwrap();
            assert_eq!(out.to_host(&stream).unwrap(), [token], "step {step} of {options:?}");
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_a_device() {
    let context = emulator();
    let stream = context.default_stream();
    let plan = argmax::Plan::new(&context, 5000).unwrap();
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    let mut out = DeviceBuffer::from_host(&context, &[0u32], "out").unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..12 {
        let logits = random_logits(&mut rng, 5000);
        let on_device = DeviceBuffer::from_host(&context, &logits, "logits").unwrap();
        let view = DeviceView::new(&on_device, 0, Layout::thd(1, 1, 5000)).unwrap();
        plan.run(&stream, &view, &mut out, None).unwrap();
        assert_eq!(out.to_host(&stream).unwrap(), [sampler.sample(&logits, &[]).unwrap()]);
    }
}
