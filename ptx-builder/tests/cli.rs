//! The program from outside: help, exit codes, and what it says when files, rules or resources are not in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program, run in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ptx-builder"));
    command.current_dir(folder).args(arguments);
    command.env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli"));
    command.output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_fits_the_page_and_bad_arguments_end_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let help = run(folder.path(), &["--help"]);
    assert_eq!(code(&help), 0);
    let text = String::from_utf8(help.stdout).unwrap();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("Examples:") && text.contains("Exit codes:"));
    for (arguments, want) in [
        (&["--strange"][..], "unexpected argument"),
        (&[], "no kernels-gpu here or above"),
        (&["--crate", "none", "--out", "out"], "no crate there"),
        (&["--sass"], "--ptxas"),
        (&["--crate", env!("CARGO_MANIFEST_DIR")], "--crate wants --out"),
        (&["--crate", env!("CARGO_MANIFEST_DIR"), "--out", "out", "--ptxas", "none"], "none"),
    ] {
        let output = run(folder.path(), arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(want), "{arguments:?}: {}", stderr(&output));
    }
}

/// A stand-in for ptxas that accepts everything and says that each kernel of the fixture spills `spills` bytes.
#[cfg(unix)]
fn assembler(folder: &Path, spills: u32, message: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(format!("ptxas-{spills}"));
    let script = format!(
        "#!/bin/sh\nif [ $1 = --version ]; then echo 'release 1.2, V1.2.3'; exit; fi\n{{ echo '{message}'\n\
         for kernel in barrier_by_asm bounded; do\n\
         echo \"ptxas info : Compiling entry function '$kernel' for 'sm_80'\"\n\
         echo '    {spills} bytes stack frame, 0 bytes spill stores, 0 bytes spill loads'\n\
         echo 'ptxas info : Used 40 registers, used 1 barriers'; done; }} >&2\n"
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Builds the fixture; needs the kernel toolchain, and the pinned one where files are compared.
#[test]
#[cfg(unix)]
fn files_rules_and_resources_are_kept_in_order() {
    match ptx_builder::Toolchain::find() {
        Ok(found) if found.is_pinned() => {}
        Ok(found) => return eprintln!("skipped: {} is not the pinned compiler", found.version()),
        Err(error) => return eprintln!("skipped: {error}"),
    }
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture");
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let build = |more: &[&str]| {
        let mut arguments = vec!["--crate", fixture, "--out", "out"];
        arguments.extend(more);
        run(here, &arguments)
    };
    let expect = |output: &Output, want: i32, text: &str| {
        let all = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output));
        assert_eq!(code(output), want, "{all}");
        assert!(all.contains(text), "want `{text}` in\n{all}");
        assert!(all.is_ascii() && !all.contains('\x1b'), "colours or progress in a pipe: {all}");
    };

    expect(&build(&["--check"]), 1, "sm_80.ptx: ");
    assert!(!here.join("out").exists(), "a check writes nothing");
    expect(&build(&[]), 0, "5 kernels go without a record of registers");
    expect(&build(&[]), 0, "nothing: all up to date");
    expect(&build(&["--check"]), 0, "up to date");

    // Spills beyond the record want a reason, which then stands in the record and lasts.
    let spilling = assembler(here, 8, "");
    let spilling = spilling.to_str().unwrap();
    expect(&build(&["--ptxas", spilling]), 1, "[spills] barrier_by_asm\n        8 bytes");
    expect(
        &build(&["--ptxas", spilling, "--accept-spills", "for the test"]),
        0,
        "ptxas     1.2.3 accepts every image",
    );
    let manifest = fs::read_to_string(here.join("out/MANIFEST.toml")).unwrap();
    assert!(manifest.contains("spill_reason = \"for the test\"\n"), "{manifest}");
    assert!(
        manifest.contains("{ ptxas = \"1.2.3\", gpu = \"sm_86\", registers = 40, stack_bytes = 8,"),
        "{manifest}"
    );
    expect(&build(&["--check", "--ptxas", spilling]), 0, "up to date");
    expect(&build(&["--check"]), 0, "up to date");
    let more = assembler(here, 16, "");
    expect(
        &build(&["--check", "--ptxas", more.to_str().unwrap()]),
        1,
        "[spills] barrier_by_asm\n        16 bytes",
    );
    let complaining = assembler(here, 4, "ptxas info : (C7508) setmaxnreg ignored");
    expect(
        &build(&["--ptxas", complaining.to_str().unwrap()]),
        1,
        "[ptxas-message]\n        ptxas info : (C7508)",
    );

    // A difference is named by kernel and line.
    let image = here.join("out/sm_80.ptx");
    let text = fs::read_to_string(&image).unwrap();
    fs::write(&image, text.replacen("bar.sync 0;", "bar.sync 1;", 1)).unwrap();
    expect(&build(&["--check"]), 1, "sm_80.ptx: barrier_by_asm differs\n        is        line ");
}
