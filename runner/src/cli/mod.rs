//! The command line: one file per command, and what they share.

mod args;
mod cost;
mod demo;
mod doctor;
mod failure;
mod first_rank;
mod generate;
mod generation_args;
mod infer;
mod kernel_case;
mod launch;
mod mask;
mod model;
mod plan;
mod progress;
mod prompt;
mod ranks;
mod scaled;
mod shared_model;
mod sweep;
mod terminal;
mod tokens;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use failure::{Failure, Outcome};
use lacuna::cpu::simd::Isa;
use lacuna_runner::attn;
use progress::ProgressMode;

/// Sparse attention for long contexts: run it, look at it, compare it.
#[derive(Parser)]
#[command(
    name = "lacuna",
    version,
    max_term_width = 80,
    after_help = "Start here:\n  lacuna demo               every pattern and context method on a long text\n  \
                  lacuna COMMAND --help     what a command does, with examples\n\n\
                  Lengths are tokens and take k and m: 16k is 16384.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 bad data."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(clap::Args)]
struct GlobalArgs {
    /// Threads to compute with; all processors unless given
    #[arg(long, global = true, value_name = "N", help_heading = "Everywhere")]
    threads: Option<NonZeroUsize>,
    /// How to show progress on standard error: auto, bar, plain, none
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "HOW",
        hide_possible_values = true,
        long_help = "How to show progress on standard error: auto (a bar on a terminal; elsewhere nothing, but a \
                     line now and then from infer and sweep), bar, plain (a line now and then) or none",
        help_heading = "Everywhere"
    )]
    progress: ProgressMode,
}

// Each command says on its own struct what it does.
#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Generate(generate::GenerateArgs),
    Infer(infer::InferArgs),
    Sweep(sweep::SweepArgs),
    Launch(launch::LaunchArgs),
    Mask(mask::MaskArgs),
    Tokens(tokens::TokensArgs),
    #[command(subcommand)]
    Model(model::ModelCommand),
    Plan(plan::PlanArgs),
    Doctor(doctor::DoctorArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    // Before the rest is checked: `lacuna generate --attn help` lacks a model.
    let outcome = if asks_for_attn(std::env::args().skip(1)) {
        terminal::print(&attn::help())
    } else {
        let matches = Cli::command().get_matches();
        match Cli::from_arg_matches(&matches) {
            Ok(cli) => ranks::refuse_copies(&matches).and_then(|()| run(cli)),
            Err(e) => e.exit(),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn asks_for_attn(args: impl Iterator<Item = String>) -> bool {
    let args: Vec<String> = args.collect();
    args.iter().any(|a| a == "--attn=help" || a == "-ahelp")
        || args.windows(2).any(|w| (w[0] == "--attn" || w[0] == "-a") && w[1] == "help")
}

/// Refuses a `LACUNA_ISA` that kernels would pass over.
fn check_isa() -> Outcome {
    let Some(name) = std::env::var_os("LACUNA_ISA") else { return Ok(()) };
    if Isa::available().any(|isa| name.eq_ignore_ascii_case(isa.name())) {
        return Ok(());
    }
    let names: Vec<_> = Isa::available().map(Isa::name).collect();
    Err(Failure::Usage(format!("LACUNA_ISA must be one of {}, got {}", names.join(", "), name.display())))
}

fn run(cli: Cli) -> Outcome {
    check_isa()?;
    if let Some(threads) = cli.global.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .build_global()
            .map_err(|e| Failure::Other(format!("cannot start {threads} threads: {e}")))?;
    }
    let progress = progress::Progress::new(cli.global.progress);
    match cli.command {
        Command::Demo(args) => demo::run(args, &progress),
        Command::Generate(args) => generate::run(args, &progress),
        Command::Infer(args) => infer::run(args, &progress),
        Command::Sweep(args) => sweep::run(args, &progress),
        Command::Launch(args) => launch::run(args),
        Command::Mask(args) => mask::run(args, &progress),
        Command::Tokens(args) => tokens::run(args),
        Command::Model(command) => model::run(command),
        Command::Plan(args) => plan::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
