//! Speed of the interpreter, in lane instructions: arithmetic, memory, and a mixture like that of attention.
//!
//! `cargo bench -p lacuna-emulator --bench interpreter`

use std::fmt::Write;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lacuna_emulator::{Arch, Arg, LaunchShape, Machine, Options};

/// A kernel with one pointer parameter in `%rd1` and the thread's number in the grid in `%r1`.
fn kernel(body: &str) -> String {
    format!(
        ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 data) {{
        .reg .pred %p<4>; .reg .b32 %r<100>; .reg .b64 %rd<20>; .shared .align 16 .b8 tile[16384];
        ld.param.b64 %rd1, [data];
        mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mad.lo.s32 %r1, %r2, %r3, %r4;
        {body}
        ret; }}"
    )
}

/// 64 times 16 fused multiply-adds, in `chains` of which each waits for the one before.
fn fma_loop(chains: usize) -> String {
    let mut body = String::from("mov.b32 %r11, 0f3F000000; mov.b32 %r5, 0;\n");
    for chain in 0..chains {
        let _ = writeln!(body, "cvt.rn.f32.u32 %r{}, %r1;", 20 + chain);
    }
    body += "$L:\n";
    for i in 0..16 {
        let x = 20 + i % chains;
        let _ = writeln!(body, "fma.rn.f32 %r{x}, %r{x}, %r11, %r11;");
    }
    body += "add.s32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 64; @%p1 bra $L;
        mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; st.global.b32 [%rd3], %r20;";
    kernel(&body)
}

/// `x[i] += 1`.
fn increment() -> String {
    kernel(
        "mul.wide.u32 %rd2, %r1, 4; add.s64 %rd3, %rd1, %rd2; ld.global.b32 %r10, [%rd3];
        add.rn.f32 %r10, %r10, 0f3F800000; st.global.b32 [%rd3], %r10;",
    )
}

/// What the inner loop of attention does to a warp: copies, fragments, products, exponentials, shuffles.
fn attention_mix() -> String {
    let mut body = String::from(
        "mov.u32 %r6, tile; shl.b32 %r7, %r4, 4; add.s32 %r6, %r6, %r7; shl.b32 %r7, %r4, 4; cvt.u64.u32 %rd2, %r7;
        add.s64 %rd3, %rd1, %rd2; mov.b32 %r5, 0;
        mov.b32 %r60, 0; mov.b32 %r61, 0; mov.b32 %r62, 0; mov.b32 %r63, 0;\n$L:
        cp.async.cg.shared.global [%r6], [%rd3], 16; cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r20, %r21, %r22, %r23}, [%r6];
        ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%r24, %r25, %r26, %r27}, [%r6];\n",
    );
    for i in 0..8 {
        let _ = writeln!(
            body,
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {{%r60, %r61, %r62, %r63}},
            {{%r20, %r21, %r22, %r23}}, {{%r{}, %r{}}}, {{%r60, %r61, %r62, %r63}};",
            24 + i % 3,
            25 + i % 3
        );
        body +=
            "max.f32 %r30, %r60, %r61; shfl.sync.bfly.b32 %r31, %r30, 1, 31, -1; max.f32 %r30, %r30, %r31;
            sub.rn.f32 %r32, %r60, %r30; ex2.approx.ftz.f32 %r33, %r32; mul.rn.f32 %r34, %r33, %r33;
            cvt.rn.bf16x2.f32 %r35, %r33, %r34; add.rn.f32 %r36, %r33, %r34;\n";
    }
    body += "bar.sync 0; add.s32 %r5, %r5, 1; setp.lt.u32 %p1, %r5, 16; @%p1 bra $L;
        mul.wide.u32 %rd4, %r1, 4; add.s64 %rd5, %rd1, %rd4; st.global.b32 [%rd5], %r36;";
    kernel(&body)
}

fn bench(c: &mut Criterion, name: &str, ptx: &str, ctas: u32, threads: u32) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    for (mode, options) in [("plain", Options::fast()), ("checked", Options::default())] {
        let mut machine = Machine::with_options(Arch::Sm80, Options::default());
        let module = machine.load_module(ptx, None).expect("the benchmark reads");
        let kernel = machine.kernel(module, "k").expect("the benchmark has its kernel");
        let data = machine.alloc((ctas * threads * 4).max(1 << 14) as usize, "data");
        machine
            .fill(data, 0, (ctas * threads * 4).max(1 << 14) as usize)
            .expect("the allocation is that large");
        let shape = LaunchShape::new(ctas, threads);
        let args = [Arg::ptr(data)];
        machine.set_options(options);
        let lanes = machine
            .launch(kernel, &shape, &args)
            .expect("the benchmark runs")
            .counters
            .totals()
            .lane_instructions;
        group.throughput(Throughput::Elements(lanes));
        group.bench_function(BenchmarkId::from_parameter(mode), |b| {
            b.iter(|| black_box(machine.launch(kernel, &shape, &args).is_ok()));
        });
    }
    group.finish();
}

fn all(c: &mut Criterion) {
    bench(c, "fma, 4 chains", &fma_loop(4), 64, 256);
    bench(c, "fma, 1 chain", &fma_loop(1), 64, 256);
    bench(c, "increment", &increment(), 1024, 256);
    bench(c, "attention_mix", &attention_mix(), 1, 128);
}

criterion_group!(benches, all);
criterion_main!(benches);
