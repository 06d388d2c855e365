//! One instruction at a time, against results worked out by hand from the PTX ISA.

mod common;

use common::{LOAD, STORE, eval, run};

const M1: u64 = 0xffff_ffff;

#[test]
fn integers_of_32_bits() {
    let cases: &[(&str, &[u64], u64)] = &[
        ("add.s32 %r20, %r10, %r11;", &[M1, 2], 1),
        ("sub.u32 %r20, %r10, %r11;", &[1, 2], M1),
        ("add.sat.s32 %r20, %r10, %r11;", &[0x7fff_ffff, 1], 0x7fff_ffff),
        ("sub.sat.s32 %r20, %r10, %r11;", &[0x8000_0000, 1], 0x8000_0000),
        ("mul.lo.s32 %r20, %r10, %r11;", &[M1, 3], 0xffff_fffd),
        ("mul.hi.u32 %r20, %r10, %r11;", &[M1, M1], 0xffff_fffe),
        ("mul.hi.s32 %r20, %r10, %r11;", &[M1, 5], M1),
        ("mad.lo.s32 %r20, %r10, %r11, %r12;", &[3, 4, 5], 17),
        ("mad.hi.u32 %r20, %r10, %r11, %r12;", &[M1, 2, 5], 6),
        ("mad.hi.s32 %r20, %r10, %r11, %r12;", &[M1, 2, 5], 4),
        ("div.s32 %r20, %r10, %r11;", &[0xffff_fff9, 2], 0xffff_fffd),
        ("div.u32 %r20, %r10, %r11;", &[0xffff_fff9, 2], 0x7fff_fffc),
        ("rem.s32 %r20, %r10, %r11;", &[0xffff_fff9, 2], M1),
        ("rem.u32 %r20, %r10, %r11;", &[7, 4], 3),
        ("div.s32 %r20, %r10, %r11;", &[0x8000_0000, M1], 0x8000_0000),
        ("min.s32 %r20, %r10, %r11;", &[M1, 1], M1),
        ("min.u32 %r20, %r10, %r11;", &[M1, 1], 1),
        ("max.s32 %r20, %r10, %r11;", &[M1, 1], 1),
        ("max.u32 %r20, %r10, %r11;", &[M1, 1], M1),
        ("neg.s32 %r20, %r10;", &[1], M1),
        ("abs.s32 %r20, %r10;", &[M1], 1),
        ("and.b32 %r20, %r10, %r11;", &[0b1100, 0b1010], 0b1000),
        ("or.b32 %r20, %r10, %r11;", &[0b1100, 0b1010], 0b1110),
        ("xor.b32 %r20, %r10, %r11;", &[0b1100, 0b1010], 0b0110),
        ("not.b32 %r20, %r10;", &[0], M1),
        ("shl.b32 %r20, %r10, %r11;", &[3, 31], 0x8000_0000),
        ("shl.b32 %r20, %r10, %r11;", &[3, 32], 0),
        ("shr.u32 %r20, %r10, %r11;", &[0x8000_0000, 31], 1),
        ("shr.u32 %r20, %r10, 40;", &[M1], 0),
        ("shr.s32 %r20, %r10, 40;", &[0x8000_0000], M1),
        ("shr.b32 %r20, %r10, 4;", &[0xf0], 0xf),
        ("bfe.u32 %r20, %r10, %r11, %r12;", &[0xabcd_1234, 8, 8], 0x12),
        ("bfe.u32 %r20, %r10, %r11, %r12;", &[0xabcd_1234, 24, 32], 0xab),
        ("bfe.u32 %r20, %r10, %r11, %r12;", &[0xabcd_1234, 0, 0], 0),
        ("bfe.s32 %r20, %r10, %r11, %r12;", &[0x0000_8000, 8, 8], 0xffff_ff80),
        ("bfe.s32 %r20, %r10, %r11, %r12;", &[0x8000_0000, 28, 16], 0xffff_fff8),
        ("bfi.b32 %r20, %r10, %r11, 8, 4;", &[0xff, 0], 0xf00),
        ("bfi.b32 %r20, %r10, %r11, 40, 4;", &[0xff, 7], 7),
        ("bfind.u32 %r20, %r10;", &[0x0010_0000], 20),
        ("bfind.u32 %r20, %r10;", &[0], M1),
        ("bfind.s32 %r20, %r10;", &[0xffff_ffef], 4),
        ("bfind.shiftamt.u32 %r20, %r10;", &[0x0010_0000], 11),
        ("clz.b32 %r20, %r10;", &[1], 31),
        ("clz.b32 %r20, %r10;", &[0], 32),
        ("popc.b32 %r20, %r10;", &[0xf0f0], 8),
        ("brev.b32 %r20, %r10;", &[1], 0x8000_0000),
        ("prmt.b32 %r20, %r10, %r11, 0x5410;", &[0x3322_1100, 0x7766_5544], 0x5544_1100),
        ("prmt.b32 %r20, %r10, %r11, 0x7632;", &[0x3322_1100, 0x7766_5544], 0x7766_3322),
        ("prmt.b32 %r20, %r10, %r11, 0x0008;", &[0x0000_0080, 0], 0x8080_80ff),
        ("shf.l.wrap.b32 %r20, %r10, %r11, %r12;", &[0x8000_0000, 1, 33], 3),
        ("shf.l.clamp.b32 %r20, %r10, %r11, %r12;", &[0x8000_0000, 1, 33], 0x8000_0000),
        ("shf.r.wrap.b32 %r20, %r10, %r11, %r12;", &[0x8000_0000, 1, 4], 0x1800_0000),
        ("shf.r.clamp.b32 %r20, %r10, %r11, %r12;", &[5, 6, 99], 6),
        ("lop3.b32 %r20, %r10, %r11, %r12, 0xE8;", &[0b1100, 0b1010, 0b0110], 0b1110),
        ("lop3.b32 %r20, %r10, %r11, %r12, 0x96;", &[0b1100, 0b1010, 0b0110], 0),
        ("dp4a.s32.s32 %r20, %r10, %r11, %r12;", &[0xff02_0304, 0x0101_0101, 10], 18),
        ("dp4a.u32.u32 %r20, %r10, %r11, %r12;", &[0xff02_0304, 0x0101_0101, 10], 274),
    ];
    for &(text, values, expected) in cases {
        assert_eq!(eval(text, values), expected, "{text} of {values:#x?}");
    }
}

#[test]
fn integers_of_16_and_64_bits() {
    let min = 1u64 << 63;
    let cases: &[(&str, &[u64], u64)] = &[
        ("add.s16 %rs20, %rs10, %rs11;", &[0xffff, 2], 1),
        ("mul.lo.s16 %rs20, %rs10, %rs11;", &[0x100, 0x101], 0x100),
        ("mul.hi.u16 %rs20, %rs10, %rs11;", &[0x8000, 4], 2),
        ("mul.wide.s16 %r20, %rs10, %rs11;", &[0xffff, 5], 0xffff_fffb),
        ("mul.wide.u16 %r20, %rs10, %rs11;", &[0xffff, 5], 0x4_fffb),
        ("mad.lo.s16 %rs20, %rs10, %rs11, %rs12;", &[300, 300, 1], (90001 & 0xffff) as u64),
        ("shl.b16 %rs20, %rs10, 15;", &[3], 0x8000),
        ("shr.s16 %rs20, %rs10, 4;", &[0x8000], 0xf800),
        ("shr.u16 %rs20, %rs10, 4;", &[0x8000], 0x0800),
        ("not.b16 %rs20, %rs10;", &[1], 0xfffe),
        ("neg.s16 %rs20, %rs10;", &[1], 0xffff),
        ("min.s16 %rs20, %rs10, %rs11;", &[0xffff, 1], 0xffff),
        ("max.u16 %rs20, %rs10, %rs11;", &[0xffff, 1], 0xffff),
        ("div.s16 %rs20, %rs10, %rs11;", &[0xfff9, 2], 0xfffd),
        ("add.s64 %rd20, %rd10, %rd11;", &[u64::MAX, 2], 1),
        ("mul.lo.s64 %rd20, %rd10, %rd11;", &[u64::MAX, 3], u64::MAX - 2),
        ("mul.hi.u64 %rd20, %rd10, %rd11;", &[min, 6], 3),
        ("mul.hi.s64 %rd20, %rd10, %rd11;", &[u64::MAX, 6], u64::MAX),
        ("mul.wide.u32 %rd20, %r10, %r11;", &[M1, M1], 0xffff_fffe_0000_0001),
        ("mul.wide.s32 %rd20, %r10, %r11;", &[M1, 7], (-7i64) as u64),
        ("mad.wide.u32 %rd20, %r10, %r11, %rd12;", &[M1, 2, 5], 0x2_0000_0003),
        ("mad.wide.s32 %rd20, %r10, %r11, %rd12;", &[M1, 2, 5], 3),
        ("mad.lo.s64 %rd20, %rd10, %rd11, %rd12;", &[1 << 40, 8, 5], (8 << 40) + 5),
        ("div.u64 %rd20, %rd10, %rd11;", &[u64::MAX, 16], u64::MAX / 16),
        ("rem.s64 %rd20, %rd10, %rd11;", &[(-7i64) as u64, 4], (-3i64) as u64),
        ("shl.b64 %rd20, %rd10, %r11;", &[1, 63], min),
        ("shr.s64 %rd20, %rd10, %r11;", &[min, 99], u64::MAX),
        ("shr.u64 %rd20, %rd10, %r11;", &[min, 64], 0),
        ("clz.b64 %r20, %rd10;", &[1 << 40], 23),
        ("popc.b64 %r20, %rd10;", &[u64::MAX], 64),
        ("brev.b64 %rd20, %rd10;", &[1], min),
        ("bfind.u64 %r20, %rd10;", &[1 << 40], 40),
        ("bfe.u64 %rd20, %rd10, 36, 8;", &[0xabc_0000_0000], 0xbc >> 4 | 0xa0),
        ("bfe.s64 %rd20, %rd10, 60, 4;", &[min], (-8i64) as u64),
        ("bfi.b64 %rd20, %rd10, %rd11, 60, 8;", &[0xff, 0], 0xf << 60),
        ("min.s64 %rd20, %rd10, %rd11;", &[min, 1], min),
        ("neg.s64 %rd20, %rd10;", &[1], u64::MAX),
        ("abs.s64 %rd20, %rd10;", &[u64::MAX], 1),
        ("add.cc.u32 %r20, %r10, %r11; addc.u32 %r20, %r12, 0;", &[M1, 1, 5], 6),
        ("sub.cc.u32 %r20, %r10, %r11; subc.u32 %r20, %r12, 0;", &[0, 1, 5], 4),
        ("sub.cc.u32 %r20, %r10, %r11; subc.u32 %r20, %r12, 0;", &[1, 1, 5], 5),
        ("add.cc.u64 %rd20, %rd10, %rd11; addc.u64 %rd20, %rd12, 0;", &[u64::MAX, 1, 5], 6),
    ];
    for &(text, values, expected) in cases {
        assert_eq!(eval(text, values), expected, "{text} of {values:#x?}");
    }
}

#[test]
fn moves_selections_and_comparisons() {
    let nan = u64::from(f32::NAN.to_bits());
    let one = u64::from(1f32.to_bits());
    let cases: &[(&str, &[u64], u64)] = &[
        ("mov.b32 %r20, 0f3F800000;", &[], one),
        ("mov.b32 %r20, {%rs10, %rs11};", &[0x1234, 0xabcd], 0xabcd_1234),
        ("mov.b32 {%rs20, _}, %r10;", &[0xabcd_1234], 0x1234),
        ("mov.b64 %rd20, {%r10, %r11};", &[1, 2], 0x2_0000_0001),
        ("mov.b64 {_, %r20}, %rd10;", &[0x2_0000_0001], 2),
        ("mov.b64 %rd20, {%rs10, %rs11, %rs12, %rs10};", &[1, 2, 3], 0x0001_0003_0002_0001),
        ("mov.pred %p20, %p10;", &[1], 1),
        ("selp.b32 %r20, %r10, %r11, %p12;", &[7, 8, 1], 7),
        ("selp.b64 %rd20, %rd10, %rd11, %p12;", &[7, 8, 0], 8),
        ("setp.lt.s32 %p20, %r10, %r11;", &[M1, 1], 1),
        ("setp.lt.u32 %p20, %r10, %r11;", &[M1, 1], 0),
        ("setp.hi.u32 %p20, %r10, %r11;", &[M1, 1], 1),
        ("setp.ge.s16 %p20, %rs10, %rs11;", &[0xffff, 0], 0),
        ("setp.gt.u64 %p20, %rd10, %rd11;", &[1 << 40, 5], 1),
        ("setp.le.s64 %p20, %rd10, %rd11;", &[u64::MAX, 0], 1),
        ("setp.eq.b16 %p20, %rs10, 3;", &[0x1_0003], 1),
        ("setp.ne.b32 %p20, %r10, %r11;", &[1, 1], 0),
        ("setp.lt.and.s32 %p20, %r10, %r11, %p12;", &[1, 2, 0], 0),
        ("setp.lt.or.s32 %p20, %r10, %r11, !%p12;", &[3, 2, 0], 1),
        ("setp.lt.xor.s32 %p20, %r10, %r11, %p12;", &[1, 2, 1], 0),
        ("setp.lt.s32 %p1|%p20, %r10, %r11;", &[3, 2], 1),
        ("setp.eq.f32 %p20, %r10, %r11;", &[nan, nan], 0),
        ("setp.ne.f32 %p20, %r10, %r11;", &[nan, one], 0),
        ("setp.neu.f32 %p20, %r10, %r11;", &[nan, one], 1),
        ("setp.ltu.f32 %p20, %r10, %r11;", &[nan, one], 1),
        ("setp.gt.f32 %p20, %r10, %r11;", &[one, 0x8000_0000], 1),
        ("setp.eq.f32 %p20, %r10, %r11;", &[0, 0x8000_0000], 1),
        ("setp.eq.ftz.f32 %p20, %r10, 0f00000000;", &[1], 1),
        ("setp.num.f32 %p20, %r10, %r11;", &[nan, one], 0),
        ("setp.nan.f32 %p20, %r10, %r11;", &[nan, one], 1),
        ("set.lt.u32.s32 %r20, %r10, %r11;", &[1, 2], M1),
        ("set.lt.f32.f32 %r20, %r10, %r11;", &[0, one], one),
        ("and.pred %p20, %p10, %p11;", &[1, 0], 0),
        ("xor.pred %p20, %p10, %p11;", &[1, 0], 1),
        ("not.pred %p20, %p10;", &[0], 1),
        ("cvt.u32.u16 %r20, %rs10;", &[0xffff], 0xffff),
        ("cvt.s32.s16 %r20, %rs10;", &[0xffff], M1),
        ("cvt.s64.s32 %rd20, %r10;", &[M1], u64::MAX),
        ("cvt.u64.u32 %rd20, %r10;", &[M1], M1),
        ("cvt.u32.u64 %r20, %rd10;", &[0x5_0000_0007], 7),
        ("cvt.s16.s8 %rs20, %rs10;", &[0x80], 0xff80),
        ("cvt.sat.u8.s32 %r20, %r10;", &[300], 255),
        ("cvt.sat.s8.s32 %r20, %r10;", &[0xffff_0000], 0xffff_ff80),
        ("cvt.rn.f32.s32 %r20, %r10;", &[M1], u64::from((-1f32).to_bits())),
        ("cvt.rn.f32.u64 %r20, %rd10;", &[1 << 40], u64::from(((1u64 << 40) as f32).to_bits())),
        ("cvt.rzi.s32.f32 %r20, %r10;", &[u64::from((-2.7f32).to_bits())], 0xffff_fffe),
        ("cvt.rni.u32.f32 %r20, %r10;", &[u64::from(2.5f32.to_bits())], 2),
        ("cvt.rpi.f32.f32 %r20, %r10;", &[u64::from(2.1f32.to_bits())], u64::from(3f32.to_bits())),
        ("cvt.rzi.u32.f32 %r20, %r10;", &[nan], 0),
        ("cvt.rn.bf16.f32 %rs20, %r10;", &[one], 0x3f80),
        ("cvt.rn.f16x2.f32 %r20, %r10, %r11;", &[one, 0], 0x3c00_0000),
        ("cvt.f32.f16 %r20, %rs10;", &[0x3c00], one),
        ("cvt.sat.f32.f32 %r20, %r10;", &[u64::from(7f32.to_bits())], one),
        ("cvt.ftz.f32.f32 %r20, %r10;", &[0x8000_0001], 0x8000_0000),
    ];
    for &(text, values, expected) in cases {
        assert_eq!(eval(text, values), expected, "{text} of {values:#x?}");
    }
}

#[test]
fn floats() {
    let f = |x: f32| u64::from(x.to_bits());
    let cases: &[(&str, &[u64], u64)] = &[
        ("add.rn.f32 %r20, %r10, %r11;", &[f(1.0), f(2.0)], f(3.0)),
        ("sub.f32 %r20, %r10, %r11;", &[f(1.0), f(2.0)], f(-1.0)),
        ("mul.rn.ftz.f32 %r20, %r10, %r11;", &[1, f(1.0)], 0),
        ("add.rz.f32 %r20, %r10, %r11;", &[f(1.0), f(1e-9)], f(1.0)),
        ("add.rp.f32 %r20, %r10, %r11;", &[f(1.0), f(1e-9)], f(1.0) + 1),
        ("add.rn.sat.f32 %r20, %r10, %r11;", &[f(1.0), f(1.0)], f(1.0)),
        ("fma.rn.f32 %r20, %r10, %r11, %r12;", &[f(3.0), f(4.0), f(5.0)], f(17.0)),
        ("min.f32 %r20, %r10, %r11;", &[f(0.0), f(-0.0)], f(-0.0)),
        ("max.f32 %r20, %r10, %r11;", &[f(f32::NAN), f(2.0)], f(2.0)),
        ("max.NaN.f32 %r20, %r10, %r11;", &[f(f32::NAN), f(2.0)], 0x7fff_ffff),
        ("neg.f32 %r20, %r10;", &[f(0.0)], f(-0.0)),
        ("abs.f32 %r20, %r10;", &[f(-3.0)], f(3.0)),
        ("copysign.f32 %r20, %r10, %r11;", &[f(-1.0), f(3.0)], f(-3.0)),
        ("div.rn.f32 %r20, %r10, %r11;", &[f(1.0), f(3.0)], f(1.0 / 3.0)),
        ("div.approx.f32 %r20, %r10, %r11;", &[f(6.0), f(3.0)], f(2.0)),
        ("div.full.f32 %r20, %r10, %r11;", &[f(6.0), f(3.0)], f(2.0)),
        ("sqrt.rn.f32 %r20, %r10;", &[f(2.0)], f(2f32.sqrt())),
        ("rcp.rn.f32 %r20, %r10;", &[f(3.0)], f(1.0 / 3.0)),
        ("ex2.approx.ftz.f32 %r20, %r10;", &[f(3.0)], f(8.0)),
        ("ex2.approx.ftz.f32 %r20, %r10;", &[f(f32::NEG_INFINITY)], 0),
        ("lg2.approx.ftz.f32 %r20, %r10;", &[f(8.0)], f(3.0)),
        ("add.f16x2 %r20, %r10, %r11;", &[0x3c00_4000, 0x3c00_3c00], 0x4000_4200),
        ("fma.rn.bf16x2 %r20, %r10, %r11, %r12;", &[0x3f80_4000, 0x4000_4000, 0x3f80_3f80], 0x4040_40a0),
        ("fma.rn.relu.f16x2 %r20, %r10, %r11, %r12;", &[0xbc00_3c00, 0x3c00_3c00, 0], 0x0000_3c00),
        ("add.f16 %rs20, %rs10, %rs11;", &[0x3c00, 0x3c00], 0x4000),
        ("max.bf16x2 %r20, %r10, %r11;", &[0x3f80_bf80, 0x4000_4000], 0x4000_4000),
        ("neg.bf16x2 %r20, %r10;", &[0x3f80_bf80], 0xbf80_3f80),
    ];
    for &(text, values, expected) in cases {
        assert_eq!(eval(text, values), expected, "{text} of {values:#x?}");
    }
}

#[test]
fn special_registers() {
    let lanes = |text: &str| run(&format!("{text}{STORE}"), &[0], 64);
    assert_eq!(lanes("mov.u32 %r20, %laneid;")[33], 1);
    assert_eq!(lanes("mov.u32 %r20, %warpid;")[33], 1);
    assert_eq!(lanes("mov.u32 %r20, %nwarpid;")[0], 2);
    assert_eq!(lanes("mov.u32 %r20, %lanemask_lt;")[5], 0b11111);
    assert_eq!(lanes("mov.u32 %r20, %lanemask_ge;")[63], 1 << 31);
    assert_eq!(lanes("mov.u32 %r20, %lanemask_gt;")[31], 0);
    assert_eq!(lanes("mov.u32 %r20, %dynamic_smem_size;")[0], 4096);
    assert_eq!(lanes("mov.u32 %r20, %ntid.x;")[0], 64);
}

#[test]
fn branches_diverge_and_meet() {
    // Collatz lengths: a different number of rounds for every lane.
    let body = format!(
        "{LOAD} mov.b32 %r20, 0;
$loop: setp.eq.u32 %p1, %r10, 1; @%p1 bra $end;
  and.b32 %r11, %r10, 1; setp.eq.u32 %p2, %r11, 0; @%p2 bra $even;
  mad.lo.s32 %r10, %r10, 3, 1; bra.uni $next;
$even: shr.u32 %r10, %r10, 1;
$next: add.s32 %r20, %r20, 1; bra $loop;
$end: activemask.b32 %r21; popc.b32 %r21, %r21; shl.b32 %r21, %r21, 16; or.b32 %r20, %r20, %r21;{STORE}"
    );
    let input: Vec<u32> = (1..=64).collect();
    let steps = |mut x: u32| {
        let mut n = 0;
        while x != 1 {
            x = if x & 1 == 0 { x / 2 } else { 3 * x + 1 };
            n += 1;
        }
        n
    };
    let out = run(&body, &input, 64);
    for (x, got) in input.iter().zip(out) {
        assert_eq!(got, 32 << 16 | steps(*x), "all 32 lanes meet again at the end");
    }
}

#[test]
fn indexed_branches() {
    let body = format!(
        "{LOAD}
$table: .branchtargets $a, $b, $c;
  brx.idx %r10, $table;
$a: mov.b32 %r20, 10; bra $end;
$b: mov.b32 %r20, 11; bra $end;
$c: mov.b32 %r20, 12;
$end:{STORE}"
    );
    let input: Vec<u32> = (0..32).map(|i| i % 3).collect();
    assert_eq!(run(&body, &input, 32), input.iter().map(|i| 10 + i).collect::<Vec<_>>());
}

#[test]
fn scopes_hide_names() {
    let body = format!(
        "mov.b32 %r20, 1;
{{ .reg .b32 t; .reg .pred %p1; mov.b32 t, 5; setp.eq.u32 %p1, t, 5; @!%p1 bra L; add.s32 %r20, %r20, t; L: }}
{{ .reg .b32 t; mov.b32 t, 7; bra L; mov.b32 t, 100; L: add.s32 %r20, %r20, t; }}{STORE}"
    );
    assert_eq!(run(&body, &[0], 1), [13]);
}
