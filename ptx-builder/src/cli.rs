//! The command line.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use ptx_builder::{Error, Order, Ptxas, Shipment, Toolchain};

/// Compiles the Rust kernels to PTX, checks the text against the rules for shipped kernels, and writes ptx/: the images,
/// the tables from their lines to lines of Rust, and MANIFEST.toml.
#[derive(Parser)]
#[command(name = "ptx-builder", version, max_term_width = 80, after_help = EXAMPLES)]
struct Args {
    /// Write nothing; fail when ptx/ is not what the sources give
    #[arg(long)]
    check: bool,
    /// Assemble with this ptxas for every GPU; record what kernels take, and fail on spills beyond the record. Repeatable
    #[arg(long, value_name = "PATH")]
    ptxas: Vec<PathBuf>,
    /// Record spills beyond the record, for this reason
    #[arg(long, value_name = "REASON", requires = "ptxas", conflicts_with = "check")]
    accept_spills: Option<String>,
    /// Print what the machine code for a GPU is made of [default: sm_80] (nvdisasm beside the ptxas, or on the PATH)
    #[arg(long, value_name = "GPU", requires = "ptxas", num_args = 0..=1, default_missing_value = "sm_80")]
    sass: Option<String>,
    /// The crate of kernels [default: kernels-gpu of the workspace]
    #[arg(long = "crate", value_name = "DIR")]
    crate_dir: Option<PathBuf>,
    /// Where the images go [default: ptx of the workspace]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  cargo ptx                               rebuild ptx/
  cargo ptx --check                       is ptx/ what the sources give?
  cargo ptx --ptxas /usr/local/cuda/bin/ptxas --sass sm_80
                                          rebuild, assemble, count instructions
  cargo ptx --out images                  build elsewhere, leave ptx/ alone

ptxas comes with CUDA, or from PyPI:
  pip install --target DIR --no-deps nvidia-cuda-nvcc==13.0.88

Exit codes: 0 done; 1 the kernels break a rule, do not compile, or ptx/ is not
up to date; 2 bad arguments, or a tool that is needed is not there.";

/// Why the program ends without success.
enum Failure {
    /// The kernels, or what is committed of them, are not in order.
    Kernels(String),
    /// The work could not be done here.
    Cannot(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoToolchain { .. } | Error::Io { .. } => Self::Cannot(error.to_string()),
            _ => Self::Kernels(error.to_string()),
        }
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let (message, code) = match work(&Args::parse()) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Kernels(message)) => (message, 1),
        Err(Failure::Cannot(message)) => (message, 2),
    };
    eprintln!("error: {message}");
    ExitCode::from(code)
}

fn work(args: &Args) -> Result<(), Failure> {
    let (crate_dir, out_dir, document) = folders(args)?;
    let mut ptxas = Vec::new();
    for path in &args.ptxas {
        ptxas.push(Ptxas::at(path).map_err(|error| Failure::Cannot(error.to_string()))?);
    }
    let toolchain = Toolchain::find()?;
    if !toolchain.is_pinned() {
        not_pinned(args.check, &toolchain)?;
    }
    progress(&format!("building {} with {}", crate_dir.display(), toolchain.origin()));
    let order = Order {
        crate_dir,
        out_dir,
        document,
        work_dir: None,
        ptxas,
        spill_reason: args.accept_spills.clone(),
    };
    let filled = order.fill(&toolchain);
    progress("");
    let shipment = filled?;
    report(&shipment, &toolchain, &order);
    let done = if args.check { check(&shipment) } else { write(&shipment) };
    if let Some(gpu) = &args.sass {
        say(shipment.sass_table(gpu).map_err(|error| Failure::Cannot(error.to_string()))?.trim_end());
    }
    done
}

/// The crate, the folder of images, and the document with the table of resources.
fn folders(args: &Args) -> Result<(PathBuf, PathBuf, Option<PathBuf>), Failure> {
    let here =
        std::env::current_dir().map_err(|error| Failure::Cannot(format!("no current folder: {error}")))?;
    let workspace = here.ancestors().find(|folder| folder.join("kernels-gpu/Cargo.toml").exists());
    let within = |folder: &str| {
        let lost = || Failure::Cannot("no kernels-gpu here or above; name --crate and --out".into());
        workspace.map(|root| root.join(folder)).ok_or_else(lost)
    };
    let crate_dir = args.crate_dir.clone().map_or_else(|| within("kernels-gpu"), Ok)?;
    if !crate_dir.join("Cargo.toml").exists() {
        return Err(Failure::Cannot(format!("{}: no crate there", crate_dir.display())));
    }
    // Images that go elsewhere do not change what is documented.
    match (&args.out, &args.crate_dir) {
        (Some(out), _) => Ok((crate_dir, out.clone(), None)),
        (None, Some(_)) => Err(Failure::Cannot("--crate wants --out".into())),
        (None, None) => Ok((crate_dir, within("ptx")?, Some(within("docs/kernels.md")?))),
    }
}

/// Another compiler gives other text, which is neither right nor wrong.
fn not_pinned(check: bool, toolchain: &Toolchain) -> Result<(), Failure> {
    let message = format!("{} ({}) is not the pinned compiler", toolchain.version(), toolchain.origin());
    if check {
        let commands = Toolchain::install_commands().join("\n    ");
        return Err(Failure::Cannot(format!(
            "{message}, so that ptx/ cannot be compared; install it:\n    {commands}"
        )));
    }
    eprintln!("warning: {message}: --check will not accept what it builds");
    Ok(())
}

fn report(shipment: &Shipment, toolchain: &Toolchain, order: &Order) {
    say(&format!("compiler  {}", toolchain.version()));
    for image in &shipment.images {
        eprint!("{}", image.warnings);
        let marked = image.convergent.asm + image.convergent.mma;
        let (kernels, lines) = (image.kernels.len(), image.ptx.lines().count());
        say(&format!(
            "{:<8}  {kernels} kernels, {lines} lines, {marked} calls held convergent",
            image.arch.name()
        ));
    }
    for ptxas in &order.ptxas {
        say(&format!("ptxas     {} accepts every image", ptxas.version()));
    }
    match (order.ptxas.is_empty(), shipment.unrecorded()) {
        (true, 0) => say("ptxas     not given; what is recorded stands"),
        (true, kernels) => {
            println!("ptxas     not given; {kernels} kernels go without a record of registers")
        }
        _ => {}
    }
}

fn check(shipment: &Shipment) -> Result<(), Failure> {
    let differences = shipment.differences();
    if differences.is_empty() {
        say("ptx/      up to date");
        return Ok(());
    }
    const SHOWN: usize = 20;
    let mut message = String::from("ptx/ is not what the sources give; `cargo ptx` rebuilds it");
    for difference in differences.iter().take(SHOWN) {
        message.push_str(&format!("\n    {difference}"));
    }
    if differences.len() > SHOWN {
        message.push_str(&format!("\n    and {} more", differences.len() - SHOWN));
    }
    Err(Failure::Kernels(message))
}

fn write(shipment: &Shipment) -> Result<(), Failure> {
    let changed = shipment.write()?;
    match changed.len() {
        0 => say("written   nothing: all up to date"),
        _ => changed.iter().for_each(|path| say(&format!("written   {}", shown(path)))),
    }
    Ok(())
}

/// The path as seen from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// A line of the report. Whoever stops reading it does not stop the work.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// A line that the next one replaces, for who watches.
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        let cut: String = text.chars().take(79).collect();
        let _ = write!(stderr, "\r\x1b[K{cut}");
        let _ = stderr.flush();
    }
}
