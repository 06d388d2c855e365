//! Atomic read-modify-write operations.

use super::access::{accessor, addresses, of_lane, require_aligned, require_defined, shared_place};
use super::global_access::{synchronise, watch_global};
use super::session::{CtaState, Session};
use super::traffic::{count_global, count_shared};
use super::warp::Warp;
use crate::check::Kind;
use crate::ir::{Atomic, AtomicOp, Space};
use crate::memory::{Checked, OFFSET_MASK, Trouble, lanes, space_of};
use crate::numerics::{Format, Lanes, half, scalar};
use crate::{FaultKind, Scheduler};

/// `atom` and `red`, lane after lane. Which lane comes first is nobody's business, so it depends on the scheduler.
pub fn atomic<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    mask: u32,
    a: &Atomic,
) -> Checked<()> {
    let bytes = if a.wide { 8 } else { 4 };
    if C {
        require_defined(&w.regs, a.address.base, a.address.wide, mask, "the address")?;
        require_defined(&w.regs, a.b, a.wide, mask, "the value")?;
        require_defined(&w.regs, a.c, a.wide, mask, "the value")?;
    }
    let mut at = addresses(&w.regs, a.address);
    let first = at[mask.trailing_zeros() as usize];
    let space = if a.space == Space::Generic { space_of(first) } else { a.space };
    if a.space == Space::Generic {
        if let Some(lane) = lanes(mask).find(|&lane| space_of(at[lane]) != space) {
            let message = "lanes of one generic atomic address different spaces, which is not supported";
            return Err(Trouble::lane(FaultKind::WildPointer, lane as u32, message));
        }
        if space != Space::Global {
            at = at.map(|address| address & OFFSET_MASK);
        }
    }
    if s.options.counters {
        let totals = &mut s.traffic[w.pc as usize - 1];
        if space == Space::Shared {
            count_shared(totals, &at, mask, bytes);
        } else {
            count_global(totals, &at, mask, bytes);
        }
    }
    let mut old = [0u64; 32];
    let mut order: Vec<usize> = lanes(mask).collect();
    if s.options.scheduler != Scheduler::RoundRobin && s.rng.coin() {
        order.reverse();
    }
    for lane in order {
        let value = |reg| if a.wide { w.regs.get64(reg)[lane] } else { u64::from(w.regs.get32(reg)[lane]) };
        let (b, c) = (value(a.b), value(a.c));
        let n = bytes as usize;
        let cell: &mut [u8] = match space {
            Space::Shared => {
                let place = shared_place(cta, at[lane], bytes, lane)?;
                if C {
                    let who = accessor(w.id, lane);
                    // The value is read as well, so it must be there.
                    let checks = [Kind::StrongRead, Kind::StrongWrite];
                    for kind in checks {
                        of_lane(cta.shadow.access(&cta.clocks, who, place as u32, bytes, kind), lane)?;
                    }
                }
                &mut cta.shared[place..place + n]
            }
            Space::Global => {
                let place = of_lane(s.global.place(at[lane], n), lane)?;
                require_aligned(at[lane], bytes, lane)?;
                let range = place.offset..place.offset + n;
                let allocation = s.global.allocation(place.slot);
                of_lane(allocation.require_writable(place.offset), lane)?;
                if C {
                    of_lane(allocation.require_valid(range.clone()), lane)?;
                    if s.watch_ctas {
                        synchronise(s, cta, at[lane], a.order, true, true);
                        of_lane(watch_global(s, cta, place, n, Kind::StrongWrite), lane)?;
                    }
                }
                &mut s.global.allocation_mut(place.slot).bytes[range]
            }
            _ => {
                let message = "an atomic on local memory or parameters";
                return Err(Trouble::lane(FaultKind::WildPointer, lane as u32, message));
            }
        };
        let mut before = [0; 8];
        before[..n].copy_from_slice(cell);
        old[lane] = u64::from_le_bytes(before);
        // f32 sums flush subnormals in global memory whatever the instruction says, and keep them in shared memory.
        let mode = if space == Space::Global { scalar::Mode::RN_FTZ } else { scalar::Mode::RN };
        cell.copy_from_slice(&apply(a.op, a.wide, mode, old[lane], b, c).to_le_bytes()[..n]);
    }
    if a.wide {
        w.regs.set64::<C>(a.d, old, mask, mask);
    } else {
        w.regs.set32::<C>(a.d, old.map(|value| value as u32), mask, mask);
    }
    Ok(())
}

fn apply(op: AtomicOp, wide: bool, mode: scalar::Mode, old: u64, b: u64, c: u64) -> u64 {
    let signed = |x: u64| if wide { x as i64 } else { i64::from(x as u32 as i32) };
    let pick = |first: bool, x: u64, y: u64| if first { x } else { y };
    let (old_lanes, b_lanes): (Lanes, Lanes) = ([old as u32; 32], [b as u32; 32]);
    match op {
        AtomicOp::Add => old.wrapping_add(b),
        AtomicOp::MinU => old.min(b),
        AtomicOp::MaxU => old.max(b),
        AtomicOp::MinS => pick(signed(b) < signed(old), b, old),
        AtomicOp::MaxS => pick(signed(b) > signed(old), b, old),
        AtomicOp::Inc => pick(old >= b, 0, old.wrapping_add(1)),
        AtomicOp::Dec => pick(old == 0 || old > b, b, old.wrapping_sub(1)),
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Exch => b,
        AtomicOp::Cas => pick(old == b, c, old),
        AtomicOp::AddF32 => scalar::add_f32(&old_lanes, &b_lanes, mode)[0].into(),
        AtomicOp::AddF16x2 => half::add(Format::F16, &old_lanes, &b_lanes, half::Mode::default())[0].into(),
        AtomicOp::AddBf16x2 => half::add(Format::BF16, &old_lanes, &b_lanes, half::Mode::default())[0].into(),
    }
}
