//! A Llama forward pass in plain loops, `f32` throughout, to judge checkpoints with: no kernel, no blocking, no code
//! shared with the runner. It can be made wrong on purpose.

use lacuna_runner::needle::NeedleModel;
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};

/// A mistake that a loader or a kernel might make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    None,
    SwapGateAndUp,
    NoRope,
    BackwardRope,
    InterleavedRope,
    NoMlp,
    NoNorm,
    SwapKvHeads,
    TransposedOutput,
}

/// Which keys a query may read, besides those after it, which it never may: `allowed(layer, query, key)`.
pub type Allowed<'a> = &'a (dyn Fn(usize, usize, usize) -> bool + Sync);

/// Everything a query may read.
pub const DENSE: Allowed<'static> = &|_, _, _| true;

pub struct Llama {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    eps: f32,
    theta: f64,
    embed: Linear,
    layers: Vec<Layer>,
    norm: Linear,
    lm_head: Linear,
    mistake: Mistake,
}

struct Layer {
    input_norm: Linear,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Linear,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A weight `[out, in]`; of a norm, `[in]`.
struct Linear {
    width: usize,
    data: Vec<f32>,
}

/// The keys and values of the tokens so far, by layer.
#[derive(Clone, Default)]
pub struct Cache {
    layers: Vec<[Vec<f32>; 2]>,
}

impl Llama {
    pub fn new(model: &NeedleModel, mistake: Mistake) -> Self {
        let config: serde_json::Value = serde_json::from_slice(model.file("config.json").unwrap()).unwrap();
        let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("{key}"));
        let tensors = SafeTensors::deserialize(model.file("model.safetensors").unwrap()).unwrap();
        let tensor = |name: String| Linear::new(&tensors, &format!("{name}.weight"));
        let layers = (0..number("num_hidden_layers") as usize).map(|i| {
            let tensor = |name: &str| tensor(format!("model.layers.{i}.{name}"));
            let [mut gate, mut up] = ["mlp.gate_proj", "mlp.up_proj"].map(tensor);
            if mistake == Mistake::SwapGateAndUp {
                std::mem::swap(&mut gate, &mut up);
            }
            Layer {
                input_norm: tensor("input_layernorm"),
                q: tensor("self_attn.q_proj"),
                k: tensor("self_attn.k_proj"),
                v: tensor("self_attn.v_proj"),
                o: tensor("self_attn.o_proj"),
                post_norm: tensor("post_attention_layernorm"),
                gate,
                up,
                down: tensor("mlp.down_proj"),
            }
        });
        Self {
            num_heads: number("num_attention_heads") as usize,
            num_kv_heads: number("num_key_value_heads") as usize,
            head_dim: number("head_dim") as usize,
            eps: number("rms_norm_eps") as f32,
            theta: number("rope_theta"),
            layers: layers.collect(),
            embed: tensor("model.embed_tokens".into()),
            norm: tensor("model.norm".into()),
            lm_head: tensor("lm_head".into()),
            mistake,
        }
    }

    /// Runs `tokens` after those in the cache; one row of the last hidden states for each.
    pub fn forward(&self, tokens: &[u32], cache: &mut Cache, allowed: Allowed<'_>) -> Vec<Vec<f32>> {
        cache.layers.resize(self.layers.len(), Default::default());
        let past = cache.len(self.num_kv_heads * self.head_dim);
        let mut rows: Vec<Vec<f32>> = tokens.iter().map(|t| self.embed.row(*t as usize).to_vec()).collect();
        for (i, (layer, [keys, values])) in self.layers.iter().zip(&mut cache.layers).enumerate() {
            let qkv: Vec<[Vec<f32>; 3]> = rows
                .par_iter()
                .enumerate()
                .map(|(row, x)| {
                    let x = self.rms_norm(x, &layer.input_norm);
                    let rotated = |w: &Linear| self.rope(w.apply(&x), past + row);
                    [rotated(&layer.q), rotated(&layer.k), layer.v.apply(&x)]
                })
                .collect();
            for [_, k, v] in &qkv {
                keys.extend(k);
                values.extend(v);
            }
            rows.par_iter_mut().zip(qkv).enumerate().for_each(|(row, (x, [q, ..]))| {
                let query = past + row;
                let attended = self.attend(&q, keys, values, query, |key| allowed(i, query, key));
                add(x, &self.output(layer, attended));
                if self.mistake != Mistake::NoMlp {
                    let normed = self.rms_norm(x, &layer.post_norm);
                    let (gate, up) = (layer.gate.apply(&normed), layer.up.apply(&normed));
                    let hidden: Vec<f32> =
                        gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                    add(x, &layer.down.apply(&hidden));
                }
            });
        }
        rows
    }

    pub fn logits(&self, hidden: &[f32]) -> Vec<f32> {
        self.lm_head.apply(&self.rms_norm(hidden, &self.norm))
    }

    pub fn argmax(&self, hidden: &[f32]) -> u32 {
        let logits = self.logits(hidden);
        (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
    }

    /// The cache with all but its first `len` tokens forgotten.
    pub fn rolled_back(&self, cache: &Cache, len: usize) -> Cache {
        let width = self.num_kv_heads * self.head_dim;
        Cache {
            layers: cache
                .layers
                .iter()
                .map(|layer| layer.each_ref().map(|x| x[..len * width].to_vec()))
                .collect(),
        }
    }

    fn attend(
        &self,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        query: usize,
        allowed: impl Fn(usize) -> bool,
    ) -> Vec<f32> {
        let (d, group) = (self.head_dim, self.num_heads / self.num_kv_heads);
        let mut out = vec![0.0; q.len()];
        for (head, (q, out)) in q.chunks(d).zip(out.chunks_mut(d)).enumerate() {
            let kv_head = match self.mistake {
                Mistake::SwapKvHeads => self.num_kv_heads - 1 - head / group,
                _ => head / group,
            };
            let at = |token: usize| {
                (token * self.num_kv_heads + kv_head) * d..(token * self.num_kv_heads + kv_head + 1) * d
            };
            let scores: Vec<(usize, f32)> = (0..=query)
                .filter(|key| allowed(*key))
                .map(|key| (key, dot(q, &keys[at(key)]) / (d as f32).sqrt()))
                .collect();
            let max = scores.iter().fold(f32::MIN, |max, (_, score)| max.max(*score));
            let sum: f32 = scores.iter().map(|(_, score)| (score - max).exp()).sum();
            for (key, score) in scores {
                let weight = (score - max).exp() / sum;
                out.iter_mut().zip(&values[at(key)]).for_each(|(o, v)| *o += weight * v);
            }
        }
        out
    }

    fn output(&self, layer: &Layer, attended: Vec<f32>) -> Vec<f32> {
        if self.mistake == Mistake::TransposedOutput {
            let (rows, cols) = (layer.o.data.len() / layer.o.width, layer.o.width);
            let transposed = (0..rows * cols).map(|i| layer.o.data[i % rows * cols + i / rows]);
            return Linear { width: cols, data: transposed.collect() }.apply(&attended);
        }
        layer.o.apply(&attended)
    }

    fn rms_norm(&self, x: &[f32], weight: &Linear) -> Vec<f32> {
        if self.mistake == Mistake::NoNorm {
            return x.to_vec();
        }
        let factor = 1.0 / (dot(x, x) / x.len() as f32 + self.eps).sqrt();
        x.iter().zip(&weight.data).map(|(x, w)| x * factor * w).collect()
    }

    fn rope(&self, mut x: Vec<f32>, position: usize) -> Vec<f32> {
        let half = self.head_dim / 2;
        for head in x.chunks_mut(self.head_dim) {
            for pair in 0..half {
                let frequency = self.theta.powf(-(pair as f64) / half as f64);
                let (a, b) = if self.mistake == Mistake::InterleavedRope {
                    (2 * pair, 2 * pair + 1)
                } else {
                    (pair, pair + half)
                };
                let angle = match self.mistake {
                    Mistake::NoRope => 0.0,
                    Mistake::BackwardRope => -frequency * position as f64,
                    _ => frequency * position as f64,
                };
                let (sin, cos) = (angle.sin() as f32, angle.cos() as f32);
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
            }
        }
        x
    }
}

impl Cache {
    fn len(&self, width: usize) -> usize {
        self.layers[0][0].len() / width
    }
}

impl Linear {
    fn new(tensors: &SafeTensors<'_>, name: &str) -> Self {
        let view = tensors.tensor(name).unwrap();
        let bytes = view.data();
        let data = match view.dtype() {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => {
                bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
            }
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("{name} is {other:?}"),
        };
        Self { width: *view.shape().last().unwrap(), data }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.width..][..self.width]
    }

    fn apply(&self, x: &[f32]) -> Vec<f32> {
        self.data.chunks_exact(self.width).map(|row| dot(row, x)).collect()
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// In eight partial sums, which the compiler turns into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum()
}
