//! Vertical-slash attention.

use super::{AttentionParams, Params};

params! {
    /// The last parameter of `vertical_slash`.
    VerticalSlashParams, 104 {
        /// As for block-sparse attention; `block_n` is not used.
        attention: AttentionParams,
        /// From the columns of a head to those of the next, in entries: room for the most of any head.
        column_step: u32,
        /// The same for its slashes.
        slash_step: u32,
    }
}
