//! What can be wrong: with a text that is read, and with a kernel that runs.

use std::error::Error;
use std::fmt;

use crate::memory::Trouble;

/// The PTX text was not understood. Nothing of the module was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// What was expected and what was found.
    pub message: String,
}

impl ReadError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        ReadError { line, message: message.into() }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PTX line {}: {}", self.line, self.message)
    }
}

impl Error for ReadError {}

/// Kinds of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch itself is wrong: argument, grid, CTA or shared memory size.
    BadLaunch,
    /// An address inside no allocation, or inside another space's window.
    WildPointer,
    /// An address of an allocation that was freed.
    UseAfterFree,
    /// An access that starts inside an allocation or space and leaves it.
    OutOfBounds,
    /// An address that is no multiple of the size of the access.
    Misaligned,
    /// A store into an allocation marked read-only.
    ReadOnly,
    /// Bytes were read that nothing has written.
    UninitialisedRead,
    /// A register without a value reached an address, a branch, a store, an mma or a synchronising instruction.
    UndefinedRegister,
    /// Two accesses to shared memory, at least one a write, with nothing that orders them.
    SharedRace,
    /// Two accesses to global memory from different CTAs, at least one a write, with nothing that orders them.
    GlobalRace,
    /// Bytes of an asynchronous copy that no wait has published yet were touched.
    CopyInFlight,
    /// Part of a warp reached an instruction that needs all of it, or all lanes of its mask.
    Divergence,
    /// A lane takes part in a warp instruction whose mask lacks it, or reads from a lane that does not take part.
    InactiveLane,
    /// Wrong participant count, number or mixture of arrivals of a barrier.
    BarrierMisuse,
    /// No warp can make progress.
    Deadlock,
    /// The step budget is used up.
    StepBudget,
    /// The kernel executed `trap`.
    Trap,
    /// The kernel called a function that does not return: a Rust panic.
    Panic,
}

/// A line of Rust source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLine {
    /// Path as the compiler recorded it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Where the function it belongs to was inlined.
    pub inlined_into: Option<Box<SourceLine>>,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        match &self.inlined_into {
            Some(caller) => write!(f, ", inlined at {caller}"),
            None => Ok(()),
        }
    }
}

/// Where in a kernel a fault happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Name of the kernel.
    pub kernel: String,
    /// Line of the PTX text, from 1.
    pub ptx_line: u32,
    /// The instruction as written there.
    pub instruction: String,
    /// Line of Rust, where the module was loaded with a line table.
    pub source: Option<SourceLine>,
    /// `%ctaid`.
    pub cta: [u32; 3],
    /// Index of the warp in its CTA.
    pub warp: u32,
    /// Lane of the warp, where the fault is one lane's.
    pub lane: Option<u32>,
}

/// A launch, or a copy to or from the machine, that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    detail: Box<Detail>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Detail {
    kind: FaultKind,
    message: String,
    allocation: Option<(String, u64)>,
    site: Option<Site>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Fault { detail: Box::new(Detail { kind, message: message.into(), allocation: None, site: None }) }
    }

    pub(crate) fn from_trouble(trouble: Trouble, site: Option<Site>) -> Self {
        let Trouble { kind, message, allocation, .. } = trouble;
        Fault { detail: Box::new(Detail { kind, message, allocation, site }) }
    }

    /// What kind of fault this is.
    pub fn kind(&self) -> FaultKind {
        self.detail.kind
    }

    /// What happened, without the place.
    pub fn message(&self) -> &str {
        &self.detail.message
    }

    /// Where it happened; none for a fault outside of a kernel.
    pub fn site(&self) -> Option<&Site> {
        self.detail.site.as_ref()
    }

    /// Name of the allocation concerned and the byte offset into it.
    pub fn allocation(&self) -> Option<(&str, u64)> {
        self.detail.allocation.as_ref().map(|(name, offset)| (name.as_str(), *offset))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Detail { kind, message, site, .. } = &*self.detail;
        write!(f, "{kind:?}: {message}")?;
        if let Some(site) = site {
            let [x, y, z] = site.cta;
            write!(f, "\n  in {} at PTX line {}: {}", site.kernel, site.ptx_line, site.instruction)?;
            if let Some(source) = &site.source {
                write!(f, "\n  from {source}")?;
            }
            write!(f, "\n  CTA ({x}, {y}, {z}), warp {}", site.warp)?;
            if let Some(lane) = site.lane {
                write!(f, ", lane {lane}")?;
            }
        }
        Ok(())
    }
}

impl Error for Fault {}
