//! Attention by name: `flexprefill,gamma=0.95` on a command line, in a file, in a table.
//!
//! One registry says which patterns there are, which keys each takes, what they mean and which values they accept. The
//! parser, the help, the labels in reports and the [`lacuna::Pattern`] that runs all come from it; the defaults come from
//! the option structs themselves.
//!
//! ```
//! use lacuna_runner::attn::Attn;
//!
//! let attn: Attn = "Flex_Prefill,gamma=0.95,min_budget=2k".parse().unwrap();
//! assert_eq!(attn.to_string(), "flexprefill,gamma=0.95,min_budget=2k");
//! let error = "flexprefill,gamma=2".parse::<Attn>().unwrap_err();
//! assert_eq!(error.to_string(), "flexprefill: gamma must be in (0, 1], got 2");
//! ```
//!
//! XAttention takes a threshold for every query head of every layer from a file, `xattention,threshold_table=FILE`: a JSON
//! list with a list per layer of a number in [0, 1] per head, such as the tables that its authors tuned for Llama 3.1.

mod help;
mod length;
mod method;
mod parse;
mod registry;
mod threshold_table;

pub use help::help;
pub use length::{format_length, parse_length};
pub use method::{Attn, Key, Method};
pub use parse::ParseAttnError;
pub use registry::METHODS;
pub use threshold_table::ThresholdFile;
