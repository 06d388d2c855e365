//! The prompts of a sweep, one after the other.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use lacuna_runner::batch::{Data, Fingerprint, Grid, Input, NeedleData, PromptOptions, Sample};
use lacuna_runner::model::Tokenizer;
use lacuna_runner::needle::{self, BEGIN};
use lacuna_runner::{Error, Result};

use crate::cli::failure::{Failure, Outcome};

/// One prompt, and what answers it.
pub struct Prompt {
    /// Context and query, or why there are none.
    pub tokens: Result<[Vec<u32>; 2]>,
    /// Right answers.
    pub outputs: Vec<String>,
    /// The hash of its text.
    pub hash: String,
    /// Whether an answer has to be one of `outputs`, or to contain it.
    pub exact: bool,
}

/// The prompts of one length.
pub enum Prompts<'a> {
    /// Made up.
    Needle {
        data: &'a NeedleData,
        length: usize,
        seed: u64,
        /// With offsets, which tell where the query begins.
        tokenizer: Box<tokenizers::Tokenizer>,
    },
    /// Read.
    File { input: Input<BufReader<File>>, options: PromptOptions },
}

/// Refuses files that hold bad lines, or records that do not say where their query begins while a kind of attention needs that, or
/// records that nothing answers.
pub fn check(grid: &Grid) -> Outcome {
    let Data::Files(paths) = &grid.data else { return Ok(()) };
    for path in paths {
        let outline = Input::open(path, None, 0..grid.samples)?.outline()?;
        if let Some(bad) = outline.bad {
            return Err(Failure::Data(bad.to_string()));
        }
        let Some(format) = outline.format else {
            return Err(Failure::Data(format!("{}: it holds no records", path.display())));
        };
        for attn in &grid.attns {
            PromptOptions::default().check(format, attn.method()).map_err(|_| {
                Failure::Data(format!(
                    "{}: {} records do not say where their queries begin, which {attn} needs to know",
                    path.display(),
                    format.name()
                ))
            })?;
        }
    }
    Ok(())
}

impl<'a> Prompts<'a> {
    /// Those of the grid's length `i`.
    pub fn new(grid: &'a Grid, i: usize, tokenizer_file: &Path) -> Result<Self> {
        Ok(match &grid.data {
            Data::Needle(data) => {
                let tokenizer = tokenizers::Tokenizer::from_file(tokenizer_file);
                let tokenizer = tokenizer
                    .map_err(|e| Error::malformed(tokenizer_file, format_args!("not a tokenizer: {e}")))?;
                Self::Needle {
                    data,
                    length: grid.lengths[i],
                    seed: grid.seed,
                    tokenizer: Box::new(tokenizer),
                }
            }
            Data::Files(paths) => {
                let input = Input::open(&paths[i], None, 0..grid.samples)?;
                Self::File { input, options: PromptOptions::default() }
            }
        })
    }

    /// The next one, which is `sample`; `None` where a file has no more.
    pub fn next(&mut self, sample: u64, model_tokenizer: &Tokenizer) -> Outcome<Option<Prompt>> {
        match self {
            Self::Needle { data, length, seed, tokenizer } => {
                let depth = |depths: &Vec<f64>| vec![depths[(sample % depths.len() as u64) as usize]];
                let options = needle::PromptOptions {
                    haystack: data.haystack,
                    value: data.value,
                    num_tokens: *length,
                    num_needles: data.needles,
                    num_questions: 1,
                    depths: data.depths.as_ref().map(depth),
                    seed: seed.wrapping_add(sample),
                    circuit_safe: model_tokenizer.token_to_id("<|begin|>") == Some(BEGIN),
                };
                let needle::Prompt { text, mut tokens, query_start, needles, questions } = options
                    .generate(tokenizer)
                    .map_err(|e| Failure::Data(format!("no prompt of {length} tokens can be made: {e}")))?;
                let query = tokens.split_off(query_start);
                let asked = questions.iter().map(|question| needles[question.needle].value.clone());
                Ok(Some(Prompt {
                    tokens: Ok([tokens, query]),
                    outputs: asked.collect(),
                    hash: Fingerprint::default().with("input", text).to_string(),
                    exact: true,
                }))
            }
            Self::File { input, options } => {
                let Some(Sample { line, record, .. }) = input.next_sample()? else { return Ok(None) };
                let (record, _) = record.map_err(|e| Failure::Data(e.to_string()))?;
                if record.outputs.is_empty() {
                    let reason =
                        format!("{}: line {line}: the record has no outputs", input.path().display());
                    return Err(Failure::Data(reason));
                }
                Ok(Some(Prompt {
                    tokens: options.tokens(&record.text, model_tokenizer),
                    hash: record.text.hash().to_string(),
                    outputs: record.outputs,
                    exact: false,
                }))
            }
        }
    }
}
