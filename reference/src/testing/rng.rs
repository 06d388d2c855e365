//! Seeded numbers, the same on every machine.

use lacuna_core::Element;

/// The generator of the golden vectors: `x <- 1664525 x + 1013904223 mod 2^32`, value `(x >> 8) / 2^24 - 0.5`.
#[derive(Debug, Clone)]
pub struct Lcg(u32);

impl Lcg {
    /// Starts from `seed`; the first value comes after one step.
    pub fn new(seed: u32) -> Self {
        Self(seed)
    }

    /// The next value, in [-0.5, 0.5), exact in `f32`.
    pub fn next_f32(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1664525).wrapping_add(1013904223);
        (self.0 >> 8) as f32 / 16777216.0 - 0.5
    }
}

/// A small seeded generator (SplitMix64, Steele, Lea & Flood 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Starts from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e3779b97f4a7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n`.
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "nothing lies below 0");
        (self.uniform() * n as f64) as usize
    }

    /// Uniform in `range`.
    ///
    /// # Panics
    /// When `range` is empty.
    pub fn range(&mut self, range: std::ops::RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() + 1 - range.start())
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// When there are none.
    pub fn choose<'a, C>(&mut self, choices: &'a [C]) -> &'a C {
        &choices[self.below(choices.len())]
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `len` standard normal numbers.
    pub fn normals<T: Element>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f64(self.normal())).collect()
    }

    /// A small integer for exact classes: 0 in four cases of five, else 1 or 2 with either sign.
    pub fn sparse_integer(&mut self) -> f64 {
        if self.chance(0.8) { 0.0 } else { *self.choose(&[-2.0, -1.0, 1.0, 2.0]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lcg_spot_checks_of_the_golden_data() {
        let mut lcg = Lcg::new(1);
        let q: Vec<f32> = (0..1000 * 2 * 16).map(|_| lcg.next_f32() * 4.0).collect();
        let close = |got: f32, want: f32| assert!((got - want).abs() < 5e-5, "{got} {want}");
        close(q[0] + 3.0, 1.9458);
        close(q[1], -0.5229);
        close(q[2], 0.0170);
        close(q[3], 0.8195);
        close(q[(999 * 2 + 1) * 16 + 15], 0.2469);
        let mut lcg = Lcg::new(2);
        let k: Vec<f32> = (0..1000 * 16).map(|_| lcg.next_f32() * 4.0).collect();
        close(k[0] + 8.0, 6.9474);
        close(k[999 * 16 + 15], 1.4513);
    }

    #[test]
    fn normals_are_normal() {
        let mut rng = Rng::new(0);
        let x: Vec<f64> = (0..100_000).map(|_| rng.normal()).collect();
        let moment = |p: i32| x.iter().map(|x| x.powi(p)).sum::<f64>() / x.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.1);
    }
}
