//! Vertical-slash attention and its search against the reference.

mod attention;
#[path = "../common/mod.rs"]
mod common;
mod search;
