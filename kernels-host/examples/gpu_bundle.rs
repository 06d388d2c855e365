//! Packs what a GPU has to be asked into a folder: the acceptance suite, the benchmark, the capture of single instructions,
//! the image, and a script that runs them and ends with a table. The folder runs on any x86-64 Linux with an NVIDIA
//! driver and a C library no older than this machine's; it needs neither Rust nor CUDA.
//!
//! ```text
//! cargo run -p lacuna-kernels-host --features emulator --example gpu_bundle -- FOLDER
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The suites that have something to ask a GPU.
const SUITES: [&str; 18] = [
    "drivers",
    "graph",
    "merge_state",
    "dense_attention",
    "block_sparse_attention",
    "decode_attention",
    "probe",
    "block_pool",
    "flex_prefill",
    "antidiagonal_score",
    "block_select",
    "block_mask",
    "x_attention",
    "vertical_slash",
    "column_mass",
    "top_k",
    "gather_rows",
    "k_means",
];

const RUN: &str = r#"#!/bin/sh
# Runs the acceptance suite, a small part of it under compute-sanitizer where that is installed, the capture of instructions
# (into captured/) and the benchmark on the first CUDA device; a table of what passed comes last.
# Arguments go to the suites: names of tests, for instance.
cd "$(dirname "$0")" || exit 2
export LACUNA_PTX=sm_80.ptx REQUIRE_GPU=1
table=""
failed=0
for suite in suites/*; do
    name=$(basename "$suite")
    if "$suite" "$@" > "$name.log" 2>&1; then result=passed; else result=FAILED; failed=1; fi
    counts=$(sed -n 's/^test result: [a-zA-Z]*\. //p' "$name.log" | tail -n 1)
    table="$table$(printf '%-34s %-7s %s' "$name" "$result" "$counts")
"
done
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        for suite in suites/*_*; do
            name="$(basename "$suite") $tool"
            log="$(basename "$suite").$tool.log"
            # Tests of few CTAs: the sanitizer is slow.
            if compute-sanitizer --tool "$tool" --error-exitcode 9 "$suite" exact many_parts > "$log" 2>&1
            then result=passed; else result=FAILED; failed=1; fi
            table="$table$(printf '%-34s %s' "$name" "$result")
"
        done
    done
else
    table="${table}compute-sanitizer is not installed: not run
"
fi
./capture captured || failed=1
./gpu > gpu.log 2>&1 || failed=1
cat gpu.log
printf '\n%s' "$table"
[ "$failed" = 0 ] || echo "The logs of what failed lie beside this script."
exit "$failed"
"#;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1).filter(|arg| !arg.starts_with('-')) else {
        eprintln!("usage: gpu_bundle FOLDER");
        return ExitCode::FAILURE;
    };
    match pack(Path::new(&folder)) {
        Ok(()) => {
            println!("{folder}: copy it to the machine with the GPU and start run.sh");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn pack(folder: &Path) -> Result<(), String> {
    let suites = folder.join("suites");
    let make = |path: &Path| fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()));
    make(&suites)?;
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut test = vec!["test", "--no-run"];
    SUITES.iter().for_each(|suite| test.extend(["--test", suite]));
    for (name, built) in built(crate_folder, &test)? {
        copy(&built, &suites.join(name))?;
    }
    for (name, built) in built(crate_folder, &["bench", "--bench", "gpu", "--no-run"])? {
        copy(&built, &folder.join(name))?;
    }
    for (name, built) in built(crate_folder, &["build", "--example", "capture"])? {
        copy(&built, &folder.join(name))?;
    }
    copy(&crate_folder.join("../ptx/sm_80.ptx"), &folder.join("sm_80.ptx"))?;
    let script = folder.join("run.sh");
    fs::write(&script, RUN).map_err(|e| format!("{}: {e}", script.display()))?;
    executable(&script)
}

/// Builds this crate's targets with `cargo command`; their names and executables.
fn built(crate_folder: &Path, command: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let release: &[&str] = if command[0] == "bench" { &[] } else { &["--release"] };
    let output = Command::new(cargo)
        .args(command)
        .args(release)
        // A sixth of the size, for the way to the other machine.
        .args(["--config", "profile.release.strip=true", "--config", "profile.release.debug=false"])
        .args(["--features", "gpu-tests,emulator", "--message-format", "json-render-diagnostics"])
        .current_dir(crate_folder)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo {} failed", command.join(" ")));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let found: Vec<(String, PathBuf)> = messages
        .filter_map(|message| {
            let executable = message.get("executable")?.as_str()?;
            Some((message.pointer("/target/name")?.as_str()?.to_owned(), executable.into()))
        })
        .collect();
    if found.is_empty() { Err(format!("cargo {} built nothing", command.join(" "))) } else { Ok(found) }
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(drop).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|e| format!("{}: {e}", path.display()))
}

#[cfg(not(unix))]
fn executable(_path: &Path) -> Result<(), String> {
    Ok(())
}
