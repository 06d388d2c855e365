//! `lacuna demo --device`: a small attention through the kernels that ship for GPUs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use half::bf16;
use lacuna::gpu::{self, Context, DeviceBuffer, DeviceTensor, EmulatedDriver, Stream};
use lacuna::{
    AttentionOptions, BlockMask, DecodeShape, Device, FlexPrefillOptions, Layout, Pattern, Threshold,
    VerticalSlashOptions, XAttentionOptions,
};
use lacuna_runner::report::{Align, Style, Table, format_count, format_density, format_duration};
use serde::Serialize;

use crate::cli::kernel_case::{Kept, KernelCase};

const NUM_HEADS: usize = 4;
const NUM_HEADS_K: usize = 2;
/// Side of the blocks of the sparse rows.
const BLOCK: usize = 64;
/// Tokens that the row of token selection keeps.
const TOP_K: usize = 64;
/// Query rows of the decode row: the last tokens of the sequence.
const DECODE_ROWS: usize = 4;
/// What an output may differ from the same in `f64`, for values up to 1: weights and outputs are rounded to `bf16`.
const TOLERANCE: f64 = 1e-2;

/// What the demo of a device shows.
#[derive(Serialize)]
pub struct KernelDemo {
    device: String,
    name: String,
    tokens: usize,
    num_heads: usize,
    num_heads_k: usize,
    dtype: &'static str,
    /// Whether the kernels are those that ship, or were built from edited sources.
    image: &'static str,
    calls: Vec<Call>,
    pub ok: bool,
}

/// One call of one operation.
#[derive(Serialize)]
struct Call {
    what: &'static str,
    head_dim: usize,
    density: f64,
    max_error: f64,
    ok: bool,
    seconds: f64,
    /// What the emulator counted; a GPU counts nothing.
    counted: Option<Counted>,
}

#[derive(Serialize)]
struct Counted {
    kernels: Vec<String>,
    warp_instructions: u64,
    mma: u64,
    shared_conflict_factor: f64,
}

/// Where the calls run.
struct Bench {
    context: Context,
    stream: Stream,
    emulator: Option<Arc<EmulatedDriver>>,
}

/// The patterns that look for what to read, sized for a few hundred tokens.
fn patterns() -> [(&'static str, Pattern); 3] {
    let flex = FlexPrefillOptions { block_size: BLOCK, min_budget: BLOCK, gamma: 0.5, ..Default::default() };
    let xattention =
        XAttentionOptions { block_size: BLOCK, threshold: Threshold::Scalar(0.5), ..Default::default() };
    let slash = VerticalSlashOptions { vertical_size: 30, slash_size: 100, ..Default::default() };
    [
        ("flexprefill", Pattern::FlexPrefill(flex)),
        ("xattention", Pattern::XAttention(xattention)),
        ("vertical-slash", Pattern::VerticalSlash(slash)),
    ]
}

impl Bench {
    fn new(device: Device) -> lacuna::Result<Self> {
        let (context, emulator) = match device {
            Device::Emulated(arch) => {
                let driver = Arc::new(EmulatedDriver::with_options(arch, Default::default()));
                (Context::new(driver.clone(), &lacuna::ptx::IMAGES)?, Some(driver))
            }
            _ => {
                let context =
                    device.context()?.unwrap_or_else(|| unreachable!("the CPU has a demo of its own"));
                (context, None)
            }
        };
        Ok(Self { stream: context.default_stream(), context, emulator })
    }

    fn dense(&self, case: &KernelCase<bf16>) -> lacuna::Result<Call> {
        let plan = gpu::dense_attention::Plan::new(&self.context, &case.shape, &AttentionOptions::default())?;
        self.call("dense attention", case, 0, |[q, k, v], out, lse| {
            plan.run(&self.stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut()?, Some(lse))?;
            Ok((Kept::All, 1.0))
        })
    }

    fn block_sparse(&self, case: &KernelCase<bf16>) -> lacuna::Result<Call> {
        let options = AttentionOptions::default();
        let mask = BlockMask::sink_and_local(&case.shape, BLOCK, BLOCK, BLOCK, BLOCK)?;
        let on_device = gpu::block_mask::DeviceBlockMask::from_host(&self.context, &mask)?;
        let plan =
            gpu::block_sparse_attention::Plan::new(&self.context, &case.shape, &options, BLOCK, BLOCK)?;
        self.call("block-sparse attention", case, 0, |[q, k, v], out, lse| {
            let (mut out, q) = (out.view_mut()?, q.view());
            plan.run(&self.stream, &q, &k.view(), &v.view(), &on_device, &mut out, Some(lse))?;
            let density = mask.density(options.causal);
            Ok((Kept::Blocks(mask), density))
        })
    }

    fn decode(&self, case: &KernelCase<bf16>) -> lacuna::Result<Call> {
        let (shape, tokens) = (&case.shape, case.shape.seqlens.total_k());
        let rows = DECODE_ROWS.min(tokens);
        let sizes = DecodeShape {
            batch: 1,
            max_seqlen_q: rows,
            num_heads: shape.num_heads,
            num_heads_k: shape.num_heads_k,
            head_dim: shape.head_dim,
            max_seqlen_k: tokens,
        };
        let options = AttentionOptions::default();
        let mut plan = gpu::decode_attention::Plan::new(&self.context, &sizes, &options)?;
        self.call("decode attention", case, tokens - rows, |[q, k, v], out, _| {
            let layout = Layout::thd(rows, shape.num_heads, shape.head_dim);
            let first = (tokens - rows) * shape.num_heads * shape.head_dim;
            let q = gpu::DeviceView::new(q.buffer(), first, layout)?;
            let mut out = gpu::DeviceViewMut::new(out.buffer_mut(), first, layout)?;
            plan.run(&self.stream, &q, &k.view(), &v.view(), &[tokens as u32], &mut out, None)?;
            Ok((Kept::All, 1.0))
        })
    }

    /// The search and the attention over what it kept.
    fn pattern(
        &self,
        what: &'static str,
        case: &KernelCase<bf16>,
        pattern: &Pattern,
    ) -> lacuna::Result<Call> {
        let options = AttentionOptions::default();
        let mut plan = gpu::prefill::Plan::new(&self.context, &case.shape, &options, pattern)?;
        self.call(what, case, 0, |[q, k, v], out, lse| {
            let (q, k, v) = (q.view(), k.view(), v.view());
            plan.search(&self.stream, &q, &k)?;
            plan.attend(&self.stream, &q, &k, &v, &mut out.view_mut()?, Some(lse))?;
            let selection = plan.fetch_selection(&self.stream)?;
            Ok((Kept::new(selection), selection.density(options.causal)))
        })
    }

    /// Dense attention, and the tokens that its last rows weigh most: what token summaries keep.
    fn top_k(&self, case: &KernelCase<bf16>) -> lacuna::Result<Call> {
        let (shape, tokens) = (&case.shape, case.shape.seqlens.total_k());
        let options = AttentionOptions::default();
        let dense = gpu::dense_attention::Plan::new(&self.context, shape, &options)?;
        let mass = gpu::column_mass::Plan::new(&self.context, shape, &options)?;
        let top_k = gpu::top_k::Plan::new(&self.context, 1, tokens, TOP_K.min(tokens), None)?;
        let mut scores = DeviceBuffer::from_host(&self.context, &vec![0.0; tokens], "token scores")?;
        let mut kept = DeviceBuffer::uninit(&self.context, top_k.list_len(), "kept tokens")?;
        let first = tokens - DECODE_ROWS.min(tokens);
        let call = self.call("token top-k", case, 0, |[q, k, v], out, lse| {
            let (q, k) = (q.view(), k.view());
            dense.run(&self.stream, &q, &k, &v.view(), &mut out.view_mut()?, Some(&mut *lse))?;
            mass.run(&self.stream, &q, &k, lse, 0, first..tokens, 0..tokens, &mut scores)?;
            top_k.run(&self.stream, &scores, &mut kept)?;
            Ok((Kept::All, top_k.list_len() as f64 / tokens as f64))
        })?;
        let kept: Vec<u32> = kept.to_host(&self.stream)?;
        Ok(Call { ok: call.ok && case.is_top_k(&kept, first), ..call })
    }

    /// Uploads the case, times `launch`, and compares the rows from `first` on, which alone it writes, with the plain loop
    /// over what it says it kept.
    fn call(
        &self,
        what: &'static str,
        case: &KernelCase<bf16>,
        first: usize,
        launch: impl FnOnce(
            [&DeviceTensor<bf16>; 3],
            &mut DeviceTensor<bf16>,
            &mut DeviceBuffer<f32>,
        ) -> lacuna::Result<(Kept, f64)>,
    ) -> lacuna::Result<Call> {
        let [q, k, v] = case.views()?;
        let (q, k, v) = (
            DeviceTensor::from_host(&self.context, &q, "q")?,
            DeviceTensor::from_host(&self.context, &k, "k")?,
            DeviceTensor::from_host(&self.context, &v, "v")?,
        );
        let unwritten = case.unwritten();
        let mut out = DeviceTensor::from_memory(&self.context, &unwritten, *q.layout(), "out")?;
        let lse_len = case.shape.num_heads * case.shape.seqlens.total_q();
        let mut lse = DeviceBuffer::uninit(&self.context, lse_len, "softmax_lse")?;
        if let Some(emulator) = &self.emulator {
            emulator.clear_reports();
        }
        let start = Instant::now();
        let (kept, density) = launch([&q, &k, &v], &mut out, &mut lse)?;
        self.stream.synchronize()?;
        let seconds = start.elapsed().as_secs_f64();

        let out = out.to_host(&self.stream)?;
        let row = case.shape.num_heads * case.shape.head_dim;
        let (untouched, written) = out.split_at(first * row);
        let max_error = case.max_error(&kept, first, written);
        Ok(Call {
            what,
            head_dim: case.shape.head_dim,
            density,
            max_error,
            ok: max_error <= TOLERANCE && untouched.iter().all(|x| x.is_nan()),
            seconds,
            counted: self.emulator.as_ref().map(|emulator| Counted::new(emulator)),
        })
    }
}

impl Counted {
    fn new(emulator: &EmulatedDriver) -> Self {
        let reports = emulator.reports();
        let mut totals = gpu::Totals::default();
        reports.iter().for_each(|report| totals.add(&report.counters.totals()));
        Self {
            kernels: reports.into_iter().map(|report| report.kernel).collect(),
            warp_instructions: totals.warp_instructions,
            mma: totals.mma,
            shared_conflict_factor: totals.shared_conflict_factor(),
        }
    }
}

impl KernelDemo {
    /// Runs the kernels on `device`, which is not the CPU, over `tokens` tokens.
    pub fn new(device: Device, tokens: usize) -> lacuna::Result<Self> {
        let bench = Bench::new(device)?;
        let mut calls = Vec::new();
        for head_dim in [64, 128] {
            let case = KernelCase::<bf16>::new(tokens, NUM_HEADS, NUM_HEADS_K, head_dim)?;
            calls.push(bench.dense(&case)?);
            calls.push(bench.block_sparse(&case)?);
            calls.push(bench.decode(&case)?);
            for (what, pattern) in patterns() {
                calls.push(bench.pattern(what, &case, &pattern)?);
            }
            calls.push(bench.top_k(&case)?);
        }
        Ok(Self {
            device: device.to_string(),
            name: bench.context.info().name.clone(),
            tokens,
            num_heads: NUM_HEADS,
            num_heads_k: NUM_HEADS_K,
            dtype: "bf16",
            image: lacuna::ptx::ORIGIN,
            ok: calls.iter().all(|call| call.ok),
            calls,
        })
    }

    /// The table of calls.
    pub fn page(&self, colour: bool) -> String {
        let emulated = self.calls.iter().any(|call| call.counted.is_some());
        let mut page = format!(
            "Attention of {} tokens in bf16, {} query heads over {} KV heads, on\n{}: {}.\n\n",
            format_count(self.tokens),
            self.num_heads,
            self.num_heads_k,
            self.device,
            self.name,
        );
        let mut columns = vec![
            ("operation", Align::Left),
            ("dim", Align::Right),
            ("density", Align::Right),
            ("error", Align::Right),
            ("", Align::Left),
            ("time", Align::Right),
        ];
        if emulated {
            columns.extend([("instructions", Align::Right), ("mma", Align::Right)]);
        }
        let mut table = Table::new(&columns);
        for call in &self.calls {
            let (verdict, style) = if call.ok { ("ok", Style::Good) } else { ("WRONG", Style::Bad) };
            let mut cells = vec![
                (call.what.to_owned(), Style::Plain),
                (call.head_dim.to_string(), Style::Plain),
                (format_density(call.density), Style::Plain),
                (format!("{:.0e}", call.max_error), Style::Plain),
                (verdict.to_owned(), style),
                (format_duration(Duration::from_secs_f64(call.seconds)), Style::Plain),
            ];
            if let Some(counted) = &call.counted {
                cells.push((format_count(counted.warp_instructions as usize), Style::Plain));
                cells.push((format_count(counted.mma as usize), Style::Plain));
            }
            table.row(cells);
        }
        page += &table.render(colour);
        page += "\nError: the largest difference from a plain loop in f64, of values up to 1.\n";
        if emulated {
            page += "Instructions of warps; mma: products of 16 x 16 by 16 x 8 on the tensor cores.\n\n\
                     No fault: every access was in bounds, aligned and to memory that was written;\n\
                     no race, no missing wait or barrier, no deadlock. The time is the emulator's.\n";
        }
        if !self.image.starts_with("shipped") {
            page += &format!("The kernels are not those that ship: {}.\n", self.image);
        }
        page
    }
}
