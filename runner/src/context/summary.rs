//! DistInf's block summaries: every block is run behind a few tokens of each block before it.
//!
//! First, each block by itself tells the tokens that stand for it: those nearest to the centres of clusters of hidden states, or
//! those that receive most attention. Then every block is run behind the summaries of those before it, and its own keys and
//! values are kept: all of the context, whatever the summaries leave out. They save attention while the context is run, and no
//! memory afterwards.
//!
//! The published program runs all summaries again with every block. A token reads only those before it, so their keys and
//! values are the same each time: here they stay, in a session of their own, and only the newest is run again. Under a pattern,
//! which sees a pass as a whole, that is another pass than one over all. The last block's summary, which nobody reads, is not made.
//! K-means starts once, not ten times; where the published program falls back on evenly spaced tokens, this is an
//! error.

use std::ops::Range;

use lacuna::cpu::k_means::k_means;
use lacuna::{KMeansMetric, KMeansOptions, TensorView};

use super::deal::blocks;
use super::first_rank::{largest, mass};
use super::prefill::Run;
use super::token_list::TokenList;
use super::{Positions, SummaryMethod, SummaryOptions};
use crate::error::allocate;
use crate::model::{KvSession, PassOptions, Session};
use crate::{Error, Result};

/// Tokens of a summary by attention where the options do not say.
const TOP_K: usize = 128;

pub(super) fn prefill<'m>(run: &mut Run<'m, '_>, options: &SummaryOptions) -> Result<Box<dyn Session + 'm>> {
    let len = run.context.len();
    let blocks: Vec<_> = blocks(len, options.block_size).collect();
    let summarised = &blocks[..blocks.len() - 1];
    let summaries: usize = match options.method {
        SummaryMethod::KMeans => summarised.len(),
        SummaryMethod::TopK => summarised.iter().map(|block| block.len().div_ceil(options.chunk_size)).sum(),
    };
    let session = run.on_first_rank(summaries + blocks.len(), |run| encode(run, options, &blocks))?;
    run.share(session, options.block_size, len)
}

/// Summarises all blocks but the last, and runs all of them.
fn encode<'m>(
    run: &mut Run<'m, '_>,
    options: &SummaryOptions,
    blocks: &[Range<usize>],
) -> Result<Box<dyn KvSession + 'm>> {
    let context = run.context;
    let summary = summary_len(options, blocks[0].len());
    let work = |i: usize| i * summary + blocks[i].len();
    let mut work = run.session((0..blocks.len()).map(work).max().unwrap_or(0))?;
    let mut summaries = Vec::with_capacity(blocks.len());
    for block in &blocks[..blocks.len() - 1] {
        let summary = match options.method {
            SummaryMethod::KMeans => by_clusters(run, options, &mut *work, block.clone())?,
            SummaryMethod::TopK => by_attention(run, options, &mut *work, block.clone())?,
        };
        summaries.push(summary);
    }

    let mut session = run.session(run.capacity(0, context.len()))?;
    for (i, block) in blocks.iter().enumerate() {
        let newest = if i == 0 { &[][..] } else { &summaries[i - 1] };
        let list = TokenList::default().chosen(context, newest).run(&context[block.clone()], block.start)?;
        let list = match options.positions {
            Positions::Original => list,
            Positions::Contiguous => list.contiguous(work.len())?,
        };
        run.next_pass(&mut *work, &list, PassOptions::default())?;
        let end = work.len();
        let start = end - block.len();
        session.append_kv(&work.read_kv(start..end)?)?;
        work.truncate(start)?;
    }
    Ok(session)
}

/// Tokens of the summary of a block.
fn summary_len(options: &SummaryOptions, block: usize) -> usize {
    let len = match (options.k, options.method) {
        (Some(k), _) => k,
        (None, SummaryMethod::TopK) => TOP_K,
        (None, SummaryMethod::KMeans) => {
            (block as f64 * (100.0 - options.pruning_percent as f64) / 100.0) as usize
        }
    };
    len.clamp(1, block)
}

/// The tokens nearest to the centres of clusters of hidden states.
fn by_clusters(
    run: &mut Run,
    options: &SummaryOptions,
    session: &mut dyn KvSession,
    block: Range<usize>,
) -> Result<Vec<u32>> {
    let pass = PassOptions { hidden_states: options.num_layers_for_clustering, ..Default::default() };
    let list = TokenList::default().run(&run.context[block.clone()], block.start)?;
    let states = run.next_pass(session, &list, pass)?.hidden_states;
    session.truncate(0)?;
    let features = features(&states, block.len())?;
    let hidden = run.config().hidden_size;
    if let Some(i) = features.iter().position(|x| !x.is_finite()) {
        return Err(Error::not_finite("the features of tokens", block.start + i / hidden, run.model.dtype()));
    }
    let metric = if options.use_cosine_similarity { KMeansMetric::Cosine } else { KMeansMetric::Euclidean };
    let clusters = summary_len(options, block.len());
    let k_means_options = KMeansOptions { clusters, metric, seed: options.seed, ..Default::default() };
    let points = TensorView::thd(&features, block.len(), 1, hidden)?;
    let representatives = k_means(&points, &k_means_options)?.representatives;
    Ok(representatives.into_iter().map(|i| block.start as u32 + i).collect())
}

/// The tokens that receive most attention within their chunk, each chunk by itself.
fn by_attention(
    run: &mut Run,
    options: &SummaryOptions,
    session: &mut dyn KvSession,
    block: Range<usize>,
) -> Result<Vec<u32>> {
    let mut scores = Vec::with_capacity(block.len());
    for chunk in blocks(block.len(), options.chunk_size) {
        let chunk = block.start + chunk.start..block.start + chunk.end;
        let list = TokenList::default().run(&run.context[chunk.clone()], chunk.start)?;
        let pass = mass(0..chunk.len(), 0..chunk.len());
        scores.extend(run.next_pass(session, &list, pass)?.column_mass);
        session.truncate(0)?;
    }
    let chosen = largest(&scores, summary_len(options, block.len()), block.start)?;
    Ok(chosen.into_iter().map(|i| i as u32).collect())
}

/// The mean of hidden states, each weighing twice the one before it.
fn features(states: &[Vec<f32>], tokens: usize) -> Result<Vec<f32>> {
    let mut features = allocate("features", states.first().map_or(tokens, Vec::len))?;
    let sum = (0..states.len()).map(|i| f64::powi(2.0, i as i32)).sum::<f64>();
    for (i, state) in states.iter().enumerate() {
        let weight = (f64::powi(2.0, i as i32) / sum) as f32;
        features.iter_mut().zip(state).for_each(|(feature, x)| *feature += weight * x);
    }
    Ok(features)
}
