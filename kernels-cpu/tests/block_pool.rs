//! Block pooling against the reference.

use half::{bf16, f16};
use lacuna_core::{Element, TensorView};
use lacuna_kernels_cpu::block_pool::block_pool;
use lacuna_kernels_cpu::simd::Isa;
use lacuna_reference::case;
use lacuna_reference::testing::{Rng, ShapeLimits, Tensor, Tolerance, assert_close, nans, seeds};

fn against_reference<T: Element>(seed: u64) {
    let mut rng = Rng::new(seed);
    let shape = rng.shape(&ShapeLimits { head_dims: &[1, 16, 59, 64], ..Default::default() });
    let cu_seqlens = shape.seqlens.cu_seqlens_k();
    let block_size = *rng.choose(&[1, 7, 16, 128]);
    let x = Tensor::<T>::random_strided(&mut rng, shape.seqlens.total_k(), shape.num_heads_k, shape.head_dim);
    let want = lacuna_reference::block_pool(&x.view(), cu_seqlens, block_size).unwrap();
    for isa in Isa::available() {
        let mut pooled = nans::<f32>(want.len());
        isa.scope(|| block_pool(&x.view(), cu_seqlens, block_size, &mut pooled).unwrap());
        assert_close(
            &pooled,
            &want,
            Tolerance::absolute(1e-6),
            &case!(seed, "{isa:?} {shape:?} {block_size}"),
        );
    }
}

#[test]
fn equals_the_reference_on_random_batches() {
    for seed in seeds(30) {
        match seed % 3 {
            0 => against_reference::<f32>(seed),
            1 => against_reference::<bf16>(seed),
            _ => against_reference::<f16>(seed),
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let x = [0.0f32; 8];
    let x = TensorView::thd(&x, 8, 1, 1).unwrap();
    assert!(block_pool(&x, &[0, 5, 8], 2, &mut [0.0; 5]).is_ok());
    assert!(block_pool(&x, &[0, 5, 8], 2, &mut [0.0; 4]).is_err());
    assert!(block_pool(&x, &[0, 5], 2, &mut [0.0; 3]).is_err());
    assert!(block_pool(&x, &[0, 8], 0, &mut [0.0; 3]).is_err());
}
