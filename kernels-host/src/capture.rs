//! Work that is recorded instead of run, and what may not be done meanwhile.

use std::collections::HashMap;
use std::thread::{self, ThreadId};

use lacuna_core::DeviceError;

use crate::driver::{GraphHandle, RawStream};

/// A recording that has not ended.
#[derive(Debug)]
struct Capture<W> {
    thread: ThreadId,
    work: Vec<W>,
    /// The first call that cannot be recorded; CUDA gives up the recording then.
    refused: Option<&'static str>,
}

/// The recordings of a device that has no CUDA to make them: `W` is a piece of work.
#[derive(Debug)]
pub(crate) struct Captures<W> {
    open: HashMap<RawStream, Capture<W>>,
    graphs: HashMap<GraphHandle, Vec<W>>,
}

impl<W> Default for Captures<W> {
    fn default() -> Self {
        Self { open: HashMap::new(), graphs: HashMap::new() }
    }
}

impl<W: Clone> Captures<W> {
    /// Begins to record the work of `stream`.
    pub(crate) fn begin(&mut self, stream: RawStream) -> Result<(), DeviceError> {
        if stream == RawStream::DEFAULT {
            return Err(misuse("a capture", "the default stream cannot be captured".into()));
        }
        if self.open.contains_key(&stream) {
            return Err(misuse("a capture", format!("stream {} is being captured already", stream.0)));
        }
        self.open.insert(stream, Capture { thread: thread::current().id(), work: Vec::new(), refused: None });
        Ok(())
    }

    /// Ends the recording of `stream`, and keeps it as `graph`.
    pub(crate) fn end(&mut self, stream: RawStream, graph: GraphHandle) -> Result<(), DeviceError> {
        let Some(capture) = self.open.get(&stream) else {
            return Err(misuse("the end of a capture", format!("stream {} is not being captured", stream.0)));
        };
        if capture.thread != thread::current().id() {
            return Err(misuse("the end of a capture", "another thread began it".into()));
        }
        let Some(Capture { work, refused, .. }) = self.open.remove(&stream) else { return Ok(()) };
        if let Some(call) = refused {
            return Err(misuse("the end of a capture", format!("{call} put an end to it before")));
        }
        self.graphs.insert(graph, work);
        Ok(())
    }

    /// Where work of `stream` is to be recorded.
    pub(crate) fn of(&mut self, stream: RawStream) -> Option<&mut Vec<W>> {
        self.open.get_mut(&stream).map(|capture| &mut capture.work)
    }

    /// Refuses `call`, which uses `stream` for what no graph holds, while it is being captured.
    pub(crate) fn check_stream(&mut self, stream: RawStream, call: &'static str) -> Result<(), DeviceError> {
        refuse(self.open.get_mut(&stream), call)
    }

    /// Refuses `call`, which concerns the whole device, on a thread that captures a stream.
    pub(crate) fn check_thread(&mut self, call: &'static str) -> Result<(), DeviceError> {
        let this = thread::current().id();
        refuse(self.open.values_mut().find(|capture| capture.thread == this), call)
    }

    /// The work of a graph.
    pub(crate) fn graph(&self, graph: GraphHandle) -> Result<Vec<W>, DeviceError> {
        self.graphs.get(&graph).cloned().ok_or_else(|| missing(graph))
    }

    /// Forgets a graph.
    pub(crate) fn destroy(&mut self, graph: GraphHandle) -> Result<(), DeviceError> {
        self.graphs.remove(&graph).map(drop).ok_or_else(|| missing(graph))
    }
}

fn refuse<W>(capture: Option<&mut Capture<W>>, call: &'static str) -> Result<(), DeviceError> {
    match capture {
        Some(capture) => {
            capture.refused.get_or_insert(call);
            Err(misuse(call, "not possible while a stream is being captured".into()))
        }
        None => Ok(()),
    }
}

fn missing(graph: GraphHandle) -> DeviceError {
    misuse("a call with a graph", format!("graph {} does not exist", graph.0))
}

/// A call that CUDA would refuse or that would go wrong there.
pub(crate) fn misuse(what: &str, fault: String) -> DeviceError {
    DeviceError::Fault { kernel: what.to_owned(), fault }
}
