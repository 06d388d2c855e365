//! `shfl.sync`: values from other lanes of the warp.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.shfl.sync.bfly.f32"]
    fn shfl_sync_bfly_f32(mask: u32, value: f32, lane: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    fn shfl_sync_bfly_i32(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.f32"]
    fn shfl_sync_idx_f32(mask: u32, value: f32, lane: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn shfl_sync_idx_i32(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.up.i32"]
    fn shfl_sync_up_i32(mask: u32, value: u32, delta: u32, clamp: u32) -> u32;
}

/// The value of lane `lane ^ XOR`.
///
/// # Safety
/// Reached by all lanes of the warp.
#[inline(always)]
pub unsafe fn bfly<const XOR: u32>(value: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe { shfl_sync_bfly_f32(u32::MAX, value, XOR, 31) }
}

/// As [`bfly`], of integers.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn bfly_u32<const XOR: u32>(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { shfl_sync_bfly_i32(u32::MAX, value, XOR, 31) }
}

/// As [`bfly_u32`], of 64 bits.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn bfly_u64<const XOR: u32>(value: u64) -> u64 {
    // SAFETY: the caller's.
    let [low, high] = unsafe { [bfly_u32::<XOR>(value as u32), bfly_u32::<XOR>((value >> 32) as u32)] };
    (high as u64) << 32 | low as u64
}

/// The value of lane `lane`, below 32.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn idx_f32(value: f32, lane: u32) -> f32 {
    // SAFETY: the caller's.
    unsafe { shfl_sync_idx_f32(u32::MAX, value, lane, 31) }
}

/// The value of lane 0. The compiler learns that it is the same in all lanes: branches on it need no reconvergence, and
/// addresses made from it can live in uniform registers.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn uniform(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { shfl_sync_idx_i32(u32::MAX, value, 0, 31) }
}

/// The largest of the four values of a quad (lanes `4g..4g + 4`), in each of them. NaN loses against numbers.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn quad_max(value: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let value = value.max(bfly::<1>(value));
        value.max(bfly::<2>(value))
    }
}

/// The sum of the four values of a quad, the same bits in each lane.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn quad_sum(value: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let value = value + bfly::<1>(value);
        value + bfly::<2>(value)
    }
}

/// The largest of the values of all lanes, in each of them. NaN loses against numbers.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn warp_max(value: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let value = quad_max(value);
        let value = value.max(bfly::<4>(value));
        let value = value.max(bfly::<8>(value));
        value.max(bfly::<16>(value))
    }
}

/// The sum of the values of all lanes, the same bits in each of them.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn warp_sum(value: f32) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let value = quad_sum(value);
        let value = value + bfly::<4>(value);
        let value = value + bfly::<8>(value);
        value + bfly::<16>(value)
    }
}

/// As [`warp_sum`], of integers.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn warp_sum_u32(value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let value = value + bfly_u32::<1>(value);
        let value = value + bfly_u32::<2>(value);
        let value = value + bfly_u32::<4>(value);
        let value = value + bfly_u32::<8>(value);
        value + bfly_u32::<16>(value)
    }
}

/// The value of lane `lane`.
///
/// # Safety
/// As [`bfly`]; `lane` is below 32.
#[inline(always)]
pub unsafe fn idx(value: u32, lane: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { shfl_sync_idx_i32(u32::MAX, value, lane, 31) }
}

/// The value of the lane `delta` below; a lane without one keeps its own.
///
/// # Safety
/// As [`bfly`].
#[inline(always)]
pub unsafe fn up(value: u32, delta: u32) -> u32 {
    // SAFETY: the caller's. A clamp of 0 leaves lanes without a source their own value.
    unsafe { shfl_sync_up_i32(u32::MAX, value, delta, 0) }
}

/// As [`idx`], of 64 bits.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn idx_u64(value: u64, lane: u32) -> u64 {
    // SAFETY: the caller's.
    unsafe { (idx((value >> 32) as u32, lane) as u64) << 32 | idx(value as u32, lane) as u64 }
}

/// The sum of the values of this lane and those before it.
///
/// # Safety
/// As [`bfly`]; `lane` is the caller's lane.
#[inline(always)]
pub unsafe fn inclusive_sum_u32(mut value: u32, lane: u32) -> u32 {
    for step in 0..5 {
        // SAFETY: the caller's. A clamp of 0 leaves lanes without a source their own value.
        let before = unsafe { shfl_sync_up_i32(u32::MAX, value, 1 << step, 0) };
        value += if lane >= 1 << step { before } else { 0 };
    }
    value
}

/// As [`inclusive_sum_u32`], of 64 bits.
///
/// # Safety
/// As there.
#[inline(always)]
pub unsafe fn inclusive_sum_u64(mut value: u64, lane: u32) -> u64 {
    for step in 0..5 {
        // SAFETY: as there.
        let (low, high) = unsafe {
            let low = shfl_sync_up_i32(u32::MAX, value as u32, 1 << step, 0);
            (low, shfl_sync_up_i32(u32::MAX, (value >> 32) as u32, 1 << step, 0))
        };
        value += if lane >= 1 << step { (high as u64) << 32 | low as u64 } else { 0 };
    }
    value
}
