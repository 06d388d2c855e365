//! Draws, run and compared: with the rule in the kernels' own arithmetic, which decides every case, and with the
//! distribution in f64, which decides all but those at a cut.

use lacuna_core::Error;
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::sample::{Options, Plan, weight};
use lacuna_reference::testing::{Rng, Tensor};

use super::Device;
use super::tensor::OnDevice;

/// The tokens of all rows; a counter is checked.
pub fn draw(
    device: &Device,
    logits: &Tensor<f32>,
    options: &Options,
    uniform: &[f32],
) -> Result<Vec<u32>, Error> {
    draw_after(device, None, logits, options, uniform)
}

/// The same by a plan that has drawn from `first` before.
pub fn draw_after(
    device: &Device,
    first: Option<&Tensor<f32>>,
    logits: &Tensor<f32>,
    options: &Options,
    uniform: &[f32],
) -> Result<Vec<u32>, Error> {
    let context = &device.context;
    let [rows, _, vocab_size] = logits.view().shape();
    let plan = Plan::new(context, vocab_size, options)?;
    let logits = OnDevice::copy(device, &logits.view(), "logits");
    let uniform = DeviceBuffer::from_host(context, uniform, "uniform")?;
    let stream = context.default_stream();
    let mut out = DeviceBuffer::from_host(context, &vec![7u32; rows + 1], "out")?;
    let mut counters = DeviceBuffer::from_host(context, &[7u32], "counters")?;
    if let Some(first) = first {
        plan.run(&stream, &OnDevice::copy(device, &first.view(), "first").view(), &uniform, &mut out, None)?;
    }
    plan.run(&stream, &logits.view(), &uniform, &mut out, Some(&mut counters))?;
    assert_eq!(counters.to_host(&stream)?, [7 + (rows > 0) as u32]);
    let mut out = out.to_host(&stream)?;
    assert_eq!(out.pop(), Some(7), "written behind the last row");
    Ok(out)
}

/// Tokens in descending order of their logits, of equals the lowest first.
fn descending(logits: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].partial_cmp(&logits[a]).unwrap().then(a.cmp(&b)));
    order
}

fn top_k(options: &Options, n: usize) -> usize {
    if options.top_k == 0 { n } else { options.top_k.min(n) }
}

/// The token of one row by the rule, in the kernels' arithmetic.
pub fn by_rule(logits: &[f32], options: &Options, uniform: f32) -> u32 {
    if logits.iter().any(|x| !x.is_finite()) {
        return u32::MAX;
    }
    let mut order = descending(logits);
    order.truncate(top_k(options, logits.len()));
    let (top, scale) = (logits[order[0]], weight::scale_log2(options.temperature));
    let weight_of = |token: usize| weight::weight(logits[token], top, scale);
    let need = weight::need(options.top_p, order.iter().map(|&token| weight_of(token)).sum());
    if options.top_p < 1.0 {
        let mut sum = 0;
        order.retain(|&token| {
            let keep = sum < need;
            sum += weight_of(token);
            keep
        });
    }
    order.retain(|&token| weight_of(token) >= weight::least(options.min_p));
    order.sort_unstable();
    let goal = weight::goal(uniform, order.iter().map(|&token| weight_of(token)).sum());
    let mut sum = 0;
    let drawn = order.into_iter().find(|&token| {
        sum += weight_of(token);
        sum > goal
    });
    drawn.expect("a goal below the sum") as u32
}

/// A distribution in f64.
pub struct Exact {
    /// Those that are kept, ascending, and the probability of each.
    pub kept: Vec<(u32, f64)>,
    /// How near, as a probability, the cuts by top-p and min-p come to keeping one more or less.
    pub margin: f64,
}

impl Exact {
    pub fn new(logits: &[f32], options: &Options) -> Self {
        let mut order = descending(logits);
        order.truncate(top_k(options, logits.len()));
        let top = logits[order[0]] as f64;
        let weight_of = |token: usize| ((logits[token] as f64 - top) / options.temperature as f64).exp();
        let total: f64 = order.iter().map(|&token| weight_of(token)).sum();
        let (mut sum, mut margin) = (0.0, 1.0f64);
        let top_p = options.top_p as f64;
        if top_p < 1.0 {
            order.retain(|&token| {
                let keep = sum < top_p * total;
                sum += weight_of(token);
                margin = margin.min((sum / total - top_p).abs());
                keep
            });
        }
        order.retain(|&token| {
            let (weight, least) = (weight_of(token), options.min_p as f64);
            if least > 0.0 && weight < 1.0 {
                margin = margin.min((weight / least - 1.0).abs());
            }
            weight >= least
        });
        order.sort_unstable();
        let total: f64 = order.iter().map(|&token| weight_of(token)).sum();
        Self { kept: order.into_iter().map(|t| (t as u32, weight_of(t) / total)).collect(), margin }
    }

    /// Whether a number may give a token: it lies where the token's share of the cumulative probability does.
    pub fn gives(&self, uniform: f32, token: u32) -> bool {
        let mut before = 0.0;
        self.kept.iter().any(|&(kept, share)| {
            let of = before - TOLERANCE..before + share + TOLERANCE;
            before += share;
            kept == token && of.contains(&(uniform as f64))
        })
    }
}

/// What weights and numbers of 24 bits move a cumulative probability by, at most.
pub const TOLERANCE: f64 = 2e-5;

/// Options of all kinds.
pub fn random_options(rng: &mut Rng, n: usize) -> Options {
    Options {
        temperature: *rng.choose(&[0.3, 0.7, 1.0, 2.0, 30.0]),
        top_k: *rng.choose(&[0, 0, 1, 2, 40, n / 2 + 1, n.saturating_sub(1), n, n + 5]),
        top_p: *rng.choose(&[1.0, 1.0, 0.95, 0.5, 0.999, 1e-6]),
        min_p: *rng.choose(&[0.0, 0.0, 0.05, 0.3, 1.0]),
    }
}

/// A number in [0, 1), the first and the last among them.
pub fn random_uniform(rng: &mut Rng) -> f32 {
    match rng.below(10) {
        0 => 0.0,
        1 => 1f32.next_down(),
        _ => rng.below(1 << 24) as f32 / (1 << 24) as f32,
    }
}
