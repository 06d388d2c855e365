//! `--np`: one command on several ranks.

use std::time::Duration;

use clap::ArgMatches;
use clap::builder::RangedU64ValueParser;
use lacuna_runner::comm::launcher::Launched;
use lacuna_runner::comm::{Alone, Communicator, threads};

use super::failure::{Failure, Outcome};

/// How many ranks work on a prompt.
#[derive(clap::Args)]
#[group(skip)]
pub struct RankArgs {
    /// Ranks that share each prompt, as threads of this process; under mpirun or srun those ranks, and N need not be given
    #[arg(
        long,
        value_name = "N",
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=threads::MAX_WORLD_SIZE as u64),
        help_heading = "Ranks"
    )]
    np: Option<usize>,
    /// How long a rank waits for another one before the run fails: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = duration, help_heading = "Ranks")]
    rank_timeout: Duration,
}

/// The `--np` of a command, which need not be given; `None` for a command without ranks.
pub fn np(options: &ArgMatches) -> Option<Option<usize>> {
    // Launching has an option of that name too, of another type.
    options.try_get_one("np").ok().map(Option::<&usize>::copied)
}

/// Refuses a command without ranks that a launcher started several times: each process would do all of it.
pub fn refuse_copies(matches: &ArgMatches) -> Outcome {
    let Some((name, options)) = matches.subcommand() else { return Ok(()) };
    // Each process may tell of its own host.
    if name == "doctor" || np(options).is_some() {
        return Ok(());
    }
    match Launched::detect()? {
        Some(Launched { launcher, world_size, .. }) => Err(Failure::Usage(format!(
            "lacuna {name} does not run on several ranks, but {launcher} started {world_size} processes"
        ))),
        None => Ok(()),
    }
}

impl RankArgs {
    /// Runs `work` on every rank and gives what it returned on rank 0; `None` in a process that is another rank.
    pub fn run<R: Send>(&self, work: impl Fn(&dyn Communicator) -> Outcome<R> + Sync) -> Outcome<Option<R>> {
        if let Some(launched) = Launched::detect()? {
            self.check(&launched)?;
            return joined(&launched, self.rank_timeout, work);
        }
        match self.np {
            None | Some(1) => work(&Alone).map(Some),
            Some(np) => Ok(threads::run(np, self.rank_timeout, work)?.into_iter().next()),
        }
    }

    fn check(&self, launched: &Launched) -> Outcome {
        let Launched { launcher, world_size, .. } = launched;
        match self.np {
            Some(np) if np != *world_size => Err(Failure::Usage(format!(
                "--np is {np}, but {launcher} started {world_size} processes; leave --np out, or start {np} of them"
            ))),
            _ => Ok(()),
        }
    }
}

/// Runs `work` as one rank of MPI's world. Where it fails, this process says so and takes the other ranks with it.
#[cfg(feature = "mpi")]
fn joined<R>(
    launched: &Launched,
    timeout: Duration,
    work: impl Fn(&dyn Communicator) -> Outcome<R>,
) -> Outcome<Option<R>> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use lacuna_runner::comm::mpi::World;

    let world = World::join(timeout)?;
    let (rank, world_size) = (world.rank(), world.world_size());
    let run = || {
        if world_size != launched.world_size {
            return Err(Failure::Other(format!(
                "{} started {} processes, but to MPI there are {world_size}; it may be the launcher of another MPI, \
                 and srun needs --mpi",
                launched.launcher, launched.world_size
            )));
        }
        let result = work(&world)?;
        world.finish()?;
        Ok(result)
    };
    let panicked = |_| Err(Failure::Other("panicked".into()));
    match catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(panicked) {
        Ok(result) => Ok((rank == 0).then_some(result)),
        Err(failure) => {
            let code = failure.say(&format!("rank {rank}: "));
            world.abort(code)
        }
    }
}

/// Refuses to be one of several processes that would each do the whole work.
#[cfg(not(feature = "mpi"))]
fn joined<R>(
    launched: &Launched,
    _: Duration,
    _: impl Fn(&dyn Communicator) -> Outcome<R>,
) -> Outcome<Option<R>> {
    let Launched { launcher, rank, world_size, .. } = launched;
    Err(Failure::Other(format!(
        "{launcher} started this process as rank {rank} of {world_size}, but the program was built without MPI; build it \
         with --features mpi, or start one process with --np {world_size}"
    )))
}

/// `500ms`, `90s`, `10m`, `1h`; a number alone is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let number = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[number.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("the units are ms, s, m, h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "must be a number and its unit, as in 90s".to_owned())?;
    match Duration::try_from_secs_f64(number * unit) {
        Ok(duration) if duration > Duration::ZERO => Ok(duration),
        Err(_) if number > 0.0 => Err("is too long".into()),
        _ => Err("must be more than 0".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(np: Option<usize>) -> RankArgs {
        RankArgs { np, rank_timeout: Duration::from_secs(20) }
    }

    #[test]
    fn every_rank_works_and_rank_0_answers() {
        for (np, size) in [(None, 1), (Some(1), 1), (Some(3), 3)] {
            let seen = std::sync::Mutex::new(Vec::new());
            let answer = args(np).run(|comm| {
                assert_eq!(comm.world_size(), size);
                comm.barrier()?;
                seen.lock().unwrap().push(comm.rank());
                Ok(comm.rank() * 10 + 7)
            });
            assert_eq!(answer.unwrap(), Some(7));
            let mut seen = seen.into_inner().unwrap();
            seen.sort();
            assert_eq!(seen, (0..size).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_failure_is_that_of_the_rank_that_failed() {
        let failure = args(Some(3)).run(|comm| match comm.rank() {
            1 => Err(Failure::Usage("not like this".into())),
            _ => Ok(comm.barrier()?),
        });
        assert!(matches!(failure, Err(Failure::Usage(message)) if message == "not like this"));
    }

    #[test]
    fn np_and_the_launcher_agree() {
        let launched = Launched { launcher: "mpirun", rank: 1, world_size: 4, local_rank: None };
        assert!(args(None).check(&launched).is_ok() && args(Some(4)).check(&launched).is_ok());
        let Err(Failure::Usage(message)) = args(Some(2)).check(&launched) else { panic!("no usage error") };
        assert!(message.starts_with("--np is 2, but mpirun started 4 processes"), "{message}");
    }

    #[test]
    fn times() {
        for (text, ms) in
            [("90s", 90_000), ("10m", 600_000), ("1.5h", 5_400_000), ("250ms", 250), ("2", 2000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "0", "-1s", "10 d", "1d", "infs", "NaN", "1e300h", "m10"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
