//! `vote.sync`: what holds in the lanes of a warp.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    fn vote_ballot_sync(mask: u32, predicate: bool) -> u32;
}

/// A bit for every lane: whether `predicate` holds there.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn ballot(predicate: bool) -> u32 {
    // SAFETY: the caller's.
    unsafe { vote_ballot_sync(u32::MAX, predicate) }
}
