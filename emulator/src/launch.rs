//! A launch: its shape, its arguments, the checks before it and the report after it.

use crate::exec::{Executed, Failed, Session, run_grid};
use crate::ir::{Kernel, Op};
use crate::lines::LineTable;
use crate::memory::Global;
use crate::report::LineCounters;
use crate::rng::Rng;
use crate::{
    Advisory, Counters, DevicePtr, Fault, FaultKind, Options, Profile, Report, Scheduler, Site, Totals,
};

/// Grid, CTA and cluster extents, and dynamic shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// CTAs in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a CTA in x, y and z.
    pub block: [u32; 3],
    /// CTAs of a cluster in x, y and z; `[1, 1, 1]` where clusters are not used.
    pub cluster: [u32; 3],
    /// Dynamic shared memory of a CTA.
    pub dynamic_smem_bytes: u32,
}

impl LaunchShape {
    /// `grid` CTAs of `threads` threads, one-dimensional, without dynamic shared memory.
    pub fn new(grid: u32, threads: u32) -> Self {
        LaunchShape { grid: [grid, 1, 1], block: [threads, 1, 1], cluster: [1, 1, 1], dynamic_smem_bytes: 0 }
    }

    /// The same with `bytes` of dynamic shared memory.
    pub fn with_smem(self, bytes: u32) -> Self {
        LaunchShape { dynamic_smem_bytes: bytes, ..self }
    }

    /// Threads of a CTA, in 64 bits since the factors are the caller's.
    pub fn threads(&self) -> u64 {
        self.block.iter().map(|&n| u64::from(n)).fold(1, u64::saturating_mul)
    }

    /// CTAs of the grid.
    pub fn ctas(&self) -> u64 {
        self.grid.iter().map(|&n| u64::from(n)).fold(1, u64::saturating_mul)
    }
}

/// The bytes of one kernel parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg(Box<[u8]>);

impl Arg {
    /// A parameter of any type, by its bytes: a by-value struct, for instance.
    pub fn bytes(bytes: &[u8]) -> Self {
        Arg(bytes.into())
    }

    /// A device pointer.
    pub fn ptr(ptr: DevicePtr) -> Self {
        Arg::u64(ptr.address())
    }

    /// A 32-bit integer.
    pub fn u32(value: u32) -> Self {
        Arg(Box::new(value.to_le_bytes()))
    }

    /// A 64-bit integer.
    pub fn u64(value: u64) -> Self {
        Arg(Box::new(value.to_le_bytes()))
    }

    /// A 32-bit float.
    pub fn f32(value: f32) -> Self {
        Arg(Box::new(value.to_le_bytes()))
    }

    /// The bytes as passed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Checks the launch, runs it and gathers what there is to report.
pub(crate) fn run(
    kernel: &Kernel,
    lines: &LineTable,
    profile: &Profile,
    options: &Options,
    global: &mut Global,
    shape: &LaunchShape,
    args: &[Arg],
) -> Result<Report, Fault> {
    check_shape(kernel, profile, shape).map_err(|message| bad_launch(kernel, message))?;
    let params = parameters(kernel, args).map_err(|message| bad_launch(kernel, message))?;
    global.clear_shadows();
    let seed = match options.scheduler {
        Scheduler::RoundRobin => 0,
        Scheduler::Random(seed) | Scheduler::Adversarial(seed) => seed,
    };
    let mut session = Session {
        kernel,
        arch: profile.arch,
        options: *options,
        global,
        params,
        executed: vec![Executed::default(); kernel.code.len()],
        traffic: vec![Totals::default(); kernel.code.len()],
        remarks: Default::default(),
        published: Default::default(),
        steps: 0,
        rng: Rng::new(seed),
        watch_ctas: options.checks && shape.ctas() > 1,
    };
    match run_grid(&mut session, shape) {
        Ok(()) => Ok(report(&session, lines)),
        Err(failed) => Err(fault(kernel, lines, failed)),
    }
}

fn bad_launch(kernel: &Kernel, message: String) -> Fault {
    Fault::new(FaultKind::BadLaunch, format!("kernel `{}`: {message}", kernel.name))
}

fn check_shape(kernel: &Kernel, profile: &Profile, shape: &LaunchShape) -> Result<(), String> {
    let arch = profile.arch;
    let LaunchShape { grid, block, cluster, dynamic_smem_bytes } = *shape;
    for (what, extent, limit) in
        [("grid", grid, profile.max_grid_extent), ("CTA", block, profile.max_cta_extent)]
    {
        if (0..3).any(|axis| extent[axis] == 0 || extent[axis] > limit[axis]) {
            return Err(format!(
                "the {what} is {extent:?}, expected at least 1 and at most {limit:?} on {arch}"
            ));
        }
    }
    let threads = shape.threads();
    if threads > u64::from(profile.max_threads_per_cta) {
        return Err(format!("a CTA of {threads} threads, expected at most {}", profile.max_threads_per_cta));
    }
    if let Some(required) = kernel.required_threads.filter(|&required| required != block) {
        return Err(format!("the CTA is {block:?}, and .reqntid asks for exactly {required:?}"));
    }
    if let Some(most) = kernel.max_threads {
        // The limits of the axes bound their product.
        let most_threads: u64 = most.iter().map(|&n| u64::from(n)).product();
        if threads > most_threads {
            return Err(format!("a CTA of {threads} threads, and .maxntid allows {most_threads}"));
        }
    }
    if cluster != [1, 1, 1] {
        return Err(format!("a cluster of {cluster:?} CTAs, and clusters are not supported"));
    }
    if shape.ctas() >= u64::from(u32::MAX) {
        return Err(format!("{} CTAs are more than the emulator can number", shape.ctas()));
    }
    let static_bytes = kernel.static_shared_bytes;
    if static_bytes > profile.max_static_shared_bytes {
        return Err(format!(
            "{static_bytes} bytes of static shared memory, expected at most {}",
            profile.max_static_shared_bytes
        ));
    }
    if static_bytes.saturating_add(dynamic_smem_bytes) > profile.max_shared_bytes {
        return Err(format!(
            "{static_bytes} bytes of static and {dynamic_smem_bytes} of dynamic shared memory, expected at most {} on {arch}",
            profile.max_shared_bytes
        ));
    }
    if kernel.param_bytes > profile.max_param_bytes {
        return Err(format!(
            "{} bytes of parameters, expected at most {}",
            kernel.param_bytes, profile.max_param_bytes
        ));
    }
    Ok(())
}

/// Packs the arguments as the kernel declares its parameters.
fn parameters(kernel: &Kernel, args: &[Arg]) -> Result<Vec<u8>, String> {
    if args.len() != kernel.params.len() {
        return Err(format!("{} arguments for {} parameters", args.len(), kernel.params.len()));
    }
    let mut packed = vec![0; kernel.param_bytes as usize];
    for (i, (param, arg)) in kernel.params.iter().zip(args).enumerate() {
        let (offset, bytes) = (param.offset as usize, param.bytes as usize);
        if arg.0.len() != bytes {
            return Err(format!(
                "argument {i} (`{}`) has {} bytes, expected {bytes}",
                param.name,
                arg.0.len()
            ));
        }
        packed[offset..offset + bytes].copy_from_slice(&arg.0);
    }
    Ok(packed)
}

fn report(session: &Session, lines: &LineTable) -> Report {
    let kernel = session.kernel;
    let text = |pc: usize| kernel.texts[pc].0.clone();
    // The last instruction is the end that the reader appended.
    let counters = (0..kernel.code.len() - 1).map(|pc| {
        let executed = session.executed[pc];
        let mut counts = session.traffic[pc];
        counts.warp_instructions = executed.warps;
        counts.lane_instructions = executed.lanes();
        if let Op::Mma(product) = &kernel.code[pc].op {
            counts.mma = executed.warps;
            counts.macs = executed.warps * product.kind.macs();
        }
        LineCounters { line: kernel.code[pc].line, text: text(pc), class: kernel.texts[pc].1, counts }
    });
    let advisories = session.remarks.iter().map(|(&(pc, kind), (count, message))| {
        let ptx_line = kernel.code[pc as usize].line;
        let (instruction, source) = (text(pc as usize), lines.find(ptx_line));
        Advisory { kind, ptx_line, instruction, source, count: *count, message: message.clone() }
    });
    Report {
        kernel: kernel.name.clone(),
        counters: Counters { lines: counters.collect() },
        advisories: advisories.collect(),
    }
}

fn fault(kernel: &Kernel, lines: &LineTable, failed: Failed) -> Fault {
    let Failed { trouble, warp, cta, pc } = failed;
    let ptx_line = kernel.code[pc].line;
    let site = Site {
        kernel: kernel.name.clone(),
        ptx_line,
        instruction: kernel.texts[pc].0.clone(),
        source: lines.find(ptx_line),
        cta,
        warp: warp as u32,
        lane: trouble.lane,
    };
    Fault::from_trouble(*trouble, Some(site))
}
