//! Planted bugs: each has to be found, as what it is, at its instruction.

mod common;

use common::{LOAD, Lab, STORE, assert_fault, fault, run};
use lacuna_emulator::{AdvisoryKind, FaultKind, LaunchShape, Options};

#[test]
fn one_past_the_end() {
    let body = "mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd1, %rd3; ld.global.b32 %r20, [%rd3+4];";
    let found = fault(body, &[0; 32], 32);
    assert_fault(&found, FaultKind::OutOfBounds, "ld.global.b32 %r20, [%rd3+4]");
    let site = found.site().unwrap();
    assert_eq!((site.ptx_line, site.warp, site.lane, site.cta), (8, 0, Some(31), [0, 0, 0]));
    assert_eq!(found.allocation(), Some(("in", 128)));
}

#[test]
fn pointers_to_nowhere() {
    let found = fault("mov.b64 %rd3, 0; ld.global.b32 %r20, [%rd3];", &[0], 1);
    assert_fault(&found, FaultKind::WildPointer, "ld.global");
    let found = fault("mov.b64 %rd3, 16; cvta.shared.u64 %rd3, %rd3; ld.global.b32 %r20, [%rd3];", &[0], 1);
    assert_fault(&found, FaultKind::WildPointer, "ld.global");
    let found = fault("ld.global.b32 %r20, [%rd2+-4];", &[0], 1);
    assert_fault(&found, FaultKind::OutOfBounds, "ld.global");
    assert!(found.message().contains("4 bytes below `out`"), "{found}");
    // Far beyond one allocation is still not the next one.
    let found = fault("st.global.b32 [%rd1+1048576], %r1;", &[0], 1);
    assert_fault(&found, FaultKind::OutOfBounds, "st.global");
}

#[test]
fn freed_memory() {
    let mut lab = Lab::new("ld.global.b32 %r20, [%rd1];", &[1], 1);
    lab.machine.free(lab.input).unwrap();
    assert_fault(&lab.launch(LaunchShape::new(1, 1)).unwrap_err(), FaultKind::UseAfterFree, "ld.global");
    assert_eq!(lab.machine.free(lab.input).unwrap_err().kind(), FaultKind::UseAfterFree);
}

#[test]
fn misalignment() {
    assert_fault(&fault("ld.global.b32 %r20, [%rd1+2];", &[0, 0], 1), FaultKind::Misaligned, "ld.global");
    assert_fault(
        &fault("ld.global.v2.b32 {%r20, %r21}, [%rd1+4];", &[0; 4], 1),
        FaultKind::Misaligned,
        "ld.global",
    );
    let body = "mov.u32 %r10, dynamic; ld.shared.b64 %rd3, [%r10+4];";
    assert_fault(&fault(body, &[0], 1), FaultKind::Misaligned, "ld.shared");
    let body = "mov.u32 %r10, dynamic; cp.async.ca.shared.global [%r10+8], [%rd1], 16;";
    assert_fault(&fault(body, &[0; 8], 1), FaultKind::Misaligned, "cp.async");
}

#[test]
fn stores_into_inputs() {
    let mut lab = Lab::new("st.global.b32 [%rd1], %r1;", &[0], 1);
    lab.machine.set_read_only(lab.input, true).unwrap();
    assert_fault(&lab.launch(LaunchShape::new(1, 1)).unwrap_err(), FaultKind::ReadOnly, "st.global");
}

#[test]
fn memory_nobody_wrote() {
    assert_fault(&fault("ld.global.b32 %r20, [%rd2];", &[0], 1), FaultKind::UninitialisedRead, "ld.global");
    let body = "mov.u32 %r10, dynamic; ld.shared.b32 %r20, [%r10];";
    assert_fault(&fault(body, &[0], 1), FaultKind::UninitialisedRead, "ld.shared");
    // Two of four bytes are there.
    let body =
        "mov.u32 %r10, dynamic; mov.b16 %rs1, 1; st.shared.b16 [%r10], %rs1; ld.shared.b32 %r20, [%r10];";
    assert_fault(&fault(body, &[0], 1), FaultKind::UninitialisedRead, "ld.shared");
    let body = ".local .align 4 .b8 stack[16]; mov.b64 %rd3, stack; ld.local.b32 %r20, [%rd3+4];";
    assert_fault(&fault(body, &[0], 1), FaultKind::UninitialisedRead, "ld.local");
    let lab = Lab::new("", &[0], 1);
    let found = lab.machine.copy_out(lab.output, &mut [0; 4]).unwrap_err();
    assert_eq!((found.kind(), found.site()), (FaultKind::UninitialisedRead, None));
}

#[test]
fn registers_nobody_wrote() {
    assert_fault(&fault("st.global.b32 [%rd2], %r50;", &[0], 1), FaultKind::UndefinedRegister, "st.global");
    // The value goes through arithmetic first.
    let body = "add.s32 %r20, %r50, 1; shl.b32 %r20, %r20, 1; setp.eq.u32 %p1, %r20, 0; @%p1 bra $L; $L:";
    assert_fault(&fault(body, &[0], 1), FaultKind::UndefinedRegister, "@%p1 bra");
    assert_fault(&fault("ld.global.b32 %r20, [%rd50];", &[0], 1), FaultKind::UndefinedRegister, "ld.global");
    // Computed and never used: compilers do that.
    assert_eq!(run(&format!("add.s32 %r21, %r50, 1; mov.b32 %r20, 3;{STORE}"), &[0], 1), [3]);
    // Only in the lanes that have no value.
    let body = format!("setp.lt.u32 %p1, %r1, 16; @%p1 mov.b32 %r20, 1;{STORE}");
    let found = fault(&body, &[0], 32);
    assert_fault(&found, FaultKind::UndefinedRegister, "st.global");
    assert_eq!(found.site().unwrap().lane, Some(16));
}

/// Every thread writes its word of shared memory and reads that of the next thread.
fn neighbour(sync: &str) -> String {
    format!(
        "mov.u32 %r10, dynamic; shl.b32 %r11, %r1, 2; add.s32 %r11, %r10, %r11; st.shared.b32 [%r11], %r1; {sync}
  add.s32 %r12, %r1, 1; and.b32 %r12, %r12, 63; shl.b32 %r12, %r12, 2; add.s32 %r12, %r10, %r12;
  ld.shared.b32 %r20, [%r12];{STORE}"
    )
}

#[test]
fn missing_barrier() {
    assert_eq!(run(&neighbour("bar.sync 0;"), &[0], 64)[63], 0);
    assert_eq!(run(&neighbour("barrier.sync 0;"), &[0], 64)[5], 6);
    let found = fault(&neighbour(""), &[0], 64);
    assert!(matches!(found.kind(), FaultKind::SharedRace | FaultKind::UninitialisedRead), "{found}");
    // A warp's own barrier orders the lanes of the warp and not the other warp.
    let found = fault(&neighbour("bar.warp.sync -1;"), &[0], 64);
    assert!(matches!(found.kind(), FaultKind::SharedRace | FaultKind::UninitialisedRead), "{found}");
}

#[test]
fn lanes_without_an_order() {
    let body = |sync: &str| {
        format!(
            "mov.u32 %r10, dynamic; shl.b32 %r11, %r1, 2; add.s32 %r11, %r10, %r11; st.shared.b32 [%r11], %r1; {sync}
  xor.b32 %r12, %r11, 4; ld.shared.b32 %r20, [%r12];{STORE}"
        )
    };
    assert_eq!(run(&body("bar.warp.sync 0xffffffff;"), &[0], 32)[6], 7);
    assert_fault(&fault(&body(""), &[0], 32), FaultKind::SharedRace, "ld.shared");
}

#[test]
fn write_after_read() {
    // The second store overtakes readers of the first round: the barrier at the end of a loop is missing.
    let body = |last: &str| {
        format!(
            "mov.u32 %r10, dynamic; setp.eq.u32 %p1, %r1, 0; mov.b32 %r12, 0;
$L: @%p1 st.shared.b32 [%r10], %r12; bar.sync 0; ld.shared.b32 %r20, [%r10]; {last}
  add.s32 %r12, %r12, 1; setp.lt.u32 %p2, %r12, 3; @%p2 bra $L;{STORE}"
        )
    };
    assert_eq!(run(&body("bar.sync 0;"), &[0], 96), [2; 96]);
    assert_fault(&fault(&body(""), &[0], 96), FaultKind::SharedRace, "shared.b32");
}

/// Copies 16 bytes per thread and reads what the neighbouring thread copied.
fn copy(publish: &str) -> String {
    format!(
        "mov.u32 %r10, dynamic; shl.b32 %r11, %r1, 4; add.s32 %r12, %r10, %r11; cvt.u64.u32 %rd3, %r11;
  add.s64 %rd3, %rd1, %rd3; cp.async.cg.shared.global [%r12], [%rd3], 16; {publish}
  xor.b32 %r13, %r12, 16; ld.shared.b32 %r20, [%r13];{STORE}"
    )
}

#[test]
fn asynchronous_copies() {
    let input: Vec<u32> = (0..256).collect();
    let good = "cp.async.commit_group; cp.async.wait_group 0; bar.sync 0;";
    assert_eq!(run(&copy(good), &input, 64)[..3], [4, 0, 12]);
    assert_eq!(run(&copy("cp.async.wait_all; bar.sync 0;"), &input, 64)[..3], [4, 0, 12]);
    let missing_wait = "cp.async.commit_group; bar.sync 0;";
    assert_fault(&fault(&copy(missing_wait), &input, 64), FaultKind::CopyInFlight, "ld.shared");
    let missing_commit = "cp.async.wait_group 0; bar.sync 0;";
    assert_fault(&fault(&copy(missing_commit), &input, 64), FaultKind::CopyInFlight, "ld.shared");
    let waits_for_too_few = "cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;";
    assert_fault(&fault(&copy(waits_for_too_few), &input, 64), FaultKind::CopyInFlight, "ld.shared");
    // A wait publishes to the thread itself alone.
    let missing_barrier = "cp.async.commit_group; cp.async.wait_group 0;";
    assert_fault(&fault(&copy(missing_barrier), &input, 64), FaultKind::SharedRace, "ld.shared");
}

#[test]
fn a_copy_past_the_end_that_nobody_waits_for() {
    let body = "mov.u32 %r10, dynamic; cp.async.cg.shared.global [%r10], [%rd1+16], 16;";
    assert_fault(&fault(body, &[0; 4], 1), FaultKind::OutOfBounds, "cp.async");
    // With no byte to read the source may lie anywhere.
    let body = format!(
        "mov.u32 %r10, dynamic; mov.b32 %r11, 0; cp.async.cg.shared.global [%r10], [%rd1+16], 16, %r11;
  cp.async.wait_all; ld.shared.b32 %r20, [%r10];{STORE}"
    );
    assert_eq!(run(&body, &[9; 4], 1), [0]);
    let body = format!(
        "mov.u32 %r10, dynamic; mov.b32 %r11, 4; cp.async.cg.shared.global [%r10], [%rd1], 16, %r11;
  cp.async.wait_all; ld.shared.v2.b32 {{%r20, %r21}}, [%r10]; add.s32 %r20, %r20, %r21;{STORE}"
    );
    assert_eq!(run(&body, &[9; 4], 1), [9]);
}

#[test]
fn a_copy_over_bytes_that_others_still_read() {
    // Every warp reads the tile; warp 0 copies the next one into it without a barrier in between.
    let body = |sync: &str| {
        format!(
            "mov.u32 %r10, dynamic; setp.eq.u32 %p1, %r1, 0;
  @%p1 cp.async.ca.shared.global [%r10], [%rd1], 16; cp.async.wait_all; bar.sync 0;
  ld.shared.b32 %r20, [%r10]; {sync}
  @%p1 cp.async.ca.shared.global [%r10], [%rd1+16], 16; cp.async.wait_all;{STORE}"
        )
    };
    let input: Vec<u32> = (0..8).collect();
    assert_eq!(run(&body("bar.sync 0;"), &input, 64), [0; 64]);
    let mut lab = Lab::new(&body(""), &input, 64);
    // Whichever warp comes first, one of the two accesses is out of order.
    let found = lab.launch(LaunchShape::new(1, 64).with_smem(64)).unwrap_err();
    assert!(matches!(found.kind(), FaultKind::SharedRace | FaultKind::CopyInFlight), "{found}");
}

#[test]
fn a_barrier_that_part_of_a_warp_reaches() {
    let body = "setp.lt.u32 %p1, %r1, 16; @%p1 bra $A; bar.sync 0; bra $B; $A: bar.sync 0; $B:";
    let found = fault(body, &[0], 32);
    assert_fault(&found, FaultKind::Divergence, "bar.sync 0");
    assert!(found.message().contains("0x0000ffff") && found.message().contains("0xffff0000"), "{found}");
    // The unaligned form may be reached on different ways.
    let body = format!(
        "setp.lt.u32 %p1, %r1, 16; @%p1 bra $A; barrier.sync 0; mov.b32 %r20, 1; bra $B;
$A: barrier.sync 0; mov.b32 %r20, 2; $B:{STORE}"
    );
    let out = run(&body, &[0], 64);
    assert_eq!((out[0], out[16], out[40]), (2, 1, 1));
}

#[test]
fn matrix_instructions_need_the_whole_warp() {
    let body = "mov.u32 %r10, dynamic; setp.lt.u32 %p1, %r1, 16;
  @%p1 ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r10];";
    assert_eq!(fault(body, &[0], 32).kind(), FaultKind::Divergence);
    let body = "mov.u32 %r10, dynamic; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r20}, [%r10];";
    assert_fault(&fault(body, &[0], 20), FaultKind::Divergence, "ldmatrix");
}

#[test]
fn shuffles_from_lanes_that_are_not_there() {
    let body = "setp.lt.u32 %p1, %r1, 16; @!%p1 bra $L; shfl.sync.idx.b32 %r20, %r1, 20, 31, 0xffff; $L:";
    assert_fault(&fault(body, &[0], 32), FaultKind::InactiveLane, "shfl.sync");
    let body = "shfl.sync.idx.b32 %r20, %r1, 0, 31, 0xffff;";
    assert_fault(&fault(body, &[0], 32), FaultKind::InactiveLane, "shfl.sync");
    let body = "setp.lt.u32 %p1, %r1, 16; @!%p1 bra $L; shfl.sync.idx.b32 %r20, %r1, 0, 31, -1; bra $E;
  $L: bar.warp.sync -1; $E:";
    assert_eq!(fault(body, &[0], 32).kind(), FaultKind::Divergence);
}

#[test]
fn barriers_used_wrongly() {
    let cases = [
        ("bar.sync 16;", "does not exist"),
        ("bar.sync 0, 48;", "multiple of 32"),
        ("bar.sync 0, 4096;", "up to"),
        (
            "setp.lt.u32 %p1, %r1, 32; @%p1 bra $A; bar.sync 1, 64; bra $B; $A: bar.sync 1, 96; $B:",
            "where others",
        ),
        ("setp.ge.u32 %p1, %r1, 32; @%p1 bra $E; bar.arrive 1, 96; bar.arrive 1, 96; $E:", "twice"),
    ];
    for (body, text) in cases {
        let found = fault(body, &[0], 96);
        assert_fault(&found, FaultKind::BarrierMisuse, "bar.");
        assert!(found.message().contains(text), "{found}");
    }
}

#[test]
fn deadlocks() {
    // Warp 0 waits for a warp that has ended.
    let found = fault("setp.lt.u32 %p1, %r1, 32; @!%p1 bra $E; bar.sync 0; $E:", &[0], 64);
    assert_fault(&found, FaultKind::Deadlock, "bar.sync 0");
    assert!(found.message().contains("barrier 0 has 32 of 64 threads"), "{found}");
    // Two warps at two barriers.
    let body = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $A; bar.sync 1; bra $E; $A: bar.sync 2; $E:";
    assert_eq!(fault(body, &[0], 64).kind(), FaultKind::Deadlock);
}

#[test]
fn loops_without_end() {
    let options = Options { step_budget: 100_000, ..Options::default() };
    let mut lab = Lab::with_options("$L: bra.uni $L;", &[0], 1, options);
    assert_fault(&lab.launch(LaunchShape::new(1, 32)).unwrap_err(), FaultKind::StepBudget, "bra.uni");
}

#[test]
fn lanes_may_wait_for_each_other() {
    // Lane 0 waits, at a lower address, for what lane 1 does further down: hardware guarantees both progress.
    let body = format!(
        "mov.u32 %r10, dynamic; setp.eq.u32 %p1, %r1, 0; @%p1 st.volatile.shared.b32 [%r10], 0; bar.warp.sync -1;
  @!%p1 bra $other;
$spin: ld.volatile.shared.b32 %r11, [%r10]; setp.eq.u32 %p2, %r11, 0; @%p2 bra $spin; bra $end;
$other: st.volatile.shared.b32 [%r10], 7; $end: mov.b32 %r20, 1;{STORE}"
    );
    assert_eq!(run(&body, &[0], 32), [1; 32]);
}

#[test]
fn traps_and_panics() {
    assert_fault(&fault("trap;", &[0], 1), FaultKind::Trap, "trap");
    let body = "setp.eq.u32 %p1, %r1, 3; @!%p1 bra $L; trap; $L:";
    assert_eq!(fault(body, &[0], 32).site().unwrap().lane, Some(3));
}

#[test]
fn races_between_ctas() {
    let launch = |body: &str, ctas: u32| {
        let mut lab = Lab::new(body, &[0; 64], 64);
        lab.machine.fill(lab.output, 0, 256).unwrap();
        lab.launch(LaunchShape::new(ctas, 32))
    };
    let found = launch("st.global.b32 [%rd2], %r2;", 2).unwrap_err();
    assert_fault(&found, FaultKind::GlobalRace, "st.global");
    assert_eq!(found.allocation(), Some(("out", 0)));
    // Each its own word; and atomics.
    launch("mul.wide.u32 %rd3, %r2, 4; add.s64 %rd3, %rd2, %rd3; st.global.b32 [%rd3], %r2;", 8).unwrap();
    launch("red.global.add.u32 [%rd2], 1;", 8).unwrap();
    // One writes what another reads.
    let body = "setp.eq.u32 %p1, %r2, 0; @%p1 st.global.b32 [%rd2], %r2; @!%p1 ld.global.b32 %r20, [%rd2];";
    assert_fault(&launch(body, 2).unwrap_err(), FaultKind::GlobalRace, "ld.global");
    // The same value twice is a remark.
    let report = launch("st.global.b32 [%rd2], 5;", 2).unwrap();
    assert_eq!(report.advisories[0].kind, AdvisoryKind::SameValueRace);
}

/// Every CTA stores a part and counts itself; the last one adds the parts up.
fn split_sum(fence: &str, read_fence: &str) -> String {
    format!(
        "setp.ne.u32 %p1, %r1, 0; @%p1 bra $end; mul.wide.u32 %rd3, %r2, 4; add.s64 %rd4, %rd2, %rd3;
  add.s32 %r10, %r2, 1; st.global.b32 [%rd4+8], %r10; {fence}
  atom.global.add.u32 %r11, [%rd2], 1; {read_fence} mov.u32 %r12, %nctaid.x; sub.s32 %r12, %r12, 1;
  setp.ne.u32 %p2, %r11, %r12; @%p2 bra $end; mov.b32 %r20, 0; mov.b32 %r13, 0;
$L: mul.wide.u32 %rd5, %r13, 4; add.s64 %rd5, %rd2, %rd5; ld.global.b32 %r14, [%rd5+8]; add.s32 %r20, %r20, %r14;
  add.s32 %r13, %r13, 1; setp.le.u32 %p3, %r13, %r12; @%p3 bra $L; st.global.b32 [%rd2+4], %r20; $end:"
    )
}

#[test]
fn the_last_cta_may_read_what_the_others_published() {
    let launch = |body: &str| {
        let mut lab = Lab::new(body, &[0], 16);
        lab.machine.fill(lab.output, 0, 64).unwrap();
        lab.launch(LaunchShape::new(8, 32)).map(|_| lab.words(2)[1])
    };
    assert_eq!(launch(&split_sum("membar.gl;", "membar.gl;")), Ok(36));
    assert_eq!(launch(&split_sum("fence.acq_rel.gpu;", "fence.acq_rel.gpu;")), Ok(36));
    assert_fault(&launch(&split_sum("", "membar.gl;")).unwrap_err(), FaultKind::GlobalRace, "ld.global");
    assert_fault(&launch(&split_sum("membar.gl;", "")).unwrap_err(), FaultKind::GlobalRace, "ld.global");
}

#[test]
fn nan_births_are_remarked() {
    let body = format!("{LOAD} sub.rn.f32 %r20, %r10, %r10; add.rn.f32 %r20, %r20, %r20;{STORE}");
    let mut lab = Lab::new(&body, &[f32::NEG_INFINITY.to_bits(), 0], 2);
    let report = lab.launch(LaunchShape::new(1, 2)).unwrap();
    let [remark] = &report.advisories[..] else { panic!("{:?}", report.advisories) };
    assert_eq!((remark.kind, remark.count), (AdvisoryKind::NanBirth, 1));
    assert!(remark.instruction.starts_with("sub.rn.f32") && remark.to_string().contains("-inf"), "{remark}");
}

#[test]
fn copies_that_outlive_their_thread_are_remarked() {
    let mut lab = Lab::new("mov.u32 %r10, dynamic; cp.async.ca.shared.global [%r10], [%rd1], 4;", &[1], 1);
    let report = lab.launch(LaunchShape::new(1, 1).with_smem(64)).unwrap();
    assert_eq!(report.advisories[0].kind, AdvisoryKind::CopyNeverWaitedFor);
}
