//! Rows by index, run and compared.

use lacuna_core::{Error, Layout};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::gather_rows::{Count, Plan};
use lacuna_reference::gather_rows;
use lacuna_reference::testing::{Case, Tensor, assert_bits};

use super::Device;
use super::tensor::{Half, OnDevice};

/// Where the count comes from.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Capacity,
    Host,
    Device,
}

/// Gathers on the device.
pub fn gather<T: Half>(
    device: &Device,
    src: &Tensor<T>,
    index: &[u32],
    (from, rows): (From, usize),
    out: Layout,
) -> Result<Vec<T>, Error> {
    let context = &device.context;
    let [tokens, heads, head_dim] = src.view().shape();
    let plan = Plan::<T>::new(context, tokens, heads, head_dim, out.tokens())?;
    let src = OnDevice::copy(device, &src.view(), "src");
    // What lies behind the count is no index, and the emulator knows of reads there.
    let mut list = DeviceBuffer::uninit(context, out.tokens(), "index")?;
    let stream = context.default_stream();
    list.copy_from_host(&stream, index)?;
    let counts = DeviceBuffer::from_host(context, &[u32::MAX, rows as u32], "counts")?;
    let count = match from {
        From::Capacity => Count::All,
        From::Host => Count::Rows(rows),
        From::Device => Count::OnDevice(&counts, 1),
    };
    let mut out = OnDevice::poisoned(device, out, "out");
    plan.run(&stream, &src.view(), &list, count, &mut out.view_mut())?;
    Ok(out.read(device))
}

/// Gathered rows are those of the reference bit for bit, the others are as they were.
#[track_caller]
pub fn assert_gathered<T: Half>(got: Vec<T>, src: &Tensor<T>, index: &[u32], case: &Case) {
    let want: Vec<T> = gather_rows(&src.view(), index).into_iter().map(|x| T::from_f32(x as f32)).collect();
    let (gathered, rest) = got.split_at(want.len());
    assert_bits(gathered, &want, case);
    assert!(rest.iter().all(|x| x.to_f32().is_nan()), "rows behind the count were written: {case}");
}
