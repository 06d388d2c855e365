//! Loads and stores of global memory, whole warps at once where the lanes lie side by side.

use super::access::{copy, of_lane, require_aligned};
use super::session::{CtaState, Session};
use crate::check::{Access as Sync, Kind};
use crate::ir::Order;
use crate::memory::{Checked, Place, Staging, Trouble, lanes};
use crate::{AdvisoryKind, FaultKind};

/// The common place of all lanes when they are all there and lie one after the other.
#[inline(always)]
fn contiguous(at: &[u64; 32], mask: u32, bytes: u32) -> bool {
    let mut same = mask == u32::MAX;
    for lane in 0..32 {
        same &= at[lane] == at[0].wrapping_add(u64::from(bytes) * lane as u64);
    }
    same
}

/// How a load or store of this order touches memory.
pub fn kind(order: Order, load: bool) -> Kind {
    match (order, load) {
        (Order::Weak, true) => Kind::Read,
        (Order::Weak, false) => Kind::Write,
        (_, true) => Kind::StrongRead,
        (_, false) => Kind::StrongWrite,
    }
}

/// Checks of an access to `bytes` bytes of global memory at `place`.
pub fn watch_global(s: &mut Session, cta: &CtaState, place: Place, bytes: usize, kind: Kind) -> Checked<()> {
    let allocation = s.global.allocation_mut(place.slot);
    let Some(conflict) = allocation.shadow.access(&cta.clock, place.offset, bytes, kind) else {
        return Ok(());
    };
    let other = conflict.cta.map_or("several other CTAs".into(), |index| format!("CTA number {index}"));
    let (verb, earlier) =
        (if kind.writes() { "write" } else { "read" }, if conflict.with_write { "write" } else { "read" });
    let message = format!(
        "{verb} of byte {} of `{}` without an order after the {earlier} by {other}",
        conflict.offset, allocation.name
    );
    let offset = conflict.offset as u64;
    Err(Trouble::warp(FaultKind::GlobalRace, message).at(&allocation.name, offset))
}

/// A synchronising load or store, or an atomic.
pub fn synchronise(
    s: &mut Session,
    cta: &mut CtaState,
    address: u64,
    order: Order,
    reads: bool,
    writes: bool,
) {
    let kind = Sync { reads, writes, acquires: order.acquires(), releases: order.releases() };
    cta.clock.synchronise(&mut s.published, address, kind);
}

/// Loads of the lanes in `mask` into `staging`.
pub fn read_global<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    mask: u32,
    at: &[u64; 32],
    bytes: u32,
    order: Order,
    staging: &mut Staging,
) -> Checked<()> {
    let n = bytes as usize;
    if order != Order::Weak && s.watch_ctas {
        lanes(mask).for_each(|lane| synchronise(s, cta, at[lane], order, true, false));
    }
    let whole = contiguous(at, mask, bytes).then(|| s.global.place(at[0], 32 * n).ok()).flatten();
    if let Some(place) = whole.filter(|place| place.offset % n == 0) {
        let allocation = s.global.allocation(place.slot);
        let range = place.offset..place.offset + 32 * n;
        if !C || allocation.require_valid(range.clone()).is_ok() {
            for (to, from) in staging.iter_mut().zip(allocation.bytes[range].chunks_exact(n)) {
                copy(to, from);
            }
            let watched = if C && s.watch_ctas {
                watch_global(s, cta, place, 32 * n, kind(order, true))
            } else {
                Ok(())
            };
            return watched.map_err(|mut trouble| {
                let at = trouble.allocation.as_ref().map_or(0, |(_, offset)| *offset as usize);
                trouble.lane = Some((at.saturating_sub(place.offset) / n) as u32);
                trouble
            });
        }
    }
    for lane in lanes(mask) {
        let place = of_lane(s.global.place(at[lane], n), lane)?;
        require_aligned(at[lane], bytes, lane)?;
        let allocation = s.global.allocation(place.slot);
        let range = place.offset..place.offset + n;
        if C {
            of_lane(allocation.require_valid(range.clone()), lane)?;
        }
        copy(&mut staging[lane], &allocation.bytes[range]);
        if C && s.watch_ctas {
            of_lane(watch_global(s, cta, place, n, kind(order, true)), lane)?;
        }
    }
    Ok(())
}

/// Stores of the lanes in `mask` from `staging`.
pub fn write_global<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    pc: usize,
    mask: u32,
    at: &[u64; 32],
    bytes: u32,
    order: Order,
    staging: &Staging,
) -> Checked<()> {
    let n = bytes as usize;
    if order != Order::Weak && s.watch_ctas {
        lanes(mask).for_each(|lane| synchronise(s, cta, at[lane], order, false, true));
    }
    let whole = contiguous(at, mask, bytes).then(|| s.global.place(at[0], 32 * n).ok()).flatten();
    if let Some(place) = whole.filter(|place| place.offset % n == 0) {
        let range = place.offset..place.offset + 32 * n;
        let allocation = s.global.allocation(place.slot);
        of_lane(allocation.require_writable(place.offset), 0)?;
        if C && s.watch_ctas {
            let mut now = allocation.bytes[range.clone()].chunks_exact(n).zip(staging);
            let same = now.all(|(now, new)| *now == new[..n]);
            match watch_global(s, cta, place, 32 * n, kind(order, false)) {
                Err(trouble) if same => {
                    s.remark(pc as u32, AdvisoryKind::SameValueRace, 1, || trouble.message)
                }
                Err(trouble) => {
                    let at = trouble.allocation.as_ref().map_or(0, |(_, offset)| *offset as usize);
                    return of_lane(Err(trouble), at.saturating_sub(place.offset) / n);
                }
                Ok(()) => {}
            }
        }
        let allocation = s.global.allocation_mut(place.slot);
        for (to, from) in allocation.bytes[range.clone()].chunks_exact_mut(n).zip(staging) {
            copy(to, &from[..n]);
        }
        allocation.mark(range, true);
        return Ok(());
    }
    for lane in lanes(mask) {
        let place = of_lane(s.global.place(at[lane], n), lane)?;
        require_aligned(at[lane], bytes, lane)?;
        let range = place.offset..place.offset + n;
        let allocation = s.global.allocation(place.slot);
        of_lane(allocation.require_writable(place.offset), lane)?;
        if C && s.watch_ctas {
            let same = allocation.bytes[range.clone()] == staging[lane][..n];
            match watch_global(s, cta, place, n, kind(order, false)) {
                Err(trouble) if same => {
                    s.remark(pc as u32, AdvisoryKind::SameValueRace, 1, || trouble.message);
                }
                watched => of_lane(watched, lane)?,
            }
        }
        let allocation = s.global.allocation_mut(place.slot);
        copy(&mut allocation.bytes[range.clone()], &staging[lane][..n]);
        allocation.mark(range, true);
    }
    Ok(())
}
