//! The options of `lacuna infer`.

use std::path::PathBuf;

use lacuna_runner::attn::Attn;
use lacuna_runner::batch::{Echo, Format, OnBadLine, Tokenize};

use crate::cli::args::{self, ModelArgs};
use crate::cli::generation_args::{SamplingArgs, StoppingArgs};
use crate::cli::ranks::RankArgs;

/// Answer the prompts of a JSONL file, one line each, resumable
///
/// A line of the input is a JSON object with a prompt: of a context and a query (input_context, input_query, output or
/// outputs), as Star Attention's data has them, or as RULER, BABILong or InfiniteBench name them, or {"prompt": ...} or
/// {"messages": [...]}. The keys of the first line decide.
///
/// A line of the output is the answer (pred), with index, outputs, others, truncation and length of the record, the prompt
/// (see --echo), and what it took (meta). It is written as soon as it is there; what is interrupted goes on with --resume.
/// Samples are known again by their index where every record has one of its own, and else by their line. One that fails has
/// an empty pred and an error; take its line out of the output and resume to try it again.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna infer -m DIR -i in.jsonl -o out.jsonl -n 128\n  \
    lacuna infer -m DIR -a star,block=4k --np 4 -i in.jsonl -o out.jsonl \\\n      \
    --resume --stop-words '<|eot_id|>'\n  \
    zcat in.jsonl.gz | lacuna infer -m DIR -i - -o - | grep '\"pred\"'\n\n\
    Exit codes: 0 all answered, 1 failed, 2 wrong usage, 3 bad lines or failed samples.")]
pub struct InferArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The prompts: a JSONL file, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    pub input: PathBuf,
    /// The answers: a JSONL file to write, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// A context method, a pattern, or METHOD+PATTERN, each as NAME[,KEY=VALUE...]; 'help' lists all
    #[arg(short, long, value_name = "ATTN", default_value = "dense", value_parser = args::attn)]
    pub attn: Attn,
    /// The most tokens of an answer
    #[arg(short = 'n', long, value_name = "N", default_value = "128", value_parser = args::positive_length)]
    pub max_new_tokens: usize,
    /// Add the answers that the output lacks
    #[arg(long, conflicts_with = "overwrite", help_heading = "Files")]
    pub resume: bool,
    /// Replace an output that is there
    #[arg(long, help_heading = "Files")]
    pub overwrite: bool,
    /// What the lines of the input hold: auto, star, ruler, babilong, infinitebench, prompt, messages
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = format, help_heading = "Files")]
    pub format: AutoFormat,
    /// Leave out the first N samples of the input
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Files")]
    pub start: u64,
    /// Take at most N samples
    #[arg(long, value_name = "N", help_heading = "Files")]
    pub num_samples: Option<u64>,
    /// A line that is no record: fail (before anything is run), or skip it and say so
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = on_bad_line, help_heading = "Files")]
    pub on_bad_line: OnBadLine,
    /// Exit with 0 though samples failed
    #[arg(long, help_heading = "Files")]
    pub keep_going: bool,
    /// What of the prompt is written beside its answer: full, hash, none
    #[arg(long, value_name = "WHAT", default_value = "full", value_parser = echo, help_heading = "Files")]
    pub echo: Echo,
    /// Context and query become tokens apart (split), or as one text (joint)
    #[arg(long, value_name = "HOW", default_value = "split", value_parser = tokenize, help_heading = "Prompt")]
    pub tokenize: Tokenize,
    /// Leave out the special tokens that belong around a text: for prompts that spell them out
    #[arg(long, help_heading = "Prompt")]
    pub no_special_tokens: bool,
    /// The query is the last N tokens, where records do not say where it begins
    #[arg(long, value_name = "N", value_parser = args::positive_length, help_heading = "Prompt")]
    pub query_tokens: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub stopping: StoppingArgs,
    #[command(flatten)]
    pub ranks: RankArgs,
}

/// A format, or that of the first record.
#[derive(Debug, Clone, Copy)]
pub struct AutoFormat(pub Option<Format>);

fn format(text: &str) -> Result<AutoFormat, String> {
    match Format::from_name(text) {
        None if text.eq_ignore_ascii_case("auto") => Ok(AutoFormat(None)),
        None => Err(format!("the formats are auto, {}", Format::ALL.map(Format::name).join(", "))),
        format => Ok(AutoFormat(format)),
    }
}

fn on_bad_line(text: &str) -> Result<OnBadLine, String> {
    match text {
        "fail" => Ok(OnBadLine::Fail),
        "skip" => Ok(OnBadLine::Skip),
        _ => Err("must be fail or skip".into()),
    }
}

fn echo(text: &str) -> Result<Echo, String> {
    match text {
        "full" => Ok(Echo::Full),
        "hash" => Ok(Echo::Hash),
        "none" => Ok(Echo::None),
        _ => Err("must be full, hash or none".into()),
    }
}

fn tokenize(text: &str) -> Result<Tokenize, String> {
    match text {
        "split" => Ok(Tokenize::Split),
        "joint" => Ok(Tokenize::Joint),
        _ => Err("must be split or joint".into()),
    }
}
