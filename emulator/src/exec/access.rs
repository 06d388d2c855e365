//! Loads and stores.

use super::global_access::{kind, read_global, write_global};
use super::registers::Registers;
use super::session::{CtaState, Session};
use super::traffic::{count_global, count_shared};
use super::warp::Warp;
use crate::check::Accessor;
use crate::ir::{Access, Address, Order, Reg, Space};
use crate::memory::{Checked, OFFSET_MASK, Staging, Trouble, lanes, space_of};
use crate::{AdvisoryKind, FaultKind};

/// Addresses of all lanes.
#[inline(always)]
pub fn addresses(r: &Registers, address: Address) -> [u64; 32] {
    let offset = i64::from(address.offset) as u64;
    if address.wide {
        super::registers::map(r.get64(address.base), |base| base.wrapping_add(offset))
    } else {
        super::registers::map(r.get32(address.base), |base| u64::from(base).wrapping_add(offset))
    }
}

/// Fails unless every lane of `mask` has a value in `reg`.
#[inline(always)]
pub fn require_defined(r: &Registers, reg: Reg, wide: bool, mask: u32, what: &str) -> Checked<()> {
    let missing = mask & !r.defined(reg, wide);
    if missing == 0 { Ok(()) } else { Err(undefined(missing, what)) }
}

#[cold]
pub fn undefined(missing: u32, what: &str) -> Box<Trouble> {
    let message = format!("{what} comes from a register that was never written (lanes {missing:#010x})");
    Trouble::lane(FaultKind::UndefinedRegister, missing.trailing_zeros(), message)
}

/// Adds the lane to trouble that lacks one.
#[inline(always)]
pub fn of_lane<T>(result: Checked<T>, lane: usize) -> Checked<T> {
    result.map_err(|mut trouble| {
        trouble.lane = trouble.lane.or(Some(lane as u32));
        trouble
    })
}

#[inline(always)]
pub fn require_aligned(address: u64, bytes: u32, lane: usize) -> Checked<()> {
    if address.is_multiple_of(u64::from(bytes)) {
        return Ok(());
    }
    let message = format!("address {address:#x} is no multiple of {bytes}, the size of the access");
    Err(Trouble::lane(FaultKind::Misaligned, lane as u32, message))
}

/// A load or store of the lanes in `mask`.
pub fn access<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    mask: u32,
    a: &Access,
    load: bool,
) -> Checked<()> {
    if C {
        require_defined(&w.regs, a.address.base, a.address.wide, mask, "the address")?;
        if !load {
            for &reg in &a.regs[..usize::from(a.count)] {
                require_defined(&w.regs, reg, a.reg_bits == 64, mask, "the value stored")?;
            }
        }
    }
    let mut at = addresses(&w.regs, a.address);
    if a.space != Space::Generic {
        return in_space::<C>(s, cta, w, mask, a, a.space, &at, load);
    }
    // The space of a generic access is each lane's own.
    let mut left = mask;
    while left != 0 {
        let space = space_of(at[left.trailing_zeros() as usize]);
        let same =
            lanes(left).filter(|&lane| space_of(at[lane]) == space).fold(0, |bits, lane| bits | 1 << lane);
        if space != Space::Global {
            lanes(same).for_each(|lane| at[lane] &= OFFSET_MASK);
        }
        in_space::<C>(s, cta, w, same, a, space, &at, load)?;
        left &= !same;
    }
    Ok(())
}

fn in_space<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    w: &mut Warp,
    mask: u32,
    a: &Access,
    space: Space,
    at: &[u64; 32],
    load: bool,
) -> Checked<()> {
    let bytes = u32::from(a.width) * u32::from(a.count);
    let pc = w.pc as usize - 1;
    if s.options.counters {
        match space {
            Space::Global | Space::Const => count_global(&mut s.traffic[pc], at, mask, bytes),
            Space::Shared => count_shared(&mut s.traffic[pc], at, mask, bytes),
            Space::Local => s.traffic[pc].local_bytes += u64::from(bytes) * u64::from(mask.count_ones()),
            Space::Param | Space::Generic => {}
        }
    }
    let mut staging: Staging = [[0; 16]; 32];
    if load {
        match space {
            Space::Global | Space::Const => read_global::<C>(s, cta, mask, at, bytes, a.order, &mut staging)?,
            Space::Shared => read_shared::<C>(cta, w.id, mask, at, bytes, a.order, &mut staging)?,
            Space::Local => local::<C>(
                w,
                mask,
                at,
                bytes,
                |own, lane| staging[lane][..own.len()].copy_from_slice(own),
                false,
            )?,
            Space::Param | Space::Generic => read_param(s, mask, at, bytes, &mut staging)?,
        }
        unpack::<C>(&mut w.regs, mask, a, &staging);
    } else {
        pack(&w.regs, a, &mut staging);
        match space {
            Space::Global | Space::Const => {
                write_global::<C>(s, cta, pc, mask, at, bytes, a.order, &staging)?
            }
            Space::Shared => write_shared::<C>(s, cta, pc, w.id, mask, at, bytes, a.order, &staging)?,
            Space::Local => local::<C>(
                w,
                mask,
                at,
                bytes,
                |own, lane| own.copy_from_slice(&staging[lane][..own.len()]),
                true,
            )?,
            Space::Param | Space::Generic => {
                let lane = mask.trailing_zeros();
                return Err(Trouble::lane(FaultKind::ReadOnly, lane, "a store into the kernel's parameters"));
            }
        }
    }
    Ok(())
}

/// Copies an access of a natural size; a copy of known length is one move and not a call.
#[inline(always)]
pub fn copy(to: &mut [u8], from: &[u8]) {
    macro_rules! known {
        ($n:literal) => {
            if let (Some(to), Some(from)) = (to.first_chunk_mut::<$n>(), from.first_chunk::<$n>()) {
                *to = *from;
            }
        };
    }
    match from.len() {
        4 => known!(4),
        16 => known!(16),
        8 => known!(8),
        2 => known!(2),
        n => to[..n].copy_from_slice(from),
    }
}

/// Registers from the bytes of each lane.
#[inline(always)]
fn unpack<const C: bool>(r: &mut Registers, mask: u32, a: &Access, staging: &Staging) {
    let width = usize::from(a.width);
    for (i, &reg) in a.regs[..usize::from(a.count)].iter().enumerate() {
        let at = i * width;
        match (width, a.reg_bits, a.signed) {
            (4, 32, _) => {
                let mut value = [0; 32];
                for (value, bytes) in value.iter_mut().zip(staging) {
                    *value = bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                }
                r.set32::<C>(reg, value, mask, mask);
            }
            (8, 64, _) => {
                let mut value = [0; 32];
                for (value, bytes) in value.iter_mut().zip(staging) {
                    *value = bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                }
                r.set64::<C>(reg, value, mask, mask);
            }
            _ => unpack_extended::<C>(r, mask, a, reg, at, staging),
        }
    }
}

/// The same where the register is wider than the element.
fn unpack_extended<const C: bool>(
    r: &mut Registers,
    mask: u32,
    a: &Access,
    reg: Reg,
    at: usize,
    staging: &Staging,
) {
    let width = usize::from(a.width);
    let unused = 64 - 8 * u32::from(a.width);
    let mut value = [0; 32];
    for (value, from) in value.iter_mut().zip(staging) {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(&from[at..at + width]);
        let bits = u64::from_le_bytes(bytes);
        *value = if a.signed { (((bits << unused) as i64) >> unused) as u64 } else { bits };
    }
    if a.reg_bits == 64 {
        r.set64::<C>(reg, value, mask, mask);
    } else {
        let keep = u32::MAX >> (32 - u32::from(a.reg_bits));
        r.set32::<C>(reg, super::registers::map(&value, |x| x as u32 & keep), mask, mask);
    }
}

/// The bytes of each lane from registers.
#[inline(always)]
fn pack(r: &Registers, a: &Access, staging: &mut Staging) {
    let width = usize::from(a.width);
    for (i, &reg) in a.regs[..usize::from(a.count)].iter().enumerate() {
        let at = i * width;
        for (lane, to) in staging.iter_mut().enumerate() {
            if a.reg_bits == 64 {
                copy(&mut to[at..], &r.get64(reg)[lane].to_le_bytes()[..width]);
            } else {
                copy(&mut to[at..], &r.get32(reg)[lane].to_le_bytes()[..width]);
            }
        }
    }
}

/// Where an access to shared memory lies.
#[inline(always)]
pub fn shared_place(cta: &CtaState, address: u64, bytes: u32, lane: usize) -> Checked<usize> {
    if address.checked_add(u64::from(bytes)).is_none_or(|end| end > cta.shared.len() as u64) {
        let size = cta.shared.len();
        let message = format!("{bytes} bytes at offset {address:#x} of shared memory, which has {size:#x}");
        return Err(Trouble::lane(FaultKind::OutOfBounds, lane as u32, message).at("shared memory", address));
    }
    require_aligned(address, bytes, lane)?;
    Ok(address as usize)
}

/// A lane of a warp as the race check knows it.
pub fn accessor(warp: u32, lane: usize) -> Accessor {
    Accessor { warp: warp as u8, lane: lane as u8 }
}

fn read_shared<const C: bool>(
    cta: &mut CtaState,
    warp: u32,
    mask: u32,
    at: &[u64; 32],
    bytes: u32,
    order: Order,
    staging: &mut Staging,
) -> Checked<()> {
    for lane in lanes(mask) {
        let place = shared_place(cta, at[lane], bytes, lane)?;
        if C {
            let who = accessor(warp, lane);
            of_lane(cta.shadow.access(&cta.clocks, who, place as u32, bytes, kind(order, true)), lane)?;
        }
        let n = bytes as usize;
        copy(&mut staging[lane], &cta.shared[place..place + n]);
    }
    Ok(())
}

fn write_shared<const C: bool>(
    s: &mut Session,
    cta: &mut CtaState,
    pc: usize,
    warp: u32,
    mask: u32,
    at: &[u64; 32],
    bytes: u32,
    order: Order,
    staging: &Staging,
) -> Checked<()> {
    for lane in lanes(mask) {
        let place = shared_place(cta, at[lane], bytes, lane)?;
        let range = place..place + bytes as usize;
        if C {
            let who = accessor(warp, lane);
            let same = cta.shared[range.clone()] == staging[lane][..bytes as usize];
            match cta.shadow.access(&cta.clocks, who, place as u32, bytes, kind(order, false)) {
                Err(trouble) if same && trouble.kind == FaultKind::SharedRace => {
                    s.remark(pc as u32, AdvisoryKind::SameValueRace, 1, || trouble.message);
                }
                checked => of_lane(checked, lane)?,
            }
        }
        copy(&mut cta.shared[range], &staging[lane][..bytes as usize]);
    }
    Ok(())
}

/// An access to the local memory of each lane.
fn local<const C: bool>(
    w: &mut Warp,
    mask: u32,
    at: &[u64; 32],
    bytes: u32,
    mut touch: impl FnMut(&mut [u8], usize),
    store: bool,
) -> Checked<()> {
    let size = w.local.len() / 32;
    for lane in lanes(mask) {
        if at[lane].checked_add(u64::from(bytes)).is_none_or(|end| end > size as u64) {
            let message =
                format!("{bytes} bytes at offset {:#x} of local memory, which has {size:#x}", at[lane]);
            return Err(
                Trouble::lane(FaultKind::OutOfBounds, lane as u32, message).at("local memory", at[lane])
            );
        }
        require_aligned(at[lane], bytes, lane)?;
        let start = lane * size + at[lane] as usize;
        let range = start..start + bytes as usize;
        if C && !store && !w.local_valid.all(range.clone()) {
            let message = format!("local byte {:#x} or one after it is read and was never written", at[lane]);
            let trouble = Trouble::lane(FaultKind::UninitialisedRead, lane as u32, message);
            return Err(trouble.at("local memory", at[lane]));
        }
        if C && store {
            w.local_valid.set(range.clone(), true);
        }
        touch(&mut w.local[range], lane);
    }
    Ok(())
}

fn read_param(s: &Session, mask: u32, at: &[u64; 32], bytes: u32, staging: &mut Staging) -> Checked<()> {
    let n = bytes as usize;
    let first = mask.trailing_zeros() as usize;
    // Nearly always all lanes read the same parameter.
    let uniform = at.iter().all(|&address| address == at[first]);
    for lane in lanes(if uniform { 1 << first } else { mask }) {
        let found =
            usize::try_from(at[lane]).ok().and_then(|start| s.params.get(start..start.checked_add(n)?));
        let Some(found) = found else {
            let message = format!(
                "{bytes} bytes at offset {:#x} of the parameters, which have {:#x}",
                at[lane],
                s.params.len()
            );
            return Err(
                Trouble::lane(FaultKind::OutOfBounds, lane as u32, message).at("parameters", at[lane])
            );
        };
        require_aligned(at[lane], bytes, lane)?;
        copy(&mut staging[lane], found);
    }
    if uniform {
        *staging = [staging[first]; 32];
    }
    Ok(())
}
