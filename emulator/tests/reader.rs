//! What the reader accepts, what it refuses and how, and that nothing makes it panic.

mod common;

use common::kernel;
use lacuna_emulator::{Arch, Arg, FaultKind, LaunchShape, Machine, ReadError};
use proptest::prelude::*;

fn read(text: &str) -> Result<(), ReadError> {
    Machine::new(Arch::Sm90a).load_module(text, None).map(drop)
}

/// The error of a kernel with this line, which is line 8 of the text.
#[track_caller]
fn refused(line: &str, text: &str) {
    let error = read(&kernel(line)).expect_err(line);
    assert_eq!(error.line, 8, "{error}");
    assert!(error.message.contains(text), "{line}: {error}");
}

#[test]
fn what_is_not_in_the_list_is_an_error_with_its_line() {
    refused("frobnicate.b32 %r1, %r2;", "`frobnicate.b32` is not supported");
    refused("add.rn.sloppy.f32 %r1, %r2, %r3;", "found `sloppy`");
    refused("ld.global.v3.b32 %r1, [%rd1];", "`v3`");
    refused("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r1}, {%r1}, {%r1};", "`.m8n8k4`");
    refused("shfl.bfly.b32 %r1, %r2, 1, 31;", "sync");
    refused("setp.lt.b32 %p1, %r1, %r2;", "not supported");
    refused("fma.f32 %r1, %r2, %r3, %r4;", "not supported");
    refused("cvt.f32.s32 %r1, %r2;", "not supported");
    refused("cp.async.cg.shared.global [%r1], [%rd1], 4;", "`4`");
    refused("bar.sync;", "expected a barrier");
    refused("wgmma.fence.sync.aligned;", "not supported");
}

#[test]
fn operands_are_checked() {
    refused("add.s32 %r1, %r2;", "expected 3 operands, found 2");
    refused("add.s32 %r1, %r99, 1;", "`%r99`");
    refused("add.s32 %r1, %rd2, 1;", "`%rd2` has 64 bits, expected 32");
    refused("add.s32 %rd1, %r2, 1;", "destination `%rd1` has 64 bits, expected 32");
    refused("mov.u32 %tid.x, 1;", "cannot be written");
    refused("ld.global.b32 %r1, %rd1;", "expected an address in brackets");
    refused("ld.global.b32 %r1, [%p1];", "cannot hold an address");
    refused("ld.global.v2.b32 {%r1, %r2, %r3}, [%rd1];", "expected 2 registers, found 3");
    refused("@%q1 bra $L; $L:", "`%q1`");
    refused("bra $nowhere;", "`$nowhere` is not defined");
    refused("$L: $L: bra $L;", "defined twice");
    refused("call.uni nobody, ();", "not declared");
    refused(".reg .b32 %x<;", "expected a count");
    refused("mov.b32 %r1, {%rs1, %rs2, %rs3};", "not supported");
}

#[test]
fn modules_are_checked() {
    let refuse = |text: &str, expected: &str| {
        let error = read(text).expect_err(text);
        assert!(error.message.contains(expected), "{error}");
    };
    refuse(".version 7.0\n.target sm_80\n.address_size 32\n", "64");
    refuse(".target gfx90a\n", "sm_NN");
    refuse("nonsense", "top level");
    refuse(".visible .entry k() { ret;", "never closed");
    refuse(".visible .entry k(.param .u64 a[x]) { ret; }", "array size");
    refuse(".visible .entry k() .explicitcluster { ret; }", "`.explicitcluster`");
    refuse(".visible .entry k();", "no body");
    refuse(".global .b8 x[2] = {1, 2, 3};", "more initial values");
    let error = Machine::new(Arch::Sm80).load_module(".target sm_90a\n", None).unwrap_err();
    assert!(error.message.contains("sm_80"), "{error}");
}

#[test]
fn panics_have_names_and_lines() {
    let ptx = "//
.version 7.0
.target sm_80
.address_size 64
.func _ZN4core9panicking18panic_bounds_check17h0123456789abcdefE(.param .b64 a, .param .b64 b) .noreturn { trap; }
.global .align 1 .b8 message[6] = {104, 101, 108, 108, 111, 0};
.global .align 8 .u64 slice[2] = {generic(message), 5};
.visible .entry k()
{
  .reg .b64 %rd<4>; .reg .b16 %rs<2>;
  mov.b64 %rd1, slice;
  ld.global.b64 %rd2, [%rd1];
  ld.b8 %rs1, [%rd2+4];
  { // callseq 0, 0
  .param .b64 param0;
  st.param.b64 [param0], %rd1;
  .param .b64 param1;
  st.param.b64 [param1], 7;
  call.uni
  _ZN4core9panicking18panic_bounds_check17h0123456789abcdefE,
  (
  param0,
  param1
  );
  } // callseq 0
  // begin inline asm
  trap;
  // end inline asm
}";
    let lines = "ptx-lines 1\nfile a.rs\nat 0:3\nat 0:9 0\n11 0\n19 1\n";
    let mut machine = Machine::new(Arch::Sm80);
    let module = machine.load_module(ptx, Some(lines)).unwrap();
    assert_eq!(machine.kernel_names(module).collect::<Vec<_>>(), ["k"]);
    let kernel = machine.kernel(module, "k").unwrap();
    let found = machine.launch(kernel, &LaunchShape::new(1, 1), &[]).unwrap_err();
    assert_eq!(found.kind(), FaultKind::Panic);
    assert!(found.message().contains("core::panicking::panic_bounds_check"), "{found}");
    let site = found.site().unwrap();
    assert_eq!(site.ptx_line, 19);
    assert_eq!(site.source.as_ref().unwrap().to_string(), "a.rs:9, inlined at a.rs:3");
}

#[test]
fn debug_directives_are_skipped() {
    let ptx = ".version 7.0\n.target sm_80, debug\n.address_size 64\n.file 1 \"a;b{.rs\"
.visible .entry k()\n{\n.loc 1 2 3\n ret;\n .loc 1 2 3, function_name $L__info_string0, inlined_at 1 2 3\n}
.section .debug_str\n{\n.b8 1, 2\n$L__info_string0:\n.b8 3\n}\n";
    read(ptx).unwrap();
    let mut machine = Machine::new(Arch::Sm80);
    let module = machine.load_module(ptx, None).unwrap();
    let kernel = machine.kernel(module, "k").unwrap();
    let none: [Arg; 0] = [];
    machine.launch(kernel, &LaunchShape::new(1, 1), &none).unwrap();
}

/// Pieces of PTX that a random text is made of.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "add",
        ".s32",
        ".f32",
        "ld",
        ".global",
        ".v2",
        "mov",
        ".b64",
        "%r1",
        "%rd1",
        "%p1",
        "%tid.x",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ",",
        ";",
        ":",
        "@",
        "!",
        "|",
        "+",
        "-",
        "$L",
        " ",
        "\n",
        "0x",
        "1",
        "0f3F800000",
        "bra",
        "call.uni",
        ".reg",
        ".b32",
        "<4>",
        ".param",
        ".align",
        ".entry",
        ".func",
        ".shared",
        "=",
        "\"",
        "/*",
        "//",
        "mma.sync",
        ".aligned",
        "cp.async",
        "setp",
        ".lt",
        "bar.sync",
        "cvt",
        ".rn",
        "é",
        "99999999999999999999",
        ".version",
        ".target",
        "sm_80",
    ];
    prop_oneof![prop::sample::select(words.to_vec()).prop_map(str::to_owned), "\\PC{0,6}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn garbage_is_an_error_and_never_a_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        let text = pieces.concat();
        let _ = read(&text);
        let _ = read(&kernel(&text));
    }

    #[test]
    fn a_damaged_kernel_never_panics(at in 0usize..4000, piece in piece(), cut in 0usize..12) {
        let good = kernel(include_str!("ptx/sample.body"));
        let mut at = at % good.len();
        while !good.is_char_boundary(at) { at -= 1; }
        let mut end = (at + cut).min(good.len());
        while !good.is_char_boundary(end) { end -= 1; }
        let text = format!("{}{piece}{}", &good[..at], &good[end.max(at)..]);
        let _ = read(&text);
    }
}
