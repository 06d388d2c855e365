//! XAttention's searches, run and compared.

use lacuna_core::{BlockMask, Result, Threshold, XAttentionOptions};
use lacuna_kernels_host::DeviceBuffer;
use lacuna_kernels_host::x_attention::Plan;
use lacuna_reference::testing::{MaskBounds, Rng};
use lacuna_reference::{antidiagonal_score, block_select_bounds};

use super::Device;
use super::scores::{self, Call};
use super::tensor::{Half, OnDevice};

/// Options of every kind.
pub fn random_options(rng: &mut Rng, num_heads: usize) -> XAttentionOptions {
    let mut options = scores::random_options(rng);
    options.threshold = match rng.below(3) {
        0 => Threshold::PerHead((0..num_heads).map(|_| rng.uniform() as f32).collect()),
        _ => Threshold::Scalar(*rng.choose(&[0.0, 0.3, 0.7, 0.9, 1.0])),
    };
    options.keep_sink = rng.chance(0.3);
    options.keep_recent = rng.chance(0.3);
    options.compat.first_chunk_quirk = rng.chance(0.3);
    options.compat.keep_sink_row_bug = rng.chance(0.3);
    options
}

impl<T: Half> Call<T> {
    /// The blocks that the device keeps.
    pub fn search(&self, device: &Device) -> Result<BlockMask> {
        self.search_with(device, None)
    }

    /// The same with thresholds for a layer.
    pub fn search_with(&self, device: &Device, thresholds: Option<&[f32]>) -> Result<BlockMask> {
        let context = &device.context;
        let mut plan = Plan::<T>::new(context, &self.shape, &self.options, self.causal)?;
        let mut mask = plan.empty_mask()?;
        let q = OnDevice::copy(device, &self.q.view(), "q");
        let k = OnDevice::copy(device, &self.k.view(), "k");
        let stream = context.default_stream();
        match thresholds {
            None => plan.run(&stream, &q.view(), &k.view(), &mut mask)?,
            Some(thresholds) => {
                let thresholds = DeviceBuffer::from_host(context, thresholds, "thresholds")?;
                plan.run_with_thresholds(&stream, &q.view(), &k.view(), &thresholds, &mut mask)?;
            }
        }
        mask.to_host(&stream)
    }

    /// What the reference allows.
    pub fn bounds(&self) -> MaskBounds {
        let Self { shape, q, k, options, causal } = self;
        let scores = antidiagonal_score(shape, &q.view(), &k.view(), options, *causal).unwrap();
        block_select_bounds(shape, &scores, options, *causal, MaskBounds::EPS).unwrap()
    }
}
