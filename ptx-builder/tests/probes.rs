//! The hazard the pipeline exists for, and whether it still prevents it: a warp-synchronous instruction between two branches
//! on the same lane-dependent condition must stay one instruction that every path executes. Needs the kernel toolchain.

use std::path::{Path, PathBuf};

use ptx_builder::{Image, OptLevel, PtxBuilder, Toolchain};

/// The kernels of the fixture that probe it, and the instruction in each.
const PROBES: [(&str, &str); 4] = [
    ("barrier_by_asm", "bar.sync"),
    ("barrier_by_intrinsic", "bar.sync"),
    ("shuffle_by_pure_asm", "shfl.sync.bfly"),
    ("mma_by_intrinsic", "mma.sync.aligned"),
];

/// The toolchain, or a reason to skip on standard error.
fn toolchain() -> Option<Toolchain> {
    match Toolchain::find() {
        Ok(found) => Some(found),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// A copy of the fixture in a folder of its own, and where it is built.
fn fixture(name: &str) -> (PathBuf, PathBuf) {
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (copy, source) = (base.join("fixture"), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture"));
    std::fs::create_dir_all(copy.join("src")).unwrap();
    for file in ["Cargo.toml", "Cargo.lock", "src/lib.rs"] {
        std::fs::copy(source.join(file), copy.join(file)).unwrap();
    }
    (copy, base.join("work"))
}

/// The lines of a kernel's body, without indentation.
fn body<'a>(ptx: &'a str, kernel: &str) -> Vec<&'a str> {
    let (_, rest) = ptx.split_once(&format!(".entry {kernel}(")).expect("the kernel is there");
    let (_, rest) = rest.split_once("\n{\n").expect("it has a body");
    rest.split("\n}\n").next().unwrap_or_default().lines().map(str::trim).collect()
}

/// Whether control can go from the first line to the kernel's end without passing `line`.
fn can_avoid(body: &[&str], line: usize) -> bool {
    let target = |label: &str| body.iter().position(|other| other.strip_suffix(':') == Some(label));
    let (mut open, mut seen) = (vec![0], vec![false; body.len()]);
    while let Some(at) = open.pop() {
        if at >= body.len() {
            return true;
        }
        if at == line || std::mem::replace(&mut seen[at], true) {
            continue;
        }
        let words: Vec<_> = body[at].trim_end_matches(';').split_whitespace().collect();
        let guarded = words[0].starts_with('@');
        let (opcode, operand) = (words[usize::from(guarded)], words.last().copied().unwrap_or_default());
        if opcode == "ret" || opcode == "exit" {
            return true;
        }
        if opcode.starts_with("bra") {
            open.push(target(operand).expect("branches go to labels"));
        }
        if guarded || !opcode.starts_with("bra") {
            open.push(at + 1);
        }
    }
    false
}

#[test]
fn the_walk_sees_what_a_branch_can_avoid() {
    let straight = ["@%p1 bra $L2;", "st.global.b32 [%rd1], 1;", "$L2:", "bar.sync 0;", "ret;"];
    assert!(!can_avoid(&straight, 3));
    assert!(can_avoid(&straight, 1));
    let copied = ["@%p1 bra $L2;", "bar.sync 0;", "bra.uni $L3;", "$L2:", "bar.sync 0;", "$L3:", "ret;"];
    assert!(can_avoid(&copied, 1) && can_avoid(&copied, 4));
}

fn check_probes(image: &Image) {
    for (kernel, instruction) in PROBES {
        let body = body(&image.ptx, kernel);
        let copies: Vec<_> = (0..body.len()).filter(|&line| body[line].contains(instruction)).collect();
        assert_eq!(copies.len(), 1, "{kernel} has {} copies of {instruction}", copies.len());
        assert!(!body[copies[0]].starts_with('@'), "{kernel}: {} is guarded", body[copies[0]]);
        assert!(!can_avoid(&body, copies[0]), "{kernel}: {instruction} stands in a branch");
    }
}

#[test]
fn the_pipeline_keeps_warps_together_and_depends_on_no_folder() {
    let Some(toolchain) = toolchain() else { return };
    let builder = |name: &str| {
        let (crate_dir, work_dir) = fixture(name);
        PtxBuilder::new(crate_dir).toolchain(toolchain.clone()).work_dir(work_dir)
    };
    let here = builder("here");
    let quick = here.clone().opt_level(OptLevel::O1).build().unwrap();
    let image = here.build().unwrap();
    for image in [&quick, &image] {
        check_probes(image);
        assert_eq!((image.convergent.asm, image.convergent.mma), (2, 1));
    }
    assert!(image.ptx.contains(".maxntid 64, 1, 1\n.minnctapersm 1\n.maxnreg 40\n"));
    assert!(image.ptx.contains("call.uni _RNvNtC4core9panicking18panic_bounds_check, ();"));
    assert!(image.lines.starts_with("ptx-lines 1\nfile src/lib.rs\n"), "{}", image.lines);

    let elsewhere = builder("elsewhere/deeper").build().unwrap();
    assert_eq!(elsewhere.ptx, image.ptx);
    assert_eq!(elsewhere.lines, image.lines);
}
