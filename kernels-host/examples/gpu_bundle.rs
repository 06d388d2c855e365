//! Packs what a GPU has to be asked into a folder: the acceptance suite, the benchmarks, the capture of single instructions,
//! the image, the `lacuna` program with a comparison of whole models on CPU and GPU, and a script that runs all of it and ends
//! with a table. The folder runs on any x86-64 Linux with an NVIDIA driver and a C library no older than this machine's; it
//! needs neither Rust nor CUDA.
//!
//! ```text
//! cargo run -p lacuna-kernels-host --features emulator --example gpu_bundle -- FOLDER
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The suites that have something to ask a GPU.
const SUITES: [&str; 24] = [
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
    "gemm",
    "rms_norm",
    "silu_mul",
    "rope",
    "argmax",
    "sample",
];

/// Programs of the runner: what a user has, whole models on CPU and GPU compared, and their rates.
const RUNNER: [&str; 7] =
    ["build", "--bin", "lacuna", "--example", "compare_devices", "--example", "device_rates"];

/// Configurations to measure rates with; the last for rehearsals.
const CONFIGS: [&str; 3] = ["llama_1b", "llama_8b", "tiny"];

const RUN: &str = r#"#!/bin/sh
# Runs the acceptance suite, a small part of it under compute-sanitizer where that is installed, the capture of instructions
# (into captured/), the benchmark of the kernels, the needle model on CPU and GPU compared, and the rates of whole models
# (into rates.json) on the first CUDA device; a table of what passed comes last.
# Arguments go to the suites: names of tests, for instance. DEVICE, TOKENS and RATES_TOKENS change where models run and on how
# many tokens: DEVICE=emulated TOKENS=300 RATES_TOKENS=100 rehearses without a GPU.
cd "$(dirname "$0")" || exit 2
export LACUNA_PTX=sm_80.ptx REQUIRE_GPU=1
device="${DEVICE:-cuda}"
table=""
failed=0

# step NAME COMMAND...: runs the command, keeps what it prints in NAME.log, and adds a line to the table.
step() {
    name="$1"
    shift
    if "$@" > "$name.log" 2>&1; then result=passed; else result=FAILED; failed=1; fi
    counts=$(sed -n 's/^test result: [a-zA-Z]*\. //p' "$name.log" | tail -n 1)
    table="$table$(printf '%-34s %-7s %s' "$name" "$result" "$counts")
"
    echo "$name: $result"
}

{
    date -u '+%Y-%m-%dT%H:%M:%SZ'
    cat commit.txt
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null || echo "no nvidia-smi"
} | tee about.txt

for suite in suites/*; do
    [ -e "$suite" ] && step "$(basename "$suite")" "$suite" "$@"
done
if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck; do
        for suite in suites/*_*; do
            # Tests of few CTAs: the sanitizer is slow.
            step "$(basename "$suite").$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "$suite" exact many_parts
        done
    done
else
    table="${table}compute-sanitizer is not installed: not run
"
fi
if [ "$device" != emulated ]; then
    step capture ./capture captured
    step gpu ./gpu
fi
step doctor ./lacuna doctor
step demo ./lacuna demo --device "$device" ${TOKENS:+--tokens "$TOKENS"}
step compare_devices ./compare_devices --device "$device" ${TOKENS:+--tokens "$TOKENS"}
step plan ./lacuna plan --model configs/llama_1b --length 32k
if [ "$device" = emulated ]; then configs=configs/tiny; else configs="configs/llama_1b configs/llama_8b"; fi
# shellcheck disable=SC2086
step device_rates ./device_rates $configs --device "$device" --json rates.json ${RATES_TOKENS:+--tokens "$RATES_TOKENS"}

for log in gpu demo compare_devices plan device_rates; do
    [ -e "$log.log" ] && { printf '\n== %s\n' "$log"; cat "$log.log"; }
done
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
            println!(
                "{folder}: copy it to the machine with the GPU (packed with tar cJf it is small) and start run.sh"
            );
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
    const FEATURES: [&str; 2] = ["--features", "gpu-tests,emulator"];
    for (name, built) in built(crate_folder, &test, &FEATURES)? {
        copy(&built, &suites.join(name))?;
    }
    for (name, built) in built(crate_folder, &["bench", "--bench", "gpu", "--no-run"], &FEATURES)? {
        copy(&built, &folder.join(name))?;
    }
    for (name, built) in built(crate_folder, &["build", "--example", "capture"], &FEATURES)? {
        copy(&built, &folder.join(name))?;
    }
    let root = crate_folder.join("..");
    for (name, built) in built(&root.join("runner"), &RUNNER, &[])? {
        copy(&built, &folder.join(name))?;
    }
    copy(&root.join("ptx/sm_80.ptx"), &folder.join("sm_80.ptx"))?;
    for config in CONFIGS {
        let to = folder.join("configs").join(config);
        make(&to)?;
        copy(&root.join("benches/configs").join(config).join("config.json"), &to.join("config.json"))?;
    }
    write(&folder.join("commit.txt"), &commit(&root))?;
    let script = folder.join("run.sh");
    write(&script, RUN)?;
    executable(&script)
}

/// The commit that is packed, where git knows one.
fn commit(root: &Path) -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(root).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) => {
            format!("{commit}{}\n", if changes.is_empty() { "" } else { "-dirty" })
        }
        _ => "unknown commit\n".into(),
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Builds a crate's targets with `cargo command`; their names and executables.
fn built(crate_folder: &Path, command: &[&str], features: &[&str]) -> Result<Vec<(String, PathBuf)>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let release: &[&str] = if command[0] == "bench" { &[] } else { &["--release"] };
    let output = Command::new(cargo)
        .args(command)
        .args(release)
        // A sixth of the size, for the way to the other machine.
        .args(["--config", "profile.release.strip=true", "--config", "profile.release.debug=false"])
        .args(features)
        .args(["--message-format", "json-render-diagnostics"])
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
