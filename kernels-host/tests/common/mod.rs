//! What the tests share. Not every test uses all of it.

#![allow(dead_code, unused_imports, unused_macros)]

pub mod argmax;
pub mod attention;
pub mod block_mask;
pub mod block_pool;
pub mod block_select;
pub mod column_mass;
pub mod decode;
pub mod device;
pub mod flex_prefill;
pub mod gather;
pub mod gemm;
pub mod k_means;
pub mod merge;
pub mod probe;
pub mod rms_norm;
pub mod rope;
pub mod sample;
pub mod scores;
pub mod silu_mul;
pub mod tensor;
pub mod top_k;
pub mod vertical_slash;
pub mod x_attention;

pub use attention::{Inputs, Output, assert_same, random_mask, random_options, sees, unwrap};
pub use device::{Device, emulator, for_each, on_every_device};
pub use tensor::{Half, OnDevice, random, relayout, strided};

/// Tests that run `seeded` for either type and head dim.
macro_rules! seeded {
    () => {
        #[test]
        fn seeded_bf16_d64() {
            seeded::<half::bf16>(64);
        }

        #[test]
        fn seeded_bf16_d128() {
            seeded::<half::bf16>(128);
        }

        #[test]
        fn seeded_f16_d64() {
            seeded::<half::f16>(64);
        }

        #[test]
        fn seeded_f16_d128() {
            seeded::<half::f16>(128);
        }
    };
}
pub(crate) use seeded;
