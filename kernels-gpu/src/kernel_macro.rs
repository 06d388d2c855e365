//! The one way to declare a kernel.

/// Declares kernels that stand in [`crate::kernel::KERNELS`], whose launch bounds go along as the static
/// `__launch_bounds__<name>`, for the build to turn into PTX directives and to check.
macro_rules! kernel {
    (fn $name:ident($($param:ident: $type:ty),* $(,)?) $body:block) => {
        const _: () = {
            #[unsafe(export_name = concat!("__launch_bounds__", stringify!($name)))]
            static LAUNCH_BOUNDS: [u32; 4] = $crate::kernel::launch_bounds(stringify!($name));
        };

        #[doc = concat!("Kernel `", stringify!($name), "`; its parameters are described in [`crate::kernel`].")]
        ///
        /// # Safety
        /// Launched as [`crate::kernel`] says.
        #[unsafe(no_mangle)]
        pub unsafe extern "ptx-kernel" fn $name($($param: $type),*) $body
    };
}
