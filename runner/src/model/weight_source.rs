//! Where a model's weights come from.

use std::path::Path;

use lacuna::{DType, Element};

use super::config::Config;
use super::random_weights::RandomWeights;
use super::weights::Checkpoint;
use crate::{Error, Result};

/// What to load weights from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// The directory's safetensors.
    #[default]
    Auto,
    /// Nothing: `config.json` alone is read, and the weights are random numbers of the size that trained ones have. What
    /// the model says means nothing; what it costs is what a trained one costs.
    Dummy {
        /// One seed always gives the same weights, on every machine and in every compute type (then rounded).
        seed: u64,
    },
}

/// The weights of one model, checked against its configuration.
pub(crate) enum WeightSource {
    Files(Checkpoint),
    Random(RandomWeights),
}

impl WeightSource {
    /// Opens the weights in `dir`, or makes some; gives the type to compute in too: `dtype`, or the one they are stored in.
    /// Weights that are not stored have the type that `config.json` names, or `f32` where it names none.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Checkpoint::check`].
    pub fn open(
        dir: &Path,
        format: LoadFormat,
        config: &Config,
        dtype: Option<DType>,
    ) -> Result<(Self, DType)> {
        match format {
            LoadFormat::Auto => {
                let checkpoint = Checkpoint::open(dir)?;
                checkpoint.check(config)?;
                let dtype =
                    dtype.or(checkpoint.dtype()).ok_or_else(|| Error::malformed(dir, "no weights"))?;
                Ok((Self::Files(checkpoint), dtype))
            }
            LoadFormat::Dummy { seed } => {
                let dtype = dtype.or(config.dtype).unwrap_or(DType::F32);
                Ok((Self::Random(RandomWeights::new(config, dtype, seed)), dtype))
            }
        }
    }

    /// Bytes of all files, or what they would take.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Files(checkpoint) => checkpoint.size_bytes(),
            Self::Random(weights) => weights.size_bytes(),
        }
    }

    /// Appends a tensor to `out`, converted to `T`, and says how many of [`WeightSource::size_bytes`] that were.
    ///
    /// # Errors
    /// As [`Checkpoint::read_into`].
    pub fn read_into<T: Element>(&self, name: &str, out: &mut Vec<T>) -> Result<u64> {
        match self {
            Self::Files(checkpoint) => checkpoint.read_into(name, out),
            Self::Random(weights) => weights.read_into(name, out),
        }
    }
}
