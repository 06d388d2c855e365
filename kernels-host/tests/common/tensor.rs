//! Tensors with gaps, on the host and on the device.

use bytemuck::Pod;
use lacuna_core::{Element, Layout, TensorView};
use lacuna_kernels_host::{DeviceBuffer, DeviceView, DeviceViewMut, RawTensor};
use lacuna_reference::testing::{Rng, Tensor, nans};

use super::Device;

/// What the tests' element types have in common.
pub trait Half: Element + Pod + lacuna_reference::testing::Number {}
impl<T: Element + Pod + lacuna_reference::testing::Number> Half for T {}

/// Strides that kernels take: tokens before heads or after, with gaps of whole 16-byte pieces.
pub fn strided(rng: &mut Rng, tokens: usize, heads: usize, head_dim: usize) -> Layout {
    let mut layout = Layout::thd(tokens, heads, head_dim);
    let gap = |rng: &mut Rng| *rng.choose(&[0, 0, 8, 24, 64]);
    if rng.chance(0.6) {
        layout.head_stride = head_dim + gap(rng);
        layout.token_stride = heads * layout.head_stride + gap(rng);
    } else {
        layout.token_stride = head_dim + gap(rng);
        layout.head_stride = tokens * layout.token_stride + gap(rng);
    }
    layout.batch_stride = tokens * layout.token_stride;
    layout
}

/// A copy with other strides, NaN in the gaps.
pub fn relayout<T: Half>(tensor: &Tensor<T>, layout: Layout) -> Tensor<T> {
    let view = tensor.view();
    Tensor::from_fn(layout, |token, head, d| view.row(token, head)[d].to_f32() as f64)
}

/// Standard normal numbers in gappy memory.
pub fn random<T: Half>(rng: &mut Rng, tokens: usize, heads: usize, head_dim: usize) -> Tensor<T> {
    let layout = strided(rng, tokens, heads, head_dim);
    Tensor::from_fn(layout, |_, _, _| rng.normal())
}

/// A tensor in device memory, NaN in its gaps and around it.
pub struct OnDevice<T> {
    buffer: DeviceBuffer<T>,
    layout: Layout,
    margin: usize,
}

impl<T: Half> OnDevice<T> {
    /// A copy of `tensor`, gaps and all.
    pub fn copy(device: &Device, view: &TensorView<T>, name: &str) -> Self {
        let layout = *view.layout();
        let mut data = nans::<T>(layout.required_len("OnDevice::copy").unwrap() + 2 * device.margin);
        for token in 0..layout.tokens() {
            for head in 0..layout.heads {
                data[device.margin + layout.offset(token, head)..][..layout.head_dim]
                    .copy_from_slice(view.row(token, head));
            }
        }
        let buffer = DeviceBuffer::from_host(&device.context, &data, name).unwrap();
        Self { buffer, layout, margin: device.margin }
    }

    /// NaN everywhere.
    pub fn poisoned(device: &Device, layout: Layout, name: &str) -> Self {
        let len = layout.required_len("OnDevice::poisoned").unwrap() + 2 * device.margin;
        let buffer = DeviceBuffer::from_host(&device.context, &nans::<T>(len), name).unwrap();
        Self { buffer, layout, margin: device.margin }
    }

    pub fn view(&self) -> DeviceView<'_, T> {
        DeviceView::new(&self.buffer, self.margin, self.layout).unwrap()
    }

    pub fn view_mut(&mut self) -> DeviceViewMut<'_, T> {
        DeviceViewMut::new(&mut self.buffer, self.margin, self.layout).unwrap()
    }

    pub fn raw(&self) -> RawTensor {
        RawTensor {
            ptr: self.buffer.ptr().offset(self.margin * size_of::<T>()),
            token_stride: self.layout.token_stride,
            head_stride: self.layout.head_stride,
        }
    }

    /// The rows, contiguous. Fails when anything between or around them is no longer NaN.
    pub fn read(&self, device: &Device) -> Vec<T> {
        let mut data = self.buffer.to_host(&device.context.default_stream()).unwrap();
        let mut rows = Vec::new();
        for token in 0..self.layout.tokens() {
            for head in 0..self.layout.heads {
                let row = &mut data[self.margin + self.layout.offset(token, head)..][..self.layout.head_dim];
                rows.extend_from_slice(row);
                row.fill(T::from_f32(f32::NAN));
            }
        }
        if let Some(at) = data.iter().position(|x| !x.to_f32().is_nan()) {
            panic!(
                "element {at} of {} lies between the rows of {:?} and was written",
                data.len(),
                self.layout
            );
        }
        rows
    }
}
