//! `lacuna generate`: a prompt goes in, its continuation comes out.

use std::ops::ControlFlow;
use std::time::Duration;

use lacuna_runner::Error;
use lacuna_runner::attn::Attn;
use lacuna_runner::generate::{GenerateOptions, Generation, SamplingOptions, eos_token_ids, generate};
use lacuna_runner::model::{Session, Tokenizer, peak_memory_bytes};
use lacuna_runner::report::{
    Align, Style, Table, format_bytes, format_count, format_density, format_duration, format_rate,
    format_speedup,
};
use serde::Serialize;

use super::args::{self, ModelArgs};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::prompt::PromptArgs;
use super::terminal;

/// Continue a prompt, under one pattern or several
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna generate -m DIR -p 'The capital of France is'\n  \
    lacuna generate -m DIR -f book.txt -a flexprefill,gamma=0.95 -n 200\n  \
    lacuna generate -m DIR --context-file book.txt --query 'Where is Mary?' \\\n      \
    -a dense -a flexprefill -a xattention,threshold=0.9\n  \
    lacuna generate -m DIR --load-format dummy --prompt-tokens 8k --ignore-eos\n  \
    lacuna generate -a help        the patterns and their keys")]
pub struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Attention of the prefill, as NAME[,KEY=VALUE...]; several are compared in a table; 'help' lists all
    #[arg(short, long, value_name = "PATTERN", default_value = "dense", value_parser = args::attn)]
    attn: Vec<Attn>,
    /// The most tokens to generate
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = args::positive_length)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// A text that ends the answer and is left out of it; may be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Stopping")]
    stop: Vec<String>,
    /// A token that ends the answer; may be repeated
    #[arg(long, value_name = "ID", help_heading = "Stopping")]
    stop_token_id: Vec<u32>,
    /// Go on when the model ends its answer
    #[arg(long, help_heading = "Stopping")]
    ignore_eos: bool,
    /// Print the answer when it is complete, not as it comes
    #[arg(long)]
    no_stream: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct SamplingArgs {
    /// 0 takes the likeliest token; higher is more random
    #[arg(long, value_name = "T", allow_negative_numbers = true, help_heading = "Sampling")]
    temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0: all
    #[arg(long, value_name = "K", help_heading = "Sampling")]
    top_k: Option<usize>,
    /// Choose among the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    top_p: Option<f32>,
    /// Choose among tokens with this share of the likeliest one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, help_heading = "Sampling")]
    min_p: Option<f32>,
    /// Make tokens that were there before less likely; 1: no
    #[arg(long, value_name = "X", allow_negative_numbers = true, help_heading = "Sampling")]
    repeat_penalty: Option<f32>,
    /// How many of the last tokens count as there before; all unless given
    #[arg(long, value_name = "N", help_heading = "Sampling", value_parser = args::length)]
    repeat_last_n: Option<usize>,
    /// Seed of the random choices; 42 unless given
    #[arg(long, value_name = "N", help_heading = "Sampling")]
    seed: Option<u64>,
}

impl SamplingArgs {
    fn options(&self) -> Outcome<SamplingOptions> {
        let default = SamplingOptions::default();
        let options = SamplingOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repetition_penalty: self.repeat_penalty.unwrap_or(default.repetition_penalty),
            repeat_last_n: self.repeat_last_n.or(default.repeat_last_n),
            seed: self.seed.unwrap_or(default.seed),
        };
        options.check().map_err(Failure::from_arguments)?;
        Ok(options)
    }
}

#[derive(Serialize)]
struct Answers {
    prompt_tokens: usize,
    device: String,
    dtype: String,
    /// What multiplies matrices on a GPU.
    gemm: Option<String>,
    answers: Vec<Answer>,
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Answer {
    attn: String,
    text: String,
    tokens: Vec<u32>,
    finish_reason: &'static str,
    density: f64,
    search_seconds: f64,
    attention_seconds: f64,
    prefill_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

pub fn run(args: GenerateArgs, progress: &Progress) -> Outcome {
    let sampling = args.sampling.options()?;
    let prompt = args.prompt.prompt()?;
    let config = args.model.config()?;
    let tokenizer = args.model.tokenizer(&config, &prompt)?;
    args.attn.iter().try_for_each(|attn| attn.check(&config))?;
    let prompt = prompt.tokens(&tokenizer, config.vocab_size, sampling.seed)?;
    let device = args.model.compute.options().device.to_string();
    let limit = config.max_position_embeddings;
    if prompt.len() > limit {
        let (what, limit_name) = ("the prompt", "max_position_embeddings");
        return Err(Error::TooLong { what, tokens: prompt.len(), limit_name, limit }.into());
    }
    let model = args.model.load(&config, [prompt.len(), args.max_new_tokens], &args.attn, progress)?;
    let mut eos_token_ids = args.stop_token_id;
    if !args.ignore_eos {
        eos_token_ids.extend(self::eos_token_ids(model.config(), model.generation_config()));
    }
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        eos_token_ids,
        stop: args.stop,
        sampling,
        ..Default::default()
    };
    let mut run = Run {
        session: model.session(prompt.len().saturating_add(args.max_new_tokens).min(limit))?,
        num_layers: model.config().num_hidden_layers,
        tokenizer: &tokenizer,
        prompt: &prompt,
        options,
        progress,
    };
    if let ([attn], false) = (&args.attn[..], args.json) {
        let generation = run.generate(attn, !args.no_stream)?;
        terminal::print(if args.no_stream { &generation.text } else { "" })?;
        terminal::print(if generation.text.ends_with('\n') { "" } else { "\n" })?;
        terminal::say(&summary(&generation));
        return Ok(());
    }
    let mut generations = Vec::with_capacity(args.attn.len());
    for attn in &args.attn {
        generations.push((attn, run.generate(attn, false)?));
    }
    if args.json {
        terminal::print_json(&Answers {
            prompt_tokens: prompt.len(),
            device,
            dtype: model.dtype().to_string(),
            gemm: model.gemm_backend().map(|backend| backend.to_string()),
            answers: generations.iter().map(|(attn, generation)| Answer::new(attn, generation)).collect(),
            peak_memory_bytes: peak_memory_bytes(),
        })
    } else {
        terminal::print(&comparison(&generations).render(terminal::colour()))
    }
}

struct Run<'a> {
    session: Box<dyn Session + 'a>,
    num_layers: usize,
    tokenizer: &'a Tokenizer,
    prompt: &'a [u32],
    options: GenerateOptions,
    progress: &'a Progress,
}

impl Run<'_> {
    /// Generates under one pattern, from an empty context; prints the text as it comes, or not at all.
    fn generate(&mut self, attn: &Attn, stream: bool) -> Outcome<Generation> {
        self.session.truncate(0)?;
        self.options.pattern = attn.pattern().clone();
        self.options.thresholds = attn.thresholds().cloned();
        let mut task = self.progress.task(format!("prefill, {}", attn.name()), self.num_layers as u64);
        let mut printed = Ok(());
        let generation = generate(
            &mut *self.session,
            self.tokenizer,
            self.prompt,
            &self.options,
            &mut task,
            &mut |text| {
                printed = if stream { terminal::print(text) } else { Ok(()) };
                if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        )?;
        printed.map(|()| generation)
    }
}

/// One line about what it took.
fn summary(generation: &Generation) -> String {
    let prefill = &generation.prefill;
    let share = |of: Duration| format_density(of.as_secs_f64() / prefill.total.as_secs_f64());
    let mut parts = vec![
        format!("{} prompt tokens", format_count(prefill.tokens)),
        format!("first token after {}", format_duration(prefill.total)),
        format!(
            "prefill {}, of which attention {}, search {}",
            format_rate(prefill.tokens_per_second()),
            share(prefill.attention()),
            share(prefill.search())
        ),
    ];
    if generation.tokens.len() > 1 {
        parts.push(format!("decode {}", format_rate(generation.decode_tokens_per_second())));
    }
    parts.push(format!("density {}", format_density(prefill.density())));
    parts.extend(peak_memory_bytes().map(|bytes| format!("peak memory {}", format_bytes(bytes))));
    format!("[{}]", parts.join(", "))
}

/// Characters of an answer that the table shows.
const ANSWER_WIDTH: usize = 76;

fn comparison(generations: &[(&Attn, Generation)]) -> Table {
    let mut table = Table::new(&[
        ("pattern", Align::Left),
        ("density", Align::Right),
        ("search", Align::Right),
        ("attention", Align::Right),
        ("prefill", Align::Right),
        ("speed-up", Align::Right),
    ]);
    let base = generations[0].1.prefill.total.as_secs_f64();
    for (attn, generation) in generations {
        let prefill = &generation.prefill;
        table.row([
            (attn.to_string(), Style::Plain),
            (format_density(prefill.density()), Style::Plain),
            (format_duration(prefill.search()), Style::Plain),
            (format_duration(prefill.attention()), Style::Plain),
            (format_duration(prefill.total), Style::Plain),
            (format_speedup(base / prefill.total.as_secs_f64()), Style::Plain),
        ]);
        let answer = terminal::one_line(&generation.text);
        let shown: String = answer.chars().take(ANSWER_WIDTH).collect();
        let more = if shown.len() < answer.len() { "..." } else { "" };
        table.note(format!("  {shown}{more}"));
    }
    table
}

impl Answer {
    fn new(attn: &Attn, generation: &Generation) -> Self {
        let Generation { tokens, text, finish_reason, prefill, .. } = generation;
        Self {
            attn: attn.to_string(),
            text: text.clone(),
            tokens: tokens.clone(),
            finish_reason: finish_reason.name(),
            density: prefill.density(),
            search_seconds: prefill.search().as_secs_f64(),
            attention_seconds: prefill.attention().as_secs_f64(),
            prefill_seconds: prefill.total.as_secs_f64(),
            prefill_tokens_per_second: prefill.tokens_per_second(),
            decode_tokens_per_second: generation.decode_tokens_per_second(),
        }
    }
}
