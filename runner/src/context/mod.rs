//! Context methods: how a prompt is cut, which keys and values are kept for the answer, and how ranks share the work.
//!
//! A pattern ([`lacuna::Pattern`]) decides which blocks one attention call reads. A context method ([`Method`]) decides what is
//! run at all. [`prefill`] runs a context by its method; what comes back is a [`Session`](crate::model::Session) that holds it,
//! on which the query runs and the answer is decoded as on any other.
//!
//! | file | what |
//! | --- | --- |
//! | `options.rs` | the methods and their options |
//! | `prefill.rs` | from a method to a session |
//! | `deal.rs` | who gets which blocks |
//! | `star.rs` | Star Attention's first phase: blocks behind an anchor |
//! | `sharded.rs`, `mix.rs` | Star Attention's second phase: exact attention over shards |
//! | `star_x.rs` | StarX: other ways to mix shards |
//! | `ring.rs` | the ring baseline |
//! | `sequential_top_k.rs`, `star_top_k.rs`, `compress.rs`, `summary.rs` | DistInf's methods |
//! | `first_rank.rs`, `token_list.rs` | what they have in common |

mod check;
mod compress;
mod deal;
mod first_rank;
mod mix;
mod options;
mod prefill;
mod ring;
mod sequential_top_k;
mod sharded;
mod star;
mod star_top_k;
mod star_x;
mod summary;
mod token_list;

pub use options::{
    AnchorContent, AnchorPositions, CompressMode, CompressOptions, Method, Positions, QueryPosition,
    SequentialTopKOptions, StarOptions, StarTopKOptions, StarXMode, StarXOptions, SummaryMethod,
    SummaryOptions,
};
pub use prefill::{Options, Prefilled, Progress, Report, prefill};
