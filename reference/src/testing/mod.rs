//! What the tests of every crate share: seeded inputs, shapes, tolerances, comparisons.
//!
//! A seeded test is a loop over [`seeds`] that makes a [`case!`](crate::case) for each seed; a failing comparison then
//! prints one line that repeats that case alone.
//!
//! ```
//! use lacuna_core::{AttentionOptions, TensorView};
//! use lacuna_reference::{case, dense_attention, testing::{self, Rng, ShapeLimits, Tensor, Tolerance}};
//! for seed in testing::seeds(3) {
//!     let mut rng = Rng::new(seed);
//!     let shape = rng.shape(&ShapeLimits { max_tokens: 20, ..Default::default() });
//!     let case = case!(seed, "{shape:?}");
//!     let q = Tensor::<f32>::random_strided(&mut rng, shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
//!     let [k, v] = [0, 1].map(|_| {
//!         Tensor::<f32>::random_strided(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim)
//!     });
//!     let options = AttentionOptions::default();
//!     let want = dense_attention(&shape, &q.view(), &k.view(), &v.view(), &options)?;
//!     let twin = testing::twin_attention(&shape, &q.view(), &k.view(), &v.view(), &options, |_, _, _, _| true)?;
//!     // `twin` stands for the kernel's output here.
//!     testing::assert_close(&twin.out, &want.out, Tolerance::attention::<f32>(&want.out, &twin.out), &case);
//!     testing::assert_close(&twin.softmax_lse, &want.softmax_lse, Tolerance::LSE, &case);
//! }
//! # Ok::<(), lacuna_core::Error>(())
//! ```

mod case;
mod close;
pub mod golden;
mod rng;
mod selection;
mod shapes;
mod tensor;
mod twin;

pub use case::{Case, seeds};
pub use close::{Number, Tolerance, assert_bits, assert_close};
pub use rng::{Lcg, Rng};
pub use selection::{MaskBounds, assert_top_k};
pub use shapes::{HEAD_DIMS, LENGTHS, ShapeLimits, edge_lengths};
pub use tensor::{Tensor, nans};
pub use twin::twin_attention;
