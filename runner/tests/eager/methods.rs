//! DistInf's methods as they are described, every pass from its first token on. Each gives what is cached for the query.

use std::ops::Range;

use lacuna_runner::context::{
    CompressMode, CompressOptions, Positions, SequentialTopKOptions, StarTopKOptions, SummaryOptions,
};

use super::{Eager, Kv, Pass};

/// Rows, or columns, of a pass that starts on an empty cache.
type Rows = Range<usize>;

fn blocks(len: usize, block: usize) -> Vec<Rows> {
    (0..len).step_by(block).map(|start| start..(start + block).min(len)).collect()
}

/// Attention that columns receive from rows.
fn column_sums(pass: &Pass, rows: Rows, columns: Rows) -> Vec<f64> {
    columns.map(|column| rows.clone().map(|row| pass.attention[row][column]).sum()).collect()
}

/// The `k` largest, ascending. Refuses a choice that rounding could change.
fn top_k(scores: &[f64], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    if k > 0 && k < order.len() {
        let (last, next) = (scores[order[k - 1]], scores[order[k]]);
        assert!((last - next) > 1e-4 * last, "take another seed: {last} and {next} are too close");
    }
    order.truncate(k);
    order.sort_unstable();
    order
}

fn positions(start: usize, len: usize) -> Vec<u32> {
    (start..start + len).map(|position| position as u32).collect()
}

/// Tokens of a context, and their positions.
fn at(context: &[u32], places: &[usize]) -> (Vec<u32>, Vec<u32>) {
    places.iter().map(|&place| (context[place], place as u32)).unzip()
}

pub fn sequential_top_k(
    model: &Eager,
    context: &[u32],
    query: &[u32],
    options: &SequentialTopKOptions,
) -> Kv {
    let mut summaries: Vec<usize> = Vec::new();
    for block in blocks(context.len(), options.block_size) {
        let before = summaries.len();
        let places: Vec<usize> = summaries.iter().copied().chain(block.clone()).collect();
        let (tokens, own) = at(context, &places);
        let tokens = [&tokens, query].concat();
        let position_ids = match options.positions {
            Positions::Original => [own, positions(context.len(), query.len())].concat(),
            Positions::Contiguous => positions(0, tokens.len()),
        };
        let pass = model.pass(&Kv::default(), &tokens, &position_ids);
        let columns = before..before + block.len();
        let scores = column_sums(&pass, columns.end..tokens.len(), columns);
        summaries.extend(top_k(&scores, options.top_k).into_iter().map(|i| block.start + i));
    }
    let (tokens, position_ids) = at(context, &summaries);
    model.pass(&Kv::default(), &tokens, &position_ids).kv
}

pub fn star_top_k(model: &Eager, context: &[u32], options: &StarTopKOptions) -> Kv {
    let block = options.block_size.unwrap_or(context.len().div_ceil(options.num_blocks));
    let mut anchors: Vec<usize> = Vec::new();
    let mut cache = Kv::default();
    for block in blocks(context.len(), block) {
        let places: Vec<usize> = anchors.iter().copied().chain(block.clone()).collect();
        let (tokens, position_ids) = at(context, &places);
        let pass = model.pass(&Kv::default(), &tokens, &position_ids);
        let scores = column_sums(&pass, 0..tokens.len(), 0..tokens.len());
        let new = top_k(&scores, options.top_k).into_iter().map(|i| places[i]).filter(|i| block.contains(i));
        anchors.extend(new);
        let rows: Vec<usize> = (0..places.len()).filter(|&i| anchors.contains(&places[i])).collect();
        cache = pass.kv.rows(&rows);
    }
    cache
}

pub fn compress(model: &Eager, context: &[u32], query: &[u32], options: &CompressOptions) -> Kv {
    let protected = options.budget / options.protection_divisor;
    let global = options.budget - 2 * protected;
    let mut cache = Kv::default();
    // Places whose tokens stay whatever comes.
    let mut safe: Vec<usize> = (0..protected).collect();
    for block in blocks(context.len(), options.block_size) {
        let (tokens, own) = at(context, &block.clone().collect::<Vec<_>>());
        let tokens = [&tokens, query].concat();
        let position_ids = [own, positions(context.len(), query.len())].concat();
        let pass = model.pass(&cache, &tokens, &position_ids);
        let rows = pass.kv.position_ids.len() - query.len();
        let place = |row: usize| pass.kv.position_ids[row] as usize;
        let is_tail = |row: usize| place(row) + protected >= block.end && block.contains(&place(row));
        let candidates: Vec<usize> =
            (0..rows).filter(|&row| !safe.contains(&place(row)) && !is_tail(row)).collect();
        let scores = column_sums(&pass, block.len()..tokens.len(), 0..rows);
        let scores: Vec<f64> = candidates.iter().map(|&row| scores[row]).collect();
        let chosen: Vec<usize> = top_k(&scores, global).into_iter().map(|i| candidates[i]).collect();
        let stays = |row: &usize| safe.contains(&place(*row)) || is_tail(*row) || chosen.contains(row);
        let rows: Vec<usize> = (0..rows).filter(stays).collect();
        cache = pass.kv.rows(&rows);
        if options.mode == CompressMode::Accumulate {
            safe.extend(chosen.iter().map(|&row| place(row)));
        }
    }
    cache
}

/// The tokens of a block that receive most attention in its chunks.
pub fn most_attended(
    model: &Eager,
    context: &[u32],
    block: Rows,
    options: &SummaryOptions,
    k: usize,
) -> Vec<usize> {
    let chunks = blocks(block.len(), options.chunk_size);
    let scores = chunks.into_iter().flat_map(|chunk| {
        let places: Vec<usize> = chunk.map(|i| block.start + i).collect();
        let (tokens, position_ids) = at(context, &places);
        let pass = model.pass(&Kv::default(), &tokens, &position_ids);
        column_sums(&pass, 0..tokens.len(), 0..tokens.len())
    });
    top_k(&scores.collect::<Vec<_>>(), k).into_iter().map(|i| block.start + i).collect()
}

/// `summary` gives the tokens that stand for a block.
pub fn summary(
    model: &Eager,
    context: &[u32],
    options: &SummaryOptions,
    summary: impl Fn(Rows) -> Vec<usize>,
) -> Kv {
    let mut summaries: Vec<usize> = Vec::new();
    let mut cache = Kv::default();
    for block in blocks(context.len(), options.block_size) {
        let places: Vec<usize> = summaries.iter().copied().chain(block.clone()).collect();
        let (tokens, own) = at(context, &places);
        let position_ids = match options.positions {
            Positions::Original => own,
            Positions::Contiguous => positions(0, tokens.len()),
        };
        let pass = model.pass(&Kv::default(), &tokens, &position_ids);
        let rows: Vec<usize> = (summaries.len()..tokens.len()).collect();
        cache = cache.then(pass.kv.rows(&rows));
        if block.end < context.len() {
            summaries.extend(summary(block));
        }
    }
    cache
}
