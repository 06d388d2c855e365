//! `lacuna demo`: facts hidden in a long text, and what every pattern and every context method finds of them.
//!
//! One prefill of the whole prompt, which ends with the beginnings of all answers, runs under the pattern. The logits at
//! the end of each beginning give the first token of that answer: they need the hidden fact, which only the prefill's
//! attention can have brought there. The context is then rolled back to that beginning, and the rest of the answer decoded
//! densely. Context methods run the text alone; the beginnings of all answers then run, densely, over what was kept of it.

mod expectation;
mod kernels;
mod page;
mod quiz;

use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

use lacuna::{Device, Pattern};
use lacuna_runner::Error;
use lacuna_runner::attn::Attn;
use lacuna_runner::comm::{Alone, Communicator};
use lacuna_runner::context::Method;
use lacuna_runner::generate::eos_token_ids;
use lacuna_runner::model::{self, LoadOptions, Model, Tokenizer};
use lacuna_runner::needle::{self, BEGIN, Existing, NeedleOptions, Prompt, PromptOptions};
use serde::Serialize;

use super::args;
use super::cost::Cost;
use super::failure::{Failure, Outcome};
use super::first_rank::on_first_rank;
use super::progress::{Passes, Progress, ProgressMode};
use super::ranks::RankArgs;
use super::scaled::{scaled, scaled_methods};
use super::terminal;
use expectation::Expectation;
use kernels::KernelDemo;
use quiz::{MAX_ANSWER, Quiz};

/// Show every pattern and context method on a long text
///
/// Hides facts in a long text, then asks a small Llama model for all of them, once with dense attention, once under every
/// pattern and once by every context method. The model is made on the spot (see lacuna model needle --help); it answers
/// exactly when attention reads the tokens that hold the answer.
///
/// What each pattern ought to find is known before it runs, and the verdict says whether it did. Dense attention: all. A
/// fixed shape: what the rows that ask can reach. FlexPrefill and vertical-slash: what the last rows ask for, while their
/// budget has room for it. XAttention: nothing for certain, since it looks at one pair of tokens in `stride`, and here a
/// fact hangs on one single pair; it finds most all the same. The attention of real models is less sharp.
///
/// Of the context methods, ring is exact; star finds what no border of its blocks cuts through; for the others, which keep some
/// tokens of the text, nothing is certain.
///
/// The exit code is 1 when something misses what it ought to find.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna demo\n  \
    lacuna demo --tokens 8k --needles 6\n  \
    lacuna demo --attn flexprefill,gamma=0.9 --attn flexprefill,gamma=0.99\n  \
    lacuna demo --attn star,block=2k --attn seq-topk,top_k=64 --np 4\n  \
    lacuna demo --device emulated\n  \
    lacuna demo --json > demo.json")]
pub struct DemoArgs {
    /// Length of the text with the questions, in tokens [default: 32k; emulated 512]
    #[arg(long, value_name = "N", value_parser = args::positive_length)]
    tokens: Option<usize>,
    /// How many facts to hide, and to ask for [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    needles: Option<u8>,
    /// Seed of the text and of the facts [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Show this pattern or context method, as NAME[,KEY=VALUE...], or METHOD+PATTERN, instead of all; may be repeated; 'help'
    /// lists all
    #[arg(short, long, value_name = "ATTN", value_parser = args::attn)]
    attn: Vec<Attn>,
    #[command(flatten)]
    ranks: RankArgs,
    /// A Llama model directory to ask instead of the needle model
    #[arg(short, long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where to run: cpu, cuda, cuda:N or emulated. On all but the CPU the model runs wholly on the kernels that ship for
    /// GPUs, in bf16, and a table follows that checks each kernel of attention against a plain loop
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: Device,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Demo {
    device: String,
    tokens: usize,
    seed: u64,
    needles: Vec<HiddenNeedle>,
    patterns: Vec<Shown>,
    /// The ranks that the context methods ran on.
    ranks: usize,
    methods: Vec<Shown>,
    as_expected: bool,
    seconds: f64,
    /// The kernels one by one, on all devices but the CPU.
    kernels: Option<KernelDemo>,
}

#[derive(Serialize)]
struct HiddenNeedle {
    key: String,
    value: String,
    depth_percent: f64,
    /// The tokens of the fact's sentence, and of its value and full stop.
    tokens: Range<usize>,
    answer_tokens: Range<usize>,
    /// The token whose logits begin the answer.
    asked_at: usize,
}

/// What one pattern or context method did.
#[derive(Serialize)]
struct Shown {
    attn: String,
    #[serde(skip)]
    name: String,
    /// In the order of the needles.
    answers: Vec<Answer>,
    found: usize,
    #[serde(flatten)]
    cost: Cost,
    speedup: f64,
    as_expected: bool,
}

#[derive(Serialize)]
struct Answer {
    text: String,
    right: bool,
    expected: Expectation,
}

/// Tokens of the text, unless they are given; the emulator, thousands of times slower than a GPU, has less time.
const TOKENS: usize = 32 << 10;
const EMULATED_TOKENS: usize = 512;
/// The last rows that searches on GPUs look at, at most.
const MAX_PROBE: usize = 128;
/// Tokens of the attention that every kernel is tried on.
const KERNEL_TOKENS: usize = 512;
/// Facts, unless their number is given.
const NEEDLES: u8 = 4;

pub fn run(args: DemoArgs, progress: &Progress) -> Outcome {
    let start = Instant::now();
    let (model, tokenizer, prompt) = prepare(&args, progress)?;
    args.attn.iter().try_for_each(|attn| attn.check(model.config()))?;
    let (patterns, methods) = attns(&args, &prompt);
    let mut demo = Demo {
        device: args.device.to_string(),
        tokens: prompt.tokens.len(),
        seed: args.seed.unwrap_or_default(),
        needles: prompt
            .needles
            .iter()
            .zip(0..)
            .map(|(needle, index)| HiddenNeedle {
                key: needle.key.clone(),
                value: needle.value.clone(),
                depth_percent: needle.depth_percent,
                tokens: needle.tokens.clone(),
                answer_tokens: needle.answer_tokens.clone(),
                asked_at: prompt.questions.iter().find(|q| q.needle == index).map_or(0, |q| q.position),
            })
            .collect(),
        patterns: Vec::new(),
        ranks: 1,
        methods: Vec::new(),
        as_expected: true,
        seconds: 0.0,
        kernels: None,
    };
    let quiz = Quiz {
        model: &*model,
        eos_token_ids: &eos_token_ids(model.config(), model.generation_config()),
        tokenizer: &tokenizer,
        prompt: &prompt,
    };
    let count = patterns.len() + methods.len();
    let ask = |comm: &dyn Communicator, i: usize, attn: &Attn, alive: &dyn Fn()| -> Outcome<_> {
        let quiet = Progress::new(ProgressMode::None);
        let progress = if comm.rank() == 0 { progress } else { &quiet };
        let label = format!("{}/{count} {}", i + 1, attn.name());
        let mut passes = Passes::new(progress, label, model.config().num_hidden_layers, alive);
        let (texts, cost) = quiz.ask(comm, attn, &mut passes)?;
        Ok(Shown::new(attn, &prompt, texts, cost))
    };
    let shown = args.ranks.run(|comm| {
        let under_patterns = on_first_rank(comm, |alive| {
            patterns
                .iter()
                .enumerate()
                .map(|(i, attn)| ask(&Alone, i, attn, alive))
                .collect::<Outcome<Vec<_>>>()
        })?;
        let by_methods = methods.iter().zip(patterns.len()..).map(|(attn, i)| ask(comm, i, attn, &|| ()));
        Ok((comm.world_size(), under_patterns, by_methods.collect::<Outcome<Vec<_>>>()?))
    })?;
    let Some((ranks, Some(patterns), methods)) = shown else { return Ok(()) };
    (demo.ranks, demo.patterns, demo.methods) = (ranks, patterns, methods);
    let dense = demo.patterns[0].cost.prefill_seconds;
    for shown in demo.patterns.iter_mut().chain(&mut demo.methods) {
        shown.speedup = dense / shown.cost.prefill_seconds;
    }
    let as_expected = demo.all().all(|shown| shown.as_expected);
    demo.as_expected = as_expected;
    demo.seconds = start.elapsed().as_secs_f64();
    if !args.json {
        terminal::print(&demo.page(&args, terminal::colour()))?;
    }
    if args.device != Device::Cpu {
        let kernels = demo.kernels.insert(KernelDemo::new(args.device, KERNEL_TOKENS)?);
        if !args.json {
            terminal::print(&format!("\n{}", kernels.page(terminal::colour())))?;
        }
    }
    if args.json {
        terminal::print_json(&demo)?;
    }
    let missed = |answer: &Answer| answer.expected == Expectation::Find && !answer.right;
    let wrong = demo.kernels.as_ref().is_some_and(|kernels| !kernels.ok);
    match wrong || demo.all().flat_map(|shown| &shown.answers).any(missed) {
        true => Err(Failure::Verdict),
        false => Ok(()),
    }
}

/// What is to be shown: patterns, dense first, with which the others are compared, and context methods.
fn attns(args: &DemoArgs, prompt: &Prompt) -> (Vec<Attn>, Vec<Attn>) {
    let attns = match &args.attn[..] {
        [] => {
            let rows = prompt.tokens.len() - prompt.query_start;
            let probe = if args.device == Device::Cpu { rows } else { rows.min(MAX_PROBE) };
            let mut attns = scaled(prompt.tokens.len(), probe, prompt.questions.len());
            attns.extend(scaled_methods(prompt.query_start));
            attns
        }
        attns => attns.to_vec(),
    };
    let (mut patterns, methods): (Vec<_>, Vec<_>) =
        attns.into_iter().partition(|attn| *attn.method() == Method::Full);
    patterns.retain(|attn| *attn.pattern() != Pattern::Dense);
    patterns.insert(0, Attn::dense());
    (patterns, methods)
}

/// The model, and a prompt in its tokens that asks for every needle.
fn prepare(args: &DemoArgs, progress: &Progress) -> Outcome<(Box<dyn Model>, Tokenizer, Prompt)> {
    // The weights are in memory once they are loaded, so that the directory need not outlive this function.
    let scratch;
    let tokens = args.tokens.unwrap_or(match args.device {
        Device::Emulated(_) => EMULATED_TOKENS,
        _ => TOKENS,
    });
    let options = LoadOptions { device: args.device, ..Default::default() };
    let dir = match &args.model {
        Some(dir) => dir.as_path(),
        None => {
            let temp_dir = std::env::temp_dir();
            scratch = tempfile::tempdir().map_err(|e| Error::io("create a directory in", temp_dir, e))?;
            let default = NeedleOptions::default();
            let max_len = default.max_len.max(tokens.saturating_add(MAX_ANSWER));
            needle::write(scratch.path(), &NeedleOptions { max_len, ..default }, Existing::Refuse)
                .map_err(Failure::from_arguments)?;
            scratch.path()
        }
    };
    let tokenizer_file = dir.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&tokenizer_file)?;
    let mut task = progress.task("loading the model", 0);
    let model = model::load(dir, &options, &mut |p| task.load(p))?;
    tokenizer.check(model.config())?;
    let num_needles = usize::from(args.needles.unwrap_or(NEEDLES));
    let options = PromptOptions {
        num_tokens: tokens,
        num_needles,
        num_questions: num_needles,
        depths: Some(depths(num_needles)),
        seed: args.seed.unwrap_or_default(),
        circuit_safe: tokenizer.token_to_id("<|begin|>") == Some(BEGIN),
        ..Default::default()
    };
    let offsets_tokenizer = tokenizers::Tokenizer::from_file(&tokenizer_file)
        .map_err(|e| Error::malformed(&tokenizer_file, format_args!("not a tokenizer: {e}")))?;
    let prompt = options.generate(&offsets_tokenizer).map_err(Failure::from_arguments)?;
    Ok((model, tokenizer, prompt))
}

/// From the beginning of the text to its end, evenly; a single needle in the middle.
fn depths(num_needles: usize) -> Vec<f64> {
    const MARGIN: f64 = 1.0;
    match num_needles {
        1 => vec![50.0],
        n => (0..n).map(|i| MARGIN + (100.0 - 2.0 * MARGIN) * i as f64 / (n - 1) as f64).collect(),
    }
}

impl Demo {
    fn all(&self) -> impl Iterator<Item = &Shown> {
        self.patterns.iter().chain(&self.methods)
    }
}

impl Shown {
    fn new(attn: &Attn, prompt: &Prompt, texts: Vec<String>, cost: Cost) -> Self {
        let mut answers: Vec<(usize, Answer)> = prompt
            .questions
            .iter()
            .zip(texts)
            .map(|(question, text)| {
                let right = text == prompt.answer(question);
                let expected = Expectation::new(attn, prompt, question);
                (question.needle, Answer { text, right, expected })
            })
            .collect();
        answers.sort_by_key(|(needle, _)| *needle);
        let answers: Vec<Answer> = answers.into_iter().map(|(_, answer)| answer).collect();
        Self {
            attn: attn.to_string(),
            name: attn.name(),
            found: answers.iter().filter(|answer| answer.right).count(),
            cost,
            speedup: 1.0,
            as_expected: answers.iter().all(|answer| answer.expected.allows(answer.right)),
            answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_ascend_and_stay_inside() {
        for n in 1..=16 {
            let depths = depths(n);
            assert_eq!(depths.len(), n);
            assert!(depths.windows(2).all(|w| w[0] < w[1]));
            assert!(depths.iter().all(|depth| (0.0..=100.0).contains(depth)));
        }
    }
}
