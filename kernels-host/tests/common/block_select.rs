//! Block selections, run and compared.

use lacuna_core::{AttentionShape, BlockMask, Result, XAttentionOptions};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::block_select::Plan;
use lacuna_reference::BlockScores;
use lacuna_reference::testing::Rng;

use super::Device;

/// Scores of every (sequence, head, query block), in the order of a block mask's rows.
pub struct Scores {
    /// Those that the rows store.
    pub packed: Vec<f32>,
    /// Every key block's, 0 where none is stored, or what is no positive number.
    pub reference: BlockScores,
}

impl Scores {
    /// Scores `of(sequence, head, query block, key block)`.
    pub fn from_fn(
        shape: &AttentionShape,
        options: &XAttentionOptions,
        causal: bool,
        mut of: impl FnMut(usize, usize, usize, usize) -> f32,
    ) -> Self {
        let block = options.block_size;
        let blocks = BlockMask::empty(shape, block, block).unwrap();
        let packed_causal = Plan::packed_causal(options, causal);
        let (mut packed, mut rows) = (Vec::new(), Vec::new());
        for b in 0..shape.seqlens.batch() {
            for h in 0..shape.num_heads {
                for m in 0..blocks.m_blocks(b) {
                    let stored = blocks.visible_blocks(b, m, packed_causal);
                    let row: Vec<f32> = (0..stored).map(|n| of(b, h, m, n)).collect();
                    let hidden = std::iter::repeat_n(0.0, blocks.n_blocks(b) - stored);
                    let number = |&x: &f32| if x > 0.0 { x as f64 } else { 0.0 };
                    rows.push(row.iter().map(number).chain(hidden).collect());
                    packed.extend(row);
                }
            }
        }
        Self { packed, reference: BlockScores::new(shape, block, rows).unwrap() }
    }

    /// The blocks selected on the device.
    pub fn select(
        &self,
        device: &Device,
        shape: &AttentionShape,
        options: &XAttentionOptions,
        causal: bool,
    ) -> Result<BlockMask> {
        let plan = Plan::new(&device.context, shape, options, causal)?;
        self.select_with(device, &plan, shape, options.block_size)
    }

    /// The blocks that `plan` selects.
    pub fn select_with(
        &self,
        device: &Device,
        plan: &Plan,
        shape: &AttentionShape,
        block_size: usize,
    ) -> Result<BlockMask> {
        let context = &device.context;
        let (rows, words) = (plan.num_rows(), plan.words());
        let scores = DeviceBuffer::from_host(context, &self.packed, "scores")?;
        let mut bits = DeviceBuffer::from_host(context, &vec![0xdead_beef; rows * words], "bits")?;
        let mut counts = DeviceBuffer::from_host(context, &vec![0xdead_beef; rows], "counts")?;
        let stream = context.default_stream();
        plan.run(&stream, &scores, &mut bits, &mut counts)?;
        let (bits, counts) = (bits.to_host(&stream)?, counts.to_host(&stream)?);
        let mut mask = BlockMask::empty(shape, block_size, block_size)?;
        for (row, &count) in counts.iter().enumerate() {
            let word = |n: usize| bits[row * words + n / 32];
            let kept = (0..32 * words).filter(|&n| word(n) >> (n % 32) & 1 != 0);
            let kept: Vec<u32> = kept.map(|n| n as u32).collect();
            assert_eq!(kept.len(), count as usize, "the count of row {row}: {kept:?}");
            mask.push_row(&kept)?;
        }
        Ok(mask)
    }
}

/// Options with switches of all kinds; blocks of 16 or 32 tokens.
pub fn random_options(rng: &mut Rng, num_heads: usize) -> XAttentionOptions {
    use lacuna_core::{Threshold, XAttentionCompat};
    let mut flag = || rng.chance(0.3);
    let compat = XAttentionCompat {
        first_chunk_quirk: flag(),
        keep_sink_row_bug: flag(),
        chunk_align_past: flag(),
        tail_group: flag(),
    };
    let threshold = match rng.below(3) {
        0 => Threshold::PerHead((0..num_heads).map(|_| rng.uniform() as f32).collect()),
        _ => Threshold::Scalar(*rng.choose(&[0.0, 0.3, 0.7, 0.9, 1.0])),
    };
    XAttentionOptions {
        threshold,
        block_size: *rng.choose(&[16, 32]),
        keep_sink: rng.chance(0.3),
        keep_recent: rng.chance(0.3),
        chunk_size: rng.chance(0.7).then_some(64),
        compat,
        ..Default::default()
    }
}
