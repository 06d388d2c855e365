//! What the pattern searches cost, counted: launch by launch, on the emulator, beside what each must at least read and
//! multiply. Counts that are polynomials of the length are continued to 131,072 tokens.
//!
//! ```text
//! cargo run --release -p lacuna-kernels-host --features emulator --example search_counts
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;
use std::sync::Arc;

use half::{bf16, f16};
use lacuna_core::{
    AttentionOptions, AttentionShape, Error, FlexPrefillOptions, KMeansOptions, Layout, Seqlens,
    VerticalSlashOptions, XAttentionOptions,
};
use lacuna_emulator::Options;
use lacuna_kernels_host::{
    Arch, Context, DeviceBlockMask, DeviceBuffer, DeviceTensor, EmulatedDriver, EmulatedLaunch, Stream,
    block_pool, column_mass, flex_prefill, k_means, top_k, vertical_slash, x_attention,
};
use lacuna_reference::testing::Rng;

use common::Half;

const HELP: &str = "\
Runs each pattern search on the emulator and prints, launch by launch, what it
costs: CTAs, bytes of global memory read and written (what loads and stores ask
for: caches serve repeats), mma instructions, instructions per warp, and shared
memory per CTA.

Options:
  --tokens N      query and key tokens, a multiple of 512 [4096]
  --heads N       query heads [8]
  --heads-k N     KV heads [2]
  --head-dim N    64 or 128 [128]
  --dtype TEXT    bf16 or f16 [bf16]
  --search TEXT   only searches whose name contains TEXT (may be repeated)
  --long N        continue counts to so many tokens; 0 for not at all [131072]
  --long-heads N  and so many query heads [32]
  --markdown      tables for docs/kernels.md
  --help

`model` is what a search must at least do: keys read once per pass, products of
the causal half. A count is continued where those of four lengths, from half
of N to five quarters, lie on one polynomial of degree two that is no constant;
heads multiply it.
";

/// Multiply-adds of one mma instruction.
const MACS: u64 = 16 * 8 * 16;

#[derive(Clone)]
struct Args {
    tokens: usize,
    heads: usize,
    heads_k: usize,
    head_dim: usize,
    f16: bool,
    searches: Vec<String>,
    long: usize,
    long_heads: usize,
    markdown: bool,
    help: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut parsed = Args {
        tokens: 4096,
        heads: 8,
        heads_k: 2,
        head_dim: 128,
        f16: false,
        searches: Vec::new(),
        long: 131_072,
        long_heads: 32,
        markdown: false,
        help: false,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number =
            |text: String| text.parse::<usize>().map_err(|_| format!("expected a number, got {text:?}"));
        match arg.as_str() {
            "--tokens" => parsed.tokens = number(value()?)?,
            "--heads" => parsed.heads = number(value()?)?,
            "--heads-k" => parsed.heads_k = number(value()?)?,
            "--head-dim" => parsed.head_dim = number(value()?)?,
            "--dtype" => {
                parsed.f16 = match value()?.as_str() {
                    "bf16" => false,
                    "f16" => true,
                    other => return Err(format!("expected bf16 or f16, got {other:?}")),
                }
            }
            "--search" => parsed.searches.push(value()?),
            "--long" => parsed.long = number(value()?)?,
            "--long-heads" => parsed.long_heads = number(value()?)?,
            "--markdown" => parsed.markdown = true,
            "--help" | "-h" => parsed.help = true,
            other => return Err(format!("unknown option {other}; --help lists them")),
        }
    }
    if parsed.tokens == 0 || !parsed.tokens.is_multiple_of(512) {
        return Err(format!("--tokens: expected a positive multiple of 512, got {}", parsed.tokens));
    }
    if parsed.long != 0 && parsed.long < parsed.tokens {
        return Err(format!("--long: expected at least {} tokens, got {}", parsed.tokens, parsed.long));
    }
    if parsed.heads == 0 || parsed.long_heads == 0 || !parsed.long_heads.is_multiple_of(parsed.heads) {
        return Err(format!("--long-heads: expected a multiple of {} heads", parsed.heads));
    }
    Ok(parsed)
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) if args.help => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(args) => args,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::FAILURE;
        }
    };
    let done = if args.f16 { count::<f16>(&args) } else { count::<bf16>(&args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What the launches of one kernel in one search add up to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    kernel: String,
    launches: u64,
    ctas: u64,
    read: u64,
    written: u64,
    mma: u64,
    warps: u64,
    instructions: u64,
    /// Shared memory of a CTA.
    smem: u32,
}

impl Counts {
    fn of(launch: &EmulatedLaunch) -> Self {
        let counters = &launch.report.counters;
        let totals = counters.totals();
        let written: u64 =
            ["st.global", "red.", "atom."].iter().map(|&op| counters.opcode(op).global_bytes).sum();
        let ctas = launch.config.grid.iter().map(|&n| n as u64).product();
        Self {
            kernel: launch.report.kernel.clone(),
            launches: 1,
            ctas,
            read: totals.global_bytes - written,
            written,
            mma: totals.mma,
            warps: ctas * launch.config.threads as u64 / 32,
            instructions: totals.warp_instructions,
            smem: launch.config.dynamic_smem_bytes,
        }
    }

    fn add(&mut self, other: &Self) {
        self.launches += other.launches;
        self.ctas += other.ctas;
        self.read += other.read;
        self.written += other.written;
        self.mma += other.mma;
        self.warps += other.warps;
        self.instructions += other.instructions;
        self.smem = self.smem.max(other.smem);
    }
}

/// One entry per kernel, in the order of their first launches.
fn by_kernel(launches: &[EmulatedLaunch]) -> Vec<Counts> {
    let mut all: Vec<Counts> = Vec::new();
    for launch in launches {
        let counts = Counts::of(launch);
        match all.iter_mut().find(|c| c.kernel == counts.kernel) {
            Some(sum) => sum.add(&counts),
            None => all.push(counts),
        }
    }
    all
}

fn total(all: &[Counts]) -> Counts {
    let mut sum = Counts { kernel: "all".into(), ..Counts::default() };
    all.iter().for_each(|counts| sum.add(counts));
    sum
}

/// Sizes of a run.
#[derive(Debug, Clone, Copy)]
struct Size {
    tokens: usize,
    heads: usize,
    heads_k: usize,
    head_dim: usize,
}

impl Size {
    /// Bytes of the keys.
    fn keys(&self) -> u64 {
        (self.tokens * self.heads_k * self.head_dim * 2) as u64
    }

    /// The mma instructions of the products of `rows` query rows of every head with all keys.
    fn products(&self, rows: u64) -> u64 {
        self.heads as u64 * rows * (self.tokens * self.head_dim) as u64 / MACS
    }
}

/// What a search must at least do.
#[derive(Debug, Clone, Copy)]
struct Model {
    read: u64,
    mma: u64,
    says: &'static str,
}

struct Search<T> {
    name: &'static str,
    /// Whether its counts follow the length alone.
    by_length: bool,
    model: fn(&Size) -> Model,
    run: fn(&Bench<T>) -> Result<Vec<EmulatedLaunch>, Error>,
}

/// A device with queries and keys of standard normal numbers.
struct Bench<T> {
    context: Context,
    driver: Arc<EmulatedDriver>,
    stream: Stream,
    size: Size,
    shape: AttentionShape,
    q: DeviceTensor<T>,
    k: DeviceTensor<T>,
}

impl<T: Half> Bench<T> {
    fn new(size: Size) -> Result<Self, Error> {
        // What the kernels do is checked by their tests.
        let options = Options { checks: false, step_budget: u64::MAX, ..Options::default() };
        let driver = Arc::new(EmulatedDriver::with_options(Arch::Sm80, options));
        let context = Context::new(driver.clone(), &[common::device::image()])?;
        let Size { tokens, heads, heads_k, head_dim } = size;
        let shape = AttentionShape::new(heads, heads_k, head_dim, Seqlens::uniform(1, tokens, tokens)?)?;
        let mut rng = Rng::new(0);
        let mut tensor = |heads, what| {
            let data: Vec<T> =
                (0..tokens * heads * head_dim).map(|_| T::from_f32(rng.normal() as f32)).collect();
            DeviceTensor::from_memory(&context, &data, Layout::thd(tokens, heads, head_dim), what)
        };
        let (q, k) = (tensor(heads, "q")?, tensor(heads_k, "k")?);
        let stream = context.default_stream();
        Ok(Self { q, k, context, driver, stream, size, shape })
    }

    fn launches(&self, work: impl FnOnce() -> Result<(), Error>) -> Result<Vec<EmulatedLaunch>, Error> {
        self.driver.launches_of(work)
    }

    fn x_attention(&self, stride: usize) -> Result<Vec<EmulatedLaunch>, Error> {
        let options = XAttentionOptions { stride, ..XAttentionOptions::default() };
        let mut plan = x_attention::Plan::<T>::new(&self.context, &self.shape, &options, true)?;
        let mut mask = plan.empty_mask()?;
        self.launches(|| plan.run(&self.stream, &self.q.view(), &self.k.view(), &mut mask))
    }

    fn scores(&self, rows: usize) -> Result<DeviceBuffer<f32>, Error> {
        let mut rng = Rng::new(1);
        let scores: Vec<f32> = (0..rows * self.size.tokens).map(|_| rng.normal().exp() as f32).collect();
        DeviceBuffer::from_host(&self.context, &scores, "scores")
    }
}

/// Rows of the probe of column mass, as vertical-slash has them.
const PROBE_ROWS: usize = 64;
/// Points and clusters of k-means: one block of summary tokens.
const POINTS: usize = 512;
const CLUSTERS: usize = 64;

fn searches<T: Half>() -> Vec<Search<T>> {
    vec![
        Search {
            name: "flex_prefill",
            by_length: true,
            model: |size| Model {
                read: 3 * size.keys(),
                mma: 2 * size.products(128),
                says: "keys three times (two passes of 128 rows, and means of blocks)",
            },
            run: |bench| {
                // No threshold: every head is query-aware, which is the dearer way.
                let options = FlexPrefillOptions { tau: 1.0, ..FlexPrefillOptions::default() };
                let mut plan = flex_prefill::Plan::<T>::new(&bench.context, &bench.shape, &options)?;
                let block_size = options.block_size;
                let mut mask = DeviceBlockMask::for_search(&bench.context, &bench.shape, block_size, true)?;
                bench.launches(|| plan.run(&bench.stream, &bench.q.view(), &bench.k.view(), &mut mask))
            },
        },
        Search {
            name: "x_attention, stride 8",
            by_length: true,
            model: |size| x_attention_model(size, 8),
            run: |bench| bench.x_attention(8),
        },
        Search {
            name: "x_attention, stride 16",
            by_length: true,
            model: |size| x_attention_model(size, 16),
            run: |bench| bench.x_attention(16),
        },
        Search {
            name: "vertical_slash",
            by_length: true,
            model: |size| Model {
                read: 2 * size.keys(),
                mma: 2 * size.products(64),
                says: "keys twice (LSE, then sums), 64 rows",
            },
            run: |bench| {
                let options = VerticalSlashOptions::default();
                let mut plan = vertical_slash::SearchPlan::<T>::new(&bench.context, &bench.shape, &options)?;
                let mut index = plan.empty_index()?;
                bench.launches(|| plan.run(&bench.stream, &bench.q.view(), &bench.k.view(), &mut index))
            },
        },
        Search {
            name: "column_mass, 64 rows",
            by_length: true,
            model: |size| Model { read: size.keys(), mma: size.products(64), says: "keys once, 64 rows" },
            run: |bench| {
                let Size { tokens, heads, .. } = bench.size;
                let plan =
                    column_mass::Plan::<T>::new(&bench.context, &bench.shape, &AttentionOptions::default())?;
                let lse = DeviceBuffer::from_host(&bench.context, &vec![9.0f32; heads * tokens], "lse")?;
                let mut mass = DeviceBuffer::from_host(&bench.context, &vec![0.0f32; tokens], "mass")?;
                let rows = tokens - PROBE_ROWS..tokens;
                let (q, k) = (bench.q.view(), bench.k.view());
                bench.launches(|| plan.run(&bench.stream, &q, &k, &lse, 0, rows, 0..tokens, &mut mass))
            },
        },
        Search {
            name: "top_k, 1000 of every head",
            by_length: true,
            model: |size| Model { read: 4 * (size.tokens * size.heads) as u64, mma: 0, says: "scores once" },
            run: |bench| {
                let Size { tokens, heads, .. } = bench.size;
                let plan = top_k::Plan::new(&bench.context, heads, tokens, 1000.min(tokens), None)?;
                let scores = bench.scores(heads)?;
                let mut list = DeviceBuffer::uninit(&bench.context, heads * plan.list_len(), "indices")?;
                bench.launches(|| plan.run(&bench.stream, &scores, &mut list))
            },
        },
        Search {
            name: "block_pool, blocks of 128 keys",
            by_length: true,
            model: |size| Model { read: size.keys(), mma: 0, says: "keys once" },
            run: |bench| {
                let Size { tokens, heads_k, head_dim, .. } = bench.size;
                let ends = [0, tokens as u32];
                let plan = block_pool::Plan::<T>::new(&bench.context, &ends, heads_k, head_dim, 128)?;
                let mut pooled = DeviceBuffer::uninit(&bench.context, plan.pooled_len(), "pooled")?;
                bench.launches(|| plan.run(&bench.stream, &bench.k.view(), &mut pooled))
            },
        },
        Search {
            name: "k_means, 512 points of 1024 features, 64 clusters, one round",
            by_length: false,
            model: |_| Model {
                read: (POINTS * 1024 * 2) as u64 * (CLUSTERS as u64 - 1 + 2 + 1),
                mma: 2 * (POINTS * CLUSTERS * 1024) as u64 / MACS,
                says: "points once per start, twice per round, once at last; two products",
            },
            run: |bench| {
                let options = KMeansOptions { clusters: CLUSTERS, max_iterations: 1, ..Default::default() };
                let (n, features) = (POINTS, 1024);
                let mut plan = k_means::Plan::<T>::new(&bench.context, n, features, &options)?;
                let mut rng = Rng::new(2);
                let data: Vec<T> = (0..n * features).map(|_| T::from_f32(rng.normal() as f32)).collect();
                let points =
                    DeviceTensor::from_memory(&bench.context, &data, Layout::thd(n, 1, features), "points")?;
                let mut centroids = DeviceBuffer::uninit(&bench.context, CLUSTERS * features, "centroids")?;
                let mut assignment = DeviceBuffer::uninit(&bench.context, n, "assignment")?;
                let mut chosen = DeviceBuffer::uninit(&bench.context, CLUSTERS, "representatives")?;
                bench.launches(|| {
                    plan.run(&bench.stream, &points.view(), &mut centroids, &mut assignment, &mut chosen)
                })
            },
        },
    ]
}

fn x_attention_model(size: &Size, stride: u64) -> Model {
    let tokens = size.tokens as u64;
    Model {
        // Queries and keys once.
        read: size.keys() + tokens * (size.heads * size.head_dim * 2) as u64,
        // The causal half of N / S by N / S products over S d features.
        mma: size.products(tokens) / stride / 2,
        says: "queries and keys once; dense attention / (2 S)",
    }
}

fn count<T: Half>(args: &Args) -> Result<(), Error> {
    let size =
        Size { tokens: args.tokens, heads: args.heads, heads_k: args.heads_k, head_dim: args.head_dim };
    let wanted =
        |name: &str| args.searches.is_empty() || args.searches.iter().any(|part| name.contains(part));
    let benches =
        [2, 3, 4, 5].map(|quarters| Bench::<T>::new(Size { tokens: args.tokens / 4 * quarters, ..size }));
    let [a, b, c, d] = benches;
    let benches = [a?, b?, c?, d?];
    let table = Table { markdown: args.markdown };
    table.heading(&size, args);
    for search in searches::<T>() {
        if !wanted(search.name) {
            continue;
        }
        let counts = by_kernel(&(search.run)(&benches[2])?);
        table.search(search.name, &counts, (search.model)(&size));
        if args.long == 0 || !search.by_length {
            continue;
        }
        let mut lengths = Vec::new();
        for bench in &benches {
            lengths.push(by_kernel(&(search.run)(bench)?));
        }
        let scale = (args.long_heads / args.heads) as u64;
        let long = Size {
            tokens: args.long,
            heads: args.long_heads,
            heads_k: args.heads_k * scale as usize,
            ..size
        };
        table.continued(&continued(&lengths, args, scale), &long, (search.model)(&long));
    }
    Ok(())
}

/// The counts of a kernel at the long length; `None` where the four lengths lie on no polynomial of degree two.
struct Continued {
    kernel: String,
    read: Option<u64>,
    written: Option<u64>,
    mma: Option<u64>,
}

fn continued(lengths: &[Vec<Counts>], args: &Args, scale: u64) -> Vec<Continued> {
    lengths[2]
        .iter()
        .map(|counts| {
            let of = |field: fn(&Counts) -> u64| {
                let mut samples = [0; 4];
                for (sample, all) in samples.iter_mut().zip(lengths) {
                    *sample = field(all.iter().find(|c| c.kernel == counts.kernel)?);
                }
                polynomial(samples, args.long as u64 * 4 - args.tokens as u64, args.tokens as u64)
                    .map(|n| n * scale)
            };
            Continued {
                kernel: counts.kernel.clone(),
                read: of(|c| c.read),
                written: of(|c| c.written),
                mma: of(|c| c.mma),
            }
        })
        .collect()
}

/// The polynomial of degree two through the values at 1, 2, 3 and 4, at `numerator / denominator`; `None` if there is none,
/// or its value is no number of things. Nor is there one for a constant: a kernel that works in steps longer than these
/// lengths gives it as well.
fn polynomial([a, b, c, d]: [u64; 4], numerator: u64, denominator: u64) -> Option<u64> {
    let [a, b, c, d] = [a, b, c, d].map(i128::from);
    if d - 3 * c + 3 * b - a != 0 || (a == d && a != 0) {
        return None;
    }
    // Newton's form at 1 + x / y.
    let (y, x) = (denominator as i128, numerator as i128 - denominator as i128);
    let (first, second) = (b - a, c - 2 * b + a);
    let twice = 2 * a * y * y + 2 * first * x * y + second * x * (x - y);
    let divisor = 2 * y * y;
    if twice % divisor == 0 { u64::try_from(twice / divisor).ok() } else { None }
}

/// Where the counts are written.
struct Table {
    markdown: bool,
}

impl Table {
    fn heading(&self, size: &Size, args: &Args) {
        let Size { tokens, heads, heads_k, head_dim } = size;
        let dtype = if args.f16 { "f16" } else { "bf16" };
        println!(
            "{tokens} tokens, {heads} query heads over {heads_k}, head dim {head_dim}, {dtype}; \
             on the emulator."
        );
    }

    fn row(&self, cells: [&str; 7]) {
        if self.markdown {
            println!("| {} |", cells.join(" | "));
        } else {
            let [kernel, rest @ ..] = cells;
            let rest: String = rest.iter().map(|cell| format!("{cell:>8}")).collect();
            println!("{}", format!("{kernel:<32}{rest}").trim_end());
        }
    }

    fn columns(&self, name: &str, columns: [&str; 6]) {
        if self.markdown {
            println!("\n`{name}`\n");
        } else {
            println!("\n{name}");
        }
        let [a, b, c, d, e, f] = columns;
        self.row(["kernel", a, b, c, d, e, f]);
        if self.markdown {
            println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: |");
        }
    }

    fn search(&self, name: &str, all: &[Counts], model: Model) {
        self.columns(name, ["CTAs", "read", "written", "mma", "i/warp", "smem"]);
        let sum = total(all);
        for counts in all.iter().chain((all.len() > 1).then_some(&sum)) {
            let kernel = match counts.launches {
                1 => counts.kernel.clone(),
                n if counts.kernel != "all" => format!("{} x{n}", counts.kernel),
                n => format!("{n} launches"),
            };
            let per_warp = counts.instructions / counts.warps.max(1);
            self.row([
                &kernel,
                &amount(counts.ctas),
                &bytes(counts.read),
                &bytes(counts.written),
                &amount(counts.mma),
                &amount(per_warp),
                &bytes(counts.smem as u64),
            ]);
        }
        self.model(model, sum.read, sum.mma);
    }

    /// What must at least be done, and how much more is.
    fn model(&self, model: Model, read: u64, mma: u64) {
        self.row(["model", "", &bytes(model.read), "", &amount(model.mma), "", ""]);
        let share = |got: u64, least: u64| {
            if least == 0 { String::new() } else { format!("{:.2}", got as f64 / least as f64) }
        };
        self.row(["counted / model", "", &share(read, model.read), "", &share(mma, model.mma), "", ""]);
        println!("{}{}", if self.markdown { "\nModel: " } else { "model: " }, model.says);
    }

    fn continued(&self, all: &[Continued], size: &Size, model: Model) {
        let name = format!("{} tokens, {} heads over {}", size.tokens, size.heads, size.heads_k);
        self.columns(&name, ["", "read", "written", "mma", "", ""]);
        let or_dash = |n: Option<u64>, show: fn(u64) -> String| n.map_or("-".to_owned(), show);
        for counts in all {
            let (read, written) = (or_dash(counts.read, bytes), or_dash(counts.written, bytes));
            self.row([&counts.kernel, "", &read, &written, &or_dash(counts.mma, amount), "", ""]);
        }
        self.row(["model", "", &bytes(model.read), "", &amount(model.mma), "", ""]);
    }
}

/// Three digits and a unit.
fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..10_000_000 => format!("{} KB", n.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{} MB", n.div_ceil(1_000_000)),
        _ => format!("{} GB", n.div_ceil(1_000_000_000)),
    }
}

/// A number of things, short.
fn amount(n: u64) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..10_000_000 => format!("{}k", n.div_ceil(1000)),
        10_000_000..10_000_000_000 => format!("{}M", n.div_ceil(1_000_000)),
        _ => format!("{}G", n.div_ceil(1_000_000_000)),
    }
}
