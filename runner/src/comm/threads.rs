//! Ranks that are threads of one process.
//!
//! A queue per ordered pair of ranks. A rank's ends of its queues close when its work is over, however it came to that, so the
//! others learn of it with their next call and not by waiting.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::{Communicator, check_peer, ended, not_answered};
use crate::{Error, Result};

/// The largest group: it has the square of that many queues.
pub const MAX_WORLD_SIZE: usize = 1024;

/// Runs `work` on `world_size` threads, each with its rank's [`Communicator`], and gives what they returned, by rank.
///
/// `recv` waits for another rank at most `timeout`. A rank that computes is not interrupted: where another one has failed, it
/// learns so with its next call, and the group ends when all ranks have.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use lacuna_runner::comm::threads;
///
/// let ranks = threads::run(3, Duration::from_secs(10), |comm| {
///     let all = comm.all_gather(&[comm.rank() as u8])?;
///     Ok::<_, lacuna_runner::Error>(all.concat())
/// })?;
/// assert_eq!(ranks, [[0, 1, 2]; 3]);
/// # Ok::<(), lacuna_runner::Error>(())
/// ```
///
/// # Errors
/// Where ranks failed, the cause: the error of the lowest rank that did not fail for another's sake; a panic is
/// [`Error::Rank`] with its message. Where ranks only waited too long, or for a rank that had returned, the error of the first to
/// say so. [`Error::InvalidArgument`] unless `world_size` is 1 to [`MAX_WORLD_SIZE`].
pub fn run<R, E>(
    world_size: usize,
    timeout: Duration,
    work: impl Fn(&dyn Communicator) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E>
where
    R: Send,
    E: From<Error> + Send,
{
    if !(1..=MAX_WORLD_SIZE).contains(&world_size) {
        let error = Error::invalid("world_size", format!("1 to {MAX_WORLD_SIZE} ranks"), world_size);
        return Err(error.into());
    }
    let failures = Mutex::new(Vec::new());
    let fail = |rank, own, error| lock(&failures).push(Failure { rank, own, error });
    let one = |end: End| {
        let rank = end.rank;
        let result = catch_unwind(AssertUnwindSafe(|| work(&end)))
            .unwrap_or_else(|panic| Err(Error::Rank { rank, what: panicked(&*panic) }.into()));
        let result = result.map_err(|error| fail(rank, !end.let_down.load(Ordering::Relaxed), error));
        // Only now: whoever notices that this rank has ended fails after it.
        drop(end);
        result.ok()
    };
    let results: Vec<Option<R>> = thread::scope(|scope| {
        let start = |end: End| {
            let rank = end.rank;
            let thread = thread::Builder::new().name(format!("rank {rank}"));
            let thread = thread.spawn_scoped(scope, || one(end));
            thread.map_err(|e| {
                fail(rank, true, Error::Rank { rank, what: format!("cannot start: {e}") }.into())
            })
        };
        let threads: Vec<_> = ends(world_size, timeout).into_iter().map(start).collect();
        threads.into_iter().map(|thread| thread.ok()?.join().expect("panics are caught")).collect()
    });
    let mut failures = std::mem::take(&mut *lock(&failures));
    let own = failures.iter().enumerate().filter(|(_, failure)| failure.own);
    let cause = own.min_by_key(|(_, failure)| failure.rank).map_or(0, |(i, _)| i);
    if !failures.is_empty() {
        return Err(failures.swap_remove(cause).error);
    }
    Ok(results.into_iter().map(|result| result.expect("no rank failed")).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it is held")
}

/// How a rank failed; a group's are in the order of time.
struct Failure<E> {
    rank: usize,
    /// No call of its communicator failed before.
    own: bool,
    error: E,
}

/// One rank's ends of the queues.
struct End {
    rank: usize,
    timeout: Duration,
    /// To every rank.
    senders: Vec<Sender<Vec<u8>>>,
    /// From every rank.
    receivers: Vec<Mutex<Receiver<Vec<u8>>>>,
    /// Another rank has ended or not answered.
    let_down: AtomicBool,
}

fn ends(world_size: usize, timeout: Duration) -> Vec<End> {
    let mut ends: Vec<End> = (0..world_size)
        .map(|rank| End {
            rank,
            timeout,
            senders: Vec::new(),
            receivers: Vec::new(),
            let_down: AtomicBool::new(false),
        })
        .collect();
    for from in 0..world_size {
        for to in 0..world_size {
            let (sender, receiver) = channel();
            ends[from].senders.push(sender);
            ends[to].receivers.push(Mutex::new(receiver));
        }
    }
    ends
}

impl End {
    fn let_down(&self, error: Error) -> Error {
        self.let_down.store(true, Ordering::Relaxed);
        error
    }
}

impl Communicator for End {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.senders.len()
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        check_peer("to", to, self)?;
        self.senders[to].send(message.to_vec()).map_err(|_| self.let_down(ended(to)))
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        check_peer("from", from, self)?;
        lock(&self.receivers[from]).recv_timeout(self.timeout).map_err(|e| {
            self.let_down(match e {
                RecvTimeoutError::Timeout => not_answered(from, self.timeout),
                RecvTimeoutError::Disconnected => ended(from),
            })
        })
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", message.unwrap_or("it does not say why"))
}
