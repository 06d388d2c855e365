//! Prompts: texts from the command line, from files and from standard input, or random tokens.

use std::io::Read;
use std::path::{Path, PathBuf};

use lacuna_runner::model::Tokenizer;
use lacuna_runner::{Error, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::args;
use super::failure::{Failure, Outcome};

/// The prompt of `generate` and `mask`.
#[derive(clap::Args)]
#[group(skip)]
pub struct PromptArgs {
    /// The prompt itself
    #[arg(short, long, value_name = "TEXT", help_heading = "Prompt")]
    prompt: Option<String>,
    /// The prompt in a file, or - for standard input; a last line end is left out
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "prompt", help_heading = "Prompt")]
    prompt_file: Option<PathBuf>,
    /// A long text, to be followed by --query on a new line
    #[arg(
        long,
        value_name = "TEXT",
        requires = "query",
        conflicts_with_all = ["prompt", "prompt_file", "context_file"],
        help_heading = "Prompt"
    )]
    context: Option<String>,
    /// The long text in a file, or - for standard input; a last line end is left out
    #[arg(
        long,
        value_name = "FILE",
        requires = "query",
        conflicts_with_all = ["prompt", "prompt_file"],
        help_heading = "Prompt"
    )]
    context_file: Option<PathBuf>,
    /// What to ask about --context-file or --context; its tokens are its own
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with_all = ["prompt", "prompt_file", "prompt_tokens"],
        help_heading = "Prompt"
    )]
    query: Option<String>,
    /// Random tokens, N of them; no tokenizer is needed, and an answer is printed as token ids
    #[arg(
        long,
        value_name = "N",
        value_parser = args::positive_length,
        conflicts_with_all = ["prompt", "prompt_file", "context", "context_file", "tokenizer"],
        help_heading = "Prompt"
    )]
    prompt_tokens: Option<usize>,
}

/// What the model is to go on from.
pub enum Prompt {
    /// Never empty.
    Text(String),
    /// A long text, its line end included, and what is asked about it. Neither is empty.
    Question { context: String, query: String },
    /// So many random tokens; at least one.
    Random(usize),
}

/// A prompt in tokens.
pub struct PromptTokens {
    /// All of it.
    pub tokens: Vec<u32>,
    /// Where the query begins, for prompts that have one.
    pub query_start: Option<usize>,
}

impl Prompt {
    /// Its tokens, random ones from the whole vocabulary. A context and its query are tokenised apart, so that all methods run the
    /// same tokens; special ones stand before the context alone.
    pub fn tokens(&self, tokenizer: &Tokenizer, vocab_size: usize, seed: u64) -> Result<PromptTokens> {
        Ok(match *self {
            Self::Text(ref text) => PromptTokens { tokens: tokenizer.encode(text, true)?, query_start: None },
            Self::Question { ref context, ref query } => {
                let mut tokens = tokenizer.encode(context, true)?;
                let query_start = Some(tokens.len());
                tokens.extend(tokenizer.encode(query, false)?);
                PromptTokens { tokens, query_start }
            }
            Self::Random(len) => {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                let tokens = (0..len).map(|_| rng.random_range(0..vocab_size as u32)).collect();
                PromptTokens { tokens, query_start: None }
            }
        })
    }
}

impl PromptTokens {
    /// Takes the last `tokens` tokens for the query.
    pub fn with_query(self, tokens: Option<usize>) -> Outcome<Self> {
        let Some(query) = tokens else { return Ok(self) };
        match self.tokens.len() {
            len if query < len => Ok(Self { query_start: Some(len - query), ..self }),
            len => Err(Failure::Usage(format!(
                "--query-tokens must be below the {len} tokens of the prompt, got {query}"
            ))),
        }
    }

    /// The context and the query; without a query all of it in the place of one.
    pub fn parts(&self) -> (&[u32], &[u32]) {
        self.tokens.split_at(self.query_start.unwrap_or(0))
    }

    /// Tokens of the context: all, without a query.
    pub fn context_len(&self) -> usize {
        self.query_start.unwrap_or(self.tokens.len())
    }
}

impl PromptArgs {
    /// The prompt: the text, read, or how many tokens to make up.
    pub fn prompt(&self) -> Outcome<Prompt> {
        let text = match self {
            Self { prompt_tokens: Some(len), .. } => return Ok(Prompt::Random(*len)),
            Self { prompt: Some(text), .. } => text.clone(),
            Self { prompt_file: Some(file), .. } => read_text(file)?,
            Self { query: Some(query), context, context_file, .. } => {
                let context = match (context, context_file) {
                    (Some(text), _) => text.clone(),
                    (None, Some(file)) => read_text(file)?,
                    (None, None) => {
                        let ways = "--query asks about --context-file FILE or --context TEXT, one of which is needed";
                        return Err(Failure::Usage(ways.into()));
                    }
                };
                if query.is_empty() {
                    return Err(Failure::Other("the query is empty".into()));
                }
                return Ok(Prompt::Question { context: context + "\n", query: query.clone() });
            }
            _ => {
                let ways = "--prompt TEXT, --prompt-file FILE, --context-file FILE with --query TEXT, or --prompt-tokens N";
                return Err(Failure::Usage(format!("a prompt is needed: {ways}")));
            }
        };
        if text.is_empty() {
            return Err(Failure::Other("the prompt is empty".into()));
        }
        Ok(Prompt::Text(text))
    }
}

/// The text of a file, or of standard input for `-`, without a last line end.
pub fn read_text(path: &Path) -> Result<String> {
    let (name, bytes) = if path == Path::new("-") {
        let mut bytes = Vec::new();
        let name = Path::new("standard input");
        (name, std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes))
    } else {
        (path, std::fs::read(path))
    };
    let bytes = bytes.map_err(|e| Error::io("read", name, e))?;
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let byte = e.as_bytes()[at];
        Error::malformed(name, format_args!("not UTF-8 text: byte {byte:#04x} at offset {at}"))
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
