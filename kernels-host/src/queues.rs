//! Streams, events and recordings of a device that has no CUDA to make them.

use std::collections::{HashMap, HashSet};

use lacuna_core::DeviceError;

use crate::capture::{Captures, misuse};
use crate::driver::{EventHandle, GraphHandle, RawStream};

/// What was handed out and is not destroyed. `W` is a piece of work that can be recorded, `T` a point in time.
#[derive(Debug)]
pub(crate) struct Queues<W, T> {
    captures: Captures<W>,
    streams: HashSet<RawStream>,
    /// When each was recorded last.
    events: HashMap<EventHandle, Option<T>>,
    /// Handles given out so far.
    handles: u64,
}

impl<W, T> Default for Queues<W, T> {
    fn default() -> Self {
        Self {
            captures: Captures::default(),
            streams: HashSet::from([RawStream::DEFAULT]),
            events: HashMap::new(),
            handles: 0,
        }
    }
}

impl<W: Clone, T: Copy> Queues<W, T> {
    fn handle(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    /// Refuses a stream that does not exist.
    pub(crate) fn check_stream(&self, stream: RawStream) -> Result<(), DeviceError> {
        if self.streams.contains(&stream) {
            Ok(())
        } else {
            Err(misuse("a call with a stream", format!("stream {} does not exist", stream.0)))
        }
    }

    /// The same, and refuses `call` while the stream is being captured: no graph holds it.
    pub(crate) fn check_not_captured(
        &mut self,
        stream: RawStream,
        call: &'static str,
    ) -> Result<(), DeviceError> {
        self.check_stream(stream)?;
        self.captures.check_stream(stream, call)
    }

    /// Refuses `call`, which concerns the whole device, on a thread that captures a stream.
    pub(crate) fn check_thread(&mut self, call: &'static str) -> Result<(), DeviceError> {
        self.captures.check_thread(call)
    }

    /// Where work of a stream is to be recorded; `None` where it is to be done.
    pub(crate) fn recording(&mut self, stream: RawStream) -> Result<Option<&mut Vec<W>>, DeviceError> {
        self.check_stream(stream)?;
        Ok(self.captures.of(stream))
    }

    pub(crate) fn create_stream(&mut self) -> RawStream {
        let stream = RawStream(self.handle());
        self.streams.insert(stream);
        stream
    }

    pub(crate) fn destroy_stream(&mut self, stream: RawStream) -> Result<(), DeviceError> {
        self.check_not_captured(stream, "destroying a stream")?;
        self.streams.remove(&stream);
        Ok(())
    }

    pub(crate) fn create_event(&mut self) -> EventHandle {
        let event = EventHandle(self.handle());
        self.events.insert(event, None);
        event
    }

    pub(crate) fn destroy_event(&mut self, event: EventHandle) -> Result<(), DeviceError> {
        self.events.remove(&event).map(drop).ok_or_else(|| missing(event))
    }

    pub(crate) fn record_event(
        &mut self,
        event: EventHandle,
        stream: RawStream,
        now: T,
    ) -> Result<(), DeviceError> {
        self.check_not_captured(stream, "recording an event")?;
        *self.events.get_mut(&event).ok_or_else(|| missing(event))? = Some(now);
        Ok(())
    }

    /// Work is done, or not done at all, when it is queued: there is nothing to wait for.
    pub(crate) fn wait_event(&mut self, stream: RawStream, event: EventHandle) -> Result<(), DeviceError> {
        self.check_not_captured(stream, "waiting for an event")?;
        self.event(event).map(|_| ())
    }

    /// When two events were recorded.
    pub(crate) fn recorded(&self, start: EventHandle, end: EventHandle) -> Result<(T, T), DeviceError> {
        match (self.event(start)?, self.event(end)?) {
            (Some(start), Some(end)) => Ok((start, end)),
            _ => Err(misuse("the time between events", "an event that was not recorded".into())),
        }
    }

    fn event(&self, event: EventHandle) -> Result<Option<T>, DeviceError> {
        self.events.get(&event).copied().ok_or_else(|| missing(event))
    }

    pub(crate) fn begin_capture(&mut self, stream: RawStream) -> Result<(), DeviceError> {
        self.check_stream(stream)?;
        self.captures.begin(stream)
    }

    pub(crate) fn end_capture(&mut self, stream: RawStream) -> Result<GraphHandle, DeviceError> {
        self.check_stream(stream)?;
        let graph = GraphHandle(self.handle());
        self.captures.end(stream, graph)?;
        Ok(graph)
    }

    /// The work of a graph.
    pub(crate) fn graph(&self, graph: GraphHandle) -> Result<Vec<W>, DeviceError> {
        self.captures.graph(graph)
    }

    pub(crate) fn destroy_graph(&mut self, graph: GraphHandle) -> Result<(), DeviceError> {
        self.captures.destroy(graph)
    }
}

fn missing(event: EventHandle) -> DeviceError {
    misuse("a call with an event", format!("event {} does not exist", event.0))
}
