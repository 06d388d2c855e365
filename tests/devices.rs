//! The same operations on every device, against the reference. A GPU is used where there is one; where there is none the
//! test says so and goes on (`REQUIRE_GPU=1`: fails).

use half::{bf16, f16};
use lacuna::{
    Arch, AttentionOptions, AttentionShape, BlockMask, DecodeShape, Device, DeviceError, Element, Error,
    Pattern, Result, Selection, Seqlens, TensorView, TensorViewMut, VerticalSlashIndex,
    block_sparse_attention, decode_attention, dense_attention, gpu, prefill,
};
use lacuna_reference::testing::{Rng, Tensor, Tolerance, assert_bits, assert_close, twin_attention};
use lacuna_reference::{AttentionOutput, case};

fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu, Device::Emulated(Arch::Sm80)];
    match Device::Cuda(0).context() {
        Ok(_) => devices.push(Device::Cuda(0)),
        Err(e) if std::env::var_os("REQUIRE_GPU").is_some() => panic!("REQUIRE_GPU is set, but: {e}"),
        Err(e) => eprintln!("not run on a GPU: {e}"),
    }
    devices
}

struct Inputs<T: Element> {
    shape: AttentionShape,
    q: Tensor<T>,
    k: Tensor<T>,
    v: Tensor<T>,
}

impl<T: Element> Inputs<T> {
    fn new(seed: u64, heads: usize, heads_k: usize, head_dim: usize, seqlens: Seqlens) -> Self {
        let mut rng = Rng::new(seed);
        let shape = AttentionShape::new(heads, heads_k, head_dim, seqlens).unwrap();
        let mut tensor = |tokens, heads| Tensor::random_strided(&mut rng, tokens, heads, head_dim);
        let (total_q, total_k) = (shape.seqlens.total_q(), shape.seqlens.total_k());
        Self { q: tensor(total_q, heads), k: tensor(total_k, heads_k), v: tensor(total_k, heads_k), shape }
    }

    /// Runs `call` with outputs full of NaN, and compares with the reference under `block_mask`.
    fn check(
        &self,
        device: Device,
        block_mask: Option<&BlockMask>,
        call: impl FnOnce(&Self, &mut TensorViewMut<T>, &mut [f32]) -> Result<()>,
    ) {
        let Self { shape, q, k, v } = self;
        let (total_q, heads, head_dim) = (shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
        let mut out = vec![T::from_f32(f32::NAN); total_q * heads * head_dim];
        let mut lse = vec![f32::NAN; heads * total_q];
        call(self, &mut TensorViewMut::thd(&mut out, total_q, heads, head_dim).unwrap(), &mut lse)
            .unwrap_or_else(|e| panic!("{device}: {e}"));

        let options = AttentionOptions::default();
        let (q, k, v) = (q.view(), k.view(), v.view());
        let want: AttentionOutput = match block_mask {
            None => lacuna_reference::dense_attention(shape, &q, &k, &v, &options),
            Some(mask) => lacuna_reference::block_sparse_attention(shape, &q, &k, &v, mask, &options),
        }
        .unwrap();
        let listed = |b: usize, head: usize, i: usize, j: usize| {
            block_mask.is_none_or(|mask| {
                mask.row(b, head, i / mask.block_m()).contains(&((j / mask.block_n()) as u32))
            })
        };
        let twin = twin_attention(shape, &q, &k, &v, &options, listed).unwrap();
        let case = case!(0, "{device}, {:?}, {shape:?}", T::DTYPE);
        let out: Vec<f64> = out.iter().map(|x| x.to_f32() as f64).collect();
        assert_close(&out, &want.out, Tolerance::attention::<T>(&want.out, &twin.out), &case);
        assert_close(&lse, &want.softmax_lse, Tolerance::LSE, &case);
    }
}

fn ragged() -> Seqlens {
    Seqlens::new(vec![0, 70, 70, 75], vec![0, 70, 130, 330]).unwrap()
}

fn dense<T: Element>() {
    let inputs = Inputs::<T>::new(1, 4, 2, 64, ragged());
    for device in devices() {
        inputs.check(device, None, |x, out, lse| {
            let mut plan = dense_attention::Plan::new(device, &x.shape, &AttentionOptions::default())?;
            plan.run(&x.q.view(), &x.k.view(), &x.v.view(), out, Some(lse))
        });
    }
}

#[test]
fn dense_attention_on_every_device() {
    dense::<bf16>();
    dense::<f16>();
}

#[test]
fn block_sparse_attention_on_every_device() {
    let inputs = Inputs::<bf16>::new(2, 4, 1, 128, ragged());
    let mask = BlockMask::sink_and_local(&inputs.shape, 64, 64, 64, 65).unwrap();
    for device in devices() {
        inputs.check(device, Some(&mask), |x, out, lse| {
            let options = AttentionOptions::default();
            let mut plan = block_sparse_attention::Plan::new(device, &x.shape, &options, 64, 64)?;
            plan.run(&x.q.view(), &x.k.view(), &x.v.view(), &mask, out, Some(lse))
        });
    }
}

#[test]
fn decode_attention_on_every_device() {
    // A plan for more rows and longer caches than the call has; each sequence starts a cache of its own.
    let (batch, seqlen_q, capacity) = (2, 2, 330);
    let seqlens = Seqlens::new(vec![0, 2, 4], vec![0, 300, 313]).unwrap();
    let cache_seqlens = [300, 13];
    let inputs = Inputs::<bf16>::new(3, 8, 2, 64, seqlens);
    let limits =
        DecodeShape { batch, max_seqlen_q: 5, num_heads: 8, num_heads_k: 2, head_dim: 64, max_seqlen_k: 320 };
    let cache = |x: &Tensor<bf16>| {
        let mut cache = vec![bf16::NAN; batch * capacity * 2 * 64];
        for (b, first) in [(0, 0), (1, 300)] {
            for j in 0..cache_seqlens[b] as usize {
                for head in 0..2 {
                    let at = ((b * capacity + j) * 2 + head) * 64;
                    cache[at..at + 64].copy_from_slice(x.view().row(first + j, head));
                }
            }
        }
        cache
    };
    let (k, v) = (cache(&inputs.k), cache(&inputs.v));
    for device in devices() {
        inputs.check(device, None, |x, out, lse| {
            let mut plan = decode_attention::Plan::new(device, &limits, &AttentionOptions::default())?;
            let k = TensorView::bshd(&k, batch, capacity, 2, 64)?;
            let v = TensorView::bshd(&v, batch, capacity, 2, 64)?;
            assert_eq!(x.q.view().shape()[0], batch * seqlen_q);
            plan.run(&x.q.view(), &k, &v, &cache_seqlens, out, Some(lse))
        });
    }
}

/// Patterns sized so that they leave something out of a few hundred tokens.
fn patterns() -> [Pattern; 4] {
    let block_size = 64;
    [
        Pattern::FlexPrefill(lacuna::FlexPrefillOptions {
            block_size,
            gamma: 0.5,
            min_budget: 64,
            ..Default::default()
        }),
        Pattern::XAttention(lacuna::XAttentionOptions {
            block_size,
            stride: 4,
            threshold: lacuna::Threshold::Scalar(0.5),
            ..Default::default()
        }),
        Pattern::VerticalSlash(lacuna::VerticalSlashOptions {
            vertical_size: 30,
            slash_size: 60,
            sink: 4,
            recent: 20,
            ..Default::default()
        }),
        Pattern::SinkAndLocal(lacuna::pattern::SinkAndLocalOptions {
            global_window: 64,
            local_window: 65,
            block_size,
        }),
    ]
}

/// What a pattern chose, kept beyond its plan.
#[derive(Debug, PartialEq)]
enum Chosen {
    Blocks(BlockMask),
    Tiles(VerticalSlashIndex),
}

impl Chosen {
    fn new(selection: Selection<'_>) -> Self {
        match selection {
            Selection::Blocks(mask) => Self::Blocks(mask.clone()),
            Selection::VerticalSlash(index) => Self::Tiles(index.clone()),
            _ => panic!("the patterns choose"),
        }
    }
}

#[test]
fn prefill_under_a_pattern_on_every_device() {
    let seqlens = Seqlens::new(vec![0, 200, 330], vec![0, 260, 700]).unwrap();
    let inputs = Inputs::<f16>::new(4, 4, 2, 64, seqlens);
    let options = AttentionOptions::default();
    let Inputs { shape, q, k, v } = &inputs;
    let (total_q, heads, head_dim) = (shape.seqlens.total_q(), shape.num_heads, shape.head_dim);
    for pattern in patterns() {
        let mut first: Option<(Chosen, Vec<f64>, Vec<f32>)> = None;
        for device in devices() {
            let mut out = vec![f16::NAN; total_q * heads * head_dim];
            let mut lse = vec![f32::NAN; heads * total_q];
            let mut chosen = None;
            let mut plan = prefill::Plan::new(device, shape, &options, &pattern).unwrap();
            let report = plan
                .run_observed(
                    &q.view(),
                    &k.view(),
                    &v.view(),
                    &mut TensorViewMut::thd(&mut out, total_q, heads, head_dim).unwrap(),
                    Some(&mut lse),
                    |selection| chosen = Some(Chosen::new(selection)),
                )
                .unwrap_or_else(|e| panic!("{device}, {}: {e}", pattern.name()));
            assert!(report.density > 0.0 && report.density < 1.0, "{device}, {}", pattern.name());
            let (chosen, out) = (chosen.unwrap(), out.iter().map(|x| x.to_f32() as f64).collect::<Vec<_>>());
            let case = case!(4, "{device}, {}", pattern.name());
            match &first {
                None => {
                    if let Chosen::Blocks(mask) = &chosen {
                        inputs.check(device, Some(mask), |x, out, lse| {
                            let mut plan = prefill::Plan::new(device, &x.shape, &options, &pattern)?;
                            plan.run(&x.q.view(), &x.k.view(), &x.v.view(), out, Some(lse)).map(|_| ())
                        });
                    }
                    first = Some((chosen, out, lse));
                }
                // The inputs leave no choice to rounding.
                Some((want, want_out, want_lse)) => {
                    assert_eq!(&chosen, want, "{case}");
                    let want_lse: Vec<f64> = want_lse.iter().map(|&x| x as f64).collect();
                    assert_close(&out, want_out, Tolerance { max: 2e-3, mean: 2e-4 }, &case);
                    assert_close(&lse, &want_lse, Tolerance::LSE, &case);
                }
            }
        }
    }
}

#[test]
fn what_a_gpu_does_not_take_is_refused_in_one_sentence() {
    let device = Device::Emulated(Arch::Sm80);
    let options = AttentionOptions::default();
    let shape = |head_dim| AttentionShape::new(2, 1, head_dim, Seqlens::single(8, 8).unwrap()).unwrap();
    let dense_f32 = dense_attention::Plan::<f32>::new(device, &shape(64), &options).err().unwrap();
    assert!(dense_f32.to_string().contains("f32"), "{dense_f32}");
    let dim = dense_attention::Plan::<bf16>::new(device, &shape(72), &options).err().unwrap();
    assert!(dim.to_string().contains("72"), "{dim}");
    let block =
        block_sparse_attention::Plan::<bf16>::new(device, &shape(64), &options, 48, 64).err().unwrap();
    assert!(block.to_string().contains("multiple of 64"), "{block}");
    let flex = lacuna::FlexPrefillOptions { block_size: 32, ..Default::default() };
    let flex =
        prefill::Plan::<bf16>::new(device, &shape(64), &options, &Pattern::FlexPrefill(flex)).err().unwrap();
    assert!(flex.to_string().contains("32"), "{flex}");
    // A NaN in q stops the call before anything is written.
    let q = vec![bf16::NAN; 8 * 2 * 64];
    let k = vec![bf16::ONE; 8 * 64];
    let mut out = vec![bf16::ONE; q.len()];
    let mut plan = dense_attention::Plan::new(device, &shape(64), &options).unwrap();
    let error = plan.run(
        &TensorView::thd(&q, 8, 2, 64).unwrap(),
        &TensorView::thd(&k, 8, 1, 64).unwrap(),
        &TensorView::thd(&k, 8, 1, 64).unwrap(),
        &mut TensorViewMut::thd(&mut out, 8, 2, 64).unwrap(),
        None,
    );
    assert!(matches!(
        error,
        Err(Error::NotFinite { op: "dense_attention", arg: "q", token: 0, head: 0, .. })
    ));
    assert!(out.iter().all(|&x| x == bf16::ONE));
}

#[test]
fn a_missing_gpu_is_an_error() {
    // Whether there is a driver or not, there is no thousandth device.
    let error = Device::Cuda(999).context().err().unwrap();
    assert!(
        matches!(
            error,
            Error::Device(DeviceError::NoDriver | DeviceError::NoSuchDevice { ordinal: 999, .. })
        ),
        "{error}"
    );
}

/// A million keys, as plain as memory allows but for runs of keys that the queries look for, at places that 2^16 and 2^19
/// separate.
#[test]
fn a_million_keys_are_searched_alike() {
    let (rows, keys, head_dim, run) = (64usize, 1usize << 20, 64usize, 64usize);
    let planted = [5 * run, 0x1_0000 - run, 0x8_0000 + 3 * run, keys - 2 * run];
    let shape = AttentionShape::new(1, 1, head_dim, Seqlens::single(rows, keys).unwrap()).unwrap();
    let mut rng = Rng::new(9);
    let q: Vec<bf16> = (0..rows * head_dim).map(|_| bf16::from_f32(1.0)).collect();
    let mut k: Vec<bf16> =
        (0..keys * head_dim).map(|_| bf16::from_f32((rng.normal() * 0.1) as f32)).collect();
    for (i, start) in planted.into_iter().enumerate() {
        k[start * head_dim..(start + run) * head_dim].fill(bf16::from_f32(1.5 + 0.03 * i as f32));
    }
    let (q, k) =
        (TensorView::thd(&q, rows, 1, head_dim).unwrap(), TensorView::thd(&k, keys, 1, head_dim).unwrap());
    for pattern in patterns() {
        let chosen: Vec<Chosen> = devices()
            .into_iter()
            .map(|device| {
                let mut out = vec![bf16::NAN; rows * head_dim];
                let mut chosen = None;
                let mut plan =
                    prefill::Plan::new(device, &shape, &AttentionOptions::default(), &pattern).unwrap();
                plan.run_observed(
                    &q,
                    &k,
                    &k,
                    &mut TensorViewMut::thd(&mut out, rows, 1, head_dim).unwrap(),
                    None,
                    |selection| chosen = Some(Chosen::new(selection)),
                )
                .unwrap_or_else(|e| panic!("{device}, {}: {e}", pattern.name()));
                assert!(out.iter().all(|x| x.is_finite()), "{device}, {}", pattern.name());
                chosen.unwrap()
            })
            .collect();
        for other in &chosen[1..] {
            assert_eq!(other, &chosen[0], "{}", pattern.name());
        }
        if let (Pattern::FlexPrefill(_) | Pattern::XAttention(_), Chosen::Blocks(mask)) =
            (&pattern, &chosen[0])
        {
            let row = mask.row(0, 0, 0);
            assert!(
                row.contains(&(planted[3] as u32 / 64)) && row.len() < 100,
                "{}: {row:?}",
                pattern.name()
            );
        }
    }
}

/// A search and its attention, captured once, follow what is in their buffers.
#[test]
fn a_captured_prefill_is_the_prefill() {
    let context = Device::Emulated(Arch::Sm80).context().unwrap().unwrap();
    let stream = context.new_stream().unwrap();
    let inputs: Vec<_> =
        (7..9).map(|seed| Inputs::<bf16>::new(seed, 4, 2, 64, Seqlens::single(200, 330).unwrap())).collect();
    let shape = &inputs[0].shape;
    for pattern in patterns() {
        let upload = |x: &Tensor<bf16>| gpu::DeviceTensor::from_host(&context, &x.view(), "input").unwrap();
        let [mut q, mut k, mut v] = [&inputs[0].q, &inputs[0].k, &inputs[0].v].map(upload);
        let mut out = gpu::DeviceTensor::<bf16>::uninit(&context, *q.layout(), "out").unwrap();
        let options = AttentionOptions::default();
        let mut plan = gpu::prefill::Plan::new(&context, shape, &options, &pattern).unwrap();
        let graph = gpu::Graph::capture(&stream, |stream| {
            plan.search(stream, &q.view(), &k.view())?;
            plan.attend(stream, &q.view(), &k.view(), &v.view(), &mut out.view_mut()?, None)
        })
        .unwrap_or_else(|e| panic!("{}: {e}", pattern.name()));
        for x in &inputs {
            for (to, from) in [(&mut q, &x.q), (&mut k, &x.k), (&mut v, &x.v)] {
                let host = upload(from).to_host(&stream).unwrap();
                to.buffer_mut().copy_from_host(&stream, &host).unwrap();
            }
            // SAFETY: the plan and every buffer of the capture are alive.
            unsafe { graph.launch(&stream) }.unwrap();
            let captured = out.to_host(&stream).unwrap();

            let mut direct = gpu::prefill::Plan::new(&context, shape, &options, &pattern).unwrap();
            let mut expected = gpu::DeviceTensor::<bf16>::uninit(&context, *q.layout(), "out").unwrap();
            direct.search(&stream, &q.view(), &k.view()).unwrap();
            let mut view = expected.view_mut().unwrap();
            direct.attend(&stream, &q.view(), &k.view(), &v.view(), &mut view, None).unwrap();
            assert_bits(&captured, &expected.to_host(&stream).unwrap(), &case!(7, "{}", pattern.name()));
        }
    }
}
