//! Libraries with the names of the driver's and no device behind them, and processes that find those first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Marks the second process.
const INSIDE: &str = "LACUNA_FAKE_CUDA_INSIDE";

/// Compiles `source`, a file beside this one, as `lib<name>.so` in `folder`, where it finds the libraries that are there.
pub fn build(folder: &Path, source: &str, name: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_driver").join(source);
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    // Built apart and moved: processes that run side by side see a whole file.
    let built = folder.join(format!("lib{name}.{}.so", std::process::id()));
    let status = Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", name, "-A", "warnings"])
        .args([std::ffi::OsStr::new("-L"), folder.as_os_str(), "-o".as_ref(), built.as_os_str()])
        .arg(source)
        .status()
        .unwrap();
    assert!(status.success());
    std::fs::rename(&built, folder.join(format!("lib{name}.so"))).unwrap();
}

/// The folder of a driver alone.
pub fn driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("fake_cuda");
        build(&folder, "libcuda.rs", "cuda");
        folder
    })
}

/// Runs `test`, which is called `name`, in a process that looks for libraries in `folder` first and has the variables
/// `wrong`: what is wrong with them.
pub fn inside(folder: fn() -> &'static Path, name: &str, wrong: &[(&str, &str)], test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .envs(wrong.iter().copied())
        .env("LD_LIBRARY_PATH", folder())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{}", said.join("\n"));
    assert!(said[0].contains("1 passed"), "{}", said[0]);
}
