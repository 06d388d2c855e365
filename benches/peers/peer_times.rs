//! Runs one attention call per line on standard input and prints its milliseconds: lacuna's half of the peer benches,
//! so that a script can time it and a peer in turn, in one run on the same cores.
//!
//! `cargo run --release --example peer_times -- WHAT DTYPE TOKENS HEADS HEADS_K HEAD_DIM`, where WHAT is `dense`,
//! `sparse:DENSITY` (random lists), `flexprefill` or `xattention:STRIDE` (the search alone). The first line printed is
//! JSON: the density, and the instruction set in use.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use half::{bf16, f16};
use lacuna::{
    AttentionOptions, AttentionShape, BlockMask, Device, Element, FlexPrefillOptions, Pattern, Seqlens,
    TensorView, TensorViewMut, XAttentionOptions, block_sparse_attention, cpu, dense_attention, pattern,
};

const BLOCK: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [what, dtype, sizes @ ..] = args.as_slice() else {
        return Err("usage: peer_times WHAT DTYPE TOKENS HEADS HEADS_K HEAD_DIM".into());
    };
    let sizes: Vec<usize> = sizes.iter().map(|s| s.parse()).collect::<Result<_, _>>()?;
    let [tokens, heads, heads_k, head_dim] = sizes[..] else {
        return Err("usage: peer_times WHAT DTYPE TOKENS HEADS HEADS_K HEAD_DIM".into());
    };
    let shape = AttentionShape::new(heads, heads_k, head_dim, Seqlens::single(tokens, tokens)?)?;
    match dtype.as_str() {
        "f32" => serve::<f32>(what, &shape),
        "bf16" => serve::<bf16>(what, &shape),
        "f16" => serve::<f16>(what, &shape),
        other => Err(format!("DTYPE must be f32, bf16 or f16, got {other}").into()),
    }
}

fn serve<T: Element>(what: &str, shape: &AttentionShape) -> Result<(), Box<dyn Error>> {
    let tokens = shape.seqlens.total_q();
    let (heads, heads_k, head_dim) = (shape.num_heads, shape.num_heads_k, shape.head_dim);
    let mut random = Random(7);
    let mut tensor = |heads: usize| -> Vec<T> {
        (0..tokens * heads * head_dim).map(|_| T::from_f32(random.normal())).collect()
    };
    let (q, k, v) = (tensor(heads), tensor(heads_k), tensor(heads_k));
    let mut out = vec![T::default(); q.len()];
    let q = TensorView::thd(&q, tokens, heads, head_dim)?;
    let k = TensorView::thd(&k, tokens, heads_k, head_dim)?;
    let v = TensorView::thd(&v, tokens, heads_k, head_dim)?;
    let mut out = TensorViewMut::thd(&mut out, tokens, heads, head_dim)?;
    let options = AttentionOptions::default();

    let (name, value) = what.split_once(':').unwrap_or((what, ""));
    match name {
        "dense" => {
            let mut plan = dense_attention::Plan::new(Device::Cpu, shape, &options)?;
            time_lines(1.0, || Ok(plan.run(&q, &k, &v, &mut out, None)?))
        }
        "sparse" => {
            let block_mask = random_mask(shape, value.parse()?, &mut random)?;
            let mut plan = block_sparse_attention::Plan::new(Device::Cpu, shape, &options, BLOCK, BLOCK)?;
            time_lines(block_mask.density(true), || Ok(plan.run(&q, &k, &v, &block_mask, &mut out, None)?))
        }
        "flexprefill" | "xattention" => {
            let pattern = match name {
                "flexprefill" => Pattern::FlexPrefill(FlexPrefillOptions::default()),
                _ => Pattern::XAttention(XAttentionOptions { stride: value.parse()?, ..Default::default() }),
            };
            let mut plan = pattern::Plan::new(shape, &options, &pattern)?;
            let density = plan.search(&q, &k)?.density(true);
            time_lines(density, || Ok(plan.search(&q, &k).map(|_| ())?))
        }
        _ => Err(format!("WHAT must be dense, sparse:DENSITY, flexprefill or xattention:STRIDE, got {what}")
            .into()),
    }
}

fn time_lines(
    density: f64,
    mut call: impl FnMut() -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    println!("{{\"density\": {density}, \"isa\": \"{}\"}}", cpu::simd::Isa::current().name());
    for line in std::io::stdin().lock().lines() {
        line?;
        let start = Instant::now();
        call()?;
        println!("{:.3}", start.elapsed().as_secs_f64() * 1e3);
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Each row keeps its diagonal block and random others, so that the whole mask reaches `density`.
fn random_mask(
    shape: &AttentionShape,
    density: f32,
    random: &mut Random,
) -> Result<BlockMask, Box<dyn Error>> {
    let mut block_mask = BlockMask::empty(shape, BLOCK, BLOCK)?;
    for _head in 0..shape.num_heads {
        for m in 0..block_mask.m_blocks(0) as u32 {
            let mut row: Vec<u32> = (0..m).filter(|_| random.uniform() < density).collect();
            row.push(m);
            block_mask.push_row(&row)?;
        }
    }
    Ok(block_mask)
}

/// A 64-bit LCG (Knuth's constants): enough for inputs whose values do not matter.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        let (u, v) = (self.uniform().max(1e-7), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
    }
}
