//! `lacuna sweep`: a grid of kinds of attention and lengths, over the same prompts, in one table.

mod prompts;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lacuna_runner::Error;
use lacuna_runner::batch::{
    Answerer, Cell, CellSummary, Data, Failed, Fingerprint, Grid, LineWriter, OnExisting, Question,
    SampleCost, SampleResult, contains_reference, csv, is_value, markdown, summaries,
};
use lacuna_runner::comm::Communicator;
use lacuna_runner::context;
use lacuna_runner::generate::{GenerateOptions, SamplingOptions, eos_token_ids};
use lacuna_runner::model::{Config, GenerationConfig, Tokenizer};
use lacuna_runner::needle::{self, Existing, NeedleOptions};
use lacuna_runner::report::write_file;
use serde::Serialize;

use super::args::{ComputeArgs, TokenizerArgs};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use super::ranks::RankArgs;
use super::shared_model::SharedModel;
use super::terminal;
use prompts::{Prompt, Prompts};

/// Run a grid of attention and lengths over the same prompts
///
/// A grid is a TOML file:
///
///   lengths = ["4k", "8k"]      tokens of a prompt
///   samples = 10                prompts of each length
///   [needle]                    texts with facts hidden in them
///   depths = [10, 50, 90]       where, in percent
///   [[attn]]
///   attn = "dense"              as for --attn
///   [[attn]]
///   attn = "seq-topk,block=2048,top_k={top_k}"
///   top_k = [64, 128, 256]      every value in turn
///
/// Further keys: model (a directory; the needle model unless given), seed,
/// max_new_tokens, stop; in [needle] haystack (prose, noise, needles), value
/// (number, uuid) and needles. In place of lengths and [needle], [files] names
/// a JSONL file for each length, as lacuna infer reads them:
/// "16k" = "qa1.jsonl". Paths start at the grid's directory.
///
/// An answer about a needle is right if it is the value; one to a record, if it
/// contains one of the record's outputs, in whatever case.
///
/// OUT gets results.jsonl, a line for each sample, and table.csv and table.md.
/// What is there is not run again: a grid that was interrupted, or has become
/// larger, goes on.
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
#[command(after_help = "Examples:\n  \
    lacuna sweep grid.toml -o results --dry-run\n  \
    lacuna sweep grid.toml -o results\n  \
    lacuna sweep grid.toml -o results -m DIR --np 4 --json\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad lines or failed samples.")]
pub struct SweepArgs {
    /// The grid
    #[arg(value_name = "GRID")]
    grid: PathBuf,
    /// The directory of the results; made where it is not there
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,
    /// A model directory, in place of the grid's
    #[arg(short, long, value_name = "DIR", help_heading = "Model")]
    model: Option<PathBuf>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Run everything anew
    #[arg(long)]
    overwrite: bool,
    /// Exit with 0 though samples failed
    #[arg(long)]
    keep_going: bool,
    /// List the cells, and what is there of them; run nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ranks: RankArgs,
}

/// What a sweep says.
#[derive(Serialize)]
struct Page {
    grid: PathBuf,
    /// `None`: the needle model.
    model: Option<PathBuf>,
    samples: u64,
    seed: u64,
    cells: Vec<CellSummary>,
}

pub fn run(args: SweepArgs, progress: &Progress) -> Outcome {
    let grid = Grid::from_file(&args.grid)?;
    // Processes may be several: each has its own copy of the needle model.
    let scratch;
    let named = args.model.clone().or_else(|| grid.model.clone());
    let model_dir = match &named {
        Some(dir) => dir.clone(),
        None => {
            let temp_dir = std::env::temp_dir();
            scratch = tempfile::tempdir().map_err(|e| Error::io("create a directory in", temp_dir, e))?;
            let default = NeedleOptions::default();
            let longest = grid.lengths.iter().max().map_or(0, |max| max.saturating_add(grid.max_new_tokens));
            let options = NeedleOptions { max_len: default.max_len.max(longest), ..default };
            needle::write(scratch.path(), &options, Existing::Refuse).map_err(Failure::from_arguments)?;
            scratch.path().to_owned()
        }
    };
    let config = Config::from_file(&model_dir.join("config.json"))?;
    let tokenizer_file = args.tokenizer.tokenizer.clone().unwrap_or_else(|| model_dir.join("tokenizer.json"));
    let tokenizer = Tokenizer::from_file(&tokenizer_file)?;
    tokenizer.check(&config)?;
    grid.attns.iter().try_for_each(|attn| attn.check(&config))?;
    let generation_config = GenerationConfig::from_file(&model_dir.join("generation_config.json"))?;
    let sweep = Sweep {
        methods: grid.attns.iter().map(|attn| attn.options(grid.max_new_tokens)).collect(),
        generate: GenerateOptions {
            max_new_tokens: grid.max_new_tokens,
            eos_token_ids: eos_token_ids(&config, &generation_config),
            stop: grid.stop.clone(),
            sampling: SamplingOptions { seed: grid.seed, ..Default::default() },
            ..Default::default()
        },
        args: &args,
        grid: &grid,
        model_dir: &model_dir,
        tokenizer_file: &tokenizer_file,
        tokenizer,
        model: SharedModel::default(),
        progress,
    };
    let Some(results) = args.ranks.run(|comm| sweep.work(comm))?.flatten() else { return Ok(()) };
    let cells = summaries(&grid.attns, &grid.lengths, &results);
    let (model, samples) = (named, grid.samples);
    let page = Page { grid: args.grid.clone(), model, samples, seed: grid.seed, cells };
    if !args.dry_run {
        write_file(&args.output.join("table.csv"), csv(&page.cells).as_bytes())?;
        write_file(&args.output.join("table.md"), markdown(&page.cells).as_bytes())?;
    }
    match args.json {
        true => terminal::print_json(&page)?,
        false if args.dry_run => terminal::print(&table::plan(&page.cells, samples))?,
        false => terminal::print(&table::text(&page.cells, samples, terminal::colour()))?,
    }
    let failed: usize = page.cells.iter().map(|cell| cell.failed).sum();
    match failed {
        0 => Ok(()),
        _ if args.keep_going || args.dry_run => Ok(()),
        n => {
            let first = results.iter().find_map(|result| result.error.as_ref());
            let reason = first.map(|error| error.message.as_str()).unwrap_or_default();
            Err(Failure::Data(format!("{n} samples failed: {reason}")))
        }
    }
}

struct Sweep<'a> {
    args: &'a SweepArgs,
    grid: &'a Grid,
    methods: Vec<context::Options>,
    generate: GenerateOptions,
    model_dir: &'a Path,
    tokenizer_file: &'a Path,
    tokenizer: Tokenizer,
    model: SharedModel,
    progress: &'a Progress,
}

/// The results, and what of them is there.
struct Prepared {
    writer: Option<LineWriter>,
    /// In the order of the kinds of attention.
    fingerprints: Vec<Fingerprint>,
    results: Vec<SampleResult>,
    /// Where each is among the results.
    there: HashMap<(Cell, u64), usize>,
}

impl Sweep<'_> {
    /// What one rank does; rank 0 gives the results.
    fn work(&self, comm: &dyn Communicator) -> Outcome<Option<Vec<SampleResult>>> {
        let prepared = if comm.rank() == 0 { Some(self.prepare(comm.world_size())?) } else { None };
        if self.args.dry_run {
            return Ok(prepared.map(|prepared| prepared.results));
        }
        let model = self.model.get(comm, || self.args.compute.load(self.model_dir, self.progress))?;
        let answerer = Answerer::new(model, comm, &self.tokenizer, &self.methods, self.generate.clone());
        let Some(mut prepared) = prepared else {
            answerer.serve()?;
            return Ok(None);
        };
        self.cells(&mut prepared, &answerer)?;
        answerer.finish()?;
        Ok(Some(prepared.results))
    }

    /// Checks the data, and reads the results that are there.
    fn prepare(&self, ranks: usize) -> Outcome<Prepared> {
        prompts::check(self.grid)?;
        let base = self.fingerprint()?;
        let fingerprints: Vec<Fingerprint> = self
            .methods
            .iter()
            .map(|options| {
                let thresholds = format!("{:?}", options.thresholds);
                base.with_ranks(&options.method, ranks).with("thresholds", thresholds)
            })
            .collect();
        let labels: Vec<String> = self.grid.attns.iter().map(ToString::to_string).collect();
        let path = self.args.output.join("results.jsonl");
        let mut prepared =
            Prepared { writer: None, fingerprints, results: Vec::new(), there: HashMap::new() };
        if self.args.dry_run && (self.args.overwrite || !path.exists()) {
            return Ok(prepared);
        }
        std::fs::create_dir_all(&self.args.output)
            .map_err(|e| Error::io("create", self.args.output.as_path(), e))?;
        let on_existing = if self.args.overwrite { OnExisting::Overwrite } else { OnExisting::Resume };
        let mut writer = LineWriter::open(&path, on_existing)?;
        writer.existing(&mut |line| {
            let result = SampleResult::from_json(line)?;
            // Kinds of attention that are no longer in the grid are left alone.
            let Some(attn) = labels.iter().position(|label| *label == result.cell.attn) else {
                return Ok(());
            };
            if !result.is_of(prepared.fingerprints[attn]) {
                return Err("it is of another model, other prompts or other options; run --overwrite, or take another \
                            directory"
                    .into());
            }
            let key = (result.cell.clone(), result.sample);
            match prepared.there.insert(key, prepared.results.len()) {
                None => prepared.results.push(result),
                Some(_) => return Err("its sample is there before".into()),
            }
            Ok(())
        })?;
        // More than the grid asks for now.
        prepared.results.retain(|result| {
            result.sample < self.grid.samples && self.grid.lengths.contains(&result.cell.length)
        });
        prepared.there = prepared
            .results
            .iter()
            .enumerate()
            .map(|(i, result)| ((result.cell.clone(), result.sample), i))
            .collect();
        prepared.writer = Some(writer);
        Ok(prepared)
    }

    /// All that answers depend on, but for the kind of attention, the length and the sample; and but for the device and its
    /// rounding.
    fn fingerprint(&self) -> Outcome<Fingerprint> {
        let options = self.args.compute.options();
        let GenerateOptions { max_new_tokens, eos_token_ids, stop, sampling, .. } = &self.generate;
        let data = match &self.grid.data {
            Data::Needle(needle) => format!("{needle:?} {}", self.grid.seed),
            // Each line has the hash of its prompt.
            Data::Files(_) => "files".into(),
        };
        Ok(Fingerprint::default()
            .with_model(self.model_dir)?
            .with_file(self.tokenizer_file)?
            .with("weights", format_args!("{:?} {:?}", options.format, options.dtype))
            .with("data", data)
            .with("generate", format_args!("{max_new_tokens} {eos_token_ids:?} {stop:?} {sampling:?}")))
    }

    /// Runs what is not there: sample by sample under all kinds of attention, so that what disturbs the machine for a while
    /// disturbs all of them.
    fn cells(&self, prepared: &mut Prepared, answerer: &Answerer<'_>) -> Outcome {
        let Sweep { grid, tokenizer, .. } = self;
        let weight: u64 = grid.lengths.iter().map(|&length| length as u64 * grid.samples).sum();
        let attns = grid.attns.len() as u64;
        let total = grid.samples * grid.lengths.len() as u64 * attns;
        let known = matches!(grid.data, Data::Needle(_)).then_some(total);
        let mut progress = self.progress.samples("sweep", known, weight * attns);
        for (i, &length) in grid.lengths.iter().enumerate() {
            let mut prompts = Prompts::new(grid, i, self.tokenizer_file)?;
            for sample in 0..grid.samples {
                answerer.alive();
                let Some(Prompt { tokens, outputs, hash, exact }) = prompts.next(sample, tokenizer)? else {
                    break;
                };
                for (method, attn) in grid.attns.iter().enumerate() {
                    let cell = Cell { attn: attn.to_string(), length };
                    if let Some(&at) = prepared.there.get(&(cell.clone(), sample)) {
                        if prepared.results[at].input_hash != hash {
                            let path = self.args.output.join("results.jsonl");
                            return Err(Failure::Data(format!(
                                "{}: sample {sample} of length {length} was another prompt; run --overwrite, or take another \
                                 directory",
                                path.display()
                            )));
                        }
                        progress.skip(length as u64);
                        continue;
                    }
                    let answer = match &tokens {
                        Ok([context, query]) => {
                            let (context, query) = (context.clone(), query.clone());
                            let question = Question { method, context, query };
                            answerer.ask(&question, &mut progress)?.map_err(|e| Failed::new(&e))
                        }
                        Err(e) => Err(Failed::new(e)),
                    };
                    let pred = answer.as_ref().map(|answer| answer.text.clone()).unwrap_or_default();
                    let right = answer.is_ok()
                        && match exact {
                            true => outputs.iter().any(|value| is_value(&pred, value)),
                            false => contains_reference(&pred, &outputs),
                        };
                    let result = SampleResult {
                        cell,
                        sample,
                        right,
                        pred,
                        outputs: outputs.clone(),
                        error: answer.as_ref().err().cloned(),
                        cost: answer.as_ref().ok().map(SampleCost::new),
                        fingerprint: prepared.fingerprints[method].to_string(),
                        input_hash: hash.clone(),
                    };
                    if let Some(writer) = &mut prepared.writer {
                        writer.write(&result)?;
                    }
                    prepared.results.push(result);
                    progress.done(length as u64);
                }
            }
        }
        Ok(())
    }
}
