//! Times of the kernels on a GPU, by CUDA events: median and minimum of 20 runs after 10 for warming up, the L2 cache
//! flushed before each. Rates count the work that is done: multiply-adds of the blocks computed, bytes of the caches
//! read.
//!
//! ```text
//! cargo bench -p lacuna-kernels-host --bench gpu
//! ```

use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, BlockMask, DecodeShape, Layout, Result, Seqlens};
use lacuna_kernels_host::block_sparse_attention::DeviceBlockMask;
use lacuna_kernels_host::gemm::{self, Backend};
use lacuna_kernels_host::{
    Context, DeviceBuffer, DeviceTensor, block_sparse_attention, decode_attention, dense_attention,
    merge_state,
};
use lacuna_reference::testing::Rng;

const WARM_UP_RUNS: usize = 10;
const TIMED_RUNS: usize = 20;

/// More than the L2 cache of any device.
const FLUSH_BYTES: usize = 256 << 20;

const HEADS: usize = 32;
const HEADS_K: usize = 8;

fn main() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../ptx/sm_80.ptx");
    let path = std::env::var("LACUNA_PTX").unwrap_or_else(|_| shipped.to_owned());
    let context = std::fs::read_to_string(&path)
        .map_err(|e| format!("{path}: {e}"))
        .and_then(|image| Context::cuda(0, &[image.as_str()]).map_err(|e| e.to_string()));
    let result = context.map_or_else(
        |why| {
            println!("skipped: {why}");
            if std::env::var_os("REQUIRE_GPU").is_some_and(|v| v == "1") {
                std::process::exit(1);
            }
            Ok(())
        },
        |context| run(&context),
    );
    if let Err(why) = result {
        eprintln!("error: {why}");
        std::process::exit(1);
    }
}

fn run(context: &Context) -> Result<()> {
    let info = context.info();
    let (major, minor) = info.compute_capability;
    println!(
        "{} (compute capability {major}.{minor}, {} SMs), {}",
        info.name, info.multiprocessors, info.driver
    );
    println!("bf16, {HEADS} query heads on {HEADS_K} KV heads\n");
    println!("{:<52} {:>10} {:>10} {:>16}", "", "median ms", "least ms", "rate");
    let mut bench = Bench { context, flush: DeviceBuffer::uninit(context, FLUSH_BYTES, "L2 flush")? };
    for head_dim in [64, 128] {
        for tokens in [1024, 4096, 16384, 32768] {
            bench.dense(tokens, head_dim)?;
        }
        for (tokens, local) in [(16384, 1024), (32768, 1024), (131072, 2048)] {
            bench.block_sparse(tokens, local, head_dim)?;
        }
        for (batch, tokens) in [(1, 8192), (1, 131072), (32, 8192)] {
            bench.decode(batch, tokens, head_dim)?;
        }
        bench.merge(4, 16384, head_dim)?;
    }
    // Prompts, then the products of a step of Llama 3.2 1B and 3.1 8B: q, k and v, their output, gate and up, down, vocabulary.
    for [rows, out_features, in_features] in [
        [4096, 4096, 4096],
        [8192, 8192, 8192],
        [2048, 28672, 4096],
        [512, 4096, 4096],
        [512, 2048, 8192],
        [128, 2048, 8192],
    ] {
        bench.gemm(rows, out_features, in_features)?;
    }
    for [out_features, in_features] in [
        [3072, 2048],
        [2048, 2048],
        [16384, 2048],
        [2048, 8192],
        [128256, 2048],
        [6144, 4096],
        [4096, 4096],
        [28672, 4096],
        [4096, 14336],
        [128256, 4096],
    ] {
        for rows in [1, 8, 16, 64] {
            bench.gemm(rows, out_features, in_features)?;
        }
    }
    Ok(())
}

struct Bench<'a> {
    context: &'a Context,
    flush: DeviceBuffer<u8>,
}

/// What a rate counts.
enum Work {
    Macs(f64),
    Bytes(f64),
}

impl Bench<'_> {
    /// Times `launch` and prints a line.
    fn time(
        &mut self,
        name: &str,
        work: Work,
        mut launch: impl FnMut(&lacuna_kernels_host::Stream) -> Result<()>,
    ) -> Result<()> {
        let stream = self.context.default_stream();
        let [start, end] = [self.context.new_event()?, self.context.new_event()?];
        let mut times = Vec::new();
        for run in 0..WARM_UP_RUNS + TIMED_RUNS {
            self.flush.fill_bytes(&stream, run as u8)?;
            start.record(&stream)?;
            launch(&stream)?;
            end.record(&stream)?;
            let ms = start.elapsed_ms(&end)?;
            if run >= WARM_UP_RUNS {
                times.push(ms);
            }
        }
        times.sort_by(f32::total_cmp);
        let (median, least) = (times[times.len() / 2], times[0]);
        let rate = match work {
            Work::Macs(macs) => format!("{:.1} TFLOP/s", 2.0 * macs / f64::from(median) / 1e9),
            Work::Bytes(bytes) => format!("{:.0} GB/s", bytes / f64::from(median) / 1e6),
        };
        println!("{name:<52} {median:>10.4} {least:>10.4} {rate:>16}");
        Ok(())
    }

    /// Normal numbers, repeated: zeros would draw less power and run faster.
    fn tensor(&self, layout: Layout) -> Result<DeviceTensor<bf16>> {
        let len = layout.required_len("bench")?;
        let normals: Vec<bf16> = Rng::new(len as u64).normals(len.min(1 << 16));
        let data: Vec<bf16> = normals.iter().copied().cycle().take(len).collect();
        DeviceTensor::from_memory(self.context, &data, layout, "tensor")
    }

    fn dense(&mut self, tokens: usize, head_dim: usize) -> Result<()> {
        let (q, k, v) = self.qkv(tokens, head_dim)?;
        let mut out = DeviceTensor::<bf16>::uninit(self.context, *q.layout(), "out")?;
        for causal in [false, true] {
            let shape = AttentionShape::new(HEADS, HEADS_K, head_dim, Seqlens::single(tokens, tokens)?)?;
            let options = AttentionOptions { causal, ..Default::default() };
            let plan = dense_attention::Plan::<bf16>::new(self.context, &shape, &options)?;
            let pairs = if causal { tokens * (tokens + 1) / 2 } else { tokens * tokens };
            let macs = 2.0 * (pairs * head_dim * HEADS) as f64;
            let name =
                format!("dense_attention d {head_dim}, {tokens}{}", if causal { ", causal" } else { "" });
            self.time(&name, Work::Macs(macs), |stream| {
                plan.run(stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut()?, None)
            })?;
        }
        Ok(())
    }

    fn block_sparse(&mut self, tokens: usize, local: usize, head_dim: usize) -> Result<()> {
        let (q, k, v) = self.qkv(tokens, head_dim)?;
        let mut out = DeviceTensor::<bf16>::uninit(self.context, *q.layout(), "out")?;
        let shape = AttentionShape::new(HEADS, HEADS_K, head_dim, Seqlens::single(tokens, tokens)?)?;
        let mask = BlockMask::sink_and_local(&shape, 128, 128, 128, local)?;
        let plan = block_sparse_attention::Plan::<bf16>::new(
            self.context,
            &shape,
            &AttentionOptions::default(),
            128,
            128,
        )?;
        let on_device = DeviceBlockMask::from_host(self.context, &mask)?;
        let macs = 2.0 * (mask.indices().len() * 128 * 128 * head_dim) as f64;
        let density = 100.0 * mask.density(true);
        let name = format!("block_sparse_attention d {head_dim}, {tokens}, {density:.1} %");
        self.time(&name, Work::Macs(macs), |stream| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &on_device, &mut out.view_mut()?, None)
        })
    }

    fn decode(&mut self, batch: usize, tokens: usize, head_dim: usize) -> Result<()> {
        let q = self.tensor(Layout::bshd(batch, 1, HEADS, head_dim))?;
        let cache = Layout::bshd(batch, tokens, HEADS_K, head_dim);
        let (k, v) = (self.tensor(cache)?, self.tensor(cache)?);
        let mut out = DeviceTensor::<bf16>::uninit(self.context, *q.layout(), "out")?;
        let options = AttentionOptions::default();
        let sizes = DecodeShape {
            batch,
            max_seqlen_q: 1,
            num_heads: HEADS,
            num_heads_k: HEADS_K,
            head_dim,
            max_seqlen_k: tokens,
        };
        let mut plan = decode_attention::Plan::<bf16>::new(self.context, &sizes, &options)?;
        let lens = vec![tokens as u32; batch];
        let bytes = 2.0 * (2 * batch * tokens * HEADS_K * head_dim) as f64;
        let name = format!("decode_attention d {head_dim}, {batch} x {tokens}");
        self.time(&name, Work::Bytes(bytes), |stream| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &lens, &mut out.view_mut()?, None)
        })
    }

    fn merge(&mut self, parts: usize, tokens: usize, head_dim: usize) -> Result<()> {
        let part = self.tensor(Layout::bshd(parts, tokens, HEADS, head_dim))?;
        let lse = DeviceBuffer::from_host(self.context, &vec![0.5f32; parts * HEADS * tokens], "part_lse")?;
        let mut out =
            DeviceTensor::<bf16>::uninit(self.context, Layout::thd(tokens, HEADS, head_dim), "out")?;
        let plan = merge_state::Plan::<bf16, bf16>::new(self.context, parts, tokens, HEADS, head_dim)?;
        let rows = (tokens * HEADS) as f64;
        let bytes = rows * ((parts + 1) * head_dim * 2 + parts * 4) as f64;
        let name = format!("merge_state d {head_dim}, {parts} parts of {tokens}");
        self.time(&name, Work::Bytes(bytes), |stream| {
            plan.run(stream, &part.view(), &lse, &mut out.view_mut()?, None)
        })
    }

    /// With either backend: the library's own kernels, and cuBLASLt where it is there.
    fn gemm(&mut self, rows: usize, out_features: usize, in_features: usize) -> Result<()> {
        let x = self.tensor(Layout::thd(rows, 1, in_features))?;
        let weight = self.tensor(Layout::thd(out_features, 1, in_features))?;
        let mut out = DeviceTensor::<bf16>::uninit(self.context, Layout::thd(rows, 1, out_features), "out")?;
        for backend in [Backend::Own, Backend::CublasLt] {
            let plan = match gemm::Plan::new(self.context, rows, out_features, in_features, backend) {
                Ok(plan) => plan,
                // Not in this build, or not on this machine.
                Err(_) if backend == Backend::CublasLt => continue,
                Err(why) => return Err(why),
            };
            // The weight is most of what a few rows read.
            let work = match rows {
                ..=64 => {
                    let elements = out_features * in_features + rows * (in_features + out_features);
                    Work::Bytes(2.0 * elements as f64)
                }
                _ => Work::Macs((rows * out_features * in_features) as f64),
            };
            let name = format!("gemm {backend}, {rows} x {out_features} x {in_features}");
            self.time(&name, work, |stream| {
                plan.run(stream, &x.view(), &weight.view(), None, &mut out.view_mut()?)
            })?;
        }
        Ok(())
    }

    fn qkv(
        &self,
        tokens: usize,
        head_dim: usize,
    ) -> Result<(DeviceTensor<bf16>, DeviceTensor<bf16>, DeviceTensor<bf16>)> {
        let kv = Layout::thd(tokens, HEADS_K, head_dim);
        Ok((self.tensor(Layout::thd(tokens, HEADS, head_dim))?, self.tensor(kv)?, self.tensor(kv)?))
    }
}
