//! The interpreter compiled for several instruction sets, chosen once per launch.
//!
//! Registers are arrays of 32 lanes and every operation is a loop over them, which the compiler turns into vectors; a
//! fused multiply-add without the instruction is a library call. Results do not depend on the choice.

use super::run::{Stop, run};
use super::session::{CtaState, Session};
use super::warp::Warp;
use crate::memory::Checked;

/// Runs a warp for a turn.
pub type Runner = fn(&mut Session, &mut CtaState, &mut Warp, u64) -> Checked<Stop>;

/// The interpreter for this machine.
pub fn runner(checks: bool) -> Runner {
    #[cfg(target_arch = "x86_64")]
    {
        if x86::has_avx512() {
            return if checks { x86::avx512::<true> } else { x86::avx512::<false> };
        }
        if x86::has_avx2() {
            return if checks { x86::avx2::<true> } else { x86::avx2::<false> };
        }
    }
    if checks { run::<true> } else { run::<false> }
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86 {
    use super::*;

    macro_rules! compiled_for {
        ($name:ident, $has:ident, $inner:ident, $features:literal, $($feature:tt),+) => {
            pub fn $has() -> bool {
                $(is_x86_feature_detected!($feature))&&+
            }

            #[target_feature(enable = $features)]
            fn $inner<const C: bool>(s: &mut Session, cta: &mut CtaState, w: &mut Warp, turn: u64) -> Checked<Stop> {
                run::<C>(s, cta, w, turn)
            }

            pub fn $name<const C: bool>(s: &mut Session, cta: &mut CtaState, w: &mut Warp, turn: u64) -> Checked<Stop> {
                debug_assert!($has());
                // SAFETY: `runner`, the only caller, hands this function out after `$has` has found the features.
                unsafe { $inner::<C>(s, cta, w, turn) }
            }
        };
    }

    compiled_for!(
        avx2,
        has_avx2,
        run_avx2,
        "avx2,fma,bmi1,bmi2,lzcnt,popcnt",
        "avx2",
        "fma",
        "bmi1",
        "bmi2",
        "lzcnt",
        "popcnt"
    );
    compiled_for!(
        avx512,
        has_avx512,
        run_avx512,
        "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,bmi1,bmi2,lzcnt,popcnt",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512cd",
        "avx2",
        "fma",
        "bmi1",
        "bmi2",
        "lzcnt",
        "popcnt"
    );
}
