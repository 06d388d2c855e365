//! Recorded runs: replayed on new inputs they give the bits of direct ones, and what cannot be recorded is refused.

mod common;

use common::{Device, on_every_device, random_mask};
use half::bf16;
use lacuna_core::{AttentionOptions, AttentionShape, DecodeShape, Error, Layout, Seqlens};
use lacuna_kernels_host::block_sparse_attention::DeviceBlockMask;
use lacuna_kernels_host::{
    Context, DeviceBuffer, DeviceTensor, Graph, RawTensor, Stream, block_sparse_attention, decode_attention,
    dense_attention,
};
use lacuna_reference::testing::{Rng, nans};

/// Queries, keys, values, outputs and log-sum-exps of a call, contiguous.
struct Tensors {
    inputs: [DeviceTensor<bf16>; 3],
    out: DeviceTensor<bf16>,
    lse: DeviceBuffer<f32>,
}

impl Tensors {
    fn new(context: &Context, [q, k]: [Layout; 2]) -> Self {
        let tensor = |layout, what| DeviceTensor::uninit(context, layout, what).unwrap();
        let lse = DeviceBuffer::uninit(context, q.tokens() * q.heads, "softmax_lse").unwrap();
        Self { inputs: [tensor(q, "q"), tensor(k, "k"), tensor(k, "v")], out: tensor(q, "out"), lse }
    }

    /// New numbers in the same memory; outputs become NaN.
    fn renew(&mut self, stream: &Stream, rng: &mut Rng) {
        for tensor in &mut self.inputs {
            let data: Vec<bf16> = (0..tensor.buffer().len()).map(|_| bf16::from_f64(rng.normal())).collect();
            tensor.buffer_mut().copy_from_host(stream, &data).unwrap();
        }
        let [out, lse] = [self.out.buffer().len(), self.lse.len()];
        self.out.buffer_mut().copy_from_host(stream, &nans(out)).unwrap();
        self.lse.copy_from_host(stream, &nans(lse)).unwrap();
    }

    fn read(&self, stream: &Stream) -> (Vec<u16>, Vec<u32>) {
        let bits = |x: Vec<bf16>| x.into_iter().map(bf16::to_bits).collect();
        let lse = self.lse.to_host(stream).unwrap();
        (bits(self.out.to_host(stream).unwrap()), lse.into_iter().map(f32::to_bits).collect())
    }

    /// Records `run`, and compares replays on new inputs with direct runs.
    fn check(&mut self, context: &Context, mut run: impl FnMut(&Stream, &mut Self) -> Result<(), Error>) {
        let stream = context.new_stream().unwrap();
        let mut rng = Rng::new(1);
        self.renew(&stream, &mut rng);
        let poisoned = self.read(&stream);
        let graph = Graph::capture(&stream, |stream| run(stream, self)).unwrap();
        assert!(self.read(&stream) == poisoned, "recorded work has run");
        for seed in 2..4 {
            self.renew(&stream, &mut Rng::new(seed));
            // SAFETY: plan and tensors live.
            unsafe { graph.launch(&stream) }.unwrap();
            let replayed = self.read(&stream);
            self.renew(&stream, &mut Rng::new(seed));
            run(&stream, self).unwrap();
            assert!(replayed == self.read(&stream) && replayed != poisoned);
        }
    }
}

fn small(context: &Context) -> (AttentionShape, Tensors) {
    let shape = AttentionShape::new(2, 1, 64, Seqlens::uniform(1, 130, 200).unwrap()).unwrap();
    let tensors = Tensors::new(context, [Layout::thd(130, 2, 64), Layout::thd(200, 1, 64)]);
    (shape, tensors)
}

#[test]
fn block_sparse_attention_replays_on_new_inputs() {
    on_every_device(|Device { context, .. }| {
        let (shape, mut tensors) = small(context);
        let options = AttentionOptions::default();
        let mask = random_mask(&mut Rng::new(0), &shape, 64, 64, 0.6);
        let mask = DeviceBlockMask::from_host(context, &mask).unwrap();
        let plan = block_sparse_attention::Plan::<bf16>::new(context, &shape, &options, 64, 64).unwrap();
        tensors.check(context, |stream, Tensors { inputs: [q, k, v], out, lse }| {
            plan.run(stream, &q.view(), &k.view(), &v.view(), &mask, &mut out.view_mut()?, Some(lse))
        });
    });
}

#[test]
fn decode_attention_replays_on_new_inputs() {
    on_every_device(|Device { context, .. }| {
        let sizes = DecodeShape {
            batch: 2,
            max_seqlen_q: 1,
            num_heads: 4,
            num_heads_k: 2,
            head_dim: 64,
            max_seqlen_k: 600,
        };
        let mut plan =
            decode_attention::Plan::<bf16>::new(context, &sizes, &AttentionOptions::default()).unwrap();
        let mut tensors = Tensors::new(context, [Layout::thd(2, 4, 64), Layout::thd(1200, 2, 64)]);
        let starts = DeviceBuffer::from_host(context, &[0u32, 600], "k_starts").unwrap();
        for lengths in [[600u32, 1], [257, 300]] {
            let lens = DeviceBuffer::from_host(context, &lengths, "k_lens").unwrap();
            tensors.check(context, |stream, Tensors { inputs: [q, k, v], out, lse }| {
                let raw = |t: &DeviceTensor<bf16>, heads| RawTensor::thd(t.buffer().ptr(), heads, 64);
                // SAFETY: contiguous tensors of the plan's sizes; the ranges lie in them.
                unsafe {
                    let (q, k, v, out) = (raw(q, 4), raw(k, 2), raw(v, 2), raw(out, 4));
                    plan.run_raw(stream.raw(), q, k, v, starts.ptr(), lens.ptr(), out, lse.ptr())
                }
            });
        }
    });
}

#[test]
fn what_cannot_be_recorded_is_refused_and_the_stream_goes_on() {
    on_every_device(|Device { context, .. }| {
        let (shape, mut tensors) = small(context);
        let plan = dense_attention::Plan::<bf16>::new(context, &shape, &AttentionOptions::default()).unwrap();
        let run = |stream: &Stream, tensors: &mut Tensors| {
            let Tensors { inputs: [q, k, v], out, lse } = tensors;
            plan.run(stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut()?, Some(lse))
        };
        let stream = context.new_stream().unwrap();
        type Call<'a> = &'a dyn Fn(&Stream, &mut Tensors) -> Result<(), Error>;
        let calls: [(&str, Call); 6] = [
            ("a copy to the host", &|stream, tensors| tensors.lse.to_host(stream).map(drop)),
            ("a copy from the host", &|stream, tensors| tensors.lse.copy_from_host(stream, &[0.0])),
            ("a wait", &|stream, _| stream.synchronize()),
            ("an allocation", &|_, _| DeviceBuffer::<u8>::uninit(context, 1, "a byte").map(drop)),
            ("a plan", &|_, _| {
                dense_attention::Plan::<bf16>::new(context, &shape, &AttentionOptions::default()).map(drop)
            }),
            ("a capture", &|stream, _| Graph::capture(stream, |_| Ok(())).map(drop)),
        ];
        for (what, call) in calls {
            tensors.renew(&stream, &mut Rng::new(7));
            let before = tensors.read(&stream);
            let graph = Graph::capture(&stream, |stream| {
                run(stream, &mut tensors)?;
                call(stream, &mut tensors)
            });
            assert!(matches!(graph, Err(Error::Device(_))), "{what}: {graph:?}");
            assert!(tensors.read(&stream) == before, "{what}: what was recorded before has run");
            run(&stream, &mut tensors).unwrap();
            assert!(tensors.read(&stream) != before, "{what}");
        }
        // Nor does it help to look away.
        let graph = Graph::capture(&stream, |stream| {
            let _ = stream.synchronize();
            run(stream, &mut tensors)
        });
        assert!(matches!(graph, Err(Error::Device(_))));
        let graph = Graph::capture(&context.default_stream(), |stream| run(stream, &mut tensors));
        assert!(matches!(graph, Err(Error::Device(_))));
        // A panic leaves the stream as it was, too.
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Graph::capture(&stream, |_| std::panic::resume_unwind(Box::new("no"))).map(drop)
        }));
        assert!(panic.is_err());
        stream.synchronize().unwrap();
    });
}

#[test]
fn graphs_within_graphs_and_fills() {
    on_every_device(|Device { context, .. }| {
        let stream = context.new_stream().unwrap();
        let mut buffer = DeviceBuffer::from_host(context, &[1u8; 8], "bytes").unwrap();
        let inner = Graph::capture(&stream, |stream| buffer.fill_bytes(stream, 7)).unwrap();
        // SAFETY: the buffer lives.
        let outer = Graph::capture(&stream, |stream| unsafe { inner.launch(stream) }).unwrap();
        drop(inner);
        assert_eq!(buffer.to_host(&stream).unwrap(), [1; 8]);
        // SAFETY: as above.
        unsafe { outer.launch(&stream) }.unwrap();
        assert_eq!(buffer.to_host(&stream).unwrap(), [7; 8]);
        let other = Context::new(context.driver().clone(), &[".target sm_80\n"]).unwrap();
        // SAFETY: as above; another context of the same device will do.
        unsafe { outer.launch(&other.new_stream().unwrap()) }.unwrap();
    });
    let [a, b] = [(); 2].map(|()| Context::emulated(&[".target sm_80\n"]).unwrap());
    let graph = Graph::capture(&a.new_stream().unwrap(), |_| Ok(())).unwrap();
    // SAFETY: refused.
    let why = unsafe { graph.launch(&b.new_stream().unwrap()) }.unwrap_err().to_string();
    assert!(why.contains("of the graph's device"), "{why}");
}

#[cfg(feature = "emulator")]
#[test]
fn a_graph_that_outlives_its_memory_is_found_out_by_the_emulator() {
    let context = Context::emulated(&[".target sm_80\n"]).unwrap();
    let stream = context.new_stream().unwrap();
    let mut buffer = DeviceBuffer::from_host(&context, &[1u8; 8], "bytes").unwrap();
    let graph = Graph::capture(&stream, |stream| buffer.fill_bytes(stream, 7)).unwrap();
    drop(buffer);
    // SAFETY: the emulator checks every access; that the memory is gone is what is tested.
    let why = unsafe { graph.launch(&stream) }.unwrap_err().to_string();
    assert!(why.contains("bytes"), "{why}");
}
