//! Choosing a token from logits.

use std::cmp::Ordering;

use lacuna::gpu::sample::weight;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::GenerationConfig;
use crate::{Error, Result};

/// How to choose tokens. The default is greedy: the likeliest token, of equals the one with the lowest id.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Divisor of the logits; 0 is greedy. Default 0.
    pub temperature: f32,
    /// Sample among this many likeliest tokens; 0: all. Default 0.
    pub top_k: usize,
    /// Sample among the likeliest tokens that together have this probability, in (0, 1]. Default 1: all.
    pub top_p: f32,
    /// Sample among the tokens whose probability is at least this share of the likeliest one's, in [0, 1]. Default 0: all.
    pub min_p: f32,
    /// Divisor of positive logits, and factor of negative ones, of tokens seen before (CTRL, arXiv 1909.05858). Default
    /// 1: none.
    pub repetition_penalty: f32,
    /// How many of the last tokens, prompt included, count as seen. Default: all.
    pub repeat_last_n: Option<usize>,
    /// The seed. Default 42.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            repeat_last_n: None,
            seed: 42,
        }
    }
}

impl SamplingOptions {
    /// What the model's makers recommend; what they leave open stays as it is by default.
    pub fn from_model(config: &GenerationConfig, seed: u64) -> Self {
        let sample = config.do_sample.unwrap_or(false);
        Self {
            temperature: if sample { config.temperature.unwrap_or(1.0) } else { 0.0 },
            top_k: config.top_k.unwrap_or(0),
            top_p: config.top_p.unwrap_or(1.0),
            min_p: config.min_p.unwrap_or(0.0),
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            repeat_last_n: None,
            seed,
        }
    }

    /// Refuses values out of range, naming them.
    pub fn check(&self) -> Result<()> {
        let in_range = [
            ("temperature", "finite and at least 0", self.temperature, self.temperature >= 0.0),
            ("top_p", "in (0, 1]", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0),
            ("min_p", "in [0, 1]", self.min_p, (0.0..=1.0).contains(&self.min_p)),
            (
                "repetition_penalty",
                "positive and finite",
                self.repetition_penalty,
                self.repetition_penalty > 0.0,
            ),
        ];
        match in_range.into_iter().find(|(_, _, value, ok)| !ok || !value.is_finite()) {
            Some((arg, expected, value, _)) => Err(Error::invalid(arg, expected, value)),
            None => Ok(()),
        }
    }
}

/// Chooses tokens, with a random stream of its own.
///
/// The rule and its arithmetic are those of [`lacuna::gpu::sample`]: on the same logits a device draws the same token with
/// the same number.
pub struct Sampler {
    options: SamplingOptions,
    rng: ChaCha8Rng,
    /// Candidates as (logit, id), kept for its memory.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// Starts the random stream at the seed.
    ///
    /// # Errors
    /// As [`SamplingOptions::check`].
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.check()?;
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Ok(Self { options, rng, candidates: Vec::new() })
    }

    /// How it chooses.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Whether tokens seen before are penalised, so that the logits are not all there is to know.
    pub fn penalises(&self) -> bool {
        self.options.repetition_penalty != 1.0
    }

    /// The next number of the random stream, in [0, 1): one for each token at a temperature above 0, none at 0. Who draws
    /// tokens elsewhere takes the numbers from here.
    pub fn next_uniform(&mut self) -> f32 {
        self.rng.random()
    }

    /// The next token after `seen`, from `logits` `[vocab_size]`, which are finite. In order: repetition penalty,
    /// temperature, top-k, top-p, min-p.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no logits, for 2^24 or more, and for one that is NaN or positive infinity.
    pub fn sample(&mut self, logits: &[f32], seen: &[u32]) -> Result<u32> {
        /// Weights of so many add up without overflow.
        const MOST: usize = (1 << 24) - 1;
        let bad = |&x: &f32| x.is_nan() || x == f32::INFINITY;
        if !(1..=MOST).contains(&logits.len()) || logits.iter().any(bad) {
            let expected = format!("from 1 to {MOST} numbers, none of them NaN or infinite");
            return Err(Error::invalid("logits", expected, format_args!("{} of them", logits.len())));
        }
        self.candidates.clear();
        // -0 becomes 0: they are equal.
        self.candidates.extend(logits.iter().zip(0..).map(|(&x, id)| (x + 0.0, id)));
        self.penalise(seen);
        let likeliest = self.candidates.iter().copied().reduce(|a, b| if b.0 > a.0 { b } else { a });
        let (top, id) = likeliest.expect("there is at least one logit");
        if self.options.temperature == 0.0 {
            return Ok(id);
        }
        let scale_log2 = weight::scale_log2(self.options.temperature);
        let weight_of = |logit: f32| weight::weight(logit, top, scale_log2);
        self.keep_top_k();
        self.keep_top_p(weight_of);
        let least = weight::least(self.options.min_p);
        self.candidates.retain(|&(x, _)| weight_of(x) >= least);
        if !self.candidates.is_sorted_by_key(|&(_, id)| id) {
            self.candidates.sort_unstable_by_key(|&(_, id)| id);
        }
        let goal = weight::goal(self.next_uniform(), sum(&self.candidates, weight_of));
        let mut sum = 0;
        let drawn = self.candidates.iter().find(|&&(x, _)| {
            sum += weight_of(x);
            sum > goal
        });
        // A penalty may have taken the largest logit to infinity, which leaves no weights.
        Ok(drawn.map_or(id, |&(_, id)| id))
    }

    fn penalise(&mut self, seen: &[u32]) {
        if !self.penalises() {
            return;
        }
        let penalty = self.options.repetition_penalty;
        let window = self.options.repeat_last_n.unwrap_or(seen.len()).min(seen.len());
        let mut ids = seen[seen.len() - window..].to_vec();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            if let Some((x, _)) = self.candidates.get_mut(id as usize) {
                *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
            }
        }
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if (1..self.candidates.len()).contains(&k) {
            self.candidates.select_nth_unstable_by(k - 1, likeliest_first);
            self.candidates.truncate(k);
        }
    }

    /// The fewest of the candidates, likeliest first, that have the share `top_p` of their weight.
    fn keep_top_p(&mut self, weight_of: impl Fn(f32) -> u64) {
        if self.options.top_p >= 1.0 {
            return;
        }
        let need = weight::need(self.options.top_p, sum(&self.candidates, &weight_of));
        self.candidates.sort_unstable_by(likeliest_first);
        let mut sum = 0;
        let reached = self.candidates.iter().position(|&(x, _)| {
            sum += weight_of(x);
            sum >= need
        });
        self.candidates.truncate(reached.map_or(self.candidates.len(), |i| i + 1));
    }
}

/// The lowest id first among equals.
fn likeliest_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn sum(candidates: &[(f32, u32)], weight_of: impl Fn(f32) -> u64) -> u64 {
    candidates.iter().map(|&(x, _)| weight_of(x)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(logits, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    fn sampling(temperature: f32) -> SamplingOptions {
        SamplingOptions { temperature, ..Default::default() }
    }

    #[test]
    fn greedy_breaks_ties_by_lowest_id() {
        let mut sampler = Sampler::new(SamplingOptions::default()).unwrap();
        assert_eq!(sampler.sample(&[1.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
        assert_eq!(sampler.sample(&[-0.0, 0.0], &[]).unwrap(), 0);
    }

    #[test]
    fn frequencies_follow_the_softmax_at_the_temperature() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let n = 20_000;
            let got = counts(sampling(temperature), &logits, n);
            let weights = logits.map(|x| (x as f64 / temperature as f64).exp());
            let total: f64 = weights.iter().sum();
            for (got, weight) in got.iter().zip(weights) {
                let p = weight / total;
                let error = (*got as f64 / n as f64 - p).abs();
                assert!(error < 5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1e-9, "{got} of {n} for {p}");
            }
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_where_they_say() {
        // Probabilities 0.5, 0.25, 0.125, 0.125 in another order.
        let logits = [0.125f32, 0.5, 0.125, 0.25].map(f32::ln);
        let drawn = |options: SamplingOptions| -> Vec<bool> {
            counts(options, &logits, 500).iter().map(|&n| n > 0).collect()
        };
        assert_eq!(drawn(sampling(1.0)), [true; 4]);
        assert_eq!(drawn(SamplingOptions { top_k: 2, ..sampling(1.0) }), [false, true, false, true]);
        // Of the equal third and fourth, the lower id stays.
        assert_eq!(drawn(SamplingOptions { top_k: 3, ..sampling(1.0) }), [true, true, false, true]);
        assert_eq!(drawn(SamplingOptions { top_p: 0.7, ..sampling(1.0) }), [false, true, false, true]);
        assert_eq!(drawn(SamplingOptions { top_p: 0.8, ..sampling(1.0) }), [true, true, false, true]);
        assert_eq!(drawn(SamplingOptions { top_p: 1e-9, ..sampling(1.0) }), [false, true, false, false]);
        assert_eq!(drawn(SamplingOptions { min_p: 0.4, ..sampling(1.0) }), [false, true, false, true]);
        assert_eq!(drawn(SamplingOptions { min_p: 1.0, ..sampling(1.0) }), [false, true, false, false]);
        // Top-p works on what top-k leaves: 0.5 and 0.25 are 2/3 and 1/3.
        let both = SamplingOptions { top_k: 2, top_p: 0.6, ..sampling(1.0) };
        assert_eq!(drawn(both), [false, true, false, false]);
    }

    #[test]
    fn the_penalty_reaches_the_window_and_both_signs() {
        let options = SamplingOptions { repetition_penalty: 2.0, ..Default::default() };
        let mut all = Sampler::new(options.clone()).unwrap();
        assert_eq!(all.sample(&[3.0, 2.0, 1.0], &[0, 0, 9]).unwrap(), 1);
        assert_eq!(all.sample(&[-1.0, -1.5, -3.0], &[0]).unwrap(), 1);
        let mut last = Sampler::new(SamplingOptions { repeat_last_n: Some(1), ..options }).unwrap();
        assert_eq!(last.sample(&[3.0, 2.0, 1.0], &[0, 1]).unwrap(), 0);
    }

    #[test]
    fn one_seed_gives_one_stream() {
        let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 / 3.0).collect();
        let stream = |seed| -> Vec<u32> {
            let mut sampler = Sampler::new(SamplingOptions { seed, ..sampling(1.0) }).unwrap();
            (0..40).map(|_| sampler.sample(&logits, &[]).unwrap()).collect()
        };
        assert_eq!(stream(7), stream(7));
        assert_ne!(stream(7), stream(8));
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        for bad in [
            sampling(-1.0),
            sampling(f32::NAN),
            sampling(f32::INFINITY),
            SamplingOptions { top_p: 0.0, ..sampling(1.0) },
            SamplingOptions { min_p: 1.5, ..sampling(1.0) },
            SamplingOptions { repetition_penalty: 0.0, ..sampling(1.0) },
        ] {
            assert!(Sampler::new(bad.clone()).is_err(), "{bad:?}");
        }
        let mut sampler = Sampler::new(sampling(1.0)).unwrap();
        assert!(sampler.sample(&[], &[]).is_err());
        assert!(sampler.sample(&[1.0, f32::NAN], &[]).is_err());
        assert!(sampler.sample(&[1.0, f32::INFINITY], &[]).is_err());
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 1.0], &[]).unwrap(), 1);
        assert_eq!(Sampler::new(sampling(1e-30)).unwrap().sample(&[1.0, 2.0], &[]).unwrap(), 1);
    }
}
