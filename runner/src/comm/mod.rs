//! Ranks: several processes or threads that work on one prompt.
//!
//! A [`Communicator`] is one rank's end of the group. An engine gives it [`Communicator::send`] and [`Communicator::recv`];
//! what all ranks do together is made of these, so that it fails in the same way everywhere: a rank that ends, or does not
//! answer in time, is named.
//!
//! | engine | ranks are |
//! | --- | --- |
//! | [`threads`] | threads of one process |
//! | `mpi` (feature `mpi`) | processes that `mpirun` or `srun` started |
//! | `nccl` (feature `nccl`) | those of another engine, with a GPU each: what all do together goes from GPU to GPU |

pub mod launcher;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod threads;

use std::time::Duration;

use crate::report::format_duration;
use crate::{Error, Result};

/// One rank of a group. Messages between two ranks arrive in the order in which they were sent.
///
/// What all ranks do together ([`Communicator::all_gather`] and so on) has to be called by all of them, in the same order.
pub trait Communicator: Send + Sync {
    /// This rank, below [`Communicator::world_size`].
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// Sends a message to another rank, without waiting for it to be received.
    ///
    /// # Errors
    /// [`Error::Rank`] where that rank has ended.
    fn send(&self, to: usize, message: &[u8]) -> Result<()>;

    /// The next message from another rank.
    ///
    /// # Errors
    /// [`Error::Rank`] where that rank has ended, or has not sent one within the time limit.
    fn recv(&self, from: usize) -> Result<Vec<u8>>;

    /// What `root` passes, on all ranks.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    fn broadcast(&self, root: usize, message: &[u8]) -> Result<Vec<u8>> {
        if self.rank() != root {
            return self.recv(root);
        }
        for to in (0..self.world_size()).filter(|&to| to != root) {
            self.send(to, message)?;
        }
        Ok(message.to_vec())
    }

    /// What every rank passes, by rank; the lengths may differ.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    fn all_gather(&self, message: &[u8]) -> Result<Vec<Vec<u8>>> {
        let others = || (0..self.world_size()).filter(|&rank| rank != self.rank());
        others().try_for_each(|to| self.send(to, message))?;
        let part = |rank| if rank == self.rank() { Ok(message.to_vec()) } else { self.recv(rank) };
        (0..self.world_size()).map(part).collect()
    }

    /// Passes a message to the next rank and takes that of the previous one, round the ring.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    fn rotate(&self, message: &[u8]) -> Result<Vec<u8>> {
        let (rank, size) = (self.rank(), self.world_size());
        if size == 1 {
            return Ok(message.to_vec());
        }
        self.send((rank + 1) % size, message)?;
        self.recv((rank + size - 1) % size)
    }

    /// Waits for all ranks to come here.
    ///
    /// # Errors
    /// As [`Communicator::recv`].
    fn barrier(&self) -> Result<()> {
        self.all_gather(&[]).map(drop)
    }
}

/// Refuses what is not another rank of the group.
fn check_peer(arg: &'static str, peer: usize, comm: &(impl Communicator + ?Sized)) -> Result<()> {
    let (rank, size) = (comm.rank(), comm.world_size());
    if peer < size && peer != rank {
        return Ok(());
    }
    Err(Error::invalid(arg, format_args!("another rank than {rank}, below {size}"), peer))
}

fn ended(rank: usize) -> Error {
    Error::Rank { rank, what: "has ended before its work with the others was done".into() }
}

fn not_answered(rank: usize, timeout: Duration) -> Error {
    Error::Rank { rank, what: format!("has not answered for {}", format_duration(timeout)) }
}

/// A group of one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Communicator for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn send(&self, to: usize, _: &[u8]) -> Result<()> {
        Err(Error::invalid("to", "another rank of a group of one", to))
    }

    fn recv(&self, from: usize) -> Result<Vec<u8>> {
        Err(Error::invalid("from", "another rank of a group of one", from))
    }
}
