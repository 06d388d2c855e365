//! A random token of a distribution.

use lacuna_core::{Error, Result};
use lacuna_kernels_gpu::kernel;
use lacuna_kernels_gpu::params::SampleParams;
use lacuna_kernels_gpu::sample::control;
use lacuna_kernels_gpu::tile_size::{
    SAMPLE_LEVELS, SAMPLE_ROWS, SAMPLE_SLICE, SAMPLE_SLICES, SAMPLE_SURVIVORS,
};

use crate::argmax;
use crate::buffer::DeviceBuffer;
use crate::check::{self, Arg};
use crate::context::Context;
use crate::driver::{DevicePtr, RawStream};
use crate::launch::Launch;
use crate::stream::Stream;
use crate::view::{DeviceView, RawTensor};

pub use lacuna_kernels_gpu::sample::weight;

const OP: &str = "sample";

/// Logits of a row: as many as the slices hold, whose weights add up to less than 2^64.
const MAX_VOCAB_SIZE: usize = SAMPLE_SLICES as usize * SAMPLE_SLICE as usize;
const _: () = assert!(MAX_VOCAB_SIZE < 1 << 24);

/// Rows at a time.
const ROWS: usize = SAMPLE_ROWS as usize;

/// From which tokens to draw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Divisor of the logits; positive and finite. Default 1.
    pub temperature: f32,
    /// Draw from this many likeliest tokens; 0: all. Default 0.
    pub top_k: usize,
    /// Draw from the likeliest of these that together have this share of their weight, in (0, 1]. Default 1: all.
    pub top_p: f32,
    /// Draw from those of them whose weight is at least this share of the likeliest one's, in [0, 1]. Default 0: all.
    pub min_p: f32,
}

impl Default for Options {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let Self { temperature, top_p, min_p, .. } = *self;
        let in_range = [
            ("temperature", "positive and finite", temperature, temperature > 0.0 && temperature.is_finite()),
            ("top_p", "in (0, 1]", top_p, top_p > 0.0 && top_p <= 1.0),
            ("min_p", "in [0, 1]", min_p, (0.0..=1.0).contains(&min_p)),
        ];
        match in_range.into_iter().find(|(.., ok)| !ok) {
            Some((arg, expected, got, _)) => Err(Error::invalid(OP, arg, expected, got)),
            None => Ok(()),
        }
    }
}

/// A token of the softmax of every row, drawn with a number that is given.
///
/// In order: temperature, top-k, top-p, min-p. Of equal logits (0 and -0 are equal) the ones with the lowest indices are
/// kept. The token is the first, in ascending order, with which the cumulative weight of those that are kept exceeds the
/// number's share of it all. Weights are fixed-point numbers with one value wherever they are computed, see [`weight`]:
/// whoever follows the rule on the same logits draws the same token. Tokens of less than 2^-40 times the weight of the
/// likeliest are never drawn; nor, the number being an `f32` of 24 bits, is every token of a probability below 2^-24.
///
/// A row that holds a NaN or an infinity gives `u32::MAX`.
///
/// The plan owns a workspace: two runs of one plan have to be on one stream, or ordered by events.
#[derive(Debug)]
pub struct Plan {
    argmax: argmax::Plan,
    /// `None` where neither top-k nor top-p cuts.
    cut: Option<Cut>,
    draw: Launch,
    params: SampleParams,
    /// `[ROWS]`: the likeliest token.
    top: DeviceBuffer<u32>,
    /// `[ROWS][control::WORDS]`.
    control: DeviceBuffer<u32>,
    /// `[ROWS][slices]`.
    slice_sums: DeviceBuffer<u64>,
}

/// What finds the cut by top-k and top-p.
#[derive(Debug)]
struct Cut {
    histogram: Launch,
    cut: Launch,
    /// `[ROWS][SAMPLE_LEVELS]` each.
    counts: DeviceBuffer<u32>,
    sums: DeviceBuffer<u64>,
    /// `[ROWS][SAMPLE_SURVIVORS][2]`.
    survivors: DeviceBuffer<u32>,
}

impl Plan {
    /// Plans draws from rows of `vocab_size` logits, and allocates the workspace.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for options out of range and rows without logits, [`Error::TooLarge`] for rows of more
    /// than 2^22 logits, [`Error::Device`] for what the device refuses.
    pub fn new(context: &Context, vocab_size: usize, options: &Options) -> Result<Self> {
        options.check()?;
        argmax::check_vocab_size(OP, vocab_size, MAX_VOCAB_SIZE)?;
        let top_k = if options.top_k < vocab_size { options.top_k as u32 } else { 0 };
        let slices = vocab_size.div_ceil(SAMPLE_SLICE as usize);
        let cuts = top_k != 0 || options.top_p < 1.0;
        Ok(Self {
            argmax: argmax::Plan::new(context, vocab_size)?,
            cut: if cuts { Some(Cut::new(context, slices)?) } else { None },
            draw: launch(context, &kernel::sample_draw(), slices)?,
            params: SampleParams {
                row_stride: 0,
                least: weight::least(options.min_p),
                vocab_size: vocab_size as u32,
                slices: slices as u32,
                scale_log2: weight::scale_log2(options.temperature),
                top_k,
                top_p: options.top_p,
                counters: 0,
            },
            top: DeviceBuffer::uninit(context, ROWS, "sample likeliest tokens")?,
            control: DeviceBuffer::from_host(context, &control::START.repeat(ROWS), "sample control")?,
            slice_sums: DeviceBuffer::uninit(context, ROWS * slices, "sample sums of slices")?,
        })
    }

    /// Queues the draws: two launches for every 8 rows, and two more where top-k or top-p cuts; none for no rows.
    ///
    /// | argument | shape | holds |
    /// | --- | --- | --- |
    /// | `logits` | `[rows, 1, vocab_size]` | rows of any stride |
    /// | `uniform` | at least `rows` | a number in [0, 1) for each row |
    /// | `out` | at least `rows` | a token for each row |
    /// | `counters` | any | each element grows by 1, wrapping, once per run of at least a row |
    ///
    /// # Errors
    /// [`Error::ShapeMismatch`] and [`Error::InvalidArgument`] for what does not fit or lies on another device.
    pub fn run(
        &self,
        stream: &Stream,
        logits: &DeviceView<f32>,
        uniform: &DeviceBuffer<f32>,
        out: &mut DeviceBuffer<u32>,
        counters: Option<&mut DeviceBuffer<u32>>,
    ) -> Result<()> {
        let arg = |name| Arg { op: OP, name };
        let context = self.draw.context();
        let ([rows, _, _], vocab_size) = (logits.shape(), self.params.vocab_size as usize);
        arg("stream").stream(context, stream)?;
        let logits = arg("logits").view(context, logits, [rows, 1, vocab_size])?;
        arg("uniform").device(context, uniform.driver())?;
        if uniform.len() < rows {
            return Err(Error::invalid(OP, "uniform", format!("at least {rows} elements"), uniform.len()));
        }
        let (out, counters) = argmax::outputs(OP, context, rows, out, counters)?;
        // SAFETY: logits, numbers, tokens and counters have these sizes and lie on the plan's device; buffers live until
        // queued work is done.
        unsafe { self.run_raw(stream.raw(), rows, logits, uniform.ptr(), out, counters) }
    }

    /// As [`Plan::run`], on addresses and a stream of any owner. `counters` are an address and how many follow it.
    ///
    /// # Safety
    /// As for [`argmax::Plan::run_raw`], `uniform` leading to `rows` `f32` besides.
    ///
    /// # Errors
    /// More than 2^32 - 1 counters, and what the driver reports.
    pub unsafe fn run_raw(
        &self,
        stream: RawStream,
        rows: usize,
        logits: RawTensor,
        uniform: DevicePtr,
        out: DevicePtr,
        (counters, count): (DevicePtr, usize),
    ) -> Result<()> {
        let count = check::to_u32(OP, "the number of counters", count)?;
        let slices = self.params.slices as usize;
        let [top, control, slice_sums] = [self.top.ptr(), self.control.ptr(), self.slice_sums.ptr()];
        for first in (0..rows).step_by(ROWS) {
            let now = ROWS.min(rows - first);
            let ptr = logits.ptr.offset(first * logits.token_stride * size_of::<f32>());
            let [uniform, out] = [uniform, out].map(|list| list.offset(first * size_of::<u32>()));
            let params = SampleParams {
                row_stride: logits.token_stride as u64,
                counters: if first == 0 { count } else { 0 },
                ..self.params
            };
            let grid = [now, slices, 1];
            // SAFETY: the caller's promise; the workspace has room for so many rows.
            unsafe {
                self.argmax.run_raw(stream, now, RawTensor { ptr, ..logits }, top, (DevicePtr::NULL, 0))?;
                if let Some(Cut { histogram, cut, counts, sums, survivors }) = &self.cut {
                    let pointers = [ptr, top, control, counts.ptr(), sums.ptr()];
                    histogram.with_grid(grid)?.run(stream, pointers, &params)?;
                    cut.with_grid(grid)?.run(stream, [ptr, top, control, survivors.ptr()], &params)?;
                }
                let pointers = [ptr, top, control, slice_sums, uniform, out, counters];
                self.draw.with_grid(grid)?.run(stream, pointers, &params)?;
            }
        }
        Ok(())
    }
}

impl Cut {
    fn new(context: &Context, slices: usize) -> Result<Self> {
        let levels = ROWS * SAMPLE_LEVELS as usize;
        let survivors = ROWS * SAMPLE_SURVIVORS as usize * 2;
        Ok(Self {
            histogram: launch(context, &kernel::sample_histogram(), slices)?,
            cut: launch(context, &kernel::sample_cut(), slices)?,
            counts: DeviceBuffer::from_host(context, &vec![0; levels], "sample counts by level")?,
            sums: DeviceBuffer::from_host(context, &vec![0; levels], "sample weights by level")?,
            survivors: DeviceBuffer::uninit(context, survivors, "sample survivors")?,
        })
    }
}

fn launch(context: &Context, kernel: &kernel::SampleKernel, slices: usize) -> Result<Launch> {
    let what = ["the number of rows", "the number of slices of a row", ""];
    Launch::new(context, OP, &kernel.kernel, [0, slices, 1], what)
}
