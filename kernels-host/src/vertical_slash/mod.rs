//! Vertical-slash attention of MInference (Jiang et al. 2024, arXiv 2407.02490): the search for columns and diagonals,
//! and attention over them.
//!
//! A pattern on the device is the two lists of every head, [`DeviceVerticalSlashIndex`]. Which keys a tile of rows reads
//! follows from them by the rules of [`lacuna_core::VerticalSlashIndex`], entry for entry, while the attention runs: lists
//! per tile of rows, which may be longer than the keys, are never stored.

mod attention;
mod index;
mod search;

pub use attention::AttentionPlan;
pub use index::{DeviceVerticalSlashIndex, RawVerticalSlashIndex};
pub use search::SearchPlan;

const OP: &str = "vertical_slash";
