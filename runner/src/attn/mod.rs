//! Attention by name: `star,block=4096+flexprefill,gamma=0.95` on a command line, in a file, in a table.
//!
//! Two registries say which context methods and which patterns there are, which keys each takes, what they mean and which
//! values they accept. The parser, the help, the labels in reports and what runs all come from them; the defaults come from the
//! option structs themselves.
//!
//! `METHOD[,KEY=VALUE...]+PATTERN[,KEY=VALUE...]` is a context method ([`crate::context::Method`]) whose passes run under a
//! pattern ([`lacuna::Pattern`]). A method alone runs under dense attention; a pattern alone runs over the whole prompt.
//!
//! ```
//! use lacuna_runner::attn::Attn;
//!
//! let attn: Attn = "Flex_Prefill,gamma=0.95,min_budget=2k".parse().unwrap();
//! assert_eq!(attn.to_string(), "flexprefill,gamma=0.95,min_budget=2k");
//! let attn: Attn = "star,block=4096+flexprefill".parse().unwrap();
//! assert_eq!((attn.method().name(), attn.pattern().name()), ("star", "flex_prefill"));
//! let error = "star,anchor=2k,block=1k".parse::<Attn>().unwrap_err();
//! assert_eq!(error.to_string(), "star: anchor must be at most a block (1024), got 2048");
//! ```
//!
//! XAttention takes a threshold for every query head of every layer from a file, `xattention,threshold_table=FILE`: a JSON
//! list with a list per layer of a number in [0, 1] per head, such as the tables that its authors tuned for Llama 3.1.

mod entry;
mod error;
mod help;
mod length;
mod methods;
mod parse;
mod patterns;
mod setting;
mod threshold_table;

pub use entry::{Entry, Key};
pub use error::ParseAttnError;
pub use help::help;
pub use length::{format_length, parse_length};
pub use methods::METHODS;
pub use patterns::{PATTERNS, PatternOptions};
pub use setting::{Attn, Setting};
pub use threshold_table::ThresholdFile;
