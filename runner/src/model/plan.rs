//! What a prefill and its decode take on a GPU, without one: the model is loaded, run and decoded on a device of which only
//! the books are kept, so that the numbers come from the code that does the work.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytemuck::Pod;
use half::{bf16, f16};
use lacuna::gpu::{Context, DeviceInfo, DryRunDriver, gemm};
use lacuna::{DType, Element, Pattern, ThresholdTable, ptx};

use super::{Config, ForwardOptions, LayerReport, Model, Observer, gpu};
use crate::{Error, Result};

/// What to plan for.
#[derive(Debug, Clone)]
pub struct PlanOptions {
    /// Tokens of the prompt.
    pub tokens: usize,
    /// Tokens to decode after it.
    pub max_new_tokens: usize,
    /// The attention pattern of the prefill.
    pub pattern: Pattern,
    /// As [`ForwardOptions::thresholds`].
    pub thresholds: Option<ThresholdTable>,
    /// The type to compute in: `bf16` or `f16`.
    pub dtype: DType,
    /// The GPU to plan for; see [`typical_device`].
    pub device: DeviceInfo,
    /// Its memory that is free, where that is known.
    pub memory_bytes: Option<u64>,
}

/// What a prefill and its decode take, the weights multiplied by our own kernel.
///
/// Bytes are those that are asked for: the CUDA driver rounds each allocation up, and takes some hundred MiB for itself and
/// the kernels beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The most that is allocated at a time, by part, all parts of [`Part::ALL`] in that order.
    pub parts: Vec<(Part, u64)>,
    /// The same by what it is for, largest first.
    pub allocations: Vec<(String, Part, u64)>,
    /// Tokens that go through the projections and the MLP at a time.
    pub slice: usize,
    /// Kernels that the prefill launches, all layers.
    pub launches_per_prefill: usize,
    /// Those of one layer between the first and the last; of the first where there are no others.
    pub launches_per_layer: usize,
    /// Kernels that a decoded token launches: one graph, once it is recorded.
    pub launches_per_token: usize,
    /// The memory that it has to fit.
    pub memory_bytes: Option<u64>,
    /// The least memory with which it runs, in the smallest slices.
    pub least_bytes: u64,
}

/// What memory is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The weights.
    Weights,
    /// Keys and values of all tokens.
    KvCache,
    /// What a pass keeps of its tokens, and of a slice of them on the way through a layer.
    Activations,
    /// What search, attention and products keep between their kernels, lists of blocks and tables.
    Workspaces,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 4] = [Self::Weights, Self::KvCache, Self::Activations, Self::Workspaces];

    /// `weights`, `KV cache`, `activations` or `workspaces`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::KvCache => "KV cache",
            Self::Activations => "activations",
            Self::Workspaces => "workspaces",
        }
    }

    /// The part that an allocation belongs to.
    fn of(what: &str) -> Self {
        match what {
            "weights" => Self::Weights,
            "the KV cache" => Self::KvCache,
            "activations" | gpu::SLICE | "logits" => Self::Activations,
            _ => Self::Workspaces,
        }
    }
}

impl Plan {
    /// Bytes of all parts.
    pub fn total_bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of a part.
    pub fn part_bytes(&self, part: Part) -> u64 {
        self.parts.iter().find(|(p, _)| *p == part).map_or(0, |(_, bytes)| *bytes)
    }

    /// Refuses a run for which the memory is known not to suffice.
    ///
    /// # Errors
    /// [`Error::DoesNotFit`].
    pub fn check(&self) -> Result<()> {
        match (self.fits(), self.memory_bytes, self.parts.iter().max_by_key(|(_, bytes)| *bytes)) {
            (Some(false), Some(free), Some(&(largest, largest_bytes))) => Err(Error::DoesNotFit {
                needed: self.least_bytes,
                free,
                largest: largest.name(),
                largest_bytes,
            }),
            _ => Ok(()),
        }
    }

    /// Whether it fits the memory, where that is known.
    pub fn fits(&self) -> Option<bool> {
        self.memory_bytes.map(|memory| self.least_bytes <= memory)
    }
}

/// A GPU to plan for where there is none: the numbers of an A100.
pub fn typical_device() -> DeviceInfo {
    DeviceInfo {
        name: "a GPU as the A100".into(),
        driver: "none".into(),
        compute_capability: (8, 0),
        multiprocessors: 108,
        max_smem_bytes: 166_912,
    }
}

/// More memory than any device has.
const NO_LIMIT: u64 = 1 << 56;

/// Plans a prefill and its decode for a model of this configuration; no weights are needed.
///
/// # Errors
/// Those of loading such a model on a GPU and of running it: a type or a head dim that the kernels do not take, more tokens
/// than the model has positions, options of the pattern that are out of range. Too little memory is none.
pub fn plan(config: &Config, options: &PlanOptions) -> Result<Plan> {
    match options.dtype {
        DType::Bf16 => plan_in::<bf16>(config, options),
        DType::F16 => plan_in::<f16>(config, options),
        DType::F32 => Err(Error::invalid("dtype", "bf16 or f16 on a GPU", options.dtype)),
    }
}

fn plan_in<T: Element + Pod>(config: &Config, options: &PlanOptions) -> Result<Plan> {
    let whole = Books::keep::<T>(config, options, NO_LIMIT)?;
    let token_bytes = gpu::slice_token_bytes::<T>(config);
    let spare = whole.slice(token_bytes) - gpu::smallest_slice(options.tokens) as u64;
    let least_bytes = whole.peak_bytes - spare * token_bytes;
    let books = match options.memory_bytes {
        Some(memory) if (least_bytes..whole.peak_bytes).contains(&memory) => {
            Books::keep::<T>(config, options, memory)?
        }
        _ => whole,
    };
    let mut parts = Part::ALL.map(|part| (part, 0));
    for (_, part, bytes) in &books.allocations {
        parts[*part as usize].1 += bytes;
    }
    Ok(Plan {
        parts: parts.to_vec(),
        slice: books.slice(token_bytes) as usize,
        launches_per_prefill: books.launches_per_prefill,
        launches_per_layer: books.launches_per_layer,
        launches_per_token: books.launches_per_token,
        memory_bytes: options.memory_bytes,
        least_bytes,
        allocations: books.allocations,
    })
}

/// What a run without a device left in its books.
struct Books {
    /// At the fullest moment, by purpose, largest first.
    allocations: Vec<(String, Part, u64)>,
    peak_bytes: u64,
    launches_per_prefill: usize,
    launches_per_layer: usize,
    launches_per_token: usize,
}

impl Books {
    /// Loads, prefills and decodes a token with so much memory.
    fn keep<T: Element + Pod>(config: &Config, options: &PlanOptions, memory_bytes: u64) -> Result<Self> {
        let limit = config.max_position_embeddings;
        if options.tokens > limit {
            let (what, limit_name) = ("the prompt", "max_position_embeddings");
            return Err(Error::TooLong { what, tokens: options.tokens, limit_name, limit });
        }
        let driver = Arc::new(DryRunDriver::new(options.device.clone(), memory_bytes));
        let context = Context::new(driver.clone(), &ptx::IMAGES)?;
        let model = gpu::Llama::<T>::unread(&context, gemm::Backend::Own, config.clone())?;
        let mut watch = Watch::new(&driver);
        let mut session = model.session(options.tokens.saturating_add(options.max_new_tokens).min(limit))?;
        driver.clear_launches();
        let forward = ForwardOptions {
            pattern: options.pattern.clone(),
            thresholds: options.thresholds.clone(),
            ..Default::default()
        };
        session.forward(&vec![0; options.tokens], &forward, &mut watch)?;
        let launches_per_prefill = driver.launches().len();
        if session.len() == session.capacity() {
            session.truncate(session.len() - 1)?;
        }
        driver.clear_launches();
        session.decode(0)?;
        let launches_per_token = driver.launches().len();
        Ok(Self {
            launches_per_prefill,
            launches_per_layer: watch.launches_per_layer(),
            launches_per_token,
            peak_bytes: driver.peak_bytes(),
            allocations: watch.allocations(driver.peak_bytes()),
        })
    }

    /// The slice, by its memory; a slice of one token belongs to decoding.
    fn slice(&self, token_bytes: u64) -> u64 {
        let slices = self.allocations.iter().filter(|(what, ..)| what == gpu::SLICE);
        slices.map(|(_, _, bytes)| bytes).sum::<u64>() / token_bytes - 1
    }
}

/// Looks into the books at the end of every layer.
struct Watch<'a> {
    driver: &'a DryRunDriver,
    /// The most that was allocated at the end of a layer.
    fullest: Vec<(String, u64)>,
    /// Kernels launched up to the end of each layer.
    launches: Vec<usize>,
}

impl<'a> Watch<'a> {
    /// From the moment on when nothing but the weights is allocated.
    fn new(driver: &'a DryRunDriver) -> Self {
        Self { driver, fullest: driver.allocations(), launches: Vec::new() }
    }

    fn launches_per_layer(&self) -> usize {
        match self.launches[..] {
            [first, second, _, ..] => second - first,
            _ => self.launches[0],
        }
    }

    /// What was allocated at the fullest moment, the sum `peak_bytes`.
    fn allocations(self, peak_bytes: u64) -> Vec<(String, Part, u64)> {
        let mut by_purpose: BTreeMap<(Part, String), u64> = BTreeMap::new();
        for (what, bytes) in self.fullest {
            let part = Part::of(&what);
            *by_purpose.entry((part, what)).or_default() += bytes;
        }
        let passing = peak_bytes - by_purpose.values().sum::<u64>();
        if passing > 0 {
            by_purpose.insert((Part::Workspaces, "for a moment".to_owned()), passing);
        }
        let mut allocations: Vec<_> =
            by_purpose.into_iter().map(|((part, what), bytes)| (what, part, bytes)).collect();
        allocations.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
        allocations
    }
}

impl Observer for Watch<'_> {
    fn layer(&mut self, _: usize, _: &LayerReport) {
        self.launches.push(self.driver.launches().len());
        let allocated = self.driver.allocations();
        let bytes = |list: &[(String, u64)]| list.iter().map(|(_, bytes)| bytes).sum::<u64>();
        if bytes(&allocated) > bytes(&self.fullest) {
            self.fullest = allocated;
        }
    }
}
