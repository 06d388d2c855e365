//! `lacuna plan`: what a prefill and its decode take on a GPU.

use std::path::PathBuf;

use lacuna::gpu::DeviceInfo;
use lacuna::{DType, Device};
use lacuna_runner::attn::Attn;
use lacuna_runner::context::Method;
use lacuna_runner::model::{self, Config, Part, Plan, PlanOptions};
use lacuna_runner::report::{Align, Style, Table, format_bytes, format_count, format_density};
use serde::Serialize;

use super::args::{self, AutoDType};
use super::failure::{Failure, Outcome};
use super::terminal;

/// Say what a prompt and its answer take on a GPU, and whether they fit
///
/// Loads, prefills and decodes on a GPU of which only the books are kept: nothing is computed, no GPU is needed, and of the
/// model config.json alone is read. Memory is that of the GPU there is, or what --memory says; the driver rounds each
/// allocation up a little. Products are those of our own kernel: cuBLASLt has a workspace of its own. Context methods, which run
/// a prompt in parts, are not counted.
///
/// The exit code is 1 when it does not fit.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna plan -m DIR --length 128k\n  \
    lacuna plan -m DIR --length 128k --attn flexprefill --memory 80G --json")]
pub struct PlanArgs {
    /// A model directory in Hugging Face format (Llama); config.json is enough
    #[arg(short, long, value_name = "DIR")]
    model: PathBuf,
    /// Tokens of the prompt
    #[arg(short, long, value_name = "N", value_parser = args::positive_length)]
    length: usize,
    /// The most tokens to generate; no more than the model has positions
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = args::length)]
    max_new_tokens: usize,
    /// The pattern of the prefill, as NAME[,KEY=VALUE...]; 'help' lists all
    #[arg(short, long, value_name = "PATTERN", default_value = "dense", value_parser = args::attn)]
    attn: Attn,
    /// Type to compute in: auto (as config.json says), bf16, f16
    #[arg(long, value_name = "TYPE", default_value = "auto", value_parser = args::dtype)]
    dtype: AutoDType,
    /// The GPU to plan for: cuda, cuda:N; without one, that of an A100
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    device: Device,
    /// Memory that is free, such as 80G or 512M (of 1024 each) [default: that of the GPU]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Planned<'a> {
    device: &'a str,
    attn: String,
    dtype: String,
    prompt_tokens: usize,
    max_new_tokens: usize,
    parts: Vec<PlannedPart>,
    total_bytes: u64,
    least_bytes: u64,
    memory_bytes: Option<u64>,
    fits: Option<bool>,
    slice_tokens: usize,
    launches_per_layer: usize,
    launches_per_prefill: usize,
    launches_per_token: usize,
}

#[derive(Serialize)]
struct PlannedPart {
    part: &'static str,
    bytes: u64,
    allocations: Vec<Allocation>,
}

#[derive(Serialize)]
struct Allocation {
    what: String,
    bytes: u64,
}

/// A number of bytes: 80G, 512M, 1.5g, 1048576.
fn bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches("ib").trim_end_matches('b');
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let unit = units.iter().find(|(unit, _)| number.ends_with(*unit));
    let (digits, shift) = unit.map_or((number, 0), |(unit, shift)| (number.trim_end_matches(*unit), *shift));
    let number = digits.parse::<f64>().map(|n| n * (1u64 << shift) as f64);
    match number {
        Ok(n) if (1.0..1e18).contains(&n) => Ok(n as u64),
        _ => Err("must be a number of bytes, such as 80G or 512M".into()),
    }
}

pub fn run(args: PlanArgs) -> Outcome {
    let config = Config::from_file(&args.model.join("config.json"))?;
    args.attn.check(&config)?;
    if *args.attn.method() != Method::Full {
        return Err(Failure::Usage(format!(
            "plans are for one pass over the whole prompt: --attn must be a pattern, got {}, which runs it in parts",
            args.attn.method().name()
        )));
    }
    let (device, memory_bytes) = find(args.device, args.memory)?;
    let positions_left = config.max_position_embeddings.saturating_sub(args.length);
    let options = PlanOptions {
        tokens: args.length,
        max_new_tokens: args.max_new_tokens.min(positions_left),
        pattern: args.attn.pattern().clone(),
        thresholds: args.attn.thresholds().cloned(),
        dtype: args.dtype.0.or(config.dtype).unwrap_or(DType::F32),
        device,
        memory_bytes,
    };
    let plan = model::plan(&config, &options)?;
    if args.json {
        terminal::print_json(&Planned::new(&args, &options, &plan))?;
    } else {
        terminal::print(&page(&args, &config, &options, &plan, terminal::colour())?)?;
    }
    match plan.fits() {
        Some(false) => Err(Failure::Verdict),
        _ => Ok(()),
    }
}

/// The GPU to plan for and its free memory, which `memory` overrules.
fn find(device: Device, memory: Option<u64>) -> Outcome<(DeviceInfo, Option<u64>)> {
    let Device::Cuda(_) = device else {
        return Err(Failure::Usage(format!(
            "plans are for GPUs: --device must be cuda or cuda:N, got {device}"
        )));
    };
    match device.context() {
        Ok(Some(context)) => {
            let found = context.memory()?.free;
            Ok((context.info().clone(), Some(memory.unwrap_or(found))))
        }
        // Nothing is computed, so that no GPU is needed.
        _ => Ok((model::typical_device(), memory)),
    }
}

/// Lengths that are tried are multiples of this.
const LENGTH_STEP: usize = 1024;

/// The longest prompt that fits, in steps of [`LENGTH_STEP`]; 0 where not even the shortest does.
fn longest(config: &Config, options: &PlanOptions) -> Outcome<usize> {
    let (mut fits, mut too_long) = (0, options.tokens.div_ceil(LENGTH_STEP));
    while too_long - fits > 1 {
        let middle = fits + (too_long - fits) / 2;
        let tokens = middle * LENGTH_STEP;
        match model::plan(config, &PlanOptions { tokens, ..options.clone() })?.fits() {
            Some(false) => too_long = middle,
            _ => fits = middle,
        }
    }
    Ok(fits * LENGTH_STEP)
}

/// Whether it fits; where it does not, by how much, and what would help.
fn verdict(config: &Config, options: &PlanOptions, plan: &Plan) -> Outcome<String> {
    let Some(memory) = plan.memory_bytes else {
        return Ok("No GPU was found to compare this with: give one's memory with --memory.".into());
    };
    if plan.fits() == Some(true) {
        let spare = memory - plan.total_bytes().min(memory);
        return Ok(format!("Fits in {}, with {} to spare.", format_bytes(memory), format_bytes(spare)));
    }
    let missing = format!(
        "Does not fit: it takes at least {}, {} more than the {} there are.",
        format_bytes(plan.least_bytes),
        format_bytes(plan.least_bytes - memory),
        format_bytes(memory)
    );
    let help = if plan.part_bytes(Part::Weights) > memory {
        "The weights alone are too large: take a smaller model or a larger GPU.".into()
    } else {
        match longest(config, options)? {
            0 => "Not even a short prompt fits: take a smaller model or a larger GPU.".into(),
            tokens => format!("A prompt of {} tokens would fit.", format_count(tokens)),
        }
    };
    Ok(format!("{missing} {help}"))
}

fn page(
    args: &PlanArgs,
    config: &Config,
    options: &PlanOptions,
    plan: &Plan,
    colour: bool,
) -> Outcome<String> {
    let mut table = Table::new(&[("part", Align::Left), ("memory", Align::Right), ("share", Align::Right)]);
    let total = plan.total_bytes();
    for &(part, bytes) in &plan.parts {
        let share = format_density(bytes as f64 / total as f64);
        table.row([
            (part.name().into(), Style::Plain),
            (format_bytes(bytes), Style::Plain),
            (share, Style::Dim),
        ]);
    }
    table.row([
        ("all".into(), Style::Plain),
        (format_bytes(total), Style::Plain),
        (format_density(1.0), Style::Dim),
    ]);
    Ok(format!(
        "{} tokens and up to {} more, {}, in {}, on {}\n\n{}\n\
         slices         {} tokens go through projections and MLP at a time\n\
         launches       {} per layer of the prefill, {} in all, {} per decoded token\n\n{}\n",
        format_count(args.length),
        format_count(options.max_new_tokens),
        args.attn,
        options.dtype,
        options.device.name,
        table.render(colour),
        format_count(plan.slice),
        format_count(plan.launches_per_layer),
        format_count(plan.launches_per_prefill),
        format_count(plan.launches_per_token),
        wrapped(&verdict(config, options, plan)?),
    ))
}

/// Characters of a line.
const WIDTH: usize = 80;

/// A text in lines.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split(' ') {
        let len = word.chars().count();
        if width > 0 {
            let fits = width + 1 + len <= WIDTH;
            lines.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        lines += word;
        width += len;
    }
    lines
}

impl<'a> Planned<'a> {
    fn new(args: &PlanArgs, options: &'a PlanOptions, plan: &Plan) -> Self {
        let parts = plan.parts.iter().map(|&(part, bytes)| PlannedPart {
            part: part.name(),
            bytes,
            allocations: (plan.allocations.iter())
                .filter(|(_, of, _)| *of == part)
                .map(|(what, _, bytes)| Allocation { what: what.clone(), bytes: *bytes })
                .collect(),
        });
        Self {
            device: &options.device.name,
            attn: args.attn.to_string(),
            dtype: options.dtype.to_string(),
            prompt_tokens: args.length,
            max_new_tokens: options.max_new_tokens,
            parts: parts.collect(),
            total_bytes: plan.total_bytes(),
            least_bytes: plan.least_bytes,
            memory_bytes: plan.memory_bytes,
            fits: plan.fits(),
            slice_tokens: plan.slice,
            launches_per_layer: plan.launches_per_layer,
            launches_per_prefill: plan.launches_per_prefill,
            launches_per_token: plan.launches_per_token,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_its_unit() {
        for (text, expected) in [
            ("80G", 80 << 30),
            ("80GiB", 80 << 30),
            ("1.5g", 3 << 29),
            ("512mb", 512 << 20),
            ("64K", 64 << 10),
            ("1048576", 1 << 20),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "G", "-1G", "0", "0G", "80X", "1e30G", "NaNG", "inf"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_are_full_and_no_longer() {
        let text = "word ".repeat(40);
        let lines = wrapped(text.trim());
        assert!(lines.lines().all(|line| line.len() <= WIDTH && line == line.trim()));
        assert_eq!(lines.lines().count(), 3);
        assert_eq!(lines.replace('\n', " "), text.trim());
    }
}
