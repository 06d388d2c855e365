//! What ranks do together, on a small thing: each sums its part of a series, and all have the same sum to the last bit.
//!
//! As threads of one process:
//!
//! ```text
//! cargo run -p lacuna-runner --example ranks -- --np 4
//! ```
//!
//! As processes, on one host or many:
//!
//! ```text
//! cargo build -p lacuna-runner --features mpi --example ranks
//! mpirun -n 4 target/debug/examples/ranks
//! ```

use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use lacuna_runner::comm::launcher::Launched;
use lacuna_runner::comm::{Communicator, threads};
use lacuna_runner::{Error, Result};

#[derive(Parser)]
struct Args {
    /// Ranks, where no launcher has started several
    #[arg(long, default_value_t = 2)]
    np: usize,
    /// Terms of the series for each rank
    #[arg(long, default_value_t = 1_000_000)]
    terms: usize,
    /// How often to do it all
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Bytes that travel round the ring in each round
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// Milliseconds between two rounds
    #[arg(long, default_value_t = 0)]
    pause: u64,
    /// Seconds that a rank waits for another one
    #[arg(long, default_value_t = 60.0)]
    timeout: f64,
    /// Bytes that one message of MPI's carries at most
    #[arg(long, default_value_t = 1 << 30)]
    max_part: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let timeout = Duration::try_from_secs_f64(args.timeout)
        .map_err(|_| Error::invalid("timeout", "a number of seconds", args.timeout))?;
    match Launched::detect()? {
        Some(launched) => process(args, timeout, &launched),
        None => threads::run(args.np, timeout, |comm| work(args, comm)).map(drop),
    }
}

/// This process is one rank. Where it fails, it says so and ends the others.
#[cfg(feature = "mpi")]
fn process(args: &Args, timeout: Duration, _: &Launched) -> Result<()> {
    let world = lacuna_runner::comm::mpi::World::join_with(timeout, args.max_part)?;
    if let Err(e) = work(args, &world).and_then(|()| world.finish()) {
        eprintln!("error: rank {}: {e}", world.rank());
        world.abort(1)
    }
    Ok(())
}

#[cfg(not(feature = "mpi"))]
fn process(_: &Args, _: Duration, launched: &Launched) -> Result<()> {
    let reason = format!("{} has started it, but it was built without the feature mpi", launched.launcher);
    Err(Error::Transport { call: "joining the other ranks", reason })
}

fn work(args: &Args, comm: &dyn Communicator) -> Result<()> {
    let (rank, size) = (comm.rank(), comm.world_size());
    println!("rank {rank} of {size} is process {}", std::process::id());
    if args.terms == 0 {
        return Err(Error::invalid("terms", "at least 1", args.terms));
    }
    for round in 0..args.rounds {
        let term = |i: usize| if i.is_multiple_of(2) { 4.0 } else { -4.0 } / (2 * i + 1) as f64;
        let own: f64 = (rank * args.terms..(rank + 1) * args.terms).map(term).sum();

        // Added in the order of the ranks, whoever adds: the same bits everywhere.
        let parts = comm.all_gather(&own.to_le_bytes())?;
        let sum: f64 = parts.iter().map(|part| number(part)).sum();
        let of_rank_0 = comm.broadcast(0, &sum.to_le_bytes())?;
        expect(of_rank_0 == sum.to_le_bytes(), 0, "has another sum")?;

        // Each rank's message comes by at all others, and home again.
        let letter = |of: usize| vec![(round + of) as u8; args.bytes + of];
        let mut travelling = letter(rank);
        for step in 1..=size {
            travelling = comm.rotate(&travelling)?;
            let from = (rank + size * step - step) % size;
            expect(travelling == letter(from), from, "has another message")?;
        }

        comm.barrier()?;
        if rank == 0 {
            println!("round {round}: {sum:.6} from {} terms", size * args.terms);
        }
        sleep(Duration::from_millis(args.pause));
    }
    Ok(())
}

fn number(bytes: &[u8]) -> f64 {
    bytes.try_into().map_or(f64::NAN, f64::from_le_bytes)
}

fn expect(fact: bool, rank: usize, what: &str) -> Result<()> {
    if fact { Ok(()) } else { Err(Error::Rank { rank, what: what.into() }) }
}
