//! Weights that no file holds: random numbers of the size that trained ones have.
//!
//! They say nothing, but cost what trained ones cost: speeds and memory of a model can be measured with its `config.json`
//! alone.

use std::collections::BTreeMap;

use lacuna::{DType, Element};
use rayon::prelude::*;

use super::config::Config;
use super::tensors::expected_tensors;
use super::weights::grow;
use crate::{Error, Result};

/// Standard deviation of a bias.
const BIAS_SIZE: f32 = 0.02;
/// Elements that one task makes.
const CHUNK: usize = 1 << 16;

/// The tensors of a model. A weight depends on the seed, the name of its tensor and its place in it, on nothing else.
///
/// Matrices are about normal with a variance of 1 / `in_features`, so that a product is as large as what went into it and
/// activations stay finite through any number of layers, in `f16` too; norms are 1.
pub(crate) struct RandomWeights {
    seed: u64,
    dtype: DType,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl RandomWeights {
    /// The tensors of a model of this configuration, as if stored in `dtype`.
    pub fn new(config: &Config, dtype: DType, seed: u64) -> Self {
        Self { seed, dtype, shapes: expected_tensors(config).into_iter().collect() }
    }

    /// Bytes of all tensors.
    pub fn size_bytes(&self) -> u64 {
        self.shapes.values().map(|shape| self.bytes(shape)).sum()
    }

    fn bytes(&self, shape: &[usize]) -> u64 {
        shape.iter().map(|&n| n as u64).product::<u64>() * self.dtype.size_bytes() as u64
    }

    /// Appends a tensor to `out`, and says how many bytes it would have taken from a file.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a name that the model lacks, [`Error::OutOfMemory`].
    pub fn read_into<T: Element>(&self, name: &str, out: &mut Vec<T>) -> Result<u64> {
        let Some(shape) = self.shapes.get(name) else {
            return Err(Error::invalid("name", "a tensor of the model", format_args!("{name:?}")));
        };
        let part = grow(out, shape.iter().product())?;
        let size = match shape[..] {
            [_, in_features] => (in_features as f32).sqrt().recip(),
            _ if name.ends_with(".bias") => BIAS_SIZE,
            _ => {
                part.fill(T::from_f32(1.0));
                return Ok(self.bytes(shape));
            }
        };
        let start = name.bytes().fold(mix(self.seed), |state, byte| mix(state ^ u64::from(byte)));
        part.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
            for (x, place) in chunk.iter_mut().zip((i * CHUNK) as u64..) {
                *x = T::from_f32(size * normal(mix(start.wrapping_add(place))));
            }
        });
        Ok(self.bytes(shape))
    }
}

/// SplitMix64's step: neighbouring numbers give unrelated ones.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// About normal, of variance 1 and within 3.5: the sum of four uniform numbers of 16 bits each.
fn normal(bits: u64) -> f32 {
    const MEAN: i32 = 2 * 0xffff;
    // Each has a variance of 2^32 / 12.
    const STANDARD_DEVIATION: f32 = 37_837.23;
    let sum: u64 = [0, 16, 32, 48].iter().map(|shift| (bits >> shift) & 0xffff).sum();
    (sum as i32 - MEAN) as f32 / STANDARD_DEVIATION
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::config::{RopeConfig, RopeScaling};
    use super::*;

    fn weights(seed: u64) -> RandomWeights {
        let config = Config {
            vocab_size: 300,
            hidden_size: 256,
            intermediate_size: 400,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            max_position_embeddings: 100,
            attention_bias: true,
            mlp_bias: false,
            tie_word_embeddings: false,
            rope: RopeConfig { theta: 1e4, scaling: RopeScaling::Default },
            dtype: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
        };
        RandomWeights::new(&config, DType::Bf16, seed)
    }

    fn read<T: Element>(weights: &RandomWeights, name: &str) -> Vec<T> {
        let mut out = Vec::new();
        let bytes = weights.read_into(name, &mut out).unwrap();
        assert_eq!(bytes, 2 * out.len() as u64);
        out
    }

    #[test]
    fn are_as_large_as_trained_ones() {
        let weights = weights(0);
        for (name, len, size) in [
            ("model.embed_tokens.weight", 300 * 256, 1.0 / 16.0),
            ("lm_head.weight", 300 * 256, 1.0 / 16.0),
            ("model.layers.1.mlp.down_proj.weight", 256 * 400, 1.0 / 20.0),
            ("model.layers.0.self_attn.q_proj.bias", 256, 0.02),
        ] {
            let x: Vec<f32> = read(&weights, name);
            assert_eq!(x.len(), len, "{name}");
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / len as f64;
            let variance = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / len as f64;
            // Six standard deviations of the estimates.
            let tolerance = 6.0 / (len as f64).sqrt();
            assert!(mean.abs() < size * tolerance, "{name}: mean {mean}");
            assert!((variance.sqrt() / size - 1.0).abs() < tolerance, "{name}: {}", variance.sqrt());
        }
        for norm in ["model.norm.weight", "model.layers.1.input_layernorm.weight"] {
            assert_eq!(read::<f32>(&weights, norm), [1.0; 256]);
        }
    }

    #[test]
    fn depend_on_seed_tensor_and_place_alone() {
        let (q, k) = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight");
        let one: Vec<f32> = read(&weights(1), q);
        assert!(one.len() > CHUNK - 1, "more than one task has to be at it");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        assert_eq!(pool.install(|| read::<f32>(&weights(1), q)), one);
        assert_eq!(read::<bf16>(&weights(1), q), one.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
        assert_ne!(read::<f32>(&weights(2), q), one);
        assert_ne!(read::<f32>(&weights(1), k)[..100], one[..100]);
        // Several tensors in one list, as projections are read.
        let weights = weights(1);
        let mut both: Vec<f32> = Vec::new();
        weights.read_into(k, &mut both).unwrap();
        weights.read_into(q, &mut both).unwrap();
        assert_eq!(both[128 * 256..], one);
        let mut sorted = one;
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        assert!(sorted.len() > 40_000, "only {} different numbers", sorted.len());
    }

    #[test]
    fn count_as_stored() {
        let parameters = 2 * 300 * 256 + 256 + 2 * (2 * 256 * 257 + 2 * 128 * 257 + 3 * 256 * 400 + 2 * 256);
        assert_eq!(weights(0).size_bytes(), 2 * parameters);
        let error = weights(0).read_into("model.extra", &mut Vec::<f32>::new()).unwrap_err().to_string();
        assert!(error.contains("a tensor of the model") && error.contains("model.extra"), "{error}");
    }
}
