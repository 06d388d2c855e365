//! Who may touch what when: races in shared memory between warps, and in global memory between CTAs.
//!
//! Both follow FastTrack (Flanagan and Freund, PLDI 2009): every word remembers its last write and its reads since as
//! (actor, time), every actor knows up to which time of every other actor it is ordered after, and an access that is not
//! ordered after a conflicting one is a race, whether or not the two met in this run.

mod global;
mod shared;

pub use global::{Access, CtaClock, GlobalShadow, Synchronised};
pub use shared::{ALL_LANES, Accessor, Arrived, Clocks, SharedShadow};

/// How an access touches a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    /// Atomic, or a load or store that is `relaxed` or stronger: does not conflict with its like.
    StrongRead,
    StrongWrite,
}

impl Kind {
    /// Whether the access changes the word.
    pub fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::StrongWrite)
    }

    /// Whether the access is atomic or the like.
    pub fn strong(self) -> bool {
        matches!(self, Kind::StrongRead | Kind::StrongWrite)
    }
}
