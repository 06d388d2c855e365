//! Many prompts: JSONL files of records, and sweeps over lengths and methods.
//!
//! A file of records is read line by line, and each answer is one line, written whole as soon as it is there: what is
//! interrupted loses the answer in work and no other, and can be resumed.
//!
//! | file | what |
//! | --- | --- |
//! | `lines.rs` | lines of files of any size, by number |
//! | `records.rs`, `formats.rs` | from a line to a record, in the formats of several benchmarks |
//! | `chat.rs` | conversations as a model's tokens spell them |
//! | `input.rs` | a file of records, looked through before and read again |
//! | `prompt.rs` | from a record to tokens |
//! | `answer.rs` | from tokens to an answer, on one rank or several |
//! | `prediction.rs` | the line that says it |
//! | `resume.rs`, `writer.rs` | which lines are there already, and how the next one is written |
//! | `fingerprint.rs` | whether two runs ask the same of the same model |
//! | `grid.rs`, `grid_file.rs`, `expand.rs` | the TOML file of a sweep, and its cells |
//! | `cells.rs`, `score.rs` | what became of a sweep's cells, and whether an answer is right |

mod answer;
mod cells;
mod chat;
mod expand;
mod fingerprint;
mod formats;
mod grid;
mod grid_file;
mod input;
mod lines;
mod prediction;
mod prompt;
mod records;
mod resume;
mod score;
mod writer;

pub use answer::{Answer, Answerer, Costs, Question, is_of_sample};
pub use cells::{Cell, CellSummary, SampleCost, SampleResult, csv, markdown, summaries};
pub use chat::ChatFormat;
pub use expand::{AttnEntry, expand};
pub use fingerprint::Fingerprint;
pub use formats::Format;
pub use grid::{Data, Grid, NeedleData};
pub use input::{Input, Keys, OnBadLine, Outline, Sample};
pub use lines::Lines;
pub use prediction::{Echo, Failed, Meta, Prediction};
pub use prompt::{PromptOptions, Tokenize};
pub use records::{Index, Message, Record, Text};
pub use resume::{Done, OnExisting};
pub use score::{contains_reference, is_value};
pub use writer::LineWriter;
