//! Running the forms on a device, and keeping what it answers.

use std::fmt;

use super::archive::{Archive, Origin, Record};
use super::form::{Form, KERNEL_NAME, LANES_PER_CTA};
use super::inputs::fingerprint;
use crate::{Arch, Arg, DevicePtr, Fault, LaunchShape, Machine, Options, ReadError};

/// What a capture needs of a GPU.
///
/// Memory is handed out zeroed. Everything may be synchronous: no form runs for longer than a millisecond.
pub trait Device {
    /// A piece of device memory.
    type Buffer;
    /// A loaded module.
    type Module;
    /// Why the device could not.
    type Error: fmt::Display;

    /// Allocates `bytes` bytes of zeros, aligned to at least 256.
    fn allocate(&mut self, bytes: usize) -> Result<Self::Buffer, Self::Error>;

    /// Frees a buffer.
    fn free(&mut self, buffer: Self::Buffer) -> Result<(), Self::Error>;

    /// Copies `bytes` to the start of `buffer`.
    fn copy_in(&mut self, buffer: &Self::Buffer, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies the start of `buffer` into `bytes`, after all launches.
    fn copy_out(&mut self, buffer: &Self::Buffer, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Loads a PTX module.
    fn load(&mut self, ptx: &str) -> Result<Self::Module, Self::Error>;

    /// Launches `kernel(buffers[0], buffers[1])` with `grid` CTAs of `block` threads.
    fn launch(
        &mut self,
        module: &Self::Module,
        kernel: &str,
        grid: u32,
        block: u32,
        buffers: [&Self::Buffer; 2],
    ) -> Result<(), Self::Error>;
}

/// A form that a device would not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureError {
    /// The form's id.
    pub form: String,
    /// What was being done.
    pub step: &'static str,
    /// The device's words.
    pub reason: String,
}

impl fmt::Display for CaptureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} failed: {}", self.form, self.step, self.reason)
    }
}

impl std::error::Error for CaptureError {}

/// Runs one form and returns the results of all lanes, without the padding of their records.
pub fn run<D: Device>(device: &mut D, form: &Form, seed: u64) -> Result<Vec<u32>, CaptureError> {
    run_text(device, form, &form.ptx(), &form.inputs(seed))
}

fn run_text<D: Device>(
    device: &mut D,
    form: &Form,
    ptx: &str,
    inputs: &[u8],
) -> Result<Vec<u32>, CaptureError> {
    let failed = |step: &'static str| {
        let form = form.id.clone();
        move |reason: D::Error| CaptureError { form, step, reason: reason.to_string() }
    };
    let mut bytes = vec![0; (form.output_stride() * form.cases) as usize];
    let module = device.load(ptx).map_err(failed("loading"))?;
    let input = device.allocate(inputs.len()).map_err(failed("allocating operands"))?;
    let output = device.allocate(bytes.len()).map_err(failed("allocating results"))?;
    device.copy_in(&input, inputs).map_err(failed("copying operands"))?;
    let grid = form.cases / LANES_PER_CTA;
    device
        .launch(&module, KERNEL_NAME, grid, LANES_PER_CTA, [&input, &output])
        .map_err(failed("launching"))?;
    device.copy_out(&output, &mut bytes).map_err(failed("copying results"))?;
    device.free(input).map_err(failed("freeing operands"))?;
    device.free(output).map_err(failed("freeing results"))?;
    let words = form.output_words() as usize;
    let of_lane = |record: &[u8]| {
        let words = record.chunks_exact(4).take(words);
        words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect::<Vec<_>>()
    };
    Ok(bytes.chunks_exact(form.output_stride() as usize).flat_map(of_lane).collect())
}

/// Runs all of `forms` on `device`.
pub fn capture<D: Device>(
    device: &mut D,
    forms: &[Form],
    seed: u64,
    origin: Origin,
) -> Result<Archive, CaptureError> {
    let mut records = Vec::with_capacity(forms.len());
    for form in forms {
        let (ptx, inputs) = (form.ptx(), form.inputs(seed));
        let words = run_text(device, form, &ptx, &inputs)?;
        let (ptx, inputs) = (fingerprint(ptx.as_bytes()), fingerprint(&inputs));
        records.push(Record::of(form.id.clone(), ptx, inputs, &words, form.raw_words()));
    }
    Ok(Archive { origin, seed, records })
}

/// The emulator as a device.
#[derive(Debug)]
pub struct Emulated {
    machine: Machine,
}

/// Why the emulator could not run a form.
#[derive(Debug)]
pub enum EmulatedError {
    /// It does not read the PTX.
    Read(ReadError),
    /// It stopped at a fault.
    Fault(Fault),
    /// The module has no such kernel.
    NoKernel(String),
}

impl fmt::Display for EmulatedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
            Self::NoKernel(name) => write!(f, "the module has no kernel called {name}"),
        }
    }
}

impl std::error::Error for EmulatedError {}

impl From<ReadError> for EmulatedError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

impl From<Fault> for EmulatedError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Emulated {
    /// A machine of this architecture, with its default checks.
    pub fn new(arch: Arch) -> Self {
        Self { machine: Machine::with_options(arch, Options::default()) }
    }

    /// The device for captures of this compute capability; none where the emulator has no such architecture.
    pub fn of_compute_capability(number: u32) -> Option<Self> {
        let arch = [Arch::Sm80, Arch::Sm86, Arch::Sm89, Arch::Sm90a]
            .into_iter()
            .find(|arch| arch.number() == number)?;
        Some(Self::new(arch))
    }
}

impl Device for Emulated {
    type Buffer = DevicePtr;
    type Module = crate::ModuleId;
    type Error = EmulatedError;

    fn allocate(&mut self, bytes: usize) -> Result<DevicePtr, EmulatedError> {
        let ptr = self.machine.alloc(bytes, "conformance");
        self.machine.fill(ptr, 0, bytes)?;
        Ok(ptr)
    }

    fn free(&mut self, buffer: DevicePtr) -> Result<(), EmulatedError> {
        Ok(self.machine.free(buffer)?)
    }

    fn copy_in(&mut self, buffer: &DevicePtr, bytes: &[u8]) -> Result<(), EmulatedError> {
        Ok(self.machine.copy_in(*buffer, bytes)?)
    }

    fn copy_out(&mut self, buffer: &DevicePtr, bytes: &mut [u8]) -> Result<(), EmulatedError> {
        Ok(self.machine.copy_out(*buffer, bytes)?)
    }

    fn load(&mut self, ptx: &str) -> Result<Self::Module, EmulatedError> {
        Ok(self.machine.load_module(ptx, None)?)
    }

    fn launch(
        &mut self,
        module: &Self::Module,
        kernel: &str,
        grid: u32,
        block: u32,
        buffers: [&DevicePtr; 2],
    ) -> Result<(), EmulatedError> {
        let id =
            self.machine.kernel(*module, kernel).ok_or_else(|| EmulatedError::NoKernel(kernel.to_owned()))?;
        self.machine.launch(id, &LaunchShape::new(grid, block), &buffers.map(|&ptr| Arg::ptr(ptr)))?;
        Ok(())
    }
}
