//! The program `lacuna`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
