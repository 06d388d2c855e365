//! What a forward pass cost.

use std::time::Duration;

/// One layer of a forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerReport {
    /// The share of the visible attention that was computed ([`lacuna::Report::density`]).
    pub density: f64,
    /// Time the pattern took to choose.
    pub search: Duration,
    /// Time in attention.
    pub attention: Duration,
    /// Time in the projections, the MLP and all else but attention.
    pub linear: Duration,
}

impl LayerReport {
    /// From attention's own report and the time of the whole layer.
    pub(crate) fn new(attention: lacuna::Report, total: Duration) -> Self {
        let lacuna::Report { density, search, attention } = attention;
        Self { density, search, attention, linear: total.saturating_sub(search + attention) }
    }

    /// Search, attention and linear together.
    pub fn total(&self) -> Duration {
        self.search + self.attention + self.linear
    }
}

/// A whole forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct ForwardReport {
    /// Tokens computed.
    pub tokens: usize,
    /// Layer by layer.
    pub layers: Vec<LayerReport>,
    /// From the first embedding to the last logit.
    pub total: Duration,
}

impl ForwardReport {
    /// The mean density over the layers.
    pub fn density(&self) -> f64 {
        self.layers.iter().map(|l| l.density).sum::<f64>() / self.layers.len() as f64
    }

    /// Search time over all layers.
    pub fn search(&self) -> Duration {
        self.layers.iter().map(|l| l.search).sum()
    }

    /// Attention time over all layers.
    pub fn attention(&self) -> Duration {
        self.layers.iter().map(|l| l.attention).sum()
    }

    /// The time of all else over all layers.
    pub fn linear(&self) -> Duration {
        self.layers.iter().map(|l| l.linear).sum()
    }

    /// Tokens computed per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.total.as_secs_f64()
    }
}

/// The most memory this process has held so far, where the system tells.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
