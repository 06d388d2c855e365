//! What the tests share. Not every test uses all of it.

#![allow(dead_code, unused_imports)]

pub mod attention;
pub mod decode;
pub mod device;
pub mod merge;
pub mod tensor;

pub use attention::{Inputs, Output, assert_same, random_mask, random_options, sees, unwrap};
pub use device::{Device, emulator, for_each, on_every_device};
pub use tensor::{Half, OnDevice, random, relayout, strided};
