//! Models on the emulated GPU say what they say on the CPU: the same launchers and the same PTX as on a real one.

mod common;

use std::sync::{Arc, OnceLock};

use common::{golden_dir, relative_error};
use lacuna::gpu::{Context, EmulatedDriver, Totals};
use lacuna::{
    Arch, DType, Device, FlexPrefillOptions, Pattern, Threshold, VerticalSlashOptions, XAttentionOptions,
};
use lacuna_runner::generate::{Sampler, SamplingOptions};
use lacuna_runner::model::{self, ForwardOptions, LoadOptions, LogitRows, Model, Session};
use lacuna_runner::needle::{self, Existing, NeedleOptions, Prompt, PromptOptions};

const EMULATED: Device = Device::Emulated(Arch::Sm80);

/// What logits may differ by, of their largest magnitude: weights and activations are rounded to 8 bits.
const BF16_TOLERANCE: f32 = 0.03;

struct Needle {
    dir: tempfile::TempDir,
    prompt: Prompt,
}

/// The needle model in bf16, and a prompt that asks for what it hides.
fn needle() -> &'static Needle {
    static NEEDLE: OnceLock<Needle> = OnceLock::new();
    NEEDLE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let options = NeedleOptions { dtype: DType::Bf16, ..Default::default() };
        needle::write(dir.path(), &options, Existing::Refuse).unwrap();
        let options =
            PromptOptions { num_tokens: 300, num_needles: 2, num_questions: 1, ..Default::default() };
        Needle { dir, prompt: options.generate(&needle::tokenizer()).unwrap() }
    })
}

fn load(device: Device) -> Box<dyn Model> {
    let options = LoadOptions { device, ..Default::default() };
    model::load(needle().dir.path(), &options, &mut |_| ()).unwrap()
}

/// The prompt up to its question, which the model answers next.
fn question() -> &'static [u32] {
    let Needle { prompt, .. } = needle();
    &prompt.tokens[..=prompt.questions[0].position]
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = logits.iter().zip(0..).reduce(|best, next| if next.0 > best.0 { next } else { best });
    best.unwrap().1
}

/// Greedy tokens, and the logits that each was chosen from.
fn greedy(session: &mut dyn Session, pattern: &Pattern, steps: usize) -> (Vec<u32>, Vec<Vec<f32>>) {
    let options = ForwardOptions { pattern: pattern.clone(), ..Default::default() };
    session.truncate(0).unwrap();
    let (mut logits, report) = session.forward(question(), &options, &mut ()).unwrap();
    assert_eq!((report.tokens, report.layers.len()), (question().len(), 2));
    let (mut tokens, mut all) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        tokens.push(likeliest(&logits));
        let next = session.decode(tokens[tokens.len() - 1]).unwrap().to_vec();
        all.push(std::mem::replace(&mut logits, next));
    }
    (tokens, all)
}

fn patterns() -> [Pattern; 4] {
    let flex = FlexPrefillOptions { block_size: 64, min_budget: 64, gamma: 0.9, ..Default::default() };
    let xattention = XAttentionOptions {
        block_size: 64,
        stride: 4,
        threshold: Threshold::Scalar(0.95),
        ..Default::default()
    };
    let slash = VerticalSlashOptions { vertical_size: 100, slash_size: 200, ..Default::default() };
    [
        Pattern::Dense,
        Pattern::FlexPrefill(flex),
        Pattern::XAttention(xattention),
        Pattern::VerticalSlash(slash),
    ]
}

#[test]
fn the_needle_model_answers_alike_under_every_pattern() {
    let steps = needle().prompt.answer_tokens(&needle().prompt.questions[0]).len();
    let (cpu, emulated) = (load(Device::Cpu), load(EMULATED));
    let mut on_cpu = cpu.session(question().len() + steps).unwrap();
    let mut on_device = emulated.session(question().len() + steps).unwrap();
    for pattern in patterns() {
        let (want, want_logits) = greedy(&mut *on_cpu, &pattern, steps);
        let (got, got_logits) = greedy(&mut *on_device, &pattern, steps);
        assert_eq!(got, want, "{pattern:?}");
        if pattern == Pattern::Dense {
            assert_eq!(got, needle().prompt.answer_tokens(&needle().prompt.questions[0]));
        }
        for (step, (got, want)) in got_logits.iter().zip(&want_logits).enumerate() {
            let error = relative_error(got, want);
            assert!(error <= BF16_TOLERANCE, "{pattern:?}, step {step}: relative error {error}");
        }
    }
}

#[test]
fn the_golden_checkpoints_have_their_logits() {
    for name in ["gqa4_d64_llama3", "mha_d128_llama3"] {
        for (dtype, tolerance) in [(DType::Bf16, 0.1), (DType::F16, 0.02)] {
            let golden = common::golden(name);
            let options = LoadOptions { dtype: Some(dtype), device: EMULATED, ..Default::default() };
            let model = model::load(&golden_dir().join(name), &options, &mut |_| ()).unwrap();
            let rows: Vec<usize> = (0..golden.tokens.len()).collect();
            let options = ForwardOptions {
                position_ids: Some(&golden.position_ids),
                logits: LogitRows::These(&rows),
                ..Default::default()
            };
            let mut session = model.session(golden.tokens.len()).unwrap();
            let (logits, _) = session.forward(&golden.tokens, &options, &mut ()).unwrap();
            let error = relative_error(&logits, &golden.logits);
            assert!(error <= tolerance, "{name} in {dtype}: relative error {error}");
        }
    }
}

/// Fed with the same tokens, both devices would go on alike at every step; where the CPU's two likeliest tokens are closer
/// than the tolerance, either may come first.
#[test]
fn the_golden_checkpoints_go_on_alike() {
    let (mut steps, mut decided) = (0, 0);
    for name in ["gqa4_d64_llama3", "mha_d128_llama3"] {
        for (dtype, tolerance) in [(DType::Bf16, BF16_TOLERANCE), (DType::F16, BF16_TOLERANCE / 8.0)] {
            let golden = common::golden(name);
            let [cpu, emulated] = [Device::Cpu, EMULATED].map(|device| {
                let options = LoadOptions { dtype: Some(dtype), device, ..Default::default() };
                model::load(&golden_dir().join(name), &options, &mut |_| ()).unwrap()
            });
            let capacity = golden.tokens.len() + 12;
            let mut on_cpu = cpu.session(capacity).unwrap();
            let mut on_device = emulated.session(capacity).unwrap();
            let (mut want, _) = on_cpu.forward(&golden.tokens, &Default::default(), &mut ()).unwrap();
            let (mut got, _) = on_device.forward(&golden.tokens, &Default::default(), &mut ()).unwrap();
            for step in 0..12 {
                let error = relative_error(&got, &want);
                assert!(error <= tolerance, "{name} in {dtype}, step {step}: relative error {error}");
                let token = likeliest(&want);
                let best = want[token as usize];
                let others = want.iter().zip(0..).filter(|(_, id)| *id != token);
                let second = others.fold(f32::MIN, |most, (x, _)| most.max(*x));
                let scale = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                steps += 1;
                if best - second > 2.0 * tolerance * scale {
                    decided += 1;
                    assert_eq!(likeliest(&got), token, "{name} in {dtype}, step {step}");
                }
                want = on_cpu.decode(token).unwrap().to_vec();
                got = on_device.decode(token).unwrap().to_vec();
            }
        }
    }
    assert!(decided * 2 > steps, "only {decided} of {steps} steps are decided");
}

/// Tokens of a prompt whose continuation means nothing.
const SHORT: usize = 70;

/// As `generate` does it: the device chooses, a step ahead of the caller. Or, the same logits being `downloaded`, the host.
fn chosen(session: &mut dyn Session, sampling: &SamplingOptions, steps: usize, downloaded: bool) -> Vec<u32> {
    session.truncate(0).unwrap();
    let prompt = &question()[..SHORT];
    let (logits, _) = session.forward(prompt, &Default::default(), &mut ()).unwrap();
    let mut sampler = Sampler::new(sampling.clone()).unwrap();
    let mut seen = prompt.to_vec();
    seen.push(sampler.sample(&logits, &seen).unwrap());
    for _ in 1..steps {
        let last = seen[seen.len() - 1];
        seen.push(match downloaded {
            true => sampler.sample(session.decode(last).unwrap(), &seen).unwrap(),
            false => session.next_token(last, &mut sampler, &seen).unwrap(),
        });
    }
    seen.split_off(SHORT)
}

#[test]
fn a_device_that_chooses_by_itself_chooses_as_the_host_does() {
    let model = load(EMULATED);
    let steps = 8;
    let mut session = model.session(question().len() + steps).unwrap();
    let greedy = SamplingOptions::default();
    for sampling in [
        greedy.clone(),
        SamplingOptions { temperature: 3.0, seed: 5, ..greedy.clone() },
        SamplingOptions { temperature: 4.0, top_k: 30, top_p: 0.8, min_p: 0.01, seed: 6, ..greedy.clone() },
        SamplingOptions { repetition_penalty: 1.3, ..greedy.clone() },
        greedy,
    ] {
        let want = chosen(&mut *session, &sampling, steps, true);
        assert_eq!(chosen(&mut *session, &sampling, steps, false), want, "{sampling:?}");
    }
}

#[test]
fn rolled_back_and_interrupted_contexts_go_on_alike() {
    let model = load(EMULATED);
    let mut session = model.session(question().len() + 8).unwrap();
    let mut other = model.session(question().len() + 8).unwrap();
    let greedy = SamplingOptions::default();
    let tokens = chosen(&mut *session, &greedy, 4, false);
    assert_eq!(chosen(&mut *other, &greedy, 4, false), tokens);
    // A step is in flight; the logits of the same token are those of a context that never chose.
    let next = session.next_token(tokens[3], &mut Sampler::new(greedy).unwrap(), &[]).unwrap();
    let in_flight = session.decode(next).unwrap().to_vec();
    other.decode(tokens[3]).unwrap();
    assert_eq!(other.decode(next).unwrap(), in_flight);
    // Another token than the one in flight.
    session.truncate(SHORT).unwrap();
    other.truncate(SHORT).unwrap();
    let wanted = other.decode(7).unwrap().to_vec();
    assert_eq!(session.decode(7).unwrap(), wanted);
    // A prefill after decoding, in two parts.
    session.truncate(50).unwrap();
    other.truncate(0).unwrap();
    let (whole, _) = other.forward(&question()[..150], &Default::default(), &mut ()).unwrap();
    let (parts, _) = session.forward(&question()[50..150], &Default::default(), &mut ()).unwrap();
    assert!(relative_error(&parts, &whole) <= BF16_TOLERANCE);
}

#[test]
fn positions_beyond_the_capacity_have_angles_too() {
    let model = load(EMULATED);
    // The table has room for 128 positions then: the second step is beyond, and is begun while the first is looked at.
    let position_ids: Vec<u32> = (107..127).collect();
    let options = ForwardOptions { position_ids: Some(&position_ids), ..Default::default() };
    let mut session = model.session(30).unwrap();
    let (logits, _) = session.forward(&question()[..20], &options, &mut ()).unwrap();
    let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
    let mut chosen = vec![likeliest(&logits)];
    for step in 0..3 {
        chosen.push(session.next_token(chosen[step], &mut sampler, &[]).unwrap());
    }
    session.truncate(20).unwrap();
    for step in 0..3 {
        assert_eq!(likeliest(session.decode(chosen[step]).unwrap()), chosen[step + 1], "step {step}");
    }
}

/// Decoding is a matter of bandwidth: a token moves the weights and the cache once, and little else.
#[test]
fn a_token_moves_weights_and_cache_once() {
    let device = Arc::new(EmulatedDriver::with_options(Arch::Sm80, Default::default()));
    let context = Context::new(device.clone(), &lacuna::ptx::IMAGES).unwrap();
    let model = model::load_on(&context, needle().dir.path(), &LoadOptions::default(), &mut |_| ()).unwrap();
    let mut session = model.session(question().len() + 8).unwrap();
    session.forward(question(), &Default::default(), &mut ()).unwrap();
    let launches = device.launches_of(|| session.decode(7).map(|_| ())).unwrap();
    let mut totals = Totals::default();
    launches.iter().for_each(|launch| totals.add(&launch.report.counters.totals()));

    let config = model.config();
    let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
    let of_layer = (2 * config.q_size() + 2 * config.kv_size() + 3 * intermediate) * hidden;
    let weights = 2 * (config.num_hidden_layers * of_layer + config.vocab_size * hidden);
    let cache = 2 * config.num_hidden_layers * 2 * config.kv_size() * (question().len() + 1);
    let moved = totals.global_bytes as usize;
    assert!(moved > weights + cache, "{moved} bytes for {weights} of weights and {cache} of cache");
    // The rest: the activations, which every CTA of a product reads, the logits, and the partial results of attention.
    assert!(
        moved * 10 < (weights + cache) * 11,
        "{moved} bytes for {weights} of weights and {cache} of cache"
    );
    assert_eq!(launches.len(), 10 * config.num_hidden_layers + 4);
}
