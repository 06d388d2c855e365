//! A compact acceptance set for each kernel: what a mutant has to get past. Inputs and expected results are made once.
//!
//! One file per operation, each with `of_kernel`, which knows the operation's own kernels and no others.

mod antidiagonal_score;
mod argmax;
mod attention;
mod block_mask;
mod block_pool;
mod block_select;
mod column_mass;
mod decode_attention;
mod flex_prefill;
mod gather_rows;
mod gemm;
mod k_means;
mod merge_state;
mod probe;
mod rms_norm;
mod rope;
mod sample;
mod silu_mul;
mod top_k;
mod vertical_slash;

use lacuna_core::{AttentionOptions, AttentionShape, Seqlens};
use lacuna_emulator::Scheduler;

use crate::common::Device;

/// One call with its expected result. Panics when the result is wrong.
pub struct Check {
    /// The order of execution.
    pub scheduler: Scheduler,
    /// Bytes that all launches of the call store: each output once.
    pub stored_bytes: Option<u64>,
    pub run: Box<dyn Fn(&Device) + Send + Sync>,
}

fn check(run: impl Fn(&Device) + Send + Sync + 'static) -> Check {
    Check { scheduler: Scheduler::RoundRobin, stored_bytes: None, run: Box::new(run) }
}

impl Check {
    fn under(self, scheduler: Scheduler) -> Self {
        Self { scheduler, ..self }
    }

    fn storing(self, bytes: usize) -> Self {
        Self { stored_bytes: Some(bytes as u64), ..self }
    }
}

/// The checks of a kernel; `None` for a name that no operation knows.
pub fn of_kernel(kernel: &str) -> Option<Vec<Check>> {
    let operations = [
        antidiagonal_score::of_kernel,
        argmax::of_kernel,
        attention::of_kernel,
        block_mask::of_kernel,
        block_pool::of_kernel,
        block_select::of_kernel,
        column_mass::of_kernel,
        decode_attention::of_kernel,
        flex_prefill::of_kernel,
        gather_rows::of_kernel,
        gemm::of_kernel,
        k_means::of_kernel,
        merge_state::of_kernel,
        probe::of_kernel,
        rms_norm::of_kernel,
        rope::of_kernel,
        sample::of_kernel,
        silu_mul::of_kernel,
        top_k::of_kernel,
        vertical_slash::of_kernel,
    ];
    operations.into_iter().find_map(|of_kernel| of_kernel(kernel))
}

/// The kernels that a stem's launcher needs side by side.
pub fn companions(kernel: &str) -> Vec<String> {
    let operations = [
        block_mask::companions,
        decode_attention::companions,
        flex_prefill::companions,
        gemm::companions,
        k_means::companions,
        probe::companions,
        rms_norm::companions,
        sample::companions,
    ];
    operations.into_iter().find_map(|of| of(kernel)).unwrap_or_else(|| vec![kernel.to_owned()])
}

/// Stem, type, head dim and variant of a name `<stem>_<type>_d<head_dim>[_<variant>]`.
fn parts_of(kernel: &str) -> Option<(&str, &str, usize, &str)> {
    let dtype = ["bf16", "f16", "f32"].into_iter().find(|dtype| kernel.contains(&format!("_{dtype}_d")))?;
    let (stem, rest) = kernel.split_once(&format!("_{dtype}_d"))?;
    let (head_dim, variant) = rest.split_once('_').unwrap_or((rest, ""));
    Some((stem, dtype, head_dim.parse().ok()?, variant))
}

/// One sequence, or a ragged batch: (queries, keys) of each.
fn shape(heads: usize, heads_k: usize, head_dim: usize, lengths: &[(u32, u32)]) -> AttentionShape {
    let sums = |of: fn(&(u32, u32)) -> u32| {
        let sum = lengths.iter().scan(0, |sum, pair| {
            *sum += of(pair);
            Some(*sum)
        });
        std::iter::once(0).chain(sum).collect()
    };
    let seqlens = Seqlens::new(sums(|pair| pair.0), sums(|pair| pair.1)).expect("ascending from 0");
    AttentionShape::new(heads, heads_k, head_dim, seqlens).expect("heads in range")
}

fn options(causal: bool, softmax_scale: Option<f32>, gqa_interleave: bool) -> AttentionOptions {
    AttentionOptions { causal, softmax_scale, gqa_interleave }
}
