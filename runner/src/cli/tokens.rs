//! `lacuna tokens`: text to tokens and back.

use std::path::{Path, PathBuf};

use lacuna_runner::model::Tokenizer;
use serde::Serialize;

use super::args::TokenizerArgs;
use super::failure::{Failure, Outcome};
use super::prompt::read_text;
use super::terminal;

/// Count, encode or decode tokens
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    lacuna tokens -m DIR count -f book.txt\n  \
    lacuna tokens -m DIR encode 'The capital of France is'\n  \
    lacuna tokens -m DIR encode -f in.txt | lacuna tokens -m DIR decode")]
pub struct TokensArgs {
    /// The model directory whose tokenizer.json to use
    #[arg(short, long, value_name = "DIR", required_unless_present = "tokenizer", help_heading = "Model")]
    model: Option<PathBuf>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// What to do: count, encode (to ids) or decode (from ids)
    #[arg(value_enum, hide_possible_values = true)]
    action: Action,
    /// The text, or the ids; standard input unless given
    #[arg(value_name = "INPUT", allow_hyphen_values = true)]
    input: Vec<String>,
    /// The text, or the ids, in a file, or - for standard input; a last line end is left out
    #[arg(short, long, value_name = "FILE", conflicts_with = "input")]
    file: Option<PathBuf>,
    /// Leave out the special tokens that belong around a text
    #[arg(long)]
    no_special_tokens: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    Count,
    Encode,
    Decode,
}

#[derive(Serialize)]
struct Tokens<'a> {
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

pub fn run(args: TokensArgs) -> Outcome {
    let tokenizer = args.tokenizer.load(args.model.as_deref())?;
    let input = match &args.file {
        Some(file) => read_text(file)?,
        None if args.input.is_empty() => read_text(Path::new("-"))?,
        None => args.input.join(" "),
    };
    let (ids, text) = match args.action {
        Action::Decode => {
            let ids = ids(&input, &tokenizer)?;
            let text = tokenizer.decode(&ids, args.no_special_tokens)?;
            (ids, Some(text))
        }
        _ => (tokenizer.encode(&input, !args.no_special_tokens)?, None),
    };
    if args.json {
        let ids_wanted = (args.action != Action::Count).then_some(&ids[..]);
        return terminal::print_json(&Tokens { count: ids.len(), ids: ids_wanted, text: text.as_deref() });
    }
    terminal::print(&match (args.action, text) {
        (Action::Count, _) => format!("{}\n", ids.len()),
        (_, Some(text)) => text + "\n",
        (_, None) => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n",
    })
}

/// Ids between blanks or commas.
fn ids(input: &str, tokenizer: &Tokenizer) -> Outcome<Vec<u32>> {
    let words = input.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let id = word.parse().ok().filter(|&id| tokenizer.id_to_token(id).is_some());
            id.ok_or_else(|| Failure::Other(format!("'{word}' is not the id of a token of this tokenizer")))
        })
        .collect()
}
