//! One compiled copy of every kernel, in this crate.
//!
//! Plans are generic over the element type, and generic code is compiled again in each crate that uses it: for every
//! instruction set, in every test. There are only three element types, so the work goes through three functions that
//! are not generic.

use std::mem::{ManuallyDrop, transmute_copy};

use lacuna_core::Element;

/// Hands `call` over as what it is, where the compiler cannot see it.
///
/// # Panics
/// When the element types differ.
pub(crate) fn same_type<A: Element, B: Element, CallA, CallB>(call: CallA) -> CallB {
    assert!(A::DTYPE == B::DTYPE && size_of::<CallA>() == size_of::<CallB>());
    // SAFETY: `Element` is sealed and has one type for each `DTYPE`, so A is B. `per_type!` alone calls this, with
    // `CallA` and `CallB` the same struct over A and B: the same type.
    unsafe { transmute_copy(&*ManuallyDrop::new(call)) }
}

/// `$method` of a `$call<'_, T>` for a generic `T`, compiled here for each element type.
macro_rules! per_type {
    ($type:ident, $call:ident, $value:expr, $method:ident) => {{
        fn of_f32(call: $call<'_, f32>) {
            call.$method();
        }
        fn of_bf16(call: $call<'_, half::bf16>) {
            call.$method();
        }
        fn of_f16(call: $call<'_, half::f16>) {
            call.$method();
        }
        use crate::per_type::same_type;
        let call: $call<'_, $type> = $value;
        match <$type as lacuna_core::Element>::DTYPE {
            lacuna_core::DType::F32 => of_f32(same_type::<$type, f32, _, _>(call)),
            lacuna_core::DType::Bf16 => of_bf16(same_type::<$type, half::bf16, _, _>(call)),
            lacuna_core::DType::F16 => of_f16(same_type::<$type, half::f16, _, _>(call)),
        }
    }};
}
pub(crate) use per_type;
