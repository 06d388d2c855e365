//! Asynchronous copies and matrix fragments: `cp.async`, `ldmatrix`, `stmatrix`, `movmatrix`, `mma`.

use super::access::{
    accessor, addresses, of_lane, require_aligned, require_defined, shared_place, undefined,
};
use super::copies::Copy;
use super::float::nans;
use super::global_access::watch_global;
use super::registers::test;
use super::session::{CtaState, Session};
use super::traffic::{count_global, count_shared};
use super::warp::Warp;
use crate::check::{ALL_LANES, Accessor, Kind};
use crate::ir::{CpAsync, MatrixAccess, Mma, MmaKind, Reg};
use crate::memory::{Checked, Trouble, lanes};
use crate::numerics::Lanes;
use crate::numerics::mma::{MmaType, MmaUnit, mma_m16n8k8, mma_m16n8k16};
use crate::{AdvisoryKind, Arch, FaultKind, Scheduler};

/// Issues the copies of the lanes in `mask`. All addresses are checked here: a copy that nobody waits for must not stay
/// unseen.
pub fn cp_async<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    mask: u32,
    c: &CpAsync,
) -> Checked<()> {
    let bytes = u32::from(c.bytes);
    if C {
        require_defined(&w.regs, c.dst.base, c.dst.wide, mask, "the destination address")?;
        require_defined(&w.regs, c.src.base, c.src.wide, mask, "the source address")?;
        if let Some(reg) = c.src_size {
            require_defined(&w.regs, reg, false, mask, "the source size")?;
        }
    }
    let (dst, src) = (addresses(&w.regs, c.dst), addresses(&w.regs, c.src));
    let ignored = c.ignore_src.map_or(0, |(p, negated)| w.regs.pred(p) ^ if negated { u32::MAX } else { 0 });
    let sizes: Lanes = match c.src_size {
        Some(reg) => *w.regs.get32(reg),
        None => std::array::from_fn(|lane| if ignored >> lane & 1 != 0 { 0 } else { bytes }),
    };
    let reading = mask & test(&sizes, |size| size != 0);
    if s.options.counters {
        let totals = &mut s.traffic[w.pc as usize - 1];
        count_shared(totals, &dst, mask, bytes);
        if reading != 0 {
            count_global(totals, &src, reading, bytes);
        }
    }
    for lane in lanes(mask) {
        let place = shared_place(cta, dst[lane], bytes, lane)?;
        let size = sizes[lane];
        if size > bytes {
            let message = format!("the source size is {size}, more than the {bytes} bytes of the copy");
            return Err(Trouble::lane(FaultKind::OutOfBounds, lane as u32, message));
        }
        require_aligned(src[lane], bytes, lane)?;
        if size > 0 {
            let from = of_lane(s.global.place(src[lane], size as usize), lane)?;
            if C {
                let allocation = s.global.allocation(from.slot);
                of_lane(allocation.require_valid(from.offset..from.offset + size as usize), lane)?;
                if s.watch_ctas {
                    of_lane(watch_global(s, cta, from, size as usize, Kind::Read), lane)?;
                }
            }
        }
        if C {
            let who = accessor(w.id, lane);
            of_lane(cta.shadow.begin_copy(&cta.clocks, who, place as u32, bytes), lane)?;
        }
        let early = matches!(s.options.scheduler, Scheduler::Random(_)) && s.rng.coin();
        let copy = w.copies.issue(lane, place as u32, src[lane], bytes, size, early);
        if early {
            land(s, cta, &copy)?;
        }
    }
    Ok(())
}

/// Moves the bytes of a copy.
fn land(s: &Session, cta: &mut CtaState, copy: &Copy) -> Checked<()> {
    let (dst, size) = (copy.dst as usize, copy.src_bytes as usize);
    let to = &mut cta.shared[dst..dst + copy.bytes as usize];
    to[size..].fill(0);
    if size > 0 {
        // The memory may have been changed since the issue, but not its extent: only the host frees.
        let from = s.global.place(copy.src, size)?;
        to[..size].copy_from_slice(&s.global.allocation(from.slot).bytes[from.offset..from.offset + size]);
    }
    Ok(())
}

/// `cp.async.wait_group keep`, or `wait_all`.
pub fn wait_copies<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    mask: u32,
    keep: Option<u32>,
) -> Checked<()> {
    for copy in w.copies.wait(mask, keep) {
        if !copy.early {
            land(s, cta, &copy)?;
        }
        if C {
            let who = accessor(w.id, copy.lane as usize);
            cta.shadow.end_copy(&cta.clocks, who, copy.dst, copy.bytes)?;
        }
    }
    Ok(())
}

/// Fails unless the whole warp, with all 32 lanes, executes the instruction.
pub fn require_full_warp(mask: u32) -> Checked<()> {
    if mask == u32::MAX {
        return Ok(());
    }
    let message = format!("a matrix instruction needs all 32 lanes of the warp, and {mask:#010x} execute it");
    Err(Trouble::warp(FaultKind::Divergence, message))
}

/// `ldmatrix` and `stmatrix`. Lanes 8q to 8q + 7 hold the row addresses of matrix q; lane i holds columns 2 (i mod 4)
/// and the next of row i / 4, or with `.trans` of column i / 4.
pub fn matrix_access<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    a: &MatrixAccess,
    load: bool,
) -> Checked<()> {
    let rows = u32::MAX >> (32 - 8 * u32::from(a.count));
    if C {
        require_defined(&w.regs, a.address.base, a.address.wide, rows, "the address of a row")?;
    }
    let at = addresses(&w.regs, a.address);
    let who = Accessor { warp: w.id as u8, lane: ALL_LANES };
    for (q, &reg) in a.regs[..usize::from(a.count)].iter().enumerate() {
        if s.options.counters {
            count_shared(&mut s.traffic[w.pc as usize - 1], &at, 0xff << (8 * q), 16);
        }
        if C && !load {
            require_defined(&w.regs, reg, false, u32::MAX, "a matrix stored")?;
        }
        let mut matrix = [[0u16; 8]; 8];
        if !load {
            spread(w.regs.get32(reg), a.transposed, &mut matrix);
        }
        for (r, row) in matrix.iter_mut().enumerate() {
            let lane = 8 * q + r;
            let place = shared_place(cta, at[lane], 16, lane)?;
            if C {
                let kind = if load { Kind::Read } else { Kind::Write };
                of_lane(cta.shadow.access(&cta.clocks, who, place as u32, 16, kind), lane)?;
            }
            let bytes = &mut cta.shared[place..place + 16];
            for (element, bytes) in row.iter_mut().zip(bytes.chunks_exact_mut(2)) {
                if load {
                    *element = u16::from_le_bytes([bytes[0], bytes[1]]);
                } else {
                    bytes.copy_from_slice(&element.to_le_bytes());
                }
            }
        }
        if load {
            w.regs.set32::<C>(reg, gather(&matrix, a.transposed), u32::MAX, u32::MAX);
        }
    }
    Ok(())
}

/// The register of a warp that holds a matrix.
fn gather(matrix: &[[u16; 8]; 8], transposed: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (r, c) = (lane / 4, lane % 4 * 2);
        let pair =
            if transposed { [matrix[c][r], matrix[c + 1][r]] } else { [matrix[r][c], matrix[r][c + 1]] };
        u32::from(pair[0]) | u32::from(pair[1]) << 16
    })
}

/// The inverse of [`gather`].
fn spread(register: &Lanes, transposed: bool, matrix: &mut [[u16; 8]; 8]) {
    for (lane, &pair) in register.iter().enumerate() {
        let (r, c) = (lane / 4, lane % 4 * 2);
        for (i, element) in [pair as u16, (pair >> 16) as u16].into_iter().enumerate() {
            if transposed {
                matrix[c + i][r] = element;
            } else {
                matrix[r][c + i] = element;
            }
        }
    }
}

/// `movmatrix.trans`: the transposed matrix in the same layout.
pub fn mov_matrix<const C: bool>(w: &mut Warp, d: Reg, a: Reg) {
    let mut matrix = [[0; 8]; 8];
    spread(w.regs.get32(a), false, &mut matrix);
    // Every result takes part in what came from two lanes; one without a value leaves none with one.
    let defined = if w.regs.defined32(a) == u32::MAX { u32::MAX } else { 0 };
    w.regs.set32::<C>(d, gather(&matrix, true), u32::MAX, defined);
}

/// `mma.sync`.
pub fn mma<const C: bool>(s: &mut Session, w: &mut Warp, p: &Mma) -> Checked<()> {
    let (num_a, num_b) = p.kind.fragments();
    if C {
        for &reg in p.a[..num_a].iter().chain(&p.b[..num_b]).chain(&p.c) {
            let missing = !w.regs.defined32(reg);
            if missing != 0 {
                return Err(undefined(missing, "an operand of a matrix product"));
            }
        }
    }
    let unit = if s.arch == Arch::Sm90a { MmaUnit::Hopper } else { MmaUnit::Ampere };
    let ty = match p.kind {
        MmaKind::Bf16K16 | MmaKind::Bf16K8 => MmaType::Bf16,
        MmaKind::F16K16 | MmaKind::F16K8 => MmaType::F16,
    };
    let r = &w.regs;
    let c = p.c.map(|reg| *r.get32(reg));
    let a = p.a.map(|reg| *r.get32(reg));
    let b = p.b.map(|reg| *r.get32(reg));
    let d = match p.kind {
        MmaKind::Bf16K16 | MmaKind::F16K16 => mma_m16n8k16(unit, ty, &a, &b, &c),
        MmaKind::Bf16K8 | MmaKind::F16K8 => mma_m16n8k8(unit, ty, &[a[0], a[1]], &b[0], &c),
    };
    if C {
        let births = d.iter().zip(&c).fold(0, |bits, (d, c)| bits | nans(d) & !nans(c));
        let infinity = ty.format().overflow;
        let has_nan = |x: &Lanes| x.iter().any(|&x| x & 0x7fff > infinity || x >> 16 & 0x7fff > infinity);
        if births != 0 && !a[..num_a].iter().chain(&b[..num_b]).any(has_nan) {
            s.remark(w.pc - 1, AdvisoryKind::NanBirth, births.count_ones(), || {
                format!("a matrix product without NaN operands gave NaN in lanes {births:#010x}")
            });
        }
    }
    for (reg, value) in p.d.into_iter().zip(d) {
        w.regs.set32::<C>(reg, value, u32::MAX, u32::MAX);
    }
    Ok(())
}
