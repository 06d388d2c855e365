//! Which options are in range.

use super::Method;
use crate::{Error, Result};

impl Method {
    /// The name that the command line knows it by.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Ring => "ring",
            Self::Star(_) => "star",
            Self::StarX(_) => "starx",
            Self::StarTopK(_) => "star-topk",
            Self::SequentialTopK(_) => "seq-topk",
            Self::Compress(_) => "compress",
            Self::Summary(_) => "summary",
        }
    }

    /// Refuses options that are out of range.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn check(&self) -> Result<()> {
        let positive = |arg: &'static str, value: usize| match value {
            0 => Err(Error::invalid(arg, "at least 1", 0)),
            _ => Ok(()),
        };
        match self {
            Self::Full | Self::Ring => Ok(()),
            Self::Star(star) => star.check(),
            Self::StarX(star_x) => {
                star_x.star.check()?;
                positive("stride", star_x.stride)?;
                if !star_x.bias.is_finite() {
                    return Err(Error::invalid("bias", "finite", star_x.bias));
                }
                if !(star_x.threshold > 0.0 && star_x.threshold <= 1.0) {
                    return Err(Error::invalid("threshold", "in (0, 1]", star_x.threshold));
                }
                Ok(())
            }
            Self::StarTopK(options) => {
                positive("top_k", options.top_k)?;
                positive("num_blocks", options.num_blocks)?;
                options.block_size.map_or(Ok(()), |block| positive("block_size", block))
            }
            Self::SequentialTopK(options) => {
                positive("top_k", options.top_k)?;
                positive("block_size", options.block_size)
            }
            Self::Compress(options) => {
                positive("block_size", options.block_size)?;
                positive("budget", options.budget)?;
                match options.protection_divisor {
                    0 | 1 => {
                        Err(Error::invalid("protection_divisor", "at least 2", options.protection_divisor))
                    }
                    _ => Ok(()),
                }
            }
            Self::Summary(options) => {
                positive("block_size", options.block_size)?;
                positive("chunk_size", options.chunk_size)?;
                positive("num_layers_for_clustering", options.num_layers_for_clustering)?;
                options.k.map_or(Ok(()), |k| positive("k", k))?;
                match options.pruning_percent {
                    percent if (0.0..=100.0).contains(&percent) => Ok(()),
                    percent => Err(Error::invalid("pruning_percent", "in [0, 100]", percent)),
                }
            }
        }
    }
}

impl super::StarOptions {
    fn check(&self) -> Result<()> {
        if self.block_size == Some(0) {
            return Err(Error::invalid("block_size", "at least 1", 0));
        }
        match (self.anchor_block_size, self.block_size) {
            (Some(0), _) => {
                Err(Error::invalid("anchor_block_size", "at least 1, or an anchor of no tokens by name", 0))
            }
            (Some(anchor), Some(block)) if anchor > block => {
                Err(Error::invalid("anchor_block_size", format_args!("at most a block ({block})"), anchor))
            }
            _ => Ok(()),
        }
    }
}
