//! The same operations on every device, against the reference. A GPU is used where there is one; where there is none the
//! test says so and goes on (`REQUIRE_GPU=1`: fails).

use half::{bf16, f16};
use lacuna::{
    Arch, AttentionOptions, AttentionShape, BlockMask, DecodeShape, Device, DeviceError, Element, Error,
    Pattern, Result, Seqlens, TensorView, TensorViewMut, block_sparse_attention, decode_attention,
    dense_attention, pattern, prefill,
};
use lacuna_reference::testing::{Rng, Tensor, Tolerance, assert_close, twin_attention};
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

#[test]
fn prefill_under_a_pattern_on_every_device() {
    let inputs = Inputs::<f16>::new(4, 2, 1, 64, Seqlens::single(200, 260).unwrap());
    let options = AttentionOptions::default();
    let wanted = Pattern::XAttention(lacuna::XAttentionOptions {
        block_size: 64,
        stride: 4,
        threshold: lacuna::Threshold::Scalar(0.5),
        ..Default::default()
    });
    let mut search = pattern::Plan::new(&inputs.shape, &options, &wanted).unwrap();
    let lacuna::Selection::Blocks(mask) = search.search(&inputs.q.view(), &inputs.k.view()).unwrap() else {
        panic!("XAttention chooses blocks")
    };
    for device in devices() {
        inputs.check(device, Some(mask), |x, out, lse| {
            let mut plan = prefill::Plan::new(device, &x.shape, &options, &wanted)?;
            let report = plan.run(&x.q.view(), &x.k.view(), &x.v.view(), out, Some(lse))?;
            assert!(report.density > 0.0 && report.density <= 1.0);
            Ok(())
        });
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
    let slash = Pattern::VerticalSlash(Default::default());
    let slash = prefill::Plan::<bf16>::new(device, &shape(64), &options, &slash).err().unwrap();
    assert!(slash.to_string().contains("vertical_slash"), "{slash}");
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
