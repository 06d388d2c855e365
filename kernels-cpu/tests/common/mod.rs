//! What the tests share. Not every test uses all of it.

#![allow(dead_code)]

use lacuna_core::{AttentionOptions, AttentionShape, Element, Result, TensorView, TensorViewMut};
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::AttentionOutput;
use lacuna_reference::testing::{self, Case, Number, Rng, Tensor, Tolerance};

/// Runs `f` under every instruction set of this machine.
pub fn on_every_isa(mut f: impl FnMut(Isa)) {
    for isa in Isa::available() {
        isa.scope(|| f(isa));
    }
}

/// The queries, keys and values of one call.
pub struct Inputs<T> {
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub v: Tensor<T>,
}

impl<T: Element> Inputs<T> {
    /// Standard normal numbers in memory of random strides, NaN between the rows.
    pub fn random(rng: &mut Rng, shape: &AttentionShape) -> Self {
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        Self {
            q: Tensor::random_strided(rng, total_q, shape.num_heads, shape.head_dim),
            k: Tensor::random_strided(rng, total_k, shape.num_heads_k, shape.head_dim),
            v: Tensor::random_strided(rng, total_k, shape.num_heads_k, shape.head_dim),
        }
    }

    /// `run(q, k, v, out, lse)` on outputs that start as NaN; `out` contiguous.
    pub fn run(
        &self,
        shape: &AttentionShape,
        run: impl FnOnce(
            &TensorView<T>,
            &TensorView<T>,
            &TensorView<T>,
            &mut TensorViewMut<T>,
            Option<&mut [f32]>,
        ) -> Result<()>,
    ) -> (Vec<T>, Vec<f32>) {
        let total_q = shape.seqlens.total_q();
        let mut out = testing::nans::<T>(total_q * shape.num_heads * shape.head_dim);
        let mut lse = testing::nans::<f32>(shape.num_heads * total_q);
        let mut view = TensorViewMut::thd(&mut out, total_q, shape.num_heads, shape.head_dim).unwrap();
        run(&self.q.view(), &self.k.view(), &self.v.view(), &mut view, Some(&mut lse)).unwrap();
        (out, lse)
    }

    /// Attention over the pairs that `sees` allows.
    pub fn expect(
        &self,
        shape: &AttentionShape,
        options: &AttentionOptions,
        sees: impl Fn(usize, usize, usize, usize) -> bool,
    ) -> Expected {
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        let want = lacuna_reference::masked_attention(shape, &q, &k, &v, options, &sees).unwrap();
        let twin = testing::twin_attention(shape, &q, &k, &v, options, &sees).unwrap();
        Expected { tolerance: Tolerance::attention::<T>(&want.out, &twin.out), want }
    }
}

/// What the reference gives, and how far from it a result may lie.
pub struct Expected {
    want: AttentionOutput,
    tolerance: Tolerance,
}

impl Expected {
    /// Panics unless output and log-sum-exp are within the tolerance of their type.
    #[track_caller]
    pub fn assert<N: Number>(&self, (out, lse): &(Vec<N>, Vec<f32>), case: &Case) {
        testing::assert_close(out, &self.want.out, self.tolerance, case);
        testing::assert_close(lse, &self.want.softmax_lse, Tolerance::LSE, case);
    }
}
