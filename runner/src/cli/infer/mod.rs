//! `lacuna infer`: a file of prompts goes in, a file of answers comes out.

mod args;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

use lacuna_runner::batch::{
    Answerer, Done, Fingerprint, Input, Keys, LineWriter, Meta, OnBadLine, OnExisting, Outline, Prediction,
    PromptOptions, Question, Record, Sample,
};
use lacuna_runner::comm::Communicator;
use lacuna_runner::generate::GenerateOptions;
use lacuna_runner::model::{GenerationConfig, Tokenizer};
use lacuna_runner::report::format_count;
use lacuna_runner::{Error, context};

use super::args::ModelArgs;
use super::failure::{Failure, Outcome};
use super::progress::{Progress, Samples};
use super::shared_model::SharedModel;
use super::terminal;
pub use args::InferArgs;

pub fn run(args: InferArgs, progress: &Progress) -> Outcome {
    let sampling = args.sampling.options()?;
    let config = args.model.config()?;
    let tokenizer = args.model.tokenizer.load(Some(&args.model.model))?;
    tokenizer.check(&config)?;
    args.attn.check(&config)?;
    let generation_config = GenerationConfig::from_file(&args.model.model.join("generation_config.json"))?;
    let infer = Infer {
        methods: [args.attn.options(args.max_new_tokens)],
        prompt: PromptOptions {
            tokenize: args.tokenize,
            special_tokens: !args.no_special_tokens,
            query_tokens: args.query_tokens,
        },
        generate: GenerateOptions {
            max_new_tokens: args.max_new_tokens,
            eos_token_ids: args.stopping.token_ids(&config, &generation_config),
            stop: args.stopping.texts(),
            sampling,
            ..Default::default()
        },
        model: SharedModel::default(),
        attn: args.attn.to_string(),
        args: &args,
        tokenizer,
        progress,
    };
    let tally = args.ranks.run(|comm| infer.work(comm))?.flatten();
    tally.map_or(Ok(()), |tally| tally.outcome(args.keep_going))
}

struct Infer<'a> {
    args: &'a InferArgs,
    attn: String,
    methods: [context::Options; 1],
    prompt: PromptOptions,
    generate: GenerateOptions,
    tokenizer: Tokenizer,
    model: SharedModel,
    progress: &'a Progress,
}

/// What is known before the model is loaded.
struct Prepared {
    input: Input<Box<dyn BufRead>>,
    outline: Option<Outline>,
    writer: LineWriter,
    done: Done,
    fingerprint: Fingerprint,
}

/// What became of the samples.
#[derive(Default)]
struct Tally {
    answered: u64,
    there: u64,
    skipped: u64,
    failed: u64,
    /// The first failure.
    first: Option<String>,
}

impl Infer<'_> {
    /// What one rank does; rank 0 tells what became of the samples.
    fn work(&self, comm: &dyn Communicator) -> Outcome<Option<Tally>> {
        let prepared = if comm.rank() == 0 { Some(self.prepare(comm.world_size())?) } else { None };
        let model =
            self.model.get(comm, || self.args.model.compute.load(&self.args.model.model, self.progress))?;
        let answerer = Answerer::new(model, comm, &self.tokenizer, &self.methods, self.generate.clone());
        let Some(prepared) = prepared else {
            answerer.serve()?;
            return Ok(None);
        };
        let tally = self.samples(prepared, &answerer)?;
        answerer.finish()?;
        Ok(Some(tally))
    }

    /// Looks through the input, and at what the output holds.
    fn prepare(&self, ranks: usize) -> Outcome<Prepared> {
        let args = self.args;
        let (range, format) = (self.range(), args.format.0);
        let is_file = std::fs::metadata(&args.input).is_ok_and(|m| m.is_file());
        let stdin = args.input == Path::new("-");
        let outline = match is_file && !stdin {
            true => Some(self.outline(&range)?),
            false => None,
        };
        let input = match stdin {
            true => {
                let source: Box<dyn BufRead> = Box::new(BufReader::new(io::stdin()));
                Input::new(source, "standard input", format, range)
            }
            false => {
                let failed = |e| Error::io("read", args.input.as_path(), e);
                let file = File::open(&args.input).map_err(failed)?;
                if file.metadata().map_err(failed)?.is_dir() {
                    return Err(failed(io::ErrorKind::IsADirectory.into()).into());
                }
                let source: Box<dyn BufRead> = Box::new(BufReader::with_capacity(1 << 20, file));
                Input::new(source, &args.input, format, range)
            }
        };
        let fingerprint = self.fingerprint(ranks)?;
        let keys = outline.as_ref().map_or(Keys::Line, |outline| outline.keys);
        let mut done = Done::new(keys, fingerprint);
        let on_existing = match (args.resume, args.overwrite) {
            (true, _) => OnExisting::Resume,
            (_, true) => OnExisting::Overwrite,
            _ => OnExisting::Refuse,
        };
        let mut writer = match args.output == Path::new("-") {
            true if args.resume => {
                return Err(Failure::Usage("--resume needs an output that is a file".into()));
            }
            true => LineWriter::stdout(),
            false => {
                if let (Ok(a), Ok(b)) = (args.input.canonicalize(), args.output.canonicalize())
                    && a == b
                {
                    return Err(Failure::Usage("the output is the input".into()));
                }
                LineWriter::open(&args.output, on_existing)?
            }
        };
        writer.existing(&mut |line| done.add(&line))?;
        Ok(Prepared { input, outline, writer, done, fingerprint })
    }

    fn range(&self) -> Range<u64> {
        let start = self.args.start;
        start..start.saturating_add(self.args.num_samples.unwrap_or(u64::MAX))
    }

    fn outline(&self, range: &Range<u64>) -> Outcome<Outline> {
        let args = self.args;
        let outline = Input::open(&args.input, args.format.0, range.clone())?.outline()?;
        if let (Some(bad), OnBadLine::Fail) = (&outline.bad, args.on_bad_line) {
            let more = match outline.num_bad - 1 {
                0 => String::new(),
                1 => "; one more line is bad".into(),
                n => format!("; {n} more lines are bad"),
            };
            return Err(Failure::Data(format!("{bad}{more}")));
        }
        if let Some(format) = outline.format {
            self.prompt.check(format, &self.methods[0].method).map_err(Failure::from_arguments)?;
        }
        Ok(outline)
    }

    /// All that answers depend on, but for the device and its rounding.
    fn fingerprint(&self, ranks: usize) -> Outcome<Fingerprint> {
        let ModelArgs { model, tokenizer, compute } = &self.args.model;
        let tokenizer = tokenizer.tokenizer.clone().unwrap_or_else(|| model.join("tokenizer.json"));
        let GenerateOptions { max_new_tokens, eos_token_ids, stop, sampling, .. } = &self.generate;
        let options = compute.options();
        Ok(Fingerprint::default()
            .with_ranks(&self.methods[0].method, ranks)
            .with_model(model)?
            .with_file(&tokenizer)?
            .with("attn", &self.attn)
            .with("thresholds", format_args!("{:?}", self.methods[0].thresholds))
            .with("weights", format_args!("{:?} {:?}", options.format, options.dtype))
            .with("prompt", format_args!("{:?}", self.prompt))
            .with("generate", format_args!("{max_new_tokens} {eos_token_ids:?} {stop:?} {sampling:?}")))
    }

    /// Answers all samples that have no answer yet.
    fn samples(&self, prepared: Prepared, answerer: &Answerer<'_>) -> Outcome<Tally> {
        let Prepared { mut input, outline, mut writer, done, fingerprint } = prepared;
        let mut tally = Tally::default();
        let (total, bytes) = outline.map_or((None, 0), |outline| (Some(outline.samples), outline.bytes));
        let mut progress = self.progress.samples("infer", total, bytes);
        while let Some(Sample { line, bytes, record }) = input.next_sample()? {
            answerer.alive();
            let (record, format) = match record {
                Ok(record) => record,
                Err(e) if self.args.on_bad_line == OnBadLine::Fail => {
                    return Err(Failure::Data(e.to_string()));
                }
                Err(e) => {
                    progress.say(&format!("{e}; skipped"));
                    tally.skipped += 1;
                    continue;
                }
            };
            let is_done = done.contains(record.index.as_ref(), line, record.text.hash());
            if is_done
                .map_err(|e| Failure::Data(format!("{}: line {line}: {e}", self.args.input.display())))?
            {
                progress.skip(bytes);
                tally.there += 1;
                continue;
            }
            self.prompt.check(format, &self.methods[0].method).map_err(Failure::from_arguments)?;
            let meta = Meta::new(line, &self.attn, fingerprint);
            let written = self.sample(&record, meta, answerer, &mut progress, &mut writer)?;
            match written {
                Ok(()) => tally.answered += 1,
                Err(e) => {
                    tally.failed += 1;
                    let message = format!("{}: line {line}: {e}", self.args.input.display());
                    progress.say(&message);
                    tally.first.get_or_insert(message);
                }
            }
            progress.done(bytes);
        }
        drop(progress);
        tally.say();
        Ok(tally)
    }

    /// Answers one sample and writes its line. The inner error is the sample's.
    fn sample(
        &self,
        record: &Record,
        meta: Meta<'_>,
        answerer: &Answerer<'_>,
        progress: &mut Samples,
        writer: &mut LineWriter,
    ) -> Outcome<Result<(), Error>> {
        let answer = match self.prompt.tokens(&record.text, &self.tokenizer) {
            Ok([context, query]) => answerer.ask(&Question { method: 0, context, query }, progress)?,
            Err(e) => Err(e),
        };
        let prediction = Prediction::new(record, answer.as_ref(), self.args.echo, meta);
        let to_stdout = self.args.output == Path::new("-");
        match writer.write(&prediction) {
            Err(Error::Io { source, .. }) if to_stdout => return Err(Failure::Output(source)),
            written => written?,
        }
        Ok(answer.map(drop))
    }
}

impl Tally {
    fn say(&self) {
        let count = |n: u64| format_count(usize::try_from(n).unwrap_or(usize::MAX));
        let mut parts = vec![format!("{} answered", count(self.answered))];
        for (n, what) in
            [(self.failed, "failed"), (self.there, "there already"), (self.skipped, "bad lines skipped")]
        {
            parts.extend((n > 0).then(|| format!("{} {what}", count(n))));
        }
        terminal::say(&format!("[{}]", parts.join(", ")));
    }

    fn outcome(self, keep_going: bool) -> Outcome {
        match self.first {
            Some(first) if !keep_going => {
                let more = if self.failed > 1 { " (the first)" } else { "" };
                Err(Failure::Data(format!(
                    "{} of {} samples failed: {first}{more}",
                    self.failed,
                    self.failed + self.answered
                )))
            }
            _ => Ok(()),
        }
    }
}
