//! Ranks that are processes under MPI.
//!
//! `mpirun` or `srun` starts the processes, [`World::join`] makes each of them a rank. A process that is killed is the launcher's
//! to notice: `mpirun` ends the others, as does `srun --kill-on-bad-exit`. One that stops to answer is ours: who waits for it gets
//! an error within the time limit, and should then [`World::abort`].
//!
//! Sending never waits for the receiver: messages are copied and handed to MPI, and a thread of this process that sleeps while
//! nothing is on its way keeps them going while all others compute.

mod lane;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;

use super::{Communicator, check_peer, ended, not_answered};
use crate::{Error, Result};
use lane::{Lane, Progress, Tag};

/// Bytes that one message of MPI's carries at most: its counts are `int`s. Longer messages are cut.
pub const MAX_PART: usize = 1 << 30;

/// For so long a waiting rank only yields: longer than a message takes that is about to come.
const SPIN: Duration = Duration::from_micros(200);

/// The longest that a waiting rank sleeps between two looks.
const NAP: Duration = Duration::from_millis(1);

/// All processes that the launcher started, and this one's rank among them.
///
/// After an error of [`Communicator::recv`] the world is of no more use than to be aborted. A world that is dropped before
/// [`World::finish`] succeeded, or on another thread than the one that joined it, is aborted with exit code 1.
pub struct World {
    rank: usize,
    world_size: usize,
    timeout: Duration,
    max_part: usize,
    joined_by: ThreadId,
    /// Which ranks have sent their last message.
    ended: Vec<AtomicBool>,
    /// Held while a message from that rank is received, so that parts of two are not mixed.
    turns: Vec<Mutex<()>>,
    shared: Arc<Shared>,
    progress: Option<JoinHandle<()>>,
    finished: AtomicBool,
    /// Its drop finalises MPI.
    _universe: Universe,
}

/// What the thread that keeps messages going has to do with.
struct Shared {
    lane: Mutex<Lane>,
    /// A message was posted, or the world closes.
    posted: Condvar,
    closing: AtomicBool,
}

impl World {
    /// Initialises MPI and joins the world; once in a process. While the world lives, the program calls MPI through it alone.
    ///
    /// `timeout` is the time limit of [`Communicator::recv`] and of [`World::finish`].
    ///
    /// # Errors
    /// [`Error::Transport`] where MPI was initialised before, or does not take calls from several threads.
    pub fn join(timeout: Duration) -> Result<Self> {
        Self::join_with(timeout, MAX_PART)
    }

    /// [`World::join`], with messages cut into parts of `max_part` bytes at most.
    ///
    /// # Errors
    /// As [`World::join`]; [`Error::InvalidArgument`] unless `max_part` is 1 to [`MAX_PART`].
    pub fn join_with(timeout: Duration, max_part: usize) -> Result<Self> {
        if !(1..=MAX_PART).contains(&max_part) {
            return Err(Error::invalid("max_part", format_args!("1 to {MAX_PART} bytes"), max_part));
        }
        let refused = |reason: &str| Error::Transport { call: "MPI_Init_thread", reason: reason.into() };
        let (universe, level) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| refused("MPI was initialised before in this process"))?;
        if level < Threading::Serialized {
            return Err(refused("this MPI does not take calls from several threads"));
        }
        // SAFETY: MPI was initialised here and now, at that level, and `universe` finalises it after the lane's last call: `drop`
        // ends the thread that has the lane too. Nothing else in the crate calls MPI, and `universe` is kept to itself.
        let mut lane = unsafe { Lane::new() }?;
        let (rank, world_size) = lane.rank_and_size()?;
        let shared = Arc::new(Shared {
            lane: Mutex::new(lane),
            posted: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let progress = thread::Builder::new().name("messages".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.keep_going()
        });
        let progress =
            progress.map_err(|e| Error::Rank { rank, what: format!("cannot start a thread: {e}") })?;
        Ok(Self {
            rank,
            world_size,
            timeout,
            max_part,
            joined_by: thread::current().id(),
            ended: (0..world_size).map(|_| AtomicBool::new(false)).collect(),
            turns: (0..world_size).map(|_| Mutex::new(())).collect(),
            shared,
            progress: Some(progress),
            finished: AtomicBool::new(false),
            _universe: universe,
        })
    }

    /// Leaves the world: waits until all messages have been sent and the other ranks have come here too. Messages that nobody has
    /// received are dropped.
    ///
    /// # Errors
    /// [`Error::Rank`] where a rank has not come within the time limit, [`Error::Transport`] where MPI fails.
    pub fn finish(&self) -> Result<()> {
        for to in self.others() {
            self.shared.post(to, Tag::End, Box::default())?;
        }
        for from in self.others() {
            let _turn = lock(&self.turns[from]);
            while !self.ended[from].load(Ordering::Relaxed) {
                self.part(from, Vec::new())?;
            }
        }
        // All others receive until our end: what is left is on its way.
        let start = Instant::now();
        while let Some(to) = self.shared.lane().unsent()? {
            self.pause(to, start)?;
        }
        self.finished.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends all processes of the world, this one included, with an exit code.
    pub fn abort(&self, code: u8) -> ! {
        self.shared.lane().abort(code)
    }

    fn others(&self) -> impl Iterator<Item = usize> {
        let rank = self.rank;
        (0..self.world_size).filter(move |&other| other != rank)
    }

    /// Receives one message of MPI's, and appends it to `buffer`.
    fn part(&self, from: usize, mut buffer: Vec<u8>) -> Result<(Tag, Vec<u8>)> {
        let start = Instant::now();
        let mut receipt = loop {
            match self.shared.lane().receive(from, &mut buffer)? {
                Some(receipt) => break receipt,
                None => self.pause(from, start)?,
            }
        };
        // The sender has begun: it has the time limit anew.
        let start = Instant::now();
        let (tag, buffer) = loop {
            let progress = self.shared.lane().go_on(receipt)?;
            match progress {
                Progress::Done(tag, buffer) => break (tag, buffer),
                Progress::Waits(waits) => receipt = waits,
            }
            self.pause(from, start)?;
        };
        if tag == Tag::End {
            self.ended[from].store(true, Ordering::Relaxed);
        }
        Ok((tag, buffer))
    }

    /// Lets time pass between two looks for what rank `peer` is to do, up to the time limit.
    fn pause(&self, peer: usize, start: Instant) -> Result<()> {
        match start.elapsed() {
            waited if waited >= self.timeout => return Err(not_answered(peer, self.timeout)),
            waited if waited < SPIN => thread::yield_now(),
            waited => thread::sleep((waited / 16).min(NAP)),
        }
        Ok(())
    }
}

impl Communicator for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn send(&self, to: usize, message: &[u8]) -> Result<()> {
        check_peer("to", to, self)?;
        if self.ended[to].load(Ordering::Relaxed) {
            return Err(ended(to));
        }
        // One lock for all parts: those of two messages are not mixed.
        let mut lane = self.shared.lane();
        let (parts, last) = message.split_at(message.len().saturating_sub(1) / self.max_part * self.max_part);
        for part in parts.chunks(self.max_part) {
            lane.post(to, Tag::More, part.into())?;
        }
        lane.post(to, Tag::Last, last.into())?;
        lane.reap();
        if !lane.is_idle() {
            self.shared.posted.notify_one();
        }
        Ok(())
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        check_peer("from", from, self)?;
        let _turn = lock(&self.turns[from]);
        let mut message = Vec::new();
        while !self.ended[from].load(Ordering::Relaxed) {
            match self.part(from, message)? {
                (Tag::Last, whole) => return Ok(whole),
                (_, part) => message = part,
            }
        }
        Err(ended(from))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) || thread::current().id() != self.joined_by {
            self.abort(1);
        }
        {
            let _lane = self.shared.lane();
            self.shared.closing.store(true, Ordering::Relaxed);
            self.shared.posted.notify_one();
        }
        if let Some(progress) = self.progress.take()
            && let Err(panic) = progress.join()
        {
            resume_unwind(panic);
        }
    }
}

impl Shared {
    fn lane(&self) -> MutexGuard<'_, Lane> {
        lock(&self.lane)
    }

    fn post(&self, to: usize, tag: Tag, message: Box<[u8]>) -> Result<()> {
        self.lane().post(to, tag, message)?;
        self.posted.notify_one();
        Ok(())
    }

    /// MPI moves long messages only inside its calls: this makes them while the other threads compute.
    fn keep_going(&self) {
        let mut lane = self.lane();
        while !self.closing.load(Ordering::Relaxed) {
            lane.reap();
            lane = match lane.is_idle() {
                true => self.posted.wait(lane).unwrap_or_else(PoisonError::into_inner),
                false => self.posted.wait_timeout(lane, SPIN).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// A lock that a panic has not spoilt: what it guards is whole between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
