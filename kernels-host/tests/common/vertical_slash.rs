//! Indices of columns and slashes, and the search for them.

use lacuna_core::{AttentionShape, Result, VerticalSlashIndex, VerticalSlashOptions};
use lacuna_kernels_host::vertical_slash::SearchPlan;
use lacuna_reference::testing::{Case, Rng, Tensor, assert_top_k};

use super::Device;
use super::tensor::{Half, OnDevice, random};

/// Relative distance of scores that may stand in for one another.
const EPS: f64 = 1e-5;

/// Lists of random lengths and places for every head, runs of neighbours among them.
pub fn random_index(rng: &mut Rng, shape: &AttentionShape) -> VerticalSlashIndex {
    let mut index = VerticalSlashIndex::empty(shape).unwrap();
    for b in 0..shape.seqlens.batch() {
        let seqlen_k = shape.seqlens.seqlen_k(b);
        for _head in 0..shape.num_heads {
            let columns = random_list(rng, seqlen_k);
            let mut slashes: Vec<u32> = random_list(rng, seqlen_k).into_iter().rev().collect();
            if slashes.last() != Some(&0) {
                slashes.push(0);
            }
            index.push_head(&columns, &slashes).unwrap();
        }
    }
    index
}

fn random_list(rng: &mut Rng, len: usize) -> Vec<u32> {
    let share = *rng.choose(&[0.0, 0.01, 0.05, 0.2, 0.6, 1.0]);
    let (mut taken, mut run) = (false, 0);
    let mut take = |_: &u32| {
        if run == 0 {
            (taken, run) = (rng.chance(share), *rng.choose(&[1, 1, 3, 70]));
        }
        run -= 1;
        taken
    };
    (0..len as u32).filter(|i| take(i)).collect()
}

/// The pairs that an index lists, causal mask aside.
pub fn sees(index: &VerticalSlashIndex) -> impl Fn(usize, usize, usize, usize) -> bool {
    |b, h, i, j| {
        let (m, j) = (i / VerticalSlashIndex::TILE, j as u32);
        let blocks = index.blocks(b, h, m);
        let before = blocks.partition_point(|&start| start <= j);
        let in_block = before > 0 && j - blocks[before - 1] < VerticalSlashIndex::TILE as u32;
        in_block || index.columns(b, h, m).binary_search(&j).is_ok()
    }
}

/// One call of the search.
pub struct Search<T> {
    pub q: Tensor<T>,
    pub k: Tensor<T>,
    pub shape: AttentionShape,
    pub options: VerticalSlashOptions,
}

impl<T: Half> Search<T> {
    /// Standard normal numbers in memory of random strides.
    pub fn random(rng: &mut Rng, shape: &AttentionShape, options: VerticalSlashOptions) -> Self {
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        Self {
            q: random(rng, total_q, shape.num_heads, shape.head_dim),
            k: random(rng, total_k, shape.num_heads_k, shape.head_dim),
            shape: shape.clone(),
            options,
        }
    }

    /// What the device finds.
    pub fn run(&self, device: &Device) -> Result<VerticalSlashIndex> {
        let mut plan = SearchPlan::<T>::new(&device.context, &self.shape, &self.options)?;
        let mut index = plan.empty_index()?;
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let stream = device.context.default_stream();
        plan.run(&stream, &q.view(), &k.view(), &mut index)?;
        index.to_host(&stream)
    }

    /// The same; panics unless it is what the reference finds, but for scores next to the smallest one kept.
    #[track_caller]
    pub fn check(&self, device: &Device, case: &Case) -> VerticalSlashIndex {
        let got = self.run(device).unwrap_or_else(|why| panic!("{why}\n  repeat: {case}"));
        let (q, k) = (self.q.view(), self.k.view());
        let want = lacuna_reference::vertical_slash(&self.shape, &q, &k, &self.options).unwrap();
        for (item, head) in want.heads.iter().enumerate() {
            let (b, h) = (item / self.shape.num_heads, item % self.shape.num_heads);
            let (columns, slashes) = got.kept(b, h);
            if self.shape.seqlens.seqlen_q(b) == 0 {
                assert!(columns.is_empty() && slashes.is_empty(), "no row asks for them");
                continue;
            }
            assert_top_k(columns, &head.column_scores, head.columns.len(), EPS, case);
            let slashes: Vec<u32> = slashes.iter().rev().copied().collect();
            if head.slash_scores.is_empty() {
                assert_eq!(slashes, [0], "{case}");
            } else {
                assert_top_k(&slashes, &head.slash_scores, head.slashes.len(), EPS, case);
            }
        }
        got
    }
}
