//! Vertical-slash attention of MInference (Jiang et al. 2024, arXiv 2407.02490): the search for columns and diagonals,
//! and attention over them.

mod attention;
mod search;

pub use attention::AttentionPlan;
pub use search::SearchPlan;
