//! What the tests share. Not every test uses all of it.

#![allow(dead_code, unused_imports)]

pub mod attention;
pub mod block_mask;
pub mod block_pool;
pub mod block_select;
pub mod column_mass;
pub mod decode;
pub mod device;
pub mod flex_prefill;
pub mod gather;
pub mod k_means;
pub mod merge;
pub mod probe;
pub mod scores;
pub mod tensor;
pub mod top_k;
pub mod vertical_slash;
pub mod x_attention;

pub use attention::{Inputs, Output, assert_same, random_mask, random_options, sees, unwrap};
pub use device::{Device, emulator, for_each, on_every_device};
pub use tensor::{Half, OnDevice, random, relayout, strided};
