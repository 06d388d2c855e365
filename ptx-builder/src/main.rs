//! `ptx-builder`: compiles the kernels, checks them, and writes or compares what is committed of them.

mod cli;

fn main() -> std::process::ExitCode {
    cli::run()
}
