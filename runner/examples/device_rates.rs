//! Prefill and decode rates of models of random weights on one device, from their `config.json` alone.
//!
//! ```text
//! cargo run --release -p lacuna-runner --example device_rates -- [--device cuda] [--tokens 4k ...] [--json FILE] DIR...
//! ```
//!
//! The best of several rounds counts, after one to warm up. Prefill is the whole prompt and the logits of its last token;
//! decode is one token at a time at the end of that prompt. What a pattern keeps of random text says nothing about text.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lacuna::gpu::gemm;
use lacuna::{DType, Device};
use lacuna_runner::attn::{Attn, parse_length};
use lacuna_runner::generate::{GenerateOptions, Generation, generate};
use lacuna_runner::model::{self, Config, LoadFormat, LoadOptions, Model, PlanOptions, Tokenizer};
use lacuna_runner::report::{
    Align, Style, Table, format_bytes, format_count, format_density, format_duration, format_rate, write_file,
};
use lacuna_runner::{Error, Result};
use serde::Serialize;

#[derive(Parser)]
struct Args {
    /// Directories that hold a config.json
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// Where to run: cuda, cuda:N, emulated or cpu
    #[arg(long, default_value = "cuda")]
    device: Device,
    /// Lengths of the prompts
    #[arg(long, num_args = 1.., value_parser = length, default_values = ["4k", "32k", "127k"])]
    tokens: Vec<usize>,
    /// Patterns of the prefill
    #[arg(long, num_args = 1.., value_parser = pattern, default_values = ["dense", "flexprefill", "xattention", "vertical-slash"])]
    attn: Vec<Attn>,
    /// What multiplies matrices
    #[arg(long, num_args = 1.., default_values = ["auto", "own"])]
    gemm: Vec<gemm::Backend>,
    /// Tokens to decode
    #[arg(long, default_value_t = 64)]
    new_tokens: usize,
    /// Timed rounds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Also write the rows to this file
    #[arg(long)]
    json: Option<PathBuf>,
}

fn length(text: &str) -> std::result::Result<usize, String> {
    parse_length(text).map_err(|expected| format!("must be {expected}"))
}

fn pattern(text: &str) -> std::result::Result<Attn, String> {
    text.parse().map_err(|e: lacuna_runner::attn::ParseAttnError| e.to_string())
}

#[derive(Serialize)]
struct Rates {
    device: String,
    driver: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    model: String,
    gemm: String,
    attn: String,
    tokens: usize,
    density: f64,
    prefill_seconds: f64,
    search_seconds: f64,
    attention_seconds: f64,
    linear_seconds: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let context = args.device.context()?;
    let info = context.as_ref().map(|context| context.info());
    let mut rates = Rates {
        device: info.map_or_else(|| args.device.to_string(), |info| info.name.clone()),
        driver: info.map_or_else(String::new, |info| info.driver.clone()),
        rows: Vec::new(),
    };
    println!("{} {}, random weights and prompts, bf16\n", rates.device, rates.driver);
    let mut table = Table::new(&[
        ("model", Align::Left),
        ("gemm", Align::Left),
        ("tokens", Align::Right),
        ("pattern", Align::Left),
        ("density", Align::Right),
        ("search", Align::Right),
        ("attention", Align::Right),
        ("linear", Align::Right),
        ("prefill", Align::Right),
        ("prefill", Align::Right),
        ("decode", Align::Right),
    ]);
    let mut skipped = Vec::new();
    for dir in &args.models {
        let config = Config::from_file(&dir.join("config.json"))?;
        let name = dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let shortest = args.tokens.iter().copied().min().unwrap_or(1);
        if let Some(why) = no_room(args, &config, &args.attn[0], shortest, true)? {
            skipped.push(format!("{name}: {why}"));
            continue;
        }
        let mut measured = Vec::new();
        for &gemm in &args.gemm {
            let options = LoadOptions {
                dtype: Some(DType::Bf16),
                device: args.device,
                gemm,
                format: LoadFormat::Dummy { seed: 0 },
            };
            let model = model::load(dir, &options, &mut |_| ())?;
            let gemm = model.gemm_backend().map_or_else(|| "cpu".to_owned(), |backend| backend.to_string());
            if measured.contains(&gemm) {
                continue;
            }
            measured.push(gemm.clone());
            for &tokens in &args.tokens {
                for attn in &args.attn {
                    if let Some(why) = no_room(args, &config, attn, tokens, false)? {
                        skipped.push(format!(
                            "{name}, {} tokens, {}: {why}",
                            format_count(tokens),
                            attn.name()
                        ));
                        continue;
                    }
                    let row = Row::new(&name, &gemm, attn, &best(args, &*model, attn, tokens)?);
                    eprintln!("{name}, {gemm}, {} tokens, {}: done", format_count(tokens), attn.name());
                    table.row(row.cells(&attn.name()));
                    rates.rows.push(row);
                }
            }
        }
    }
    print!("{}", table.render(false));
    skipped.iter().for_each(|why| println!("not run: {why}"));
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&rates).map_err(|e| Error::malformed(file, e))?;
        write_file(file, &json)?;
    }
    Ok(())
}

/// Why a prompt of this length cannot be run, before the weights are there (`with_weights`) or after.
fn no_room(
    args: &Args,
    config: &Config,
    attn: &Attn,
    tokens: usize,
    with_weights: bool,
) -> Result<Option<String>> {
    if tokens + args.new_tokens > config.max_position_embeddings {
        return Ok(Some("more tokens than the model has positions".into()));
    }
    let Some(context) = args.device.context()? else { return Ok(None) };
    let options = PlanOptions {
        tokens,
        max_new_tokens: args.new_tokens,
        pattern: attn.pattern().clone(),
        thresholds: attn.thresholds().cloned(),
        dtype: DType::Bf16,
        device: context.info().clone(),
        memory_bytes: None,
    };
    let plan = model::plan(config, &options)?;
    let there = if with_weights { 0 } else { plan.part_bytes(model::Part::Weights) };
    let (needed, free) = (plan.least_bytes - there, context.memory()?.free);
    let why = || format!("it takes {}, and {} are free", format_bytes(needed), format_bytes(free));
    Ok((needed > free).then(why))
}

/// The fastest prefill of all rounds, and the fastest decode.
fn best(args: &Args, model: &dyn Model, attn: &Attn, tokens: usize) -> Result<Generation> {
    let config = model.config();
    let tokenizer = Tokenizer::of_ids(config.vocab_size)?;
    // Neighbours unlike one another, and the same ids on every machine.
    let prompt: Vec<u32> =
        (0..tokens as u64).map(|i| (i * 2_654_435_761 % config.vocab_size as u64) as u32).collect();
    let options = GenerateOptions {
        pattern: attn.pattern().clone(),
        thresholds: attn.thresholds().cloned(),
        max_new_tokens: args.new_tokens,
        ..Default::default()
    };
    let mut session = model.session(tokens + args.new_tokens)?;
    let mut round = || {
        session.truncate(0)?;
        let go_on = &mut |_: &str| ControlFlow::Continue(());
        generate(&mut *session, &tokenizer, &prompt, &options, &mut (), go_on)
    };
    round()?;
    let rounds: Vec<Generation> = (0..args.rounds).map(|_| round()).collect::<Result<_>>()?;
    let decode = rounds.iter().map(|generation| generation.decode).min();
    let best = rounds.into_iter().min_by_key(|generation| generation.prefill.total);
    let (best, decode) = best.zip(decode).expect("there is a round at least");
    Ok(Generation { decode, ..best })
}

impl Row {
    fn new(model: &str, gemm: &str, attn: &Attn, generation: &Generation) -> Self {
        let prefill = &generation.prefill;
        Self {
            model: model.to_owned(),
            gemm: gemm.to_owned(),
            attn: attn.to_string(),
            tokens: prefill.tokens,
            density: prefill.density(),
            prefill_seconds: prefill.total.as_secs_f64(),
            search_seconds: prefill.search().as_secs_f64(),
            attention_seconds: prefill.attention().as_secs_f64(),
            linear_seconds: prefill.linear().as_secs_f64(),
            prefill_tokens_per_second: prefill.tokens_per_second(),
            decode_tokens_per_second: generation.decode_tokens_per_second(),
        }
    }

    fn cells(&self, pattern: &str) -> [(String, Style); 11] {
        let seconds = |seconds: f64| format_duration(std::time::Duration::from_secs_f64(seconds));
        [
            self.model.clone(),
            self.gemm.clone(),
            format_count(self.tokens),
            pattern.to_owned(),
            format_density(self.density),
            seconds(self.search_seconds),
            seconds(self.attention_seconds),
            seconds(self.linear_seconds),
            seconds(self.prefill_seconds),
            format_rate(self.prefill_tokens_per_second),
            format_rate(self.decode_tokens_per_second),
        ]
        .map(|cell| (cell, Style::Plain))
    }
}
