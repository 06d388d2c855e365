//! A Llama forward pass in plain loops, `f64` throughout: eager attention, every probability at hand. No code shared with the
//! runner. And DistInf's methods on it, each pass from its first token on.

pub mod methods;

use crate::common::Tensors;
use serde_json::Value;

pub struct Eager {
    heads: usize,
    heads_k: usize,
    head_dim: usize,
    layers: usize,
    hidden: usize,
    eps: f64,
    tensors: Tensors,
}

/// Keys and values of some tokens: per layer and token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kv {
    pub position_ids: Vec<u32>,
    layers: Vec<[Vec<Vec<f64>>; 2]>,
}

/// What a pass gives.
pub struct Pass {
    /// What was cached before, and the tokens of the pass.
    pub kv: Kv,
    /// `[tokens][cached and own]`: probabilities summed over layers and heads.
    pub attention: Vec<Vec<f64>>,
    /// `[layers + 1][tokens][hidden]`, the last one normed.
    pub hidden_states: Vec<Vec<Vec<f64>>>,
    /// `[tokens][vocab_size]`
    pub logits: Vec<Vec<f64>>,
}

impl Kv {
    /// Some of the tokens.
    pub fn rows(&self, rows: &[usize]) -> Self {
        let of = |x: &Vec<Vec<f64>>| rows.iter().map(|&row| x[row].clone()).collect();
        Self {
            position_ids: rows.iter().map(|&row| self.position_ids[row]).collect(),
            layers: self.layers.iter().map(|kv| kv.each_ref().map(of)).collect(),
        }
    }

    /// These tokens, then others.
    pub fn then(mut self, other: Self) -> Self {
        self.layers.resize(other.layers.len(), Default::default());
        self.position_ids.extend(other.position_ids);
        for (own, other) in self.layers.iter_mut().zip(other.layers) {
            own.iter_mut().zip(other).for_each(|(own, other)| own.extend(other));
        }
        self
    }
}

impl Eager {
    /// A model of `rope_theta` 10000 without scaling or biases.
    pub fn new(config: &Value, tensors: Tensors) -> Self {
        let dim = |key: &str| config[key].as_u64().unwrap() as usize;
        Self {
            heads: dim("num_attention_heads"),
            heads_k: dim("num_key_value_heads"),
            head_dim: dim("head_dim"),
            layers: dim("num_hidden_layers"),
            hidden: dim("hidden_size"),
            eps: config["rms_norm_eps"].as_f64().unwrap(),
            tensors,
        }
    }

    /// Runs tokens at their positions, each reading all of `past` and the tokens of the pass up to itself.
    pub fn pass(&self, past: &Kv, tokens: &[u32], position_ids: &[u32]) -> Pass {
        assert_eq!(tokens.len(), position_ids.len());
        let mut kv = past.clone();
        kv.layers.resize(self.layers, Default::default());
        kv.position_ids.extend(position_ids);
        let before = past.position_ids.len();
        let mut attention = vec![vec![0.0; before + tokens.len()]; tokens.len()];
        let embedding = &self.tensors["model.embed_tokens.weight"].1;
        let embed = |&token: &u32| -> Vec<f64> {
            let row = &embedding[token as usize * self.hidden..][..self.hidden];
            row.iter().map(|&x| x as f64).collect()
        };
        let mut rows: Vec<Vec<f64>> = tokens.iter().map(embed).collect();
        let mut hidden_states = vec![rows.clone()];
        for (layer, [keys, values]) in kv.layers.iter_mut().enumerate() {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            let normed: Vec<_> = rows.iter().map(|x| self.norm(x, &name("input_layernorm"))).collect();
            for (x, &position) in normed.iter().zip(position_ids) {
                keys.push(self.rotate(self.times(&name("self_attn.k_proj"), x), position));
                values.push(self.times(&name("self_attn.v_proj"), x));
            }
            for (i, x) in normed.iter().enumerate() {
                let q = self.rotate(self.times(&name("self_attn.q_proj"), x), position_ids[i]);
                let seen = before + i + 1;
                let out = self.attend(&q, &keys[..seen], &values[..seen], &mut attention[i]);
                add(&mut rows[i], &self.times(&name("self_attn.o_proj"), &out));
                let x = self.norm(&rows[i], &name("post_attention_layernorm"));
                let gate = self.times(&name("mlp.gate_proj"), &x);
                let up = self.times(&name("mlp.up_proj"), &x);
                let gated: Vec<f64> = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
                add(&mut rows[i], &self.times(&name("mlp.down_proj"), &gated));
            }
            hidden_states.push(rows.clone());
        }
        let last: Vec<_> = rows.iter().map(|x| self.norm(x, "model.norm.weight")).collect();
        let logits = last.iter().map(|x| self.times("lm_head.weight", x)).collect();
        *hidden_states.last_mut().unwrap() = last;
        Pass { kv, attention, hidden_states, logits }
    }

    /// Attention of one token; adds its probabilities, over all heads, to `attention`.
    fn attend(&self, q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], attention: &mut [f64]) -> Vec<f64> {
        let d = self.head_dim;
        let mut out = vec![0.0; q.len()];
        for head in 0..self.heads {
            let of_k = head / (self.heads / self.heads_k) * d;
            let q = &q[head * d..][..d];
            let logits: Vec<f64> = keys.iter().map(|k| dot(q, &k[of_k..][..d]) / (d as f64).sqrt()).collect();
            let max = logits.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(x));
            let sum: f64 = logits.iter().map(|x| (x - max).exp()).sum();
            for ((logit, value), attention) in logits.iter().zip(values).zip(&mut *attention) {
                let p = (logit - max).exp() / sum;
                *attention += p;
                for (out, v) in out[head * d..][..d].iter_mut().zip(&value[of_k..]) {
                    *out += p * v;
                }
            }
        }
        out
    }

    fn rotate(&self, mut x: Vec<f64>, position: u32) -> Vec<f64> {
        let half = self.head_dim / 2;
        for head in x.chunks_exact_mut(self.head_dim) {
            for i in 0..half {
                let angle = position as f64 * 10000f64.powf(-(i as f64) / half as f64);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
        x
    }

    fn norm(&self, x: &[f64], weight: &str) -> Vec<f64> {
        let factor = 1.0 / (dot(x, x) / x.len() as f64 + self.eps).sqrt();
        x.iter().zip(&self.tensors[weight].1).map(|(x, &w)| x * factor * w as f64).collect()
    }

    fn times(&self, weight: &str, x: &[f64]) -> Vec<f64> {
        let rows = self.tensors[weight].1.chunks_exact(x.len());
        rows.map(|row| row.iter().zip(x).map(|(&w, x)| w as f64 * x).sum()).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
