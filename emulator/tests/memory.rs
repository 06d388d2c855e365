//! Loads, stores and atomics in every space; fragments; exchanges between lanes; barriers.

mod common;

use common::{LOAD, Lab, STORE, eval, run};
use lacuna_emulator::LaunchShape;

#[test]
fn widths_and_signs() {
    let word = 0x8081_82f3u32;
    let load = |instruction: &str| {
        let mut lab =
            Lab::new(&format!("{instruction} st.global.b64 [%rd2], %rd20;"), &[word, 0x1122_3344], 2);
        lab.launch(LaunchShape::new(1, 1)).unwrap();
        lab.words(2)
    };
    assert_eq!(load("ld.global.u8 %rd20, [%rd1];"), [0xf3, 0]);
    assert_eq!(load("ld.global.s8 %rd20, [%rd1];"), [0xffff_fff3, 0xffff_ffff]);
    assert_eq!(load("ld.global.s16 %rd20, [%rd1+2];"), [0xffff_8081, 0xffff_ffff]);
    assert_eq!(load("ld.global.b64 %rd20, [%rd1];"), [word, 0x1122_3344]);
    assert_eq!(load("ld.global.v2.b32 {%r3, %r4}, [%rd1]; mov.b64 %rd20, {%r4, %r3};"), [0x1122_3344, word]);
    assert_eq!(
        load("ld.global.nc.L1::no_allocate.L2::128B.b32 %r3, [%rd1]; cvt.u64.u32 %rd20, %r3;"),
        [word, 0]
    );
    assert_eq!(load("ld.global.s8 %rs3, [%rd1]; cvt.u64.u16 %rd20, %rs3;"), [0xfff3, 0]);
    assert_eq!(load("ld.b32 %r3, [%rd1]; cvt.u64.u32 %rd20, %r3;"), [word, 0], "generic");
    assert_eq!(load("ld.param.b64 %rd3, [in]; sub.s64 %rd20, %rd3, %rd1;"), [0, 0]);
}

#[test]
fn spaces_and_generic_addresses() {
    let body = format!(
        ".local .align 8 .b8 __local_depot0[16];
  mov.b64 %rd3, __local_depot0; cvta.local.u64 %rd4, %rd3; st.b32 [%rd4+4], %r1; ld.local.b32 %r10, [%rd3+4];
  mov.b64 %rd5, dynamic; shl.b32 %r11, %r1, 2; cvt.u64.u32 %rd6, %r11; add.s64 %rd5, %rd5, %rd6;
  cvta.shared.u64 %rd7, %rd5; st.b32 [%rd7], %r10; cvta.to.shared.u64 %rd8, %rd7; ld.shared.b32 %r20, [%rd8];
  isspacep.shared %p1, %rd7; isspacep.global %p2, %rd1; isspacep.local %p3, %rd1;
  selp.b32 %r12, 100, 0, %p1; selp.b32 %r13, 1000, 0, %p2; selp.b32 %r14, 10000, 0, %p3;
  add.s32 %r20, %r20, %r12; add.s32 %r20, %r20, %r13; add.s32 %r20, %r20, %r14;{STORE}"
    );
    assert_eq!(run(&body, &[0], 40), (0..40).map(|t| 1100 + t).collect::<Vec<_>>());
}

#[test]
fn atomics() {
    let atom = |instruction: &str, start: u32, threads: u32| {
        let mut lab = Lab::new(instruction, &[0], 2);
        lab.machine.copy_in(lab.output, &u64::from(start).to_le_bytes()).unwrap();
        lab.launch(LaunchShape::new(1, threads)).unwrap();
        lab.words(1)[0]
    };
    assert_eq!(atom("red.global.add.u32 [%rd2], %r1;", 0, 64), 63 * 32);
    assert_eq!(atom("atom.global.add.u32 %r20, [%rd2], 1;", 5, 64), 69);
    assert_eq!(atom("atom.global.max.s32 %r20, [%rd2], %r1;", 5, 64), 63);
    assert_eq!(atom("atom.min.u32 %r20, [%rd2], %r1;", 5, 64), 0);
    assert_eq!(atom("atom.global.inc.u32 %r20, [%rd2], 9;", 0, 25), 5);
    assert_eq!(atom("atom.global.dec.u32 %r20, [%rd2], 9;", 0, 1), 9);
    assert_eq!(atom("red.global.or.b32 [%rd2], %r1;", 0, 4), 3);
    assert_eq!(atom("atom.global.cas.b32 %r20, [%rd2], 7, 8;", 7, 2), 8);
    assert_eq!(atom("atom.global.exch.b32 %r20, [%rd2], 3;", 7, 1), 3);
    assert_eq!(atom("red.global.add.f32 [%rd2], 0f3F800000;", 0, 32), 32f32.to_bits());
    let pair = "mov.b32 %r21, 0x3C003C00; red.global.add.noftz.f16x2 [%rd2], %r21;";
    assert_eq!(atom(pair, 0x3c00_4000, 1), 0x4000_4200);
}

#[test]
fn atomics_in_shared_memory_give_every_lane_its_own_ticket() {
    let body = format!(
        "mov.u32 %r10, dynamic; setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.b32 [%r10], 0; bar.sync 0;
  atom.shared.add.u32 %r20, [%r10], 1;{STORE}"
    );
    let mut tickets = run(&body, &[0], 96);
    tickets.sort_unstable();
    assert_eq!(tickets, (0..96).collect::<Vec<_>>());
}

#[test]
fn matrices_go_through_shared_memory() {
    // The warp stores the matrix row by row as 16-bit numbers 0 to 63 and loads it both ways.
    let body = |trans: &str| {
        format!(
            "mov.u32 %r10, dynamic; shl.b32 %r11, %r1, 2; add.s32 %r11, %r10, %r11; shl.b32 %r12, %r1, 1;
  add.s32 %r13, %r12, 1; shl.b32 %r13, %r13, 16; or.b32 %r12, %r12, %r13; st.shared.b32 [%r11], %r12;
  bar.warp.sync -1; and.b32 %r14, %r1, 7; shl.b32 %r14, %r14, 4; add.s32 %r14, %r10, %r14;
  ldmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 {{%r20}}, [%r14];{STORE}"
        )
    };
    let plain = run(&body(""), &[0], 32);
    let transposed = run(&body(".trans"), &[0], 32);
    for lane in 0..32u32 {
        let (r, c) = (lane / 4, lane % 4 * 2);
        assert_eq!(plain[lane as usize], (r * 8 + c) | (r * 8 + c + 1) << 16);
        assert_eq!(transposed[lane as usize], (c * 8 + r) | ((c + 1) * 8 + r) << 16);
    }
}

#[test]
fn movmatrix_transposes() {
    let body = format!("{LOAD} movmatrix.sync.aligned.m8n8.trans.b16 %r20, %r10;{STORE}");
    let input: Vec<u32> = (0..32).map(|lane| (lane * 2) | ((lane * 2 + 1) << 16)).collect();
    let out = run(&body, &input, 32);
    for lane in 0..32u32 {
        let (r, c) = (lane / 4, lane % 4 * 2);
        assert_eq!(out[lane as usize], (c * 8 + r) | ((c + 1) * 8 + r) << 16);
    }
}

#[test]
fn products_of_small_integers_are_exact() {
    // A[i][k] = (i + k) mod 5, B[k][j] = (k + 2 j) mod 7, C[i][j] = i - j: every sum fits.
    let bf16 = |x: u32| (x as f32).to_bits() >> 16;
    let (a, b) = (|i: u32, k: u32| (i + k) % 5, |k: u32, j: u32| (k + 2 * j) % 7);
    let mut input = Vec::new();
    for q in 0..4 {
        for lane in 0..32 {
            let (i, k) = (lane / 4 + 8 * (q & 1), lane % 4 * 2 + 8 * (q >> 1));
            input.push(bf16(a(i, k)) | bf16(a(i, k + 1)) << 16);
        }
    }
    for q in 0..2 {
        for lane in 0..32 {
            let (k, j) = (lane % 4 * 2 + 8 * q, lane / 4);
            input.push(bf16(b(k, j)) | bf16(b(k + 1, j)) << 16);
        }
    }
    let place = |lane: u32, e: u32| (lane / 4 + 8 * (e >> 1), lane % 4 * 2 + (e & 1));
    for e in 0..4 {
        input.extend((0..32).map(|lane| {
            let (i, j) = place(lane, e);
            (i as f32 - j as f32).to_bits()
        }));
    }
    let mut body =
        String::from("mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3; add.s64 %rd5, %rd2, %rd3;\n");
    for q in 0..10 {
        body += &format!("ld.global.b32 %r{}, [%rd4+{}];\n", 10 + q, 128 * q);
    }
    body += "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r20, %r21, %r22, %r23},
        {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%r16, %r17, %r18, %r19};\n";
    for e in 0..4 {
        body += &format!("st.global.b32 [%rd5+{}], %r{};\n", 128 * e, 20 + e);
    }
    let mut lab = Lab::new(&body, &input, 128);
    let report = lab.launch(LaunchShape::new(1, 32)).unwrap();
    let out = lab.words(128);
    for e in 0..4 {
        for lane in 0..32 {
            let (i, j) = place(lane, e);
            let sum: u32 = (0..16).map(|k| a(i, k) * b(k, j)).sum();
            let expected = sum as f32 + i as f32 - j as f32;
            assert_eq!(f32::from_bits(out[(e * 32 + lane) as usize]), expected, "row {i}, column {j}");
        }
    }
    let totals = report.counters.totals();
    assert_eq!((totals.mma, totals.macs), (1, 2048));
}

#[test]
fn exchanges_between_lanes() {
    let shuffle = |text: &str| run(&format!("{text}{STORE}"), &[0], 32);
    let bfly = shuffle("shfl.sync.bfly.b32 %r20, %r1, 1, 31, -1;");
    assert_eq!(bfly, (0..32).map(|lane| lane ^ 1).collect::<Vec<_>>());
    let up = shuffle(
        "shfl.sync.up.b32 %r20|%p1, %r1, 2, 0, -1; selp.b32 %r3, 100, 0, %p1; add.s32 %r20, %r20, %r3;",
    );
    assert_eq!(up[..4], [0, 1, 100, 101]);
    let down = shuffle("shfl.sync.down.b32 %r20, %r1, 2, 31, -1;");
    assert_eq!(down[29..], [31, 30, 31]);
    let segments = shuffle("shfl.sync.idx.b32 %r20, %r1, 3, 0x181f, -1;");
    assert_eq!((segments[0], segments[9], segments[31]), (3, 11, 27));
    let ballot = shuffle("setp.gt.u32 %p1, %r1, 29; vote.sync.ballot.b32 %r20, %p1, -1;");
    assert_eq!(ballot[0], 0xc000_0000);
    let votes = "setp.gt.u32 %p1, %r1, 29; vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, !%p1, -1;
        vote.sync.uni.pred %p4, %p1, -1; selp.b32 %r20, 1, 0, %p2; @%p3 add.s32 %r20, %r20, 2; @%p4 add.s32 %r20, %r20, 4;";
    assert_eq!(shuffle(votes)[7], 1);
    let matched = shuffle("and.b32 %r3, %r1, 3; match.any.sync.b32 %r20, %r3, -1;");
    assert_eq!(matched[1], 0x2222_2222);
    let all =
        shuffle("shr.u32 %r3, %r1, 5; match.all.sync.b32 %r20|%p1, %r3, -1; selp.b32 %r20, %r20, 0, %p1;");
    assert_eq!(all[0], u32::MAX);
    assert_eq!(shuffle("redux.sync.add.s32 %r20, %r1, -1;")[3], 496);
    assert_eq!(shuffle("neg.s32 %r3, %r1; redux.sync.min.s32 %r20, %r3, -1;")[3] as i32, -31);
    assert_eq!(shuffle("elect.sync %r20|%p1, -1; @!%p1 mov.b32 %r20, 77;")[..2], [0, 77]);
    assert_eq!(shuffle("activemask.b32 %r20;")[0], u32::MAX);
}

#[test]
fn halves_of_a_warp_exchange_by_themselves() {
    // Both halves come to the same shuffle together, each with its own mask.
    let body = format!(
        "setp.lt.u32 %p1, %r1, 16; selp.b32 %r3, 0xffff, 0xffff0000, %p1;
  shfl.sync.bfly.b32 %r20, %r1, 8, 31, %r3;{STORE}"
    );
    assert_eq!(run(&body, &[0], 32), (0..32).map(|lane| lane ^ 8).collect::<Vec<_>>());
}

#[test]
fn barriers_with_reductions_and_parts_of_a_cta() {
    let red = |text: &str| run(&format!("setp.lt.u32 %p1, %r1, 40; {text}{STORE}"), &[0], 96)[95];
    assert_eq!(red("bar.red.popc.u32 %r20, 0, %p1;"), 40);
    assert_eq!(red("bar.red.and.pred %p2, 0, %p1; selp.b32 %r20, 1, 0, %p2;"), 0);
    assert_eq!(red("bar.red.or.pred %p2, 0, !%p1; selp.b32 %r20, 1, 0, %p2;"), 1);
    // Producer and consumer: warp 0 fills, arrives and goes on; the others wait.
    let body = format!(
        "mov.u32 %r10, dynamic; setp.lt.u32 %p1, %r1, 32; @!%p1 bra $consume;
  setp.eq.u32 %p2, %r1, 0; @%p2 st.shared.b32 [%r10], 42; bar.arrive 3, 96; mov.b32 %r20, 1; bra $end;
$consume: bar.sync 3, 96; ld.shared.b32 %r20, [%r10]; $end:{STORE}"
    );
    let out = run(&body, &[0], 96);
    assert_eq!((out[0], out[32], out[95]), (1, 42, 42));
}

#[test]
fn cache_policies_and_prefetches_change_nothing() {
    let body = "createpolicy.fractional.L2::evict_first.b64 %rd3, 0f3F800000; prefetch.global.L2 [%rd1];
  ld.global.L2::cache_hint.b32 %r20, [%rd1], %rd3;";
    assert_eq!(eval(body, &[9]), 9);
}
