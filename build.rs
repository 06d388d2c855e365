//! Puts the kernels' PTX into `OUT_DIR`: the shipped images of `ptx/`, or new ones where `kernels-gpu` was edited since.

fn main() {
    ptx_builder::Provide::new("kernels-gpu", "ptx")
        .folder_variable("LACUNA_PTX_DIR")
        .origin_variable("LACUNA_PTX_ORIGIN")
        .run();
}
