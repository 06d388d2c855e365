//! Launch checks, schedulers, counters, several CTAs.

mod common;

use common::{LOAD, Lab, STORE, kernel};
use lacuna_emulator::{Arch, Arg, Class, FaultKind, LaunchShape, Machine, Options, Scheduler};

#[test]
fn launches_that_do_not_fit() {
    let ptx = kernel("").replace(".param .u64 .ptr .align 1 out) {", ".param .u64 out) .maxntid 128, 1, 1 {");
    let mut machine = Machine::new(Arch::Sm80);
    let module = machine.load_module(&ptx, None).unwrap();
    let id = machine.kernel(module, "k").unwrap();
    assert_eq!(machine.kernel(module, "other"), None);
    let two = [Arg::u64(0), Arg::u64(0)];
    let mut refused = |shape: LaunchShape, args: &[Arg], text: &str| {
        let found = machine.launch(id, &shape, args).unwrap_err();
        assert_eq!(found.kind(), FaultKind::BadLaunch);
        assert!(found.message().contains(text), "{found}");
    };
    refused(LaunchShape::new(1, 32), &two[..1], "1 arguments for 2 parameters");
    refused(
        LaunchShape::new(1, 32),
        &[Arg::u64(0), Arg::u32(0)],
        "argument 1 (`out`) has 4 bytes, expected 8",
    );
    refused(LaunchShape::new(0, 32), &two, "the grid is [0, 1, 1]");
    refused(LaunchShape::new(1, 2048), &two, "CTA");
    refused(LaunchShape::new(1, 160), &two, ".maxntid allows 128");
    refused(LaunchShape::new(1, 32).with_smem(164 << 10), &two, "dynamic shared memory");
    refused(
        LaunchShape { cluster: [2, 1, 1], ..LaunchShape::new(2, 32) },
        &two,
        "clusters are not supported",
    );
}

#[test]
fn structs_are_passed_by_value() {
    let ptx = ".version 7.0\n.target sm_80\n.address_size 64\n
.visible .entry k(.param .align 8 .b8 s[24], .param .u32 n, .param .u64 out)
{ .reg .b32 %r<4>; .reg .b64 %rd<4>; ld.param.b32 %r1, [s+8]; ld.param.b32 %r2, [n]; ld.param.b64 %rd1, [out];
  mov.b64 %rd2, s; ld.param.b32 %r3, [%rd2+12]; add.s32 %r1, %r1, %r2; add.s32 %r1, %r1, %r3; st.global.b32 [%rd1], %r1; ret; }";
    let mut machine = Machine::new(Arch::Sm80);
    let module = machine.load_module(ptx, None).unwrap();
    let id = machine.kernel(module, "k").unwrap();
    let out = machine.alloc(4, "out");
    let mut bytes = [0; 24];
    bytes[8] = 5;
    bytes[13] = 1;
    machine.launch(id, &LaunchShape::new(1, 1), &[Arg::bytes(&bytes), Arg::u32(7), Arg::ptr(out)]).unwrap();
    let mut word = [0; 4];
    machine.copy_out(out, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 5 + 256 + 7);
}

const SCHEDULERS: [Scheduler; 6] = [
    Scheduler::RoundRobin,
    Scheduler::Random(1),
    Scheduler::Random(2),
    Scheduler::Adversarial(0),
    Scheduler::Adversarial(1),
    Scheduler::Adversarial(7),
];

/// A pipelined sum: every round the CTA copies a tile of 64 words ahead while it adds up the one before, in reverse.
fn pipeline() -> String {
    format!(
        "mov.u32 %r10, dynamic; shl.b32 %r11, %r1, 2; mul.wide.u32 %rd3, %r1, 4; add.s64 %rd3, %rd1, %rd3;
  mad.lo.s32 %r12, %r2, 1024, 0; cvt.u64.u32 %rd4, %r12; add.s64 %rd3, %rd3, %rd4;
  add.s32 %r13, %r10, %r11; cp.async.ca.shared.global [%r13], [%rd3], 4; cp.async.commit_group;
  mov.b32 %r20, 0; mov.b32 %r14, 0; xor.b32 %r15, %r11, 252; add.s32 %r15, %r10, %r15;
$L: add.s32 %r14, %r14, 1; setp.ge.u32 %p1, %r14, 4; @%p1 bra $last;
  and.b32 %r16, %r14, 1; shl.b32 %r16, %r16, 8; add.s32 %r17, %r13, %r16; add.s64 %rd3, %rd3, 256;
  cp.async.ca.shared.global [%r17], [%rd3], 4;
$last: cp.async.commit_group; cp.async.wait_group 1; bar.sync 0;
  not.b32 %r18, %r14; and.b32 %r18, %r18, 1; shl.b32 %r18, %r18, 8; add.s32 %r18, %r15, %r18;
  ld.shared.b32 %r19, [%r18]; mad.lo.s32 %r20, %r20, 3, %r19; bar.sync 0;
  setp.lt.u32 %p2, %r14, 4; @%p2 bra $L;
  mov.u32 %r21, %ntid.x; mad.lo.s32 %r1, %r2, %r21, %r1;{STORE}"
    )
}

#[test]
fn every_scheduler_gives_the_same_bytes() {
    let input: Vec<u32> = (0..1024).map(|i| i * i).collect();
    let results: Vec<_> = SCHEDULERS
        .iter()
        .flat_map(|&scheduler| {
            [true, false].map(|checks| Options { scheduler, checks, ..Options::default() })
        })
        .map(|options| {
            let mut lab = Lab::with_options(&pipeline(), &input, 256, options);
            let report = lab.launch(LaunchShape::new(4, 64).with_smem(512)).unwrap();
            (lab.words(256), report.counters.totals().lane_instructions)
        })
        .collect();
    let expected = (0..4).fold(0u32, |sum, round| sum.wrapping_mul(3).wrapping_add(input[round * 64 + 63]));
    assert_eq!(results[0].0[0], expected);
    assert!(results.iter().all(|result| result == &results[0]));
}

#[test]
fn every_scheduler_finds_the_missing_barrier() {
    let input: Vec<u32> = (0..1024).collect();
    let broken = pipeline().replace("%r19; bar.sync 0;", "%r19;");
    for scheduler in SCHEDULERS {
        let mut lab = Lab::with_options(&broken, &input, 256, Options { scheduler, ..Options::default() });
        let found = lab.launch(LaunchShape::new(4, 64).with_smem(512)).unwrap_err();
        assert!(
            matches!(found.kind(), FaultKind::SharedRace | FaultKind::CopyInFlight),
            "{scheduler:?}: {found}"
        );
    }
}

#[test]
fn ctas_may_wait_for_each_other() {
    // CTA 0 spins on a flag that the last CTA sets.
    let body = "setp.ne.u32 %p1, %r2, 0; @%p1 bra $other;
$spin: ld.acquire.gpu.global.b32 %r10, [%rd2]; setp.eq.u32 %p2, %r10, 0; @%p2 bra $spin; bra $end;
$other: setp.ne.u32 %p3, %r2, 3; @%p3 bra $end; st.release.gpu.global.b32 [%rd2], 1; $end:";
    let launch = |resident_ctas| {
        let options = Options { resident_ctas, step_budget: 20_000_000, ..Options::default() };
        let mut lab = Lab::with_options(body, &[0], 1, options);
        lab.machine.fill(lab.output, 0, 4).unwrap();
        lab.launch(LaunchShape::new(4, 1))
    };
    launch(2).unwrap();
    // With room for one alone it never gets there.
    assert_eq!(launch(1).unwrap_err().kind(), FaultKind::StepBudget);
}

#[test]
fn counters_are_exact() {
    let body = format!(
        "{LOAD}mov.u32 %r11, dynamic; shl.b32 %r12, %r1, 3; add.s32 %r12, %r11, %r12; st.shared.b32 [%r12], %r10;
setp.lt.u32 %p1, %r1, 8;
@%p1 bra $L;
add.s32 %r10, %r10, 1;
$L: mov.b32 %r20, %r10;
@%p1 bra $M; bra $M;
mov.b32 %r20, 0;
$M:{STORE}"
    );
    let mut lab = Lab::new(&body, &[0; 32], 32);
    let report = lab.launch(LaunchShape::new(1, 32).with_smem(256)).unwrap();
    let counters = &report.counters;
    let loads = counters.opcode("ld.global");
    assert_eq!((loads.global_requests, loads.global_sectors, loads.global_bytes), (1, 4, 128));
    let stores = counters.class(Class::Shared);
    assert_eq!((stores.shared_requests, stores.shared_phases, stores.shared_wavefronts), (1, 1, 2));
    assert_eq!(stores.shared_conflict_factor(), 2.0);
    assert_eq!(counters.opcode("add.s32 %r10").lane_instructions, 24);
    assert_eq!(counters.opcode("bra $L").divergent_branches, 1);
    assert_eq!(counters.opcode("mov.b32 %r20, %r10").warp_instructions, 1, "the lanes met again");
    let never: Vec<&str> = counters.never_executed().map(|line| line.text.as_str()).collect();
    assert_eq!(never, ["mov.b32 %r20, 0"]);
    assert!(counters.coverage() < 1.0);
    let line = counters.lines.iter().find(|line| line.text == "add.s32 %r10, %r10, 1").unwrap().line;
    assert_eq!(counters.line(line).lane_instructions, 24);
    let mut merged = counters.clone();
    merged.merge(counters).unwrap();
    assert_eq!(merged.totals().lane_instructions, 2 * counters.totals().lane_instructions);
}

#[test]
fn three_dimensions() {
    let body = "mov.u32 %r10, %tid.y; mov.u32 %r11, %tid.z; mov.u32 %r12, %ctaid.y; mov.u32 %r13, %ctaid.z;
  mov.u32 %r14, %nctaid.x; mov.u32 %r15, %nctaid.y; mad.lo.s32 %r16, %r13, %r15, %r12; mad.lo.s32 %r16, %r16, %r14, %r2;
  mov.u32 %r17, %ntid.x; mov.u32 %r18, %ntid.y; mad.lo.s32 %r19, %r11, %r18, %r10; mad.lo.s32 %r19, %r19, %r17, %r1;
  mad.lo.s32 %r20, %r16, 30, %r19; mul.wide.u32 %rd3, %r20, 4; add.s64 %rd3, %rd2, %rd3; st.global.b32 [%rd3], %r20;";
    let mut lab = Lab::new(body, &[0], 24 * 30);
    lab.launch(LaunchShape { grid: [2, 3, 4], block: [5, 3, 2], ..LaunchShape::new(1, 1) }).unwrap();
    assert_eq!(lab.words(24 * 30), (0..24 * 30).collect::<Vec<u32>>());
}

#[test]
fn copies_within_the_machine() {
    let mut machine = Machine::new(Arch::Sm80);
    let (a, b) = (machine.alloc(16, "a"), machine.alloc(16, "b"));
    machine.copy_in(a, &[1, 2, 3, 4]).unwrap();
    machine.copy_device(a, b.offset(4), 8).unwrap();
    let mut bytes = [0; 4];
    machine.copy_out(b.offset(4), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    // What was not written there is not written here.
    assert_eq!(machine.copy_out(b.offset(8), &mut bytes).unwrap_err().kind(), FaultKind::UninitialisedRead);
    machine.copy_device(a, a.offset(2), 4).unwrap();
    machine.copy_out(a.offset(2), &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4]);
    assert_eq!(machine.copy_in(b, &[0; 17]).unwrap_err().kind(), FaultKind::OutOfBounds);
}
