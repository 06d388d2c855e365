//! Recorded work that is launched again and again.

use std::sync::Arc;

use lacuna_core::{Error, Result};

use crate::driver::{Driver, GraphHandle};
use crate::stream::Stream;

/// Launches and fills that were recorded once and are launched together: a CUDA graph.
///
/// A search and the attention over what it found are several short kernels. Queued one by one, each costs the host a few
/// microseconds; a graph costs that once. It keeps addresses, sizes and grids as they were: new inputs are written where
/// the old ones lay.
///
/// ```no_run
/// # use lacuna_kernels_host::{Context, DeviceView, DeviceViewMut, Graph, dense_attention};
/// # fn f(context: &Context, plan: &dense_attention::Plan<half::bf16>, q: DeviceView<half::bf16>,
/// #     k: DeviceView<half::bf16>, v: DeviceView<half::bf16>, mut out: DeviceViewMut<half::bf16>) -> Result<(), lacuna_kernels_host::Error> {
/// let stream = context.new_stream()?;
/// let graph = Graph::capture(&stream, |stream| plan.run(stream, &q, &k, &v, &mut out, None))?;
/// for _layer in 0..32 {
///     // SAFETY: the plan and the tensors are borrowed to the end of the loop, and the stream orders the launches.
///     unsafe { graph.launch(&stream) }?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Graph {
    driver: Arc<dyn Driver>,
    handle: GraphHandle,
}

impl Graph {
    /// Records what `work` queues on the stream that it is given, which is `stream`; nothing of it runs. The stream must not
    /// be the default one.
    ///
    /// Running a plan queues launches alone, and can be recorded; where a plan's `run` also uploads, it says so, and its
    /// `run_raw` does not. Whatever else waits for the device or talks to it, allocating, freeing, copying from or to the
    /// host, making a plan, is an error inside `work`. After an error the stream takes work as before, and none of what
    /// was queued has run.
    ///
    /// # Errors
    /// That of `work`; the default stream, one that is being captured already, and calls that cannot be recorded.
    pub fn capture(stream: &Stream, work: impl FnOnce(&Stream) -> Result<()>) -> Result<Self> {
        /// Ends a capture that `work` left by an error or a panic.
        struct Capture<'a>(&'a Stream);

        impl Capture<'_> {
            fn end(&self) -> Result<Graph> {
                let driver = self.0.driver().clone();
                // SAFETY: the stream lives as long as its owner.
                let handle = unsafe { driver.end_capture(self.0.raw()) }?;
                Ok(Graph { driver, handle })
            }
        }

        impl Drop for Capture<'_> {
            fn drop(&mut self) {
                // What made `work` fail is what is reported.
                let _ = self.end();
            }
        }

        // SAFETY: as above.
        unsafe { stream.driver().begin_capture(stream.raw()) }?;
        let capture = Capture(stream);
        work(stream)?;
        let graph = capture.end();
        std::mem::forget(capture);
        graph
    }

    /// Queues the recorded work, in the order in which it was recorded.
    ///
    /// # Safety
    /// The graph holds addresses and keeps nothing alive. The plans, buffers and tensors that the recorded calls were given
    /// live until this launch is done, and nothing else accesses them meanwhile in a way that the recorded calls forbid:
    /// what each promised when it was recorded holds again.
    ///
    /// # Errors
    /// A stream of another device, and what the driver reports.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        if !Arc::ptr_eq(&self.driver, stream.driver()) {
            return Err(Error::invalid("Graph::launch", "stream", "of the graph's device", "one of another"));
        }
        // SAFETY: graph and stream live as long as their owners; the rest is the caller's promise.
        Ok(unsafe { self.driver.launch_graph(stream.raw(), self.handle) }?)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `capture`. A failure has nowhere to go.
        let _ = unsafe { self.driver.destroy_graph(self.handle) };
    }
}
