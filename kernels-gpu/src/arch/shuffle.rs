//! `shfl.sync`: values from other lanes of the warp.

unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.shfl.sync.bfly.f32"]
    fn shfl_sync_bfly_f32(mask: u32, value: f32, lane: u32, clamp: u32) -> f32;
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn shfl_sync_idx_i32(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
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
