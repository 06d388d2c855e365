//! What the kernels are told of the options and of the sequences.

use lacuna_core::{AttentionShape, Error, FlexPrefillOptions, Result};
use lacuna_kernels_gpu::params::{FlexPrefillParams, Params, SearchSequence, Strides};

use super::OP;
use crate::buffer::DeviceBuffer;
use crate::check;
use crate::context::Context;
use crate::search::SearchLayout;

/// The kernels' parameters, but for the strides.
pub(super) fn params(
    shape: &AttentionShape,
    options: &FlexPrefillOptions,
    words: u32,
) -> Result<FlexPrefillParams> {
    options.check(OP)?;
    let block = options.block_size;
    if ![64, 128].contains(&block) {
        return Err(Error::invalid(OP, "block_size", "64 or 128 on a device", block));
    }
    let blocks = |tokens: usize| u32::try_from(tokens.div_ceil(block)).unwrap_or(u32::MAX).max(1);
    let min_blocks = blocks(options.min_budget);
    let dense_keys = if options.gamma >= 1.0 {
        u32::MAX
    } else {
        min_blocks.saturating_mul(block as u32).max(2 * block as u32)
    };
    let compat = options.compat;
    let switches = [
        (options.qa_only, FlexPrefillParams::QA_ONLY),
        (compat.slash_cover, FlexPrefillParams::SLASH_COVER),
        (compat.tail_align, FlexPrefillParams::TAIL_ALIGN),
        (compat.jsd_weighted, FlexPrefillParams::JSD_WEIGHTED),
        (compat.probe_round, FlexPrefillParams::PROBE_ROUND),
    ];
    Ok(FlexPrefillParams {
        q: Strides { token: 0, head: 0 },
        num_heads: check::to_u32(OP, "num_heads", shape.num_heads)?,
        num_heads_k: check::to_u32(OP, "num_heads_k", shape.num_heads_k)?,
        group: check::to_u32(OP, "the number of query heads per KV head", shape.group_size())?,
        gqa_interleave: options.gqa_interleave.into(),
        block: block as u32,
        words,
        dense_keys,
        gamma: options.gamma,
        tau: options.tau,
        softmax_scale: shape.softmax_scale(options.softmax_scale),
        min_blocks,
        max_blocks: options.max_budget.map_or(u32::MAX, blocks),
        count_divisor: if compat.count_div { 128 } else { block as u32 },
        switches: switches.into_iter().filter(|(on, _)| *on).map(|(_, bit)| bit).sum(),
    })
}

/// What is said of sequences beside the table of all searches.
#[derive(Debug)]
pub(super) struct Sequences {
    /// The table of all searches, sequences that attend densely without tokens: the probe has nothing to do there.
    pub(super) searched: DeviceBuffer<u8>,
    /// Key blocks of the sequences before, for each.
    pub(super) first_blocks: DeviceBuffer<u32>,
    /// Key blocks of all.
    pub(super) blocks: usize,
    /// Sequences that are searched.
    pub(super) count: usize,
}

impl Sequences {
    pub(super) fn new(context: &Context, layout: &SearchLayout, params: &FlexPrefillParams) -> Result<Self> {
        let (mut table, mut first_blocks, mut blocks, mut count) = (Vec::new(), Vec::new(), 0usize, 0);
        for sequence in &layout.sequences {
            let searched = !params.attends_densely(sequence.q_len, sequence.k_len);
            let (q_len, k_len) = if searched { (sequence.q_len, sequence.k_len) } else { (0, 0) };
            table.extend_from_slice(SearchSequence { q_len, k_len, ..*sequence }.as_bytes());
            first_blocks.push(check::to_u32(OP, "the number of key blocks", blocks)?);
            blocks += sequence.k_len.div_ceil(params.block) as usize;
            count += usize::from(searched);
            // The selection numbers the entries of a head's map.
            if searched && params.tau > 0.0 && sequence.blocks_step >= 1 << 30 {
                let what = "the number of visible blocks of a head";
                let got = sequence.blocks_step.to_string();
                return Err(Error::TooLarge { op: OP, what, limit: (1 << 30) - 1, got });
            }
        }
        Ok(Self {
            searched: DeviceBuffer::from_host(context, &table, "flex_prefill searched sequences")?,
            first_blocks: DeviceBuffer::from_host(context, &first_blocks, "flex_prefill first blocks")?,
            blocks,
            count,
        })
    }
}
