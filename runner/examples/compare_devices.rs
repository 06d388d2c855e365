//! The needle model on the CPU and on another device: the same prompts, the same patterns, and what they say.
//!
//! ```text
//! cargo run --release -p lacuna-runner --example compare_devices -- [--device cuda] [--tokens 4k ...] [--attn PATTERN ...]
//! ```
//!
//! One prefill gives the logits at the beginning of every answer; they may differ by what rounding weights and activations to
//! 8 bits does. The first answer is then decoded greedily, and its tokens must be the same. What a search keeps may differ
//! where scores lie at its cut. The exit code is 1 where a device says something else than the CPU.

use std::process::ExitCode;

use clap::Parser;
use lacuna::{DType, Device};
use lacuna_runner::attn::{Attn, parse_length};
use lacuna_runner::generate::{Sampler, SamplingOptions};
use lacuna_runner::model::{self, ForwardOptions, ForwardReport, LoadOptions, LogitRows, Session};
use lacuna_runner::needle::{self, Existing, NeedleOptions, Prompt, PromptOptions};
use lacuna_runner::report::{
    Align, Style, Table, format_count, format_density, format_duration, format_speedup,
};
use lacuna_runner::{Error, Result};

#[derive(Parser)]
struct Args {
    /// The device to compare with the CPU: cuda, cuda:N or emulated
    #[arg(long, default_value = "cuda")]
    device: Device,
    /// Lengths of the prompts
    #[arg(long, num_args = 1.., value_parser = length, default_values = ["4k", "8k", "16k", "32k", "64k", "128k"])]
    tokens: Vec<usize>,
    /// Patterns of the prefill
    #[arg(long, num_args = 1.., value_parser = pattern, default_values = ["dense", "flexprefill", "xattention", "vertical-slash"])]
    attn: Vec<Attn>,
}

fn length(text: &str) -> std::result::Result<usize, String> {
    parse_length(text).map_err(|expected| format!("must be {expected}"))
}

fn pattern(text: &str) -> std::result::Result<Attn, String> {
    text.parse().map_err(|e: lacuna_runner::attn::ParseAttnError| e.to_string())
}

/// What logits may differ by, of their largest magnitude; at a few hundred tokens it is a third of this.
const TOLERANCE: f32 = 0.1;
/// Facts hidden and asked for.
const NEEDLES: usize = 4;

/// What a device said.
struct Said {
    /// Logits of the rows that begin an answer.
    logits: Vec<f32>,
    /// The answer to the first question. Nothing the model says after it means anything.
    tokens: Vec<u32>,
    report: ForwardReport,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool> {
    let temp_dir = std::env::temp_dir();
    let dir = tempfile::tempdir().map_err(|e| Error::io("create a directory in", temp_dir, e))?;
    let longest = args.tokens.iter().copied().max().unwrap_or_default();
    let needle = NeedleOptions { dtype: DType::Bf16, ..Default::default() };
    let max_len = needle.max_len.max(longest);
    needle::write(dir.path(), &NeedleOptions { max_len, ..needle }, Existing::Refuse)?;
    let load = |device| {
        let options = LoadOptions { device, ..Default::default() };
        model::load(dir.path(), &options, &mut |_| ())
    };
    let [on_cpu, on_device] = [load(Device::Cpu)?, load(args.device)?];
    if let Some(context) = args.device.context()? {
        println!("{}, {}; the needle model in bf16\n", context.info().name, context.info().driver);
    }
    let mut table = Table::new(&[
        ("tokens", Align::Right),
        ("pattern", Align::Left),
        ("density", Align::Right),
        ("found", Align::Right),
        ("logits differ", Align::Right),
        ("answer", Align::Left),
        ("prefill", Align::Right),
        ("to CPU", Align::Right),
        ("", Align::Left),
    ]);
    let mut all_alike = true;
    for &num_tokens in &args.tokens {
        let options = PromptOptions {
            num_tokens,
            num_needles: NEEDLES,
            num_questions: NEEDLES,
            seed: num_tokens as u64,
            ..Default::default()
        };
        let prompt = options.generate(&needle::tokenizer())?;
        let capacity = prompt.tokens.len();
        let (mut cpu, mut device) = (on_cpu.session(capacity)?, on_device.session(capacity)?);
        for attn in &args.attn {
            // The first run on a device loads kernels.
            say(&mut *device, &prompt, attn)?;
            let [want, got] = [say(&mut *cpu, &prompt, attn)?, say(&mut *device, &prompt, attn)?];
            let difference = difference(&got.logits, &want.logits);
            let same = got.tokens == want.tokens;
            let alike = same && difference <= TOLERANCE;
            all_alike &= alike;
            let [found, of_cpu] = [&got, &want].map(|said| said.found(&prompt));
            let (verdict, style) = if alike { ("alike", Style::Good) } else { ("DIFFERENT", Style::Bad) };
            let mut cells = [
                format_count(prompt.tokens.len()),
                attn.name(),
                format_density(got.report.density()),
                format!("{found}, {of_cpu} of {NEEDLES}"),
                format!("{difference:.1e}"),
                if same { "same" } else { "another" }.into(),
                format_duration(got.report.total),
                format_speedup(want.report.total.as_secs_f64() / got.report.total.as_secs_f64()),
            ]
            .map(|cell| (cell, Style::Plain))
            .to_vec();
            cells.push((verdict.into(), style));
            table.row(cells);
            eprintln!("{} tokens, {}: {verdict}", format_count(prompt.tokens.len()), attn.name());
        }
    }
    print!("{}", table.render(false));
    Ok(all_alike)
}

/// Prefills the prompt and decodes its first answer.
fn say(session: &mut dyn Session, prompt: &Prompt, attn: &Attn) -> Result<Said> {
    let rows: Vec<usize> = prompt.questions.iter().map(|question| question.position).collect();
    let options = ForwardOptions {
        pattern: attn.pattern().clone(),
        thresholds: attn.thresholds().cloned(),
        logits: LogitRows::These(&rows),
        ..Default::default()
    };
    session.truncate(0)?;
    let (logits, report) = session.forward(&prompt.tokens, &options, &mut ())?;
    session.truncate(rows[0] + 1)?;
    let mut sampler = Sampler::new(SamplingOptions::default())?;
    let mut seen = prompt.tokens[..=rows[0]].to_vec();
    let first = sampler.sample(&logits[..logits.len() / rows.len()], &seen)?;
    let mut tokens = vec![first];
    seen.push(first);
    while tokens.len() < prompt.answer_tokens(&prompt.questions[0]).len() {
        let next = session.next_token(tokens[tokens.len() - 1], &mut sampler, &seen)?;
        tokens.push(next);
        seen.push(next);
    }
    Ok(Said { logits, tokens, report })
}

impl Said {
    /// Answers that begin as they should.
    fn found(&self, prompt: &Prompt) -> usize {
        let vocab_size = self.logits.len() / prompt.questions.len();
        let begins = |(logits, question): &(&[f32], &needle::Question)| {
            likeliest(logits) == prompt.answer_tokens(question).first().copied()
        };
        self.logits.chunks(vocab_size).zip(&prompt.questions).filter(begins).count()
    }
}

/// The token of the largest logit.
fn likeliest(logits: &[f32]) -> Option<u32> {
    logits.iter().zip(0..).reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, id)| id)
}

/// The largest difference, of the largest magnitude; infinite where something is not a number.
fn difference(got: &[f32], want: &[f32]) -> f32 {
    let scale = want.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs() / scale);
    differences.fold(0.0, |most, x| if x.is_nan() { f32::INFINITY } else { most.max(x) })
}
