//! Work for which one rank suffices, while the others wait.

use std::cell::Cell;
use std::time::{Duration, Instant};

use lacuna_runner::comm::Communicator;

use super::failure::Outcome;

/// Runs `work` on rank 0 and gives what it returned; `None` on the others, which wait for its end.
///
/// They wait however long it takes: `work` calls the function it is given again and again, by which they know that rank 0 is at
/// it.
pub fn on_first_rank<R>(
    comm: &dyn Communicator,
    work: impl FnOnce(&dyn Fn()) -> Outcome<R>,
) -> Outcome<Option<R>> {
    const WORKING: &[u8] = &[0];
    const DONE: &[u8] = &[1];
    /// Time between two signs of life.
    const INTERVAL: Duration = Duration::from_secs(1);
    if comm.rank() > 0 {
        while comm.broadcast(0, &[])? == WORKING {}
        return Ok(None);
    }
    let last = Cell::new(Instant::now());
    let alive = || {
        if last.get().elapsed() >= INTERVAL {
            last.set(Instant::now());
            // A rank that has ended is noticed when the work is done.
            let _ = comm.broadcast(0, WORKING);
        }
    };
    let done = work(&alive)?;
    comm.broadcast(0, DONE)?;
    Ok(Some(done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Failure;
    use lacuna_runner::comm::threads;

    #[test]
    fn the_others_wait_longer_than_their_limit() {
        let limit = Duration::from_millis(1500);
        let all = threads::run(3, limit, |comm| {
            let first = on_first_rank(comm, |alive| {
                let start = Instant::now();
                while start.elapsed() < 2 * limit {
                    std::thread::sleep(Duration::from_millis(50));
                    alive();
                }
                Ok(comm.rank())
            })?;
            comm.barrier()?;
            Ok::<_, Failure>(first)
        });
        assert_eq!(all.map_err(Failure::report).unwrap(), [Some(0), None, None]);
    }

    #[test]
    fn its_failure_is_the_groups() {
        let failed = threads::run(2, Duration::from_secs(10), |comm| {
            on_first_rank(comm, |_| Err::<(), _>(Failure::Other("no more paper".into())))
        });
        assert!(matches!(failed, Err(Failure::Other(message)) if message == "no more paper"));
    }
}
