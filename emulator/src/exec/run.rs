//! The interpreter: runs a warp until it blocks, ends, or has had its turn.

use super::access::{access, addresses, of_lane, undefined};
use super::atomics::atomic;
use super::registers::Registers;
use super::session::{CtaState, Session};
use super::warp::{Wait, Warp};
use super::{exchange, float, integer, moves, transfer};
use crate::check::Kind;
use crate::ir::{Address, Barrier, BarrierKind, Float1, Float2, Inst, Op, Reg, TRUE};
use crate::memory::{Checked, Trouble, lanes};
use crate::numerics::scalar::{self, Mode};
use crate::{AdvisoryKind, FaultKind};

/// Why a warp stopped running.
pub enum Stop {
    /// Its turn is over.
    Turn,
    /// All its lanes have exited.
    Finished,
    /// The whole warp has arrived at this barrier.
    Arrived(Barrier),
}

/// Runs the warp for at most `turn` instructions. `C` checks registers, races and initialisation.
///
/// Inlined into the entry points of [`super::dispatch`], so that it is compiled for each instruction set.
#[inline(always)]
pub fn run<const C: bool>(s: &mut Session, cta: &mut CtaState, w: &mut Warp, turn: u64) -> Checked<Stop> {
    let code: &[Inst] = &s.kernel.code;
    let mut left = turn;
    loop {
        if (w.pc >= w.frontier || w.mask == 0) && !w.reschedule() {
            s.steps += turn - left;
            return if w.alive == 0 { Ok(Stop::Finished) } else { Err(stuck(s, w)) };
        }
        if left == 0 {
            s.steps += turn;
            return Ok(Stop::Turn);
        }
        left -= 1;
        let pc = w.pc as usize;
        let inst = &code[pc];
        w.pc += 1;
        let m = if inst.guard == TRUE {
            w.mask
        } else {
            let guard = w.regs.pred(inst.guard);
            if C {
                let missing = w.mask & !w.regs.defined_pred(inst.guard);
                if missing != 0 {
                    return Err(undefined(missing, "the guard"));
                }
            }
            w.mask & if inst.negated { !guard } else { guard }
        };
        let executed = &mut s.executed[pc];
        executed.warps += 1;
        if m != u32::MAX {
            executed.idle_lanes += u64::from(m.count_zeros());
        }
        if m == 0 {
            continue;
        }
        let r = &mut w.regs;
        match inst.op {
            Op::Int32(op, d, a, b) => integer::int32::<C>(r, m, op, d, a, b),
            Op::Fma(mode, d, a, b, c) => {
                let before = if C { own_nans(r, d, &[a, b, c]) } else { 0 };
                if mode == Mode::RN {
                    r.zip3_32::<C>(m, d, [a, b, c], |a, b, c| scalar::fma_f32(a, b, c, Mode::RN));
                } else {
                    r.zip3_32::<C>(m, d, [a, b, c], |a, b, c| scalar::fma_f32(a, b, c, mode));
                }
                if C {
                    note_nans(s, w, m & !before, d, &[a, b, c]);
                }
            }
            Op::Float2(op, d, a, b) => {
                let before = if C { own_nans(r, d, &[a, b]) } else { 0 };
                match op {
                    Float2::Add(Mode::RN) => r.zip32::<C>(m, d, a, b, |a, b| scalar::add_f32(a, b, Mode::RN)),
                    Float2::Sub(Mode::RN) => r.zip32::<C>(m, d, a, b, |a, b| scalar::sub_f32(a, b, Mode::RN)),
                    Float2::Mul(Mode::RN) => r.zip32::<C>(m, d, a, b, |a, b| scalar::mul_f32(a, b, Mode::RN)),
                    _ => r.zip32::<C>(m, d, a, b, |a, b| float::float2(op, a, b)),
                }
                if C {
                    note_nans(s, w, m & !before, d, &[a, b]);
                }
            }
            Op::Float1(op, d, a) => {
                let before = if C { own_nans(r, d, &[a]) } else { 0 };
                r.map32::<C>(m, d, a, |a| float::float1(op, a));
                if C && !matches!(op, Float1::Neg { .. } | Float1::Abs { .. }) {
                    note_nans(s, w, m & !before, d, &[a]);
                }
            }
            Op::Int64(op, d, a, b) => integer::int64::<C>(r, m, op, d, a, b),
            Op::Mov32(d, a) => r.map32::<C>(m, d, a, |a| *a),
            Op::Mov64(d, a) => r.map64::<C>(m, d, a, |x| x),
            Op::SetPred { d, q, ref compare } => {
                let (value, opposite, defined) = float::compare_and_combine(r, compare);
                r.set_pred::<C>(d, value, m, defined);
                r.set_pred::<C>(q, opposite, m, defined);
            }
            Op::Branch(target) => {
                if m == w.mask {
                    w.pc = target;
                } else {
                    s.traffic[pc].divergent_branches += 1;
                    w.mask &= !m;
                    w.push(target, m, Wait::Ready);
                }
                if target as usize <= pc && !w.others.is_empty() {
                    w.backward_branch();
                }
            }
            Op::ConvertPair(ref op, d, a, b) => {
                r.zip32::<C>(m, d, a, b, |a, b| float::convert_pair(op, a, b))
            }
            Op::Select32(d, a, b, p) => moves::select32::<C>(r, m, d, [a, b, p]),
            Op::Ternary32(op, d, a, b, c) => integer::ternary32::<C>(r, m, op, d, [a, b, c]),
            Op::Shift64(op, d, a, b) => integer::shift64::<C>(r, m, op, d, a, b),
            Op::MulWide { signed, d, a, b } => integer::mul_wide::<C>(r, m, signed, d, a, b, None),
            Op::MadWide { signed, d, a, b, c } => integer::mul_wide::<C>(r, m, signed, d, a, b, Some(c)),
            Op::Convert(ref op, d, a, wide) => float::convert::<C>(r, m, op, d, a, wide),
            Op::Load(ref a) => access::<C>(s, cta, w, m, a, true)?,
            Op::Store(ref a) => access::<C>(s, cta, w, m, a, false)?,
            Op::Exit => {
                if C && w.copies.under_way(m) > 0 {
                    let count = w.copies.under_way(m) as u32;
                    s.remark(pc as u32, AdvisoryKind::CopyNeverWaitedFor, count, || {
                        format!("threads of warp {} end with {count} copies under way", w.id)
                    });
                }
                w.exit(m);
            }
            Op::Mma(ref product) => {
                if !exchange::collect(w, m, w.alive) {
                    uncount(s, pc, m);
                    continue;
                }
                transfer::require_full_warp(m)?;
                transfer::mma::<C>(s, w, product)?;
            }
            Op::LdMatrix(ref a) | Op::StMatrix(ref a) => {
                if !exchange::collect(w, m, w.alive) {
                    uncount(s, pc, m);
                    continue;
                }
                transfer::require_full_warp(m)?;
                transfer::matrix_access::<C>(s, cta, w, a, matches!(inst.op, Op::LdMatrix(_)))?;
            }
            Op::Barrier(ref barrier) => match reach::<C>(w, m, barrier)? {
                Reached::All => {
                    s.steps += turn - left;
                    return Ok(Stop::Arrived(**barrier));
                }
                Reached::Some => {}
                Reached::Parked => uncount(s, pc, m),
            },
            _ => {
                if !other::<C>(s, cta, w, pc, m, &inst.op)? {
                    uncount(s, pc, m);
                }
            }
        }
    }
}

/// Instructions that are rare enough to be called. False if the lanes wait for others.
fn other<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    pc: usize,
    m: u32,
    op: &Op,
) -> Checked<bool> {
    let r = &mut w.regs;
    match *op {
        Op::Nop => {}
        Op::Fence => cta.clock.fence(),
        Op::BranchIndex(ref table) => branch_index::<C>(s, w, pc, m, table.0, &table.1)?,
        Op::Trap => {
            return Err(Trouble::lane(FaultKind::Trap, m.trailing_zeros(), "the kernel executed a trap"));
        }
        Op::Panic(ref name) => {
            return Err(Trouble::lane(
                FaultKind::Panic,
                m.trailing_zeros(),
                format!("the kernel called {name}"),
            ));
        }
        Op::Clock { d, wide } => {
            let now = s.steps.wrapping_add(s.executed[pc].warps);
            if wide {
                r.set64::<C>(d, [now; 32], m, m);
            } else {
                r.set32::<C>(d, [now as u32; 32], m, m);
            }
        }
        Op::MovPred(d, a) => r.set_pred::<C>(d, r.pred(a), m, r.defined_pred(a)),
        Op::NotPred(d, a) => r.set_pred::<C>(d, !r.pred(a), m, r.defined_pred(a)),
        Op::LogicPred(op, d, a, b) => moves::logic::<C>(r, m, op, d, a, b),
        Op::Set { d, float, ref compare } => {
            let (value, _, defined) = float::compare_and_combine(r, compare);
            let one = if float { 1f32.to_bits() } else { u32::MAX };
            let value = std::array::from_fn(|lane| if value >> lane & 1 != 0 { one } else { 0 });
            r.set32::<C>(d, value, m, defined);
        }
        Op::Pack { d, wide, bits, ref parts } => moves::pack::<C>(r, m, d, wide, bits, parts),
        Op::Unpack { a, wide, bits, ref parts } => moves::unpack::<C>(r, m, a, wide, bits, parts),
        Op::Select64(d, a, b, p) => moves::select64::<C>(r, m, d, [a, b, p]),
        Op::Int16(op, d, a, b) => integer::int16::<C>(r, m, op, d, a, b),
        Op::Unary16(op, d, a) => integer::unary32::<C>(r, m, op, d, a, 16),
        Op::Unary32(op, d, a) => integer::unary32::<C>(r, m, op, d, a, 32),
        Op::Unary64(op, d, a) => integer::unary64::<C>(r, m, op, d, a),
        Op::Count64(op, d, a) => integer::count64::<C>(r, m, op, d, a),
        Op::Mad16(d, a, b, c) => integer::mad16::<C>(r, m, d, [a, b, c]),
        Op::Mad64(d, a, b, c) => integer::mad64::<C>(r, m, d, [a, b, c]),
        Op::MulWide16 { signed, d, a, b } => integer::mul_wide16::<C>(r, m, signed, d, a, b),
        Op::Bfe64 { signed, d, a, pos, len } => integer::bfe64::<C>(r, m, signed, d, [a, pos, len]),
        Op::Bfi32 { d, a, b, pos, len } => integer::bfi32::<C>(r, m, d, [a, b, pos, len]),
        Op::Bfi64 { d, a, b, pos, len } => integer::bfi64::<C>(r, m, d, [a, b, pos, len]),
        Op::Carry { subtract, reads, writes, wide, d, a, b } => {
            let op = integer::CarryOp { subtract, reads, writes, wide };
            integer::carry::<C>(r, m, op, d, a, b);
        }
        Op::Half(ref op, d, operands) => float::half::<C>(r, m, op, d, operands),
        Op::ToGeneric(space, d, a) => moves::convert_address::<C>(r, m, space, true, d, a),
        Op::FromGeneric(space, d, a) => moves::convert_address::<C>(r, m, space, false, d, a),
        Op::IsSpace(space, d, a) => moves::is_space::<C>(r, m, space, d, a),
        Op::Atomic(ref a) => atomic::<C>(s, cta, w, m, a)?,
        Op::Discard(address) => discard(s, cta, w, m, address)?,
        Op::CpAsync(ref copy) => transfer::cp_async::<C>(s, cta, w, m, copy)?,
        Op::CpCommit => w.copies.commit(m),
        Op::CpWaitGroup(keep) => transfer::wait_copies::<C>(s, cta, w, m, Some(keep))?,
        Op::CpWaitAll => transfer::wait_copies::<C>(s, cta, w, m, None)?,
        Op::ActiveMask(d) => r.set32::<C>(d, [m; 32], m, m),
        Op::MovMatrix(d, a) => {
            if !exchange::collect(w, m, w.alive) {
                return Ok(false);
            }
            transfer::require_full_warp(m)?;
            transfer::mov_matrix::<C>(w, d, a);
        }
        _ => return with_members::<C>(cta, w, m, op),
    }
    Ok(true)
}

/// Instructions with a member mask.
fn with_members<const C: bool>(cta: &mut CtaState, w: &mut Warp, m: u32, op: &Op) -> Checked<bool> {
    let members: Reg = match *op {
        Op::Shfl(ref x) => x.mask,
        Op::Vote { mask, .. } | Op::Match { mask, .. } | Op::Redux { mask, .. } | Op::Elect { mask, .. } => {
            mask
        }
        Op::WarpSync(mask) => mask,
        ref other => unreachable!("{other:?} is executed elsewhere"),
    };
    let Some(m) = exchange::collect_members::<C>(w, m, members)? else { return Ok(false) };
    match *op {
        Op::Shfl(ref x) => exchange::shuffle::<C>(w, m, x)?,
        Op::Vote { kind, d, p, negated, .. } => exchange::vote::<C>(w, m, kind, d, p, negated)?,
        Op::Match { all, wide, d, p, a, .. } => exchange::match_lanes::<C>(w, m, all, wide, [d, p, a])?,
        Op::Redux { op, d, a, .. } => exchange::redux::<C>(w, m, op, d, a)?,
        Op::Elect { d, p, .. } => {
            let leader = m.trailing_zeros();
            w.regs.set32::<C>(d, [leader; 32], m, m);
            w.regs.set_pred::<C>(p, 1 << leader, m, m);
        }
        _ => cta.clocks.sync_lanes(w.id as usize, m),
    }
    Ok(true)
}

enum Reached {
    All,
    /// The lanes wait at an unaligned barrier for the rest of their warp.
    Some,
    /// The lanes will try again.
    Parked,
}

fn reach<const C: bool>(w: &mut Warp, m: u32, barrier: &Barrier) -> Checked<Reached> {
    if C {
        super::access::require_defined(&w.regs, barrier.id, false, m, "the barrier's number")?;
        if let Some(count) = barrier.count {
            super::access::require_defined(&w.regs, count, false, m, "the barrier's thread count")?;
        }
    }
    if barrier.aligned || barrier.kind != BarrierKind::Sync {
        return Ok(if exchange::collect(w, m, w.alive) { Reached::All } else { Reached::Parked });
    }
    let id = w.regs.get32(barrier.id)[m.trailing_zeros() as usize];
    if (m | w.at_barrier(id)) == w.alive {
        return Ok(Reached::All);
    }
    w.mask &= !m;
    w.push(w.pc, m, Wait::Barrier(id));
    Ok(Reached::Some)
}

#[cold]
fn uncount(s: &mut Session, pc: usize, m: u32) {
    s.executed[pc].warps -= 1;
    s.executed[pc].idle_lanes -= u64::from(m.count_zeros());
}

/// Lanes of the destination that hold a NaN before the instruction, where it is an operand as well.
#[inline(always)]
fn own_nans(r: &Registers, d: Reg, operands: &[Reg]) -> u32 {
    if operands.contains(&d) && float::has_nan(r.get32(d)) { float::nans(r.get32(d)) } else { 0 }
}

/// Remarks on NaN results in the lanes of `m` whose operands are none.
#[inline(always)]
fn note_nans(s: &mut Session, w: &Warp, m: u32, d: Reg, operands: &[Reg]) {
    if float::has_nan(w.regs.get32(d)) {
        note_births(s, w, m, d, operands);
    }
}

#[cold]
fn note_births(s: &mut Session, w: &Warp, m: u32, d: Reg, operands: &[Reg]) {
    let found = float::nans(w.regs.get32(d)) & m;
    let others = || operands.iter().copied().filter(|&reg| reg != d);
    let births = others().fold(found, |bits, reg| bits & !float::nans(w.regs.get32(reg)));
    if births == 0 {
        return;
    }
    let lane = births.trailing_zeros() as usize;
    s.remark(w.pc - 1, AdvisoryKind::NanBirth, births.count_ones(), || {
        let values: Vec<f32> = others().map(|reg| f32::from_bits(w.regs.get32(reg)[lane])).collect();
        format!("NaN from {values:?} in warp {}, lane {lane}", w.id)
    });
}

fn branch_index<const C: bool>(
    s: &mut Session,
    w: &mut Warp,
    pc: usize,
    m: u32,
    index: Reg,
    targets: &[u32],
) -> Checked<()> {
    if C {
        super::access::require_defined(&w.regs, index, false, m, "the branch index")?;
    }
    let index = *w.regs.get32(index);
    if m != w.mask || lanes(m).any(|lane| index[lane] != index[m.trailing_zeros() as usize]) {
        s.traffic[pc].divergent_branches += 1;
    }
    w.mask &= !m;
    for lane in lanes(m) {
        let Some(&target) = targets.get(index[lane] as usize) else {
            let message = format!("branch index {} of a table of {}", index[lane], targets.len());
            return Err(Trouble::lane(FaultKind::OutOfBounds, lane as u32, message));
        };
        w.push(target, 1 << lane, Wait::Ready);
    }
    Ok(())
}

/// The cache lines lose their value, which a later read would notice.
fn discard(s: &mut Session, cta: &CtaState, w: &Warp, m: u32, address: Address) -> Checked<()> {
    let at = addresses(&w.regs, address);
    for lane in lanes(m) {
        let place = of_lane(s.global.place(at[lane], 128), lane)?;
        super::access::require_aligned(at[lane], 128, lane)?;
        of_lane(s.global.allocation(place.slot).require_writable(place.offset), lane)?;
        if s.watch_ctas {
            of_lane(super::global_access::watch_global(s, cta, place, 128, Kind::Write), lane)?;
        }
        s.global.allocation_mut(place.slot).mark(place.offset..place.offset + 128, false);
    }
    Ok(())
}

/// No fragment of a warp can go on.
#[cold]
fn stuck(s: &Session, w: &mut Warp) -> Box<Trouble> {
    let mut message = String::from("lanes of one warp wait for each other at different places:");
    w.others.sort_by_key(|fragment| fragment.pc);
    for fragment in &w.others {
        // A fragment at an unaligned barrier stands behind it.
        let at = fragment.pc as usize - usize::from(matches!(fragment.wait, Wait::Barrier(_)));
        let (text, line) = (&s.kernel.texts[at].0, s.kernel.code[at].line);
        message += &format!("\n    lanes {:#010x} at PTX line {line}: {text}", fragment.mask);
    }
    let gone = w.launched & !w.alive;
    if gone != 0 {
        message += &format!("\n    lanes {gone:#010x} have exited");
    }
    if let Some(fragment) = w.others.first() {
        w.pc = fragment.pc + 1;
    }
    Trouble::warp(FaultKind::Divergence, message)
}
