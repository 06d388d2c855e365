//! Plans that run out of memory half way: what they had is given back, and the error says what was too much.

mod common;

use common::device::dry_run;
use half::bf16;
use lacuna_core::{
    AttentionOptions, AttentionShape, BlockMask, DecodeShape, DeviceError, Error, FlexPrefillOptions,
    KMeansOptions, Layout, Result, Seqlens, VerticalSlashOptions, XAttentionOptions,
};
use lacuna_kernels_host::{
    Context, DeviceBlockMask, DeviceTensor, block_sparse_attention, decode_attention, dense_attention,
    flex_prefill, k_means, vertical_slash, x_attention,
};

const MUCH: u64 = 80 << 30;

/// Makes `plan` on devices that fail at its first allocation, its second, and so on.
fn fails_anywhere<P>(what: &str, plan: impl Fn(&Context) -> Result<P>) {
    let (context, driver) = dry_run(MUCH);
    let made = plan(&context).unwrap();
    let allocations = driver.allocations();
    assert!(!allocations.is_empty(), "{what}");
    drop(made);
    assert_eq!(driver.allocated_bytes(), 0, "{what}");
    // What is there before stays as it is.
    const HELD: u64 = 4096;
    let mut before = 0;
    for (name, bytes) in allocations {
        let (context, driver) = dry_run(HELD + before + bytes - 1);
        let held = DeviceTensor::<bf16>::uninit(&context, Layout::thd(2, 8, 128), "held").unwrap();
        let why = plan(&context).err().unwrap();
        let Error::Device(DeviceError::OutOfMemory { what: refused, asked, free }) = &why else {
            panic!("{what}: {why}");
        };
        assert_eq!((refused, *asked, *free), (&name, bytes, bytes - 1), "{what}");
        let said = format!("out of device memory: {name} needs {bytes} bytes, {} are free", bytes - 1);
        assert_eq!(why.to_string(), said, "{what}");
        assert_eq!(driver.allocations(), [("held".to_owned(), HELD)], "{what}, at {name}");
        drop(held);
        before += bytes;
    }
    let (context, driver) = dry_run(before);
    drop(plan(&context).unwrap());
    assert_eq!((driver.allocated_bytes(), driver.peak_bytes()), (0, before), "{what}");
}

#[test]
fn plans_give_back_what_they_had() {
    let shape = AttentionShape::new(4, 2, 128, Seqlens::uniform(2, 1000, 3000).unwrap()).unwrap();
    let options = AttentionOptions::default();
    fails_anywhere("dense_attention", |context| {
        dense_attention::Plan::<bf16>::new(context, &shape, &options)
    });
    let mask = BlockMask::dense(&shape, 128, 128, true).unwrap();
    fails_anywhere("block_sparse_attention", |context| {
        let mask = DeviceBlockMask::from_host(context, &mask)?;
        Ok((mask, block_sparse_attention::Plan::<bf16>::new(context, &shape, &options, 128, 128)?))
    });
    fails_anywhere("flex_prefill", |context| {
        let plan = flex_prefill::Plan::<bf16>::new(context, &shape, &FlexPrefillOptions::default())?;
        Ok((plan.empty_mask()?, plan))
    });
    fails_anywhere("x_attention", |context| {
        let options = XAttentionOptions { stride: 8, ..Default::default() };
        let plan = x_attention::Plan::<bf16>::new(context, &shape, &options, true)?;
        Ok((plan.empty_mask()?, plan))
    });
    fails_anywhere("vertical_slash", |context| {
        vertical_slash::SearchPlan::<bf16>::new(context, &shape, &VerticalSlashOptions::default())
    });
    fails_anywhere("k_means", |context| {
        k_means::Plan::<bf16>::new(context, 3000, 128, &KMeansOptions::default())
    });
    let sizes = DecodeShape {
        batch: 2,
        max_seqlen_q: 1,
        num_heads: 4,
        num_heads_k: 2,
        head_dim: 128,
        max_seqlen_k: 100_000,
    };
    fails_anywhere("decode_attention", |context| {
        decode_attention::Plan::<bf16>::new(context, &sizes, &options)
    });
}
