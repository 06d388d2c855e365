//! Execution of a kernel: lanes in vectors, warps in turns, CTAs one after the other.

mod access;
mod atomics;
mod barriers;
mod copies;
mod cta;
mod dispatch;
mod exchange;
mod float;
mod global_access;
mod grid;
mod integer;
mod moves;
mod registers;
mod run;
mod session;
mod traffic;
mod transfer;
mod warp;

pub use cta::Failed;
pub use grid::run_grid;
pub use session::{Executed, Session};
