//! Exchanges between the lanes of a warp: shuffles, votes, matches, reductions.

use super::access::{require_defined, undefined};
use super::registers::test;
use super::warp::{Wait, Warp};
use crate::FaultKind;
use crate::ir::{Redux, Reg, Shfl, Shuffle, Vote};
use crate::memory::{Checked, Trouble, lanes};
use crate::numerics::Lanes;

/// Brings the lanes together that an instruction needs. Lanes whose guard is false go on; if lanes of `need` are still
/// elsewhere, the others park and the answer is false.
pub fn collect(w: &mut Warp, mask: u32, need: u32) -> bool {
    if w.mask != mask {
        w.push(w.pc, w.mask & !mask, Wait::Ready);
        w.mask = mask;
    }
    if need & !mask != 0 {
        w.push(w.pc - 1, mask, Wait::Lanes);
        w.mask = 0;
        return false;
    }
    true
}

/// The same for an instruction with a member mask, which the lanes carry in a register. Lanes that carry another mask
/// execute it by themselves. Gives the lanes that execute now, none if they wait.
pub fn collect_members<const C: bool>(w: &mut Warp, mask: u32, members: Reg) -> Checked<Option<u32>> {
    if C {
        require_defined(&w.regs, members, false, mask, "the member mask")?;
    }
    let values = *w.regs.get32(members);
    let named = values[mask.trailing_zeros() as usize];
    let group = mask & test(&values, |value| value == named);
    if let Some(lane) = lanes(group & !named).next() {
        let message = format!("the lane executes with the member mask {named:#010x}, which lacks it");
        return Err(Trouble::lane(FaultKind::InactiveLane, lane as u32, message));
    }
    if group != mask {
        w.push(w.pc - 1, mask & !group, Wait::Ready);
        w.mask &= !(mask & !group);
    }
    let need = named & w.alive;
    Ok(collect(w, group, need).then_some(group))
}

/// `shfl.sync`.
pub fn shuffle<const C: bool>(w: &mut Warp, mask: u32, x: &Shfl) -> Checked<()> {
    let r = &w.regs;
    if C {
        for (reg, what) in [(x.b, "the lane operand"), (x.c, "the clamp operand")] {
            require_defined(r, reg, false, mask, what)?;
        }
    }
    let (a, b, c) = (r.get32(x.a), r.get32(x.b), r.get32(x.c));
    let mut value = [0; 32];
    let (mut in_range, mut defined) = (0u32, 0u32);
    for lane in lanes(mask) {
        let own = lane as u32;
        let (clamp, segment) = (c[lane] & 31, c[lane] >> 8 & 31);
        let last = own & segment | clamp & !segment;
        let first = own & segment;
        let distance = b[lane] & 31;
        let (source, ok) = match x.mode {
            Shuffle::Up => (own.wrapping_sub(distance), own as i32 - distance as i32 >= last as i32),
            Shuffle::Down => (own + distance, own + distance <= last),
            Shuffle::Butterfly => (own ^ distance, own ^ distance <= last),
            Shuffle::Index => {
                let source = first | distance & !segment;
                (source, source <= last)
            }
        };
        let source = if ok { source } else { own };
        if mask >> source & 1 == 0 {
            let message =
                format!("the shuffle reads from lane {source}, which does not take part ({mask:#010x} do)");
            return Err(Trouble::lane(FaultKind::InactiveLane, own, message));
        }
        value[lane] = a[source as usize];
        in_range |= u32::from(ok) << lane;
        if C {
            defined |= (r.defined32(x.a) >> source & 1) << lane;
        }
    }
    w.regs.set32::<C>(x.d, value, mask, defined);
    w.regs.set_pred::<C>(x.p, in_range, mask, mask);
    Ok(())
}

/// `vote.sync`.
pub fn vote<const C: bool>(
    w: &mut Warp,
    mask: u32,
    kind: Vote,
    d: Reg,
    p: Reg,
    negated: bool,
) -> Checked<()> {
    if C {
        let missing = mask & !w.regs.defined_pred(p);
        if missing != 0 {
            return Err(undefined(missing, "the predicate voted on"));
        }
    }
    let yes = (w.regs.pred(p) ^ if negated { u32::MAX } else { 0 }) & mask;
    let all_or_nothing = |yes: bool| if yes { u32::MAX } else { 0 };
    let result = match kind {
        Vote::Ballot => {
            w.regs.set32::<C>(d, [yes; 32], mask, mask);
            return Ok(());
        }
        Vote::All => yes == mask,
        Vote::Any => yes != 0,
        Vote::Uni => yes == 0 || yes == mask,
    };
    w.regs.set_pred::<C>(d, all_or_nothing(result), mask, mask);
    Ok(())
}

/// `match.any.sync` and `match.all.sync`.
pub fn match_lanes<const C: bool>(
    w: &mut Warp,
    mask: u32,
    all: bool,
    wide: bool,
    [d, p, a]: [Reg; 3],
) -> Checked<()> {
    if C {
        require_defined(&w.regs, a, wide, mask, "the value compared")?;
    }
    let values: [u64; 32] =
        std::array::from_fn(
            |lane| if wide { w.regs.get64(a)[lane] } else { u64::from(w.regs.get32(a)[lane]) },
        );
    let equal = |lane: usize| {
        lanes(mask).filter(|&other| values[other] == values[lane]).fold(0, |bits, other| bits | 1u32 << other)
    };
    let mut result: Lanes = [0; 32];
    let mut agree = 0;
    for lane in lanes(mask) {
        let group = equal(lane);
        agree |= u32::from(group == mask) << lane;
        result[lane] = if !all || group == mask { group } else { 0 };
    }
    w.regs.set32::<C>(d, result, mask, mask);
    if all {
        w.regs.set_pred::<C>(p, agree, mask, mask);
    }
    Ok(())
}

/// `redux.sync`.
pub fn redux<const C: bool>(w: &mut Warp, mask: u32, op: Redux, d: Reg, a: Reg) -> Checked<()> {
    if C {
        require_defined(&w.regs, a, false, mask, "the value reduced")?;
    }
    let values = w.regs.get32(a);
    let combine = |x: u32, y: u32| match op {
        Redux::Add => x.wrapping_add(y),
        Redux::MinU => x.min(y),
        Redux::MaxU => x.max(y),
        Redux::MinS => (x as i32).min(y as i32) as u32,
        Redux::MaxS => (x as i32).max(y as i32) as u32,
        Redux::And => x & y,
        Redux::Or => x | y,
        Redux::Xor => x ^ y,
    };
    let result = lanes(mask).map(|lane| values[lane]).reduce(combine).unwrap_or(0);
    w.regs.set32::<C>(d, [result; 32], mask, mask);
    Ok(())
}
