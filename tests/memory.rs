//! What planning and running allocate, counted by the allocator itself.
//!
//! One test alone in its binary: the counters are the process's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use half::bf16;
use lacuna::{
    AttentionOptions, AttentionShape, Device, FlexPrefillOptions, Pattern, Seqlens, TensorView,
    TensorViewMut, Threshold, XAttentionOptions, pattern, prefill,
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system allocator unchanged; the counters do not touch memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak bytes above what was live before `f`.
fn peak_of<R>(f: impl FnOnce() -> R) -> (R, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed) - before)
}

const GIB: usize = 1 << 30;
/// What running may allocate, whatever the sizes: job queues and the like.
const SMALL: usize = 1 << 20;

#[test]
fn a_131072_token_prefill_stays_within_its_plan_and_4_gib() {
    let (tokens, heads, head_dim) = (131_072, 8, 128);
    let shape =
        AttentionShape::new(heads, heads, head_dim, Seqlens::single(tokens, tokens).unwrap()).unwrap();
    let x: Vec<bf16> = (0..tokens * heads * head_dim)
        .map(|i| bf16::from_f32(((i * 2_654_435_761) % 1024) as f32 / 512.0 - 1.0))
        .collect();
    let view = TensorView::thd(&x, tokens, heads, head_dim).unwrap();
    let mut out = vec![bf16::ZERO; x.len()];
    let mut softmax_lse = vec![0.0f32; heads * tokens];
    let options = AttentionOptions::default();

    let windows = Pattern::SinkAndLocal(lacuna::pattern::SinkAndLocalOptions {
        global_window: 128,
        local_window: 512,
        block_size: 128,
    });
    let (plan, planned) = peak_of(|| prefill::Plan::<bf16>::new(Device::Cpu, &shape, &options, &windows));
    let mut plan = plan.unwrap();
    let mut out = TensorViewMut::thd(&mut out, tokens, heads, head_dim).unwrap();
    let (report, ran) = peak_of(|| plan.run(&view, &view, &view, &mut out, Some(&mut softmax_lse)));
    assert!(report.unwrap().density < 0.02);
    assert!(planned < 4 * GIB, "attention planned {planned} bytes");
    assert!(ran < SMALL, "attention allocated {ran} bytes while running");
    drop(plan);

    for pattern in [
        Pattern::FlexPrefill(FlexPrefillOptions::default()),
        Pattern::XAttention(XAttentionOptions {
            stride: 16,
            threshold: Threshold::Scalar(0.5),
            ..Default::default()
        }),
    ] {
        let (plan, planned) = peak_of(|| pattern::Plan::<bf16>::new(&shape, &options, &pattern).unwrap());
        let mut plan = plan;
        let (_, ran) = peak_of(|| plan.search(&view, &view).map(|_| ()).unwrap());
        assert!(planned + ran < 4 * GIB, "{} took {planned} + {ran} bytes", pattern.name());
        let (_, again) = peak_of(|| plan.search(&view, &view).map(|_| ()).unwrap());
        assert!(again < SMALL, "{} allocated {again} bytes while running", pattern.name());
    }
}
